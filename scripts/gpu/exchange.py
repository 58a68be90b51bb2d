"""Target and drafter over the real exchange, placed in several ways; where a round goes.

Each run is `treedraft bench` of the engine against itself. What it says of a round is what
the sessions were told of themselves, as means: `queue` is the time from the end of one round
to the beginning of the next, waits for drafts included; `forward` until the tokens are there;
`walk` and `commit` what follows. `draft` is what the drafter computed for the round, beside
all that, and `wire` the way of a commit there and of the first answer back, without what the
drafter held it.
"""

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch


@dataclass(frozen=True)
class Load:
    """One run of the bench: requests at once, length of answers, and how services are set."""

    name: str
    at_once: tuple[int, ...] = (1,)
    tokens: int = 128
    repeats: int = 3
    settings: dict[str, str] = field(default_factory=dict)
    draft_device: str = ""
    by_mps: bool = False


_IN_TURNS = {
    "TREEDRAFT_DRAFT__GROWTH__SHARES_DEVICE": "true",
    "TREEDRAFT_TARGET__PATIENCE__TAKES_TURNS": "true",
}
_ALWAYS = {"TREEDRAFT_TARGET__GATE__ENABLED": "false"}


def _on_threads(count: int) -> dict[str, str]:
    return {"TREEDRAFT_DRAFT__NUM_THREADS": str(count)}


LOADS = (
    Load("same GPU, always", settings=_ALWAYS),
    Load("same GPU, always, in turns", settings={**_ALWAYS, **_IN_TURNS}),
    Load("same GPU, at will"),
    Load("drafter on 4 threads, always", settings=_ALWAYS | _on_threads(4), draft_device="cpu"),
    Load("drafter on 8 threads, always", settings=_ALWAYS | _on_threads(8), draft_device="cpu"),
    Load("drafter on 8 threads, at will", settings=_on_threads(8), draft_device="cpu"),
    Load("same GPU through MPS, always", settings=_ALWAYS, by_mps=True),
    Load("same GPU through MPS, at will", by_mps=True),
    Load("sweep", (4, 16, 64, 256), 64, 2, _IN_TURNS),
)
_TINY_LOADS = tuple(
    Load(load.name, (1,), 8, 1, load.settings, load.draft_device, load.by_mps)
    for load in LOADS
    if load.name != "sweep"
)
_SWEEP_SETTINGS = {
    "TREEDRAFT_TARGET__KV__TOKENS": "131072",
    "TREEDRAFT_TARGET__MAX_SESSIONS": "256",
    "TREEDRAFT_DRAFT__KV_TOKENS": "131072",
}


def exchange(options: argparse.Namespace, device: torch.device) -> Any:
    """Measure target and drafter as processes of their own, over gRPC."""
    found: dict[str, Any] = {}
    for load in _TINY_LOADS if options.tiny else LOADS:
        if load.name not in options.loads if options.loads else load.name == "sweep":
            continue
        started = time.monotonic()
        with _mps() if load.by_mps else contextlib.nullcontext({}) as environment:
            if environment is None:
                found[load.name] = "MPS did not start"
                continue
            found[load.name] = _bench(load, options, device, environment)
        print(f"{load.name}: {time.monotonic() - started:.0f} s", flush=True)
    return found


def _bench(
    load: Load, options: argparse.Namespace, device: torch.device, environment: dict[str, str]
) -> Any:
    file = Path(options.out) / f"bench-{load.name}.json"
    file.unlink(missing_ok=True)
    command = [sys.executable, "-m", "treedraft.cli", "bench", "--without-transformers"]
    command += ["--target", options.weights, "--device", device.type, "--json", str(file)]
    command += ["--dtype", "bfloat16" if device.type == "cuda" else "float32"]
    command += ["--draft", options.draft, "--tokens", str(load.tokens)]
    command += ["--repeats", str(load.repeats)]
    command += ["--draft-device", load.draft_device] if load.draft_device else []
    for count in load.at_once:
        command += ["--at-once", str(count)]
    settings = _SWEEP_SETTINGS if load.name == "sweep" and not options.tiny else {}
    done = subprocess.run(
        command,
        env={**os.environ, **environment, **settings, **load.settings},
        capture_output=True,
        text=True,
        check=False,
        timeout=options.limit,
    )
    print(done.stdout[-6000:], done.stderr[-4000:])
    if done.returncode or not file.is_file():
        return done.stderr[-1500:]
    return summary(json.loads(file.read_text()))


def summary(result: dict[str, Any]) -> list[str]:
    """Return a line for each load: speeds, S, τ, and the parts of a round of either system."""
    lines = []
    samples = result["samples"]
    for count in dict.fromkeys(one["concurrency"] for one in samples):
        own = {
            name: [s for s in samples if (s["system"], s["concurrency"]) == (name, count)]
            for name in ("plain", "speculative")
        }
        speeds = {name: _median(s["tokens_per_second"] for s in ss) for name, ss in own.items()}
        tau = _mean(s["tokens_per_round"] for s in own["speculative"])
        ratio = speeds["speculative"] / speeds["plain"]
        lines.append(
            f"{count} at once: plain {speeds['plain']:.0f} tok/s, speculative "
            f"{speeds['speculative']:.0f}; S {ratio:.2f}, tau {tau:.2f}, S/tau {ratio / tau:.2f}, "
            f"hits {_mean(s['hit_rate'] for s in own['speculative']):.2f}, nodes a round "
            f"{_nodes_a_round(own['speculative']):.1f}"
        )
        lines += [f"  {name}: {_parts(ss)}" for name, ss in own.items()]
    check = result["check"]
    lines.append(f"equal texts: {check['speculative_equals_plain']} of {check['num_prompts']}")
    return lines


def _parts(samples: list[dict[str, Any]]) -> str:
    means = {
        part: _mean(sample["round_ms"][part] for sample in samples)
        for part in samples[0]["round_ms"]
    }
    whole = sum(means[part] for part in ("queue", "forward", "walk", "commit"))
    told = ", ".join(f"{part} {value:.3f}" for part, value in means.items())
    return f"a round {whole:.3f} ms ({told})"


def _nodes_a_round(samples: list[dict[str, Any]]) -> float:
    rounds = sum(one["num_tokens"] / one["tokens_per_round"] for one in samples)
    return float(sum(one["admitted_nodes"] for one in samples) / rounds)


def _mean(values: Any) -> float:
    kept = [value for value in values if value is not None]
    return sum(kept) / len(kept) if kept else float("nan")


def _median(values: Any) -> float:
    ordered = sorted(values)
    return float(ordered[len(ordered) // 2])


@contextlib.contextmanager
def _mps() -> Iterator[dict[str, str] | None]:
    """Keep a daemon by which kernels of several processes run at once; None if there is none.

    It is the user's own, in folders of its own: nothing of the device is set.
    """
    control = shutil.which("nvidia-cuda-mps-control")
    if control is None:
        print("there is no nvidia-cuda-mps-control")
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="mps-") as place:
        own = {"CUDA_MPS_PIPE_DIRECTORY": place, "CUDA_MPS_LOG_DIRECTORY": place}
        environment = {**os.environ, **own}
        how: dict[str, Any] = {"env": environment, "text": True, "check": False, "timeout": 20}
        began = subprocess.run([control, "-d"], capture_output=True, **how)
        print("MPS:", began.returncode, began.stdout, began.stderr)
        try:
            yield own if began.returncode == 0 else None
        finally:
            if began.returncode == 0:
                for name in ("control.log", "server.log"):
                    with contextlib.suppress(OSError):
                        print(name, (Path(place) / name).read_text()[-1500:])
                subprocess.run([control], input="quit\n", **how)

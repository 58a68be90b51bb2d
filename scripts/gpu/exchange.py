"""Target and drafter over the real exchange, placed in several ways; where a round goes.

Each run is `treedraft bench` of the engine against itself. What it says of a round is what
the sessions were told of themselves, as means: `queue` is the time from the end of one round
to the beginning of the next, waits for drafts included; `forward` until the tokens are there;
`walk` and `commit` what follows. `draft` is what the drafter computed for the round, beside
all that, and `wire` the way of a commit there and of the first answer back, without what the
drafter held it.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from scripts.gpu.loads import Load, loads_of, options_set
from scripts.gpu.section import Call, Found, run_bounded, tried

from treedraft.bench.result import Sample

_LEAST_SECONDS = 45.0  # that a load takes on a GPU, most of it to start
_MPS_SECONDS = 20.0  # that a command of MPS may take


def exchange(call: Call) -> Found:
    """Measure target and drafter as processes of their own, over gRPC."""
    for load in loads_of(call.options):
        if not call.has_time(0.0 if call.is_tiny else _LEAST_SECONDS):
            yield load.name, "left out, for want of time"
            continue
        started = time.monotonic()
        yield load.name, tried(lambda one=load: _measure(one, call))
        print(f"{load.name}: {time.monotonic() - started:.0f} s", flush=True)


def _measure(load: Load, call: Call) -> Any:
    with _mps() if load.by_mps else contextlib.nullcontext({}) as environment:
        return "MPS did not start" if environment is None else _bench(load, call, environment)


def _bench(load: Load, call: Call, environment: dict[str, str]) -> Any:
    options, device = call.options, call.device
    with tempfile.TemporaryDirectory(prefix="bench-") as place:
        file = Path(place) / "bench.json"
        tokens, repeats = (8, 1) if call.is_tiny else (load.tokens, load.repeats)
        command = [sys.executable, "-m", "treedraft.cli", "bench", "--without-transformers"]
        command += ["--target", options.weights, "--device", device.type, "--json", str(file)]
        command += ["--dtype", "bfloat16" if device.type == "cuda" else "float32"]
        command += ["--draft", options.draft, "--tokens", str(tokens)]
        command += ["--repeats", str(repeats)]
        command += ["--draft-device", load.draft_device] if load.draft_device else []
        for count in load.at_once:
            command += ["--at-once", str(count)]
        own = {**os.environ, **environment, **load.settings, **options_set(options)}
        done = run_bounded(command, call.seconds_left, env=own)
        if done is None:
            return "out of time"
        print(done.stdout[-6000:], done.stderr[-4000:])
        if done.returncode or not file.is_file():
            return f"exit {done.returncode}: {done.stderr[-1500:]}"
        return summary(json.loads(file.read_text()))


def summary(result: dict[str, Any]) -> list[str]:
    """Return a line for each load: speeds, S, τ, and the parts of a round of either system."""
    lines = []
    samples = [Sample(**one) for one in result["samples"]]
    for count in dict.fromkeys(one.concurrency for one in samples):
        own = {
            name: [s for s in samples if (s.system, s.concurrency) == (name, count)]
            for name in ("plain", "speculative")
        }
        lines.append(f"{count} at once: {summary_of(own)}")
        lines += [f"  {name}: {_parts(ss)}" for name, ss in own.items()]
    check = result["check"]
    lines.append(f"equal texts: {check['speculative_equals_plain']} of {check['num_prompts']}")
    return lines


def summary_of(own: Mapping[str, Sequence[Sample]]) -> str:
    """Return speeds, S and τ of samples of either system at one load."""
    speeds = {name: median(s.tokens_per_second for s in samples) for name, samples in own.items()}
    speculative = own["speculative"]
    tau = _mean([s.tokens_per_round for s in speculative])
    ratio = speeds["speculative"] / speeds["plain"]
    return (
        f"plain {speeds['plain']:.0f} tok/s, speculative {speeds['speculative']:.0f}; "
        f"S {ratio:.2f}, tau {tau:.2f}, S/tau {ratio / tau:.2f}, "
        f"hits {_mean([s.hit_rate for s in speculative]):.2f}, nodes a round "
        f"{_nodes_a_round(speculative):.1f}, {len(speculative)} repeats"
    )


def _parts(samples: Sequence[Sample]) -> str:
    times = [sample.round_ms or {} for sample in samples]
    means = {part: _mean([one[part] for one in times]) for part in times[0]}
    whole = sum(means[part] for part in ("queue", "forward", "walk", "commit"))
    told = ", ".join(f"{part} {value:.3f}" for part, value in means.items())
    return f"a round {whole:.3f} ms ({told})"


def _nodes_a_round(samples: Sequence[Sample]) -> float:
    rounds = sum(one.num_tokens / (one.tokens_per_round or 1.0) for one in samples)
    return sum(one.admitted_nodes or 0 for one in samples) / rounds


def _mean(values: Sequence[float | None]) -> float:
    kept = [value for value in values if value is not None]
    return sum(kept) / len(kept) if kept else float("nan")


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
    with tempfile.TemporaryDirectory(prefix="mps-", ignore_cleanup_errors=True) as place:
        own = {"CUDA_MPS_PIPE_DIRECTORY": place, "CUDA_MPS_LOG_DIRECTORY": place}
        environment = {**os.environ, **own}
        try:
            began = _tell_mps([control, "-d"], environment, Path(place))
            yield own if began == 0 else None
        finally:
            for name in ("control.log", "server.log"):
                with contextlib.suppress(OSError):
                    print(name, (Path(place) / name).read_text()[-1500:])
            with contextlib.suppress(subprocess.TimeoutExpired):  # what was measured is worth more
                _tell_mps([control], environment, Path(place), "quit\n")


def _tell_mps(command: list[str], environment: dict[str, str], place: Path, word: str = "") -> int:
    """Run a command of MPS. It speaks to a file: a pipe would be held open by the daemon."""
    said = place / "said.log"
    with said.open("w") as file:
        done = subprocess.run(
            command,
            env=environment,
            input=word,
            stdout=file,
            stderr=file,
            text=True,
            check=False,
            timeout=_MPS_SECONDS,
        )
    print("MPS:", done.returncode, said.read_text())
    return done.returncode

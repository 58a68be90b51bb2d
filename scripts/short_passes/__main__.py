"""Plays the exchange where a pass takes a millisecond: `python -m scripts.short_passes`.

Target and drafter are the real services, a process each, with the real engine, drafter and
gRPC between them. Only the device is played (`played`): a pass and a level of the drafter
take a given time, in which their thread sleeps as it does while a GPU computes, and each
service has one of its own. So what the host costs is real, and drafts are as good as the
shipped pair's. Plain and speculative sessions take turns. The drafter grows as it does on an
accelerator, or with `--wide` as it does on a CPU of its own.
"""

import argparse
import asyncio
import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from statistics import fmean, median
from typing import Any
from unittest import mock

from scripts.short_passes import played

from treedraft.core.exchange import CoordinatorFrame
from treedraft.core.sampling import SamplingParameters, StoppingCriteria
from treedraft.core.session import SessionSpec, SessionStatistics
from treedraft.core.worker import DrafterAddress
from treedraft.draft import __main__ as draft_service
from treedraft.draft import assembly as draft_assembly
from treedraft.draft.model_levels import LevelSteps
from treedraft.draft.settings import GrowthSettings
from treedraft.inference.toy import make_toy_model
from treedraft.rpc.target_client import SessionStream, TargetClient
from treedraft.target import __main__ as target_service
from treedraft.target import assembly as target_assembly
from treedraft.target import step
from treedraft.target.step_costs import StepCosts

_ROLES = ("target", "draft")
_PARTS = ("draft", "wire", "queue", "forward", "walk", "commit")
_START_SECONDS = 60.0
_PROMPT = tuple(range(16, 48))
_SIZES = (1, 2, 4, 8, 16, 32, 64)
# What a pass takes the host besides the device, as warmed-up costs would say.
_HOST_MS = 0.1
_SETTINGS = {
    "TREEDRAFT_TARGET__GATE__ENABLED": "false",
    "TREEDRAFT_TARGET__DEVICE": "cpu",
    "TREEDRAFT_TARGET__NUM_THREADS": "1",
    "TREEDRAFT_DRAFT__DEVICE": "cpu",
    "TREEDRAFT_DRAFT__NUM_THREADS": "1",
    "TREEDRAFT_DRAFT__LOOKUP__ENABLED": "false",
}


def serve_target(ms: float) -> None:
    """Be the target's process."""
    device = played.Device()

    def price(runner: object, costs: StepCosts, *, max_rows: int) -> None:
        for num_rows in _SIZES:
            costs.observe(num_rows, _HOST_MS + played.pass_ms(ms, num_rows))

    with (
        mock.patch.multiple(
            target_assembly,
            Runner=lambda model, kv: played.PlayedRunner(kv, device, ms, played.target_says),
            warm_up=price,
        ),
        mock.patch.object(step, "CoupledDraws", functools.partial(played.PlayedDraws, device)),
        mock.patch.object(step.PassRunner, "waits_for_device", True),
    ):
        target_service.main()


def serve_drafts(ms: float, *, is_wide: bool) -> None:
    """Be the drafter's process."""
    device = played.Device()

    def levels(model: object, kv: object, *how: Any) -> tuple[LevelSteps, dict[int, float]]:
        return LevelSteps(played.PlayedLevels(device, ms), *how), {}

    def on_own_cores(settings: GrowthSettings) -> GrowthSettings:
        return grows_wide(settings) if is_wide else settings

    grows_wide = GrowthSettings.on_own_cores
    with (
        mock.patch.multiple(
            draft_assembly,
            Runner=lambda _, kv: played.PlayedRunner(kv, device, ms, played.guesses, waits=True),
            _level_steps=levels,
        ),
        # The toy is on a CPU, the device that it stands for is not.
        mock.patch.object(GrowthSettings, "on_own_cores", on_own_cores),
    ):
        draft_service.main()


@contextmanager
def services(asked: argparse.Namespace) -> Iterator[list[str]]:
    """Run both services and tell where they listen."""
    with tempfile.TemporaryDirectory() as place:
        model = make_toy_model(Path(place) / "toy", vocab=played.VOCAB_SIZE)
        files = [Path(place) / role for role in _ROLES]
        processes = []
        try:
            for role, file, ms in zip(_ROLES, files, (asked.pass_ms, asked.level_ms), strict=True):
                own = {"GRPC__PORT": "0", "GRPC__ENDPOINT_FILE": str(file), "MODEL": str(model)}
                named = {f"TREEDRAFT_{role.upper()}__{key}": value for key, value in own.items()}
                command = [sys.executable, "-m", "scripts.short_passes", "--role", role]
                command += ["--pass-ms", str(ms), "--level-ms", str(ms)]
                command += ["--wide"] if asked.wide else []
                environment = {**_SETTINGS, **os.environ, **named}
                log = None if asked.verbose else subprocess.DEVNULL
                processes.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
            yield [_endpoint(file) for file in files]
            for role, process in zip(_ROLES, processes, strict=True):
                if process.poll() is not None:
                    raise RuntimeError(f"the {role} service ended; --verbose shows why")
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                process.wait()


def _endpoint(file: Path) -> str:
    limit = time.monotonic() + _START_SECONDS
    while not file.exists():
        if time.monotonic() > limit:
            raise TimeoutError(f"no service wrote {file.name}")
        time.sleep(0.05)
    return file.read_text().strip()


class Client:
    """Runs sessions at the target, as a coordinator does whose log is never full."""

    def __init__(self, stream: SessionStream, drafter: str, num_tokens: int) -> None:
        """Take over a stream."""
        self._stream = stream
        self._drafters = (DrafterAddress("draft", "", drafter),)
        self._num_tokens = num_tokens
        self._count = 0

    async def run(self, num_sessions: int, *, drafted: bool) -> list[SessionStatistics]:
        """Run so many at once, check their texts and tell what they counted."""
        specs = [self._spec(drafted=drafted) for _ in range(num_sessions)]
        await self._stream.send(CoordinatorFrame(starts=specs))
        texts = {spec.session_id: list(spec.token_ids) for spec in specs}
        found: list[SessionStatistics] = []
        while len(found) < num_sessions:
            outputs = await self._stream.receive()
            assert outputs is not None
            for output in outputs:
                assert output.failure is None, output.failure
                texts[output.session_id] += output.token_ids
                if output.finish:
                    found.append(output.finish.statistics)
        for text in texts.values():
            _check(text)
        return found

    def _spec(self, *, drafted: bool) -> SessionSpec:
        self._count += 1
        prompt = (*_PROMPT, 3 + self._count % 500)
        return SessionSpec(
            session_id=f"s{self._count}",
            epoch=1,
            token_ids=prompt,
            prompt_length=len(prompt),
            sampling=SamplingParameters(temperature=0.0, seed=1),
            stopping=StoppingCriteria(max_tokens=self._num_tokens, ignore_eos=True),
            drafters=self._drafters if drafted else (),
        )


def _check(text: Sequence[int]) -> None:
    for position in range(len(_PROMPT), len(text) - 1):
        expected = played.next_token(text[position], position)
        assert text[position + 1] == expected, f"another token at {position + 1}"


def summary(name: str, found: Sequence[SessionStatistics], num_at_once: int) -> dict[str, Any]:
    """Return what sessions of one kind came to."""
    speeds = [(one.emitted_tokens - one.first_tokens) / one.decode_ms for one in found]
    rounds = sum(one.rounds for one in found)
    parts = {part: fmean(asdict(one.round_ms)[part] for one in found) for part in _PARTS}
    return {
        "name": name,
        "tokens_per_second": 1e3 * num_at_once * median(speeds),
        "tau": sum(one.emitted_tokens for one in found) / rounds,
        "hits": sum(one.hits for one in found) / rounds,
        "drafted": sum(one.drafted_nodes for one in found) / rounds,
        "dropped": sum(one.dropped_nodes for one in found) / rounds,
        "admitted": sum(one.admitted_nodes for one in found) / rounds,
        "round_ms": parts,
    }


def line(found: dict[str, Any]) -> str:
    """Return it in words."""
    told = ", ".join(f"{part} {value:.3f}" for part, value in found["round_ms"].items())
    whole = sum(found["round_ms"][part] for part in _PARTS[2:])
    counts = ", ".join(f"{key} {found[key]:.2f}" for key in ("tau", "hits"))
    nodes = "/".join(f"{found[key]:.1f}" for key in ("drafted", "dropped", "admitted"))
    return (
        f"  {found['name']}: {found['tokens_per_second']:.0f} tok/s, {counts}, nodes a round "
        f"drafted/dropped/admitted {nodes}; a round {whole:.3f} ms ({told})"
    )


async def measure(asked: argparse.Namespace, target: str, drafter: str) -> list[dict[str, Any]]:
    """Run all sessions."""
    client = TargetClient(target)
    limit = time.monotonic() + _START_SECONDS
    while True:
        try:
            await client.describe_model(5.0)
            break
        except Exception:
            if time.monotonic() > limit:
                raise
            await asyncio.sleep(0.1)
    results = []
    for at_once in asked.at_once or [1]:
        runner = Client(await client.run_sessions("rehearsal"), drafter, asked.tokens)
        found: dict[str, list[SessionStatistics]] = {"plain": [], "speculative": []}
        for repeat in range(asked.repeats + 1):
            for name, kept in found.items():
                counted = await runner.run(at_once, drafted=name == "speculative")
                kept += counted if repeat else ()  # the first ones warm up
        plain, drafted = (summary(name, kept, at_once) for name, kept in found.items())
        speedup = drafted["tokens_per_second"] / plain["tokens_per_second"]
        results += [{"at_once": at_once, "S": speedup, **one} for one in (plain, drafted)]
        share = speedup / drafted["tau"]
        print(f"{at_once} at once: S {speedup:.2f}, tau {drafted['tau']:.2f}, S/tau {share:.2f}")
        print(line(plain), line(drafted), sep="\n", flush=True)
    await client.close()
    return results


def main() -> None:
    """Read the command line and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pass-ms", type=float, default=0.9)
    parser.add_argument("--level-ms", type=float, default=0.2)
    parser.add_argument("--at-once", type=int, action="append")
    parser.add_argument("--wide", action="store_true", help="draft as on a CPU of one's own")
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--json", type=Path, help="where to put it for machines to read")
    parser.add_argument("--verbose", action="store_true", help="show what services log")
    parser.add_argument("--role", choices=_ROLES, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.role:
        if asked.role == "target":
            serve_target(asked.pass_ms)
        else:
            serve_drafts(asked.level_ms, is_wide=asked.wide)
        return
    with services(asked) as (target, drafter):
        results = asyncio.run(measure(asked, target, drafter))
    if asked.json:
        asked.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()

"""Ways to queue a pass (`inference.fused.ways`), measured against each other in one call.

    python -m scripts.gpu.prove --out FOLDER --only ways [--models 8b 1.5b 135m]

Each model has a process of its own. All compile at once, which is most of the time, and then
measure in turns. Of each way are told: what a pass over 1 and over 17 rows takes, a whole step of
each, the step over the floor, and in how many of 17 rows chunks, single rows and rows beside
another session's differ in any bit. Sizes are two only, so that little has to be compiled.
"""

import argparse
import fcntl
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scripts.gpu import passes
from scripts.gpu.subjects import load, prefill, rows, runner_of

from treedraft.core.sampling import SamplingParameters
from treedraft.inference.fused.ways import Early, PassWays
from treedraft.inference.runner import Runner
from treedraft.inference.sampler import CoupledDraws, LawRow
from treedraft.inference.segment import Segment

_GREEDY = SamplingParameters(temperature=0.0)
_PATIENCE_SECONDS = 45.0  # for one that does not get to the end of its compilation
_NUM_ROWS = 17
_NUM_CHUNKS = 33  # of so many rows, before those that are measured


def ways_of(usual: PassWays) -> dict[str, PassWays]:
    """Return what is compared, the usual way first."""
    found = {"usual": usual}
    for early in Early:
        found[f"early {early.value}"] = replace(usual, early=early)
    found["turned in the product"] = replace(usual, turns_in_product=True)
    found["turned in the product, early between"] = replace(
        usual, early=Early.BETWEEN, turns_in_product=True
    )
    found["twice the warps a norm"] = replace(usual, norm_warps=2 * usual.norm_warps)
    return found


def compare(names: list[str], *, is_tiny: bool, seconds: float) -> Iterator[tuple[str, Any]]:
    """Yield how the ways of several models compare, each measured in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="ways-") as place:
        started, out, end = {}, Path(place), time.monotonic() + seconds
        for name in names:
            command = [sys.executable, "-m", "scripts.gpu.ways", "--model", name]
            command += ["--beside", *names, "--out", place, *(["--tiny"] if is_tiny else [])]
            with (out / f"{name}.log").open("w") as log:
                started[name] = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            for name, process in started.items():
                with suppress(subprocess.TimeoutExpired):
                    process.wait(max(0.1, end - time.monotonic()))
                yield name, _told(out, name)
        finally:
            for process in started.values():
                process.kill()
                process.wait()


def _told(out: Path, name: str) -> Any:
    """Return what a process found so far, or how its log ends."""
    file = out / f"{name}.json"
    if file.is_file():
        return json.loads(file.read_text())
    return f"nothing found: {(out / f'{name}.log').read_text()[-800:]}"


class _Subject:
    """A model with a text of which all but the last rows are computed."""

    def __init__(self, name: str, device: torch.device, *, num_chunks: int) -> None:
        self.model = load(name, device)
        self.runner: Runner = runner_of(self.model, 4096)
        self.slots = np.random.default_rng(0).permutation(4096)
        self.start = num_chunks * _NUM_ROWS
        drawn = np.random.default_rng(1).integers(3, self.model.vocab_size - 1, self.start + 99)
        self.text: list[int] = drawn.tolist()
        prefill(self.runner, self.text[: self.start], self.slots, chunk=_NUM_ROWS)

    def chunk(self, count: int) -> Segment:
        """Return the next rows of the text."""
        return rows(self.text, self.start, self.start + count, self.slots)

    def differing(self) -> str:
        """Return in how many rows other passes have other logits than a chunk."""
        together = self.runner.forward([self.chunk(_NUM_ROWS)]).clone()
        elsewhere = self.slots.copy()
        elsewhere[self.start : self.start + _NUM_ROWS] = self.slots[2000 : 2000 + _NUM_ROWS]
        other = rows(self.text, 0, _NUM_ROWS - 1, self.slots[3000:])
        found = {"alone": 0, "beside others": 0}
        for index in range(_NUM_ROWS):
            at = self.start + index
            for label, beside in (("alone", []), ("beside others", [other])):
                own = rows(self.text, at, at + 1, elsewhere)
                row = self.runner.forward([*beside, own])[-1]
                found[label] += not torch.equal(row, together[index])
        return ", ".join(f"{label} {count} of {_NUM_ROWS}" for label, count in found.items())


def measure(
    name: str, device: torch.device, turn: AbstractContextManager[None], *, is_tiny: bool
) -> Iterator[dict[str, Any]]:
    """Yield the figures of each way, as they become more; `turn` is held while they are taken."""
    subject = _Subject(name, device, num_chunks=2 if is_tiny else _NUM_CHUNKS)
    native, runner = subject.model.native, subject.runner
    if not isinstance(getattr(native, "ways", None), PassWays):
        yield {"left out": f"passes are those of {type(native).__name__}"}
        return
    all_ways, repeats = ways_of(native.ways), 1 if is_tiny else 60
    found: dict[str, Any] = {}
    expected = runner.forward([subject.chunk(_NUM_ROWS)]).clone()
    for label, ways in all_ways.items():  # compiles
        native.ways = ways
        runner.forward([subject.chunk(1)])
        logits = runner.forward([subject.chunk(_NUM_ROWS)])
        found[label] = {"differs from the usual by": float((logits - expected).abs().max())}
    with turn:
        bandwidth = passes.copy_bandwidth(device)
        found["floor_ms"] = floor_ms = native.weights.num_read_bytes / bandwidth * 1e3
        for label, ways in all_ways.items():
            native.ways = ways
            if native.ways != ways:
                found[label] = "not on this device, or not for this model"
                continue
            found[label] |= _figures(subject, device, repeats, floor_ms)
            found[label]["rows that differ"] = subject.differing()
            yield found


def _figures(
    subject: _Subject, device: torch.device, repeats: int, floor_ms: float
) -> dict[str, float]:
    runner, draws, found = subject.runner, CoupledDraws(), {}
    for count in (1, _NUM_ROWS):
        segment = [subject.chunk(count)]
        laws = [LawRow(_GREEDY, position=subject.start + 1 + i) for i in range(count)]
        found[f"pass of {count}"] = passes.device_ms(
            lambda s=segment: runner.forward(s), device, repeats
        )
        found[f"step of {count}"] = passes.wall_ms(
            lambda s=segment, w=laws: draws.draw(runner.forward(s), w), repeats
        )
    found["step over floor"] = found["step of 1"] / floor_ms
    found[f"{_NUM_ROWS} over 1"] = found[f"pass of {_NUM_ROWS}"] / found["pass of 1"]
    return {label: round(value, 4) for label, value in found.items()}


@contextmanager
def _turn(out: Path, name: str, names: list[str]) -> Iterator[None]:
    """Wait until all have compiled, then hold a lock that one process has at a time."""
    (out / f"{name}.ready").touch()
    end = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < end and not all((out / f"{n}.ready").exists() for n in names):
        time.sleep(0.1)
    with (out / "ways.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield


def main() -> None:
    """Measure one model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--beside", nargs="+", default=[], help="all models of the call")
    parser.add_argument("--out", required=True)
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_grad_enabled(False)
    out = Path(options.out)
    turn = _turn(out, options.model, options.beside)
    name = "interpreted" if options.tiny else options.model
    for found in measure(name, device, turn, is_tiny=options.tiny):
        part = out / f"{options.model}.part"
        part.write_text(json.dumps(found, indent=1))
        part.replace(out / f"{options.model}.json")


if __name__ == "__main__":
    main()

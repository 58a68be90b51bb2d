"""What each part of a step takes the host, beside what the device does for it.

A step is that of one session: rows laid out, copied and replayed, draws told and replayed,
tokens waited for and read. Parts are timed where they happen; what no part explains is the
way between them.
"""

import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

import numpy as np
import torch
from scripts.gpu.subjects import NUM_SLOTS, prefill, rows, runner_of

from treedraft.core.sampling import SamplingParameters
from treedraft.inference.fused import decoder as decoder_module
from treedraft.inference.fused import draw as draw_module
from treedraft.inference.fused.decoder import FusedDecoder
from treedraft.inference.fused.draw import DeviceDraws
from treedraft.inference.fused.workspace import Workspace
from treedraft.inference.law import LawRow

_PARTS = (
    ("wait for a buffer", Workspace, "room"),
    ("lay out", decoder_module, "lay_out"),
    ("upload", Workspace, "upload"),
    ("replay pass", FusedDecoder, "replay"),
    ("tell laws", draw_module.Board, "tell"),
    ("replay draw", DeviceDraws, "queue"),
    ("wait", draw_module.Board, "wait"),
    ("read", draw_module.Board, "read"),
)


class _Stopwatch:
    """Times calls of functions that it stands in for."""

    def __init__(self) -> None:
        self.microseconds: dict[str, list[float]] = {label: [] for label, _, _ in _PARTS}
        self._own = [(owner, name, getattr(owner, name)) for _, owner, name in _PARTS]

    def __enter__(self) -> "_Stopwatch":
        for (label, owner, name), (_, _, function) in zip(_PARTS, self._own, strict=True):
            setattr(owner, name, self._timed(function, self.microseconds[label]))
        return self

    def __exit__(self, *_: object) -> None:
        for owner, name, function in self._own:
            setattr(owner, name, function)

    @staticmethod
    def _timed(function: Callable[..., Any], times: list[float]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            result = function(*args, **kwargs)
            times.append((time.perf_counter() - started) * 1e6)
            return result

        return run


def measure(
    name: str, model: Any, *, num_context: int, repeats: int
) -> Iterator[tuple[str, dict[str, float] | str]]:
    """Yield microseconds of each part, for one row and for a tree of 16 nodes."""
    if not isinstance(model.native, FusedDecoder):
        yield name, f"left out: passes are those of {type(model.native).__name__}"
        return
    runner, draws = runner_of(model), DeviceDraws()
    slots = np.arange(NUM_SLOTS)
    text = np.random.default_rng(1).integers(3, model.vocab_size - 1, num_context + 40).tolist()
    prefill(runner, text[:num_context], slots)
    for count in (1, 17):
        segment = rows(text, num_context, num_context + count, slots)
        for kind, sampling in (
            ("greedy", SamplingParameters(temperature=0.0)),
            ("sampled", SamplingParameters(temperature=0.7, seed=3)),
        ):
            laws = [LawRow(sampling, position=num_context + 1 + i) for i in range(count)]
            told = _parts_of(
                lambda s=segment: runner.forward([s]), laws, draws, model.device, repeats
            )
            yield f"{name}, {count} rows, {kind}", told


def _parts_of(
    forward: Callable[[], torch.Tensor],
    laws: list[LawRow],
    draws: DeviceDraws,
    device: torch.device,
    repeats: int,
) -> dict[str, float]:
    for _ in range(4):
        draws.draw(forward(), laws)
    whole = []
    for _ in range(repeats):
        started = time.perf_counter()
        draws.draw(forward(), laws)
        whole.append((time.perf_counter() - started) * 1e6)
    with _Stopwatch() as watch:
        for _ in range(repeats):
            draws.draw(forward(), laws)
    told = {"step": median(whole)}
    if device.type == "cuda":
        told |= _on_device(forward, laws, draws, repeats)
        told["host beside the device"] = told["step"] - told["device"]
    told |= {label: median(times) for label, times in watch.microseconds.items() if times}
    return {label: round(value, 1) for label, value in told.items()}


def _on_device(
    forward: Callable[[], torch.Tensor], laws: list[LawRow], draws: DeviceDraws, repeats: int
) -> dict[str, float]:
    """Return what the device does, with all of it queued before it begins."""
    passes, drawing = [], []
    for _ in range(min(repeats, 40)):
        marks = [torch.cuda.Event(enable_timing=True) for _ in range(3)]
        torch.cuda.synchronize()
        torch.cuda._sleep(1_000_000)
        marks[0].record()
        logits = forward()
        marks[1].record()
        draws.queue(logits, len(laws))
        marks[2].record()
        torch.cuda.synchronize()
        passes.append(marks[0].elapsed_time(marks[1]) * 1e3)
        drawing.append(marks[1].elapsed_time(marks[2]) * 1e3)
    both = median(passes) + median(drawing)
    return {"device": both, "device: pass": median(passes), "device: draw": median(drawing)}

"""How long passes take, beside the time in which their weights can be read at all."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from statistics import median
from typing import Any

import numpy as np
import torch
from scripts.gpu.subjects import NUM_SLOTS, prefill, rows, runner_of

from treedraft.core.sampling import SamplingParameters
from treedraft.inference.fused.draw import DeviceDraws
from treedraft.inference.fused.ways import Early, PassWays
from treedraft.inference.sampler import CoupledDraws, LawRow

ROWS = (1, 2, 4, 8, 16, 17, 32, 33, 64)
SESSIONS = (4, 16, 64, 256)
_LONG_HEAD_START = 20_000_000  # cycles, some ten milliseconds: to lay many sessions out
GREEDY = SamplingParameters(temperature=0.0)
HOT = SamplingParameters(temperature=0.7, seed=3)


def synchronise(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def copy_bandwidth(device: torch.device) -> float:
    """Return bytes read and written per second by a large copy."""
    size = 1 << (32 if device.type == "cuda" else 24)
    source = torch.empty(size, dtype=torch.uint8, device=device).random_(0, 255)
    target = torch.empty_like(source)
    times = []
    for _ in range(12):
        synchronise(device)
        started = time.perf_counter()
        target.copy_(source)
        synchronise(device)
        times.append(time.perf_counter() - started)
    return 2 * size / min(times)


def measure(
    model: Any, bandwidth: float, *, num_context: int, repeats: int, sessions: tuple[int, ...]
) -> Iterator[tuple[str, Any]]:
    """Time steps and passes of a model, in ms, what bars are about first.

    A step is what the engine does: the pass queued, the draws queued, the tokens read. A
    pass is what the device does for it, by events around a run of them.
    """
    subject = _Subject(model, num_context, repeats)
    gigabytes = _read_bytes(model) / 1e9
    floor = gigabytes * 1e12 / bandwidth
    yield "copy_tb_per_s", bandwidth / 1e12
    yield "weights_gb", gigabytes
    yield "floor_ms", floor
    steps = {count: subject.step_ms(GREEDY, count) for count in (1, 17)}
    yield "step over floor", steps[1] / floor
    for count, taken in steps.items():
        yield f"step_ms greedy, {count} rows", taken
    yield "step with 16 nodes over plain", steps[17] / steps[1]
    times = subject.pass_ms(ROWS)
    yield "16 nodes over 1", times[17] / times[1]
    yield "pass_ms", times
    for count in (1, 17):
        yield f"step_ms sampled, {count} rows", subject.step_ms(HOT, count)
    usual = getattr(model.native, "ways", PassWays())
    if usual.early is not Early.NEVER:
        model.native.ways = replace(usual, early=Early.NEVER)
        yield "one kernel after the other", subject.pass_ms((1, 17))
        model.native.ways = usual
    for count in sessions:
        yield f"step_ms of {count} sessions", subject.many_ms(count)
    yield "prefill of 512, ms", subject.prompt_ms()


class _Subject:
    """A model with a text of which all but the last rows are computed."""

    def __init__(self, model: Any, num_context: int, repeats: int) -> None:
        self._runner = runner_of(model)
        self._device, self._repeats, self._start = model.device, repeats, num_context
        random = np.random.default_rng(1)
        self._text = random.integers(3, model.vocab_size - 1, num_context + 600).tolist()
        self._slots, self._draws = np.arange(NUM_SLOTS), CoupledDraws()
        prefill(self._runner, self._text[:num_context], self._slots)

    def pass_ms(self, counts: Sequence[int]) -> dict[int, float]:
        """Return what passes over so many rows take the device."""
        times = {}
        for count in counts:
            segment = [self._chain(count)]
            times[count] = device_ms(
                lambda s=segment: self._runner.forward(s), self._device, self._repeats
            )
        return times

    def step_ms(self, sampling: SamplingParameters, count: int) -> float:
        """Return what a step over so many rows takes."""
        laws = [LawRow(sampling, position=self._start + 1 + i) for i in range(count)]
        return self._whole_ms([self._chain(count)], laws)

    def many_ms(self, count: int) -> float:
        """Return what a step of so many sessions takes, a row each."""
        segments = [
            rows(self._text, 150, 151, self._slots[160 * i : 160 * (i + 1)]) for i in range(count)
        ]
        return self._whole_ms(segments, [LawRow(HOT, position=151)] * count)

    def prompt_ms(self) -> float:
        """Return what 512 tokens of a prompt take."""
        prompt = [rows(self._text, 0, 512, self._slots[20_000:], [511])]
        return device_ms(lambda: self._runner.forward(prompt), self._device, 5)

    def _chain(self, count: int) -> Any:
        return rows(self._text, self._start, self._start + count, self._slots)

    def _whole_ms(self, segments: list[Any], laws: list[LawRow]) -> float:
        return wall_ms(
            lambda: self._draws.draw(self._runner.forward(segments), laws), self._repeats
        )


def many_ms(model: Any, counts: Sequence[int]) -> float:
    """Return what a pass of sessions with so many rows each takes the device, draws included."""
    runner, draws, context = runner_of(model), CoupledDraws(), 64
    random = np.random.default_rng(1)
    text = random.integers(3, model.vocab_size - 1, context + max(counts)).tolist()
    slots, room = np.arange(NUM_SLOTS), context + max(counts)
    segments = [
        rows(text, context, context + count, slots[room * i : room * (i + 1)])
        for i, count in enumerate(counts)
    ]
    laws = [LawRow(GREEDY, position=context + 1)] * sum(counts)
    if model.device.type != "cuda":
        return wall_ms(lambda: draws.draw(runner.forward(segments), laws), 5)
    queued = DeviceDraws()

    def step() -> None:
        logits = runner.forward(segments)
        queued.queue(logits, len(laws))

    queued.draw(runner.forward(segments), laws)
    return device_ms(step, model.device, 40, head_start=_LONG_HEAD_START)


def _read_bytes(model: Any) -> int:
    weights = getattr(model.native, "weights", None)
    if weights is not None:
        return int(weights.num_read_bytes)
    return sum(p.nbytes for p in model.module.parameters())


def wall_ms(run: Callable[[], Any], repeats: int) -> float:
    """Return what a run takes by the host's clock, as a median after some to warm up."""
    for _ in range(3):
        run()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return median(times) * 1e3


def device_ms(
    run: Callable[[], Any], device: torch.device, repeats: int, *, head_start: int = 1_000_000
) -> float:
    """Return what a run takes the device, all of it queued before it begins.

    The device sleeps for the cycles of `head_start` first: longer than the host takes to queue.
    """
    if device.type != "cuda":
        return wall_ms(run, repeats)
    for _ in range(3):
        run()
    times = []
    for _ in range(repeats):
        before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize(device)
        torch.cuda._sleep(head_start)
        before.record()
        run()
        after.record()
        torch.cuda.synchronize(device)
        times.append(before.elapsed_time(after))
    return median(times)


def by_kernel(model: Any, *, num_context: int) -> list[tuple[str, float, int]]:
    """Return the kernels of one plain pass: name, microseconds in all, calls."""
    runner = runner_of(model)
    text = list(range(3, num_context + 10)) if model.vocab_size > num_context + 20 else [5] * 999
    slots = np.arange(2000)
    prefill(runner, text[:num_context], slots)
    segment = [rows(text, num_context, num_context + 1, slots)]
    for _ in range(3):
        runner.forward(segment)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        runner.forward(segment)
        synchronise(model.device)
    events = sorted(profile.key_averages(), key=lambda e: -e.device_time_total)
    return [(e.key[:60], e.device_time_total, e.count) for e in events[:12]]

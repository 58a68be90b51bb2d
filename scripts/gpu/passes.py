"""How long passes take, beside the time in which their weights can be read at all."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import median
from typing import Any

import numpy as np
import torch
from scripts.gpu.subjects import NUM_SLOTS, prefill, rows, runner_of

from treedraft.core.sampling import SamplingParameters
from treedraft.inference.fused.ways import Early, PassWays
from treedraft.inference.sampler import CoupledDraws, LawRow

ROWS = (1, 2, 4, 8, 16, 17, 32, 33, 64)
SESSIONS = (4, 16, 64, 256)
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
) -> dict[str, Any]:
    """Time steps and passes of a model, in ms.

    A step is what the engine does: the pass queued, the draws queued, the tokens read. A
    pass is what the device does for it, by events around a run of them.
    """
    runner = runner_of(model)
    device = model.device
    text = np.random.default_rng(1).integers(3, model.vocab_size - 1, num_context + 600).tolist()
    slots, draws = np.arange(NUM_SLOTS), CoupledDraws()
    prefill(runner, text[:num_context], slots)
    gigabytes = _read_bytes(model) / 1e9
    floor = gigabytes * 1e12 / bandwidth
    found: dict[str, Any] = {"weights_gb": gigabytes, "floor_ms": floor}

    def chain(count: int) -> Any:
        return rows(text, num_context, num_context + count, slots)

    def pass_times(counts: Sequence[int]) -> dict[int, float]:
        times = {}
        for count in counts:
            segment = [chain(count)]
            times[count] = device_ms(lambda s=segment: runner.forward(s), device, repeats)
        return times

    found["pass_ms"] = pass_times(ROWS)
    usual = getattr(model.native, "ways", PassWays())
    if usual.early is not Early.NEVER:
        model.native.ways = replace(usual, early=Early.NEVER)
        found["one kernel after the other"] = pass_times((1, 17))
        model.native.ways = usual
    for name, sampling in (("greedy", GREEDY), ("sampled", HOT)):
        for count in (1, 17):
            segment = [chain(count)]
            laws = [LawRow(sampling, position=num_context + 1 + i) for i in range(count)]
            found[f"step_ms {name}, {count} rows"] = wall_ms(
                lambda s=segment, w=laws: draws.draw(runner.forward(s), w), repeats
            )
    for count in sessions:
        segments = [rows(text, 150, 151, slots[160 * i : 160 * (i + 1)]) for i in range(count)]
        laws = [LawRow(HOT, position=151)] * count
        found[f"step_ms of {count} sessions"] = wall_ms(
            lambda s=segments, w=laws: draws.draw(runner.forward(s), w), repeats
        )
    prompt = [rows(text, 0, 512, slots[20_000:], [511])]
    found["prefill of 512, ms"] = device_ms(lambda: runner.forward(prompt), device, 5)
    found["step over floor"] = found["step_ms greedy, 1 rows"] / floor
    found["16 nodes over 1"] = found["pass_ms"][17] / found["pass_ms"][1]
    found["step with 16 nodes over plain"] = (
        found["step_ms greedy, 17 rows"] / found["step_ms greedy, 1 rows"]
    )
    return found


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


def device_ms(run: Callable[[], Any], device: torch.device, repeats: int) -> float:
    """Return what a run takes the device, all of it queued before it begins."""
    if device.type != "cuda":
        return wall_ms(run, repeats)
    for _ in range(3):
        run()
    times = []
    for _ in range(repeats):
        before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize(device)
        torch.cuda._sleep(1_000_000)  # the host is ahead when the pass begins
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

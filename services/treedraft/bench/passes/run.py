"""Times passes of a target on a CPU, weights held in every way, beside their limits.

The limits are measured in the same turns: reading the weights once, by the same
threads, and the model's linear layers through oneDNN with weights prepacked, which
is the quickest that torch has. Torch's threads spin for a while after they have
computed, so whoever comes after them waits for that to end.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from treedraft.bench.passes.result import (
    PASS,
    PREPACKED,
    READING,
    STEP,
    PassesPlan,
    PassesResult,
    Timing,
)
from treedraft.core.errors import UnsupportedModelError
from treedraft.core.sampling import SamplingParameters
from treedraft.inference.downloads import Progress
from treedraft.inference.kv_pool import KVPool
from treedraft.inference.models import LoadedModel, load_model
from treedraft.inference.native.decoder import NativeDecoder, WeightStorage
from treedraft.inference.prepacked import PackedLinear, can_prepack
from treedraft.inference.runner import Runner
from treedraft.inference.sampler import LawRow, coupled_draw
from treedraft.inference.segment import Segment
from treedraft.inference.stamp import num_usable_cores, take_stamp

_PAUSE_SECONDS = 0.03
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class Subject:
    """Something to time: `run` does it once."""

    what: str
    weights: str
    num_rows: int
    run: Callable[[], object]


def run_passes(
    plan: PassesPlan,
    progress: Progress,
    *,
    clock: Callable[[], float] = time.perf_counter,
    pause: Callable[[float], None] = time.sleep,
) -> PassesResult:
    """Load the model once for each way to hold weights, and time everything in turns.

    Raises:
        UnsupportedModelError: reason NO_NATIVE_DECODER, its passes go through torch here.
        TreedraftError: the model cannot be loaded.
    """
    stamp = take_stamp()
    num_threads = plan.num_threads or num_usable_cores()
    torch.set_num_threads(num_threads)
    subjects: list[Subject] = []
    gigabytes = {}
    for storage in WeightStorage:
        model = load_model(plan.target, weights=storage.value, progress=progress)
        subjects += _native_subjects(model, plan)
        assert isinstance(model.native, NativeDecoder)
        gigabytes[storage.value] = model.native.read_weights() / 1e9
    for name in _DTYPES:
        if can_prepack(torch.device("cpu"), _DTYPES[name]):
            subjects += _prepacked_subjects(plan, name, progress)
    progress("timing")
    times = _time(subjects, plan.num_repeats, clock, pause)
    timings = [
        Timing(one.what, one.weights, one.num_rows, tuple(ms))
        for one, ms in zip(subjects, times, strict=True)
    ]
    return PassesResult(stamp, plan, num_threads, gigabytes, tuple(timings))


def _time(
    subjects: Sequence[Subject],
    num_repeats: int,
    clock: Callable[[], float],
    pause: Callable[[float], None],
) -> list[list[float]]:
    times: list[list[float]] = [[] for _ in subjects]
    for number in range(num_repeats + 1):
        before = ""
        for subject, own in zip(subjects, times, strict=True):
            if before not in ("", subject.what):
                pause(_PAUSE_SECONDS)
            before = subject.what
            started = clock()
            subject.run()
            if number:  # the first time is the warm-up
                own.append((clock() - started) * 1e3)
    return times


def _native_subjects(model: LoadedModel, plan: PassesPlan) -> Iterator[Subject]:
    if not isinstance(model.native, NativeDecoder):
        raise UnsupportedModelError(
            f"passes of {model.name} go through torch here", reason="NO_NATIVE_DECODER"
        )
    weights, most = model.native.storage.value, max(plan.rows)
    pool = KVPool(
        model.num_layers,
        plan.num_context + most,
        model.num_kv_heads,
        model.head_dim,
        dtype=model.dtype,
        device=model.device,
    )
    runner = Runner(model, pool)
    runner.forward([_rows(0, plan.num_context)])
    yield Subject(READING, weights, 1, model.native.read_weights)
    law = LawRow(SamplingParameters(temperature=0.0), position=plan.num_context + 1)

    def step() -> None:
        coupled_draw(runner.forward([_rows(plan.num_context, 1)]), [law])

    for num_rows in plan.rows:
        segment = _rows(plan.num_context, num_rows)
        yield Subject(PASS, weights, num_rows, lambda segment=segment: runner.forward([segment]))  # type: ignore[misc]
    yield Subject(STEP, weights, 1, step)


def _rows(num_context: int, count: int) -> Segment:
    """Return rows in a chain after so many tokens."""
    places = range(num_context, num_context + count)
    return Segment(
        token_ids=[1 + place % 251 for place in places],
        positions=places,
        write_slots=places,
        context_slots=np.arange(num_context, dtype=np.int64),
        tree_slots=places,
        tree_mask=np.tri(count, dtype=np.bool_),
        output_rows=range(count),
    )


def _prepacked_subjects(plan: PassesPlan, name: str, progress: Progress) -> Iterator[Subject]:
    """Yield the linear layers alone, as the model has them, for each number of rows."""
    module = load_model(plan.target, is_packed=False, progress=progress).module
    layers = [
        PackedLinear(layer.to(_DTYPES[name]))
        for layer in module.modules()
        if isinstance(layer, nn.Linear)
    ]
    for num_rows in plan.rows:
        inputs = {
            layer.in_features: torch.ones((num_rows, layer.in_features), dtype=_DTYPES[name])
            for layer in layers
        }

        @torch.inference_mode()
        def run(inputs: dict[int, torch.Tensor] = inputs) -> None:
            for layer in layers:
                layer(inputs[layer.in_features])

        yield Subject(PREPACKED, name, num_rows, run)

"""Runs the model at the sizes that passes have, before the first session comes.

Two purposes: kernels and allocators are warm, and the budget knows from the
start what a pass of each size costs on this machine.
"""

import time

import numpy as np

from treedraft.inference.runner import Runner
from treedraft.inference.segment import Segment
from treedraft.target.step_costs import StepCosts

_SWEEPS = 5


def warm_up(runner: Runner, costs: StepCosts, *, max_rows: int) -> None:
    """Time passes of 1, 2, 4, … `max_rows` rows over one session and tell `costs`.

    Writes to the first slots of the KV pool, which hold nothing yet.
    """
    sizes = [2**exponent for exponent in range(max_rows.bit_length())]
    # Sweep after sweep: what else the machine does for a moment, such as loading a
    # drafter, must not fall on all passes of one size.
    sweeps = [[_time_pass(runner, size) for size in sizes] for _ in range(_SWEEPS)]
    for size, times in zip(sizes, zip(*sweeps, strict=True), strict=True):
        costs.observe(size, min(times))


def _time_pass(runner: Runner, num_rows: int) -> float:
    slots = np.arange(num_rows, dtype=np.int64)
    segment = Segment(
        token_ids=[0] * num_rows,
        positions=range(num_rows),
        write_slots=slots,
        context_slots=np.zeros(0, dtype=np.int64),
        tree_slots=slots,
        tree_mask=np.tril(np.ones((num_rows, num_rows), dtype=np.bool_)),
        output_rows=range(num_rows),
    )
    started = time.perf_counter()
    runner.forward([segment]).argmax(dim=-1).tolist()
    return (time.perf_counter() - started) * 1e3

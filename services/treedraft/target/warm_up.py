"""Runs the model at the sizes that passes have, before the first session comes.

Two purposes: kernels and allocators are warm, and the budget knows from the
start what a pass of each size costs on this machine.
"""

import time
from itertools import accumulate

import numpy as np

from treedraft.inference.fused.graphs import PASSES_UNTIL_RECORDED
from treedraft.inference.runner import Runner
from treedraft.inference.segment import Segment, blank_segment
from treedraft.target.step_costs import StepCosts

_SWEEPS = 8
# Tokens before the rows of each pass: what a session adds is mostly its own context.
_CONTEXT = 128
# Sessions of one row each, in the pass that tells what a session adds.
_SESSIONS = 16
# Rows of plain steps and of trees for which graphs are there from the start.
_MOST_RECORDED = 512


def warm_up(runner: Runner, costs: StepCosts, *, max_rows: int) -> None:
    """Time passes of 1, 2, 4, … `max_rows` rows, of one session and of several; tell `costs`.

    One of them has no logits but for its last row, as rows of a prompt.

    Writes to the first slots of the KV pool, which hold nothing yet.
    """
    sizes = [2**exponent for exponent in range(max_rows.bit_length())]
    num_sessions = min(_SESSIONS, max_rows)
    most = min(_MOST_RECORDED, runner.pool.num_slots)
    for size in [size for size in runner.sizes if size <= most] * PASSES_UNTIL_RECORDED:
        _time_pass(runner, size, 1, size)
    shapes = [*((size, 1, size) for size in sizes)]
    shapes += [(num_sessions, num_sessions, 1), (sizes[-1], 1, 1)]
    # Sweep after sweep: what else the machine does for a moment, such as loading a
    # drafter, must not fall on all passes of one size.
    sweeps = [[_time_pass(runner, *shape) for shape in shapes] for _ in range(_SWEEPS)]
    *best, of_sessions, of_undrawn = (min(times) for times in zip(*sweeps, strict=True))
    # No pass takes longer for having fewer rows: what seems so was something else.
    best = list(accumulate(reversed(best), min))[::-1]
    for size, time_ms in zip(sizes, best, strict=True):
        costs.observe(size, time_ms)
    costs.calibrate_sessions(num_sessions, of_sessions)
    costs.calibrate_undrawn(sizes[-1], of_undrawn)


def _time_pass(runner: Runner, num_rows: int, num_sessions: int, num_outputs: int) -> float:
    """Return what a pass takes; `num_outputs` are the rows of each session with logits."""
    own_rows = num_rows // num_sessions
    num_context = max(0, min(_CONTEXT, runner.pool.num_slots - num_rows))
    segments = [
        _segment(own_rows, num_outputs, num_context, num_context + index * own_rows)
        for index in range(num_sessions)
    ]
    started = time.perf_counter()
    runner.forward(segments).argmax(dim=-1).tolist()
    return (time.perf_counter() - started) * 1e3


def _segment(num_rows: int, num_outputs: int, num_context: int, first_slot: int) -> Segment:
    slots = np.arange(first_slot, first_slot + num_rows, dtype=np.int64)
    return blank_segment(slots, num_outputs, np.arange(num_context, dtype=np.int64))

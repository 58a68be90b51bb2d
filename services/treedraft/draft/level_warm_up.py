"""Runs steps of several levels at the sizes to come, before the first session does.

Where levels are a graph, a size is launched when it comes first and recorded when it
comes again; either takes ten times as long as to replay it.
"""

import math
from collections.abc import Iterable, Sequence
from itertools import product

from treedraft.core.sampling import SamplingParameters
from treedraft.draft.model_children import DraftLimits
from treedraft.draft.settings import GrowthSettings
from treedraft.inference.block_pool import SlotPool
from treedraft.inference.fused.graphs import PASSES_UNTIL_RECORDED
from treedraft.inference.law import LawRow
from treedraft.inference.level_growth import LevelGrower, Seed
from treedraft.inference.segment import blank_segment

# Tokens that a drafter has mostly missed of a session when it grows the next tree, at most.
_MAX_MISSING = 4


def warm_up_levels(
    grower: LevelGrower,
    pool: SlotPool,
    limits: DraftLimits,
    settings: GrowthSettings,
    *,
    num_sessions: Iterable[int],
) -> dict[int, float]:
    """Grow trees that nobody asked for, of so many sessions at once.

    Their keys and values go into slots of `pool` that are given back; what does not fit
    is left out.

    Returns:
        The shortest time of a pass over so many rows, in milliseconds.
    """
    pass_ms: dict[int, float] = {}
    missing = [(num_rows, 1) for num_rows in range(1, _MAX_MISSING + 1)]
    nodes = [(count, count) for count in range(2, settings.max_rows_per_session + 1)]
    for count, (num_rows, num_places) in product(num_sessions, [*missing, *nodes]):
        each = num_rows + settings.levels * settings.max_rows_per_session
        if pool.num_free < count * each:
            continue
        slots = pool.allocate(count * each)
        shares = [slots[at : at + each] for at in range(0, len(slots), each)]
        try:
            for _ in range(PASSES_UNTIL_RECORDED + 1):  # the last is like those to come
                grower.grow(
                    [_seed(own, num_rows, num_places, limits, settings) for own in shares],
                    levels=settings.levels,
                    width=settings.max_rows_per_session,
                    num_children=settings.num_children,
                    num_columns=limits.num_columns(limits.vocab_size),
                    max_rows=settings.max_rows_per_step,
                    worth=None,
                )
        finally:
            pool.release(slots)
        elapsed_ms = min(grower.level_ms, default=math.inf)
        for size in (count * num_rows, count * settings.max_rows_per_session):
            pass_ms[size] = min(elapsed_ms, pass_ms.get(size, math.inf))
    return {size: elapsed_ms for size, elapsed_ms in pass_ms.items() if elapsed_ms < math.inf}


def _seed(
    slots: Sequence[int],
    num_rows: int,
    num_places: int,
    limits: DraftLimits,
    settings: GrowthSettings,
) -> Seed:
    return Seed(
        segment=blank_segment(slots[:num_rows], num_places),
        scores=[0.0] * num_places,
        law=LawRow(SamplingParameters(temperature=0.0), position=num_rows),
        slots=slots[num_rows:],
        last_position=limits.context_length - 2,
        min_score=settings.min_score,
    )

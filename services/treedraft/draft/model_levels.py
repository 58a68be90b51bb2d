"""Steps that grow trees by several levels at once, where the model runs as fused passes.

The device chooses which nodes to run (`inference.fused.levels`); here its choice becomes
nodes of the trees. What a tree does not take, for want of score say, is dropped with all
below it, and its slot given back. Trees of rejection mode, and laws that the kernels do
not know, are left to single passes.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from treedraft.draft.model_children import DraftLimits, add_children, law_row
from treedraft.draft.segments import Work, build_segment
from treedraft.draft.settings import GrowthSettings
from treedraft.inference.block_pool import SlotPool

if TYPE_CHECKING:
    from treedraft.inference.fused.levels import GrownRow, LevelGrower, Seed

# With more sessions the host's share of a step is small, and there would be too many graphs.
_MAX_SESSIONS = 4


class LevelSteps:
    """Runs such steps; used by the grower's thread."""

    def __init__(
        self,
        grower: "LevelGrower",
        make_seed: Callable[..., "Seed"],
        pool: SlotPool,
        limits: DraftLimits,
        settings: GrowthSettings,
    ) -> None:
        """Grow with `grower`, into slots of `pool`."""
        self._grower = grower
        self._make_seed = make_seed
        self._pool = pool
        self._limits = limits
        self._settings = settings

    @property
    def max_new_rows(self) -> int:
        """Nodes that a step runs for one session beyond those of a single pass."""
        return self._settings.levels * self._settings.max_rows_per_session

    def can_run(self, works: Sequence[Work]) -> bool:
        """Return whether a step can be run like this."""
        first, needed = works[0], len(works) * self.max_new_rows
        columns = self._limits.num_columns(first.state.vocab_size)
        return (
            len(works) <= _MAX_SESSIONS
            and self._pool.num_free >= needed
            and columns >= self._settings.num_children
            and all(self._is_plain(work, columns) for work in works)
        )

    def _is_plain(self, work: Work, num_columns: int) -> bool:
        from treedraft.inference.fused.children import can_choose  # needs Triton

        session, places = work.session, work.places
        if not places or session.is_rejection:
            return False
        num_rows = len(places) + self.max_new_rows
        return (
            session.num_free_nodes >= num_rows * self._settings.num_children
            and self._limits.num_columns(work.state.vocab_size) == num_columns
            and can_choose([law_row(session, work.state, places[0])])
        )

    def run(self, works: Sequence[Work]) -> None:
        """Run a step and put what it grew into the trees."""
        width, levels = self._settings.max_rows_per_session, self._settings.levels
        first_rows = _next_power_of_two(max(len(work.places) for work in works))
        slots = self._pool.allocate(len(works) * self.max_new_rows)
        shares = [
            slots[at : at + self.max_new_rows] for at in range(0, len(slots), self.max_new_rows)
        ]
        try:
            grown = self._grower.grow(
                [
                    self._seed(work, own, first_rows)
                    for work, own in zip(works, shares, strict=True)
                ],
                levels=levels,
                width=width,
                num_children=self._settings.num_children,
                num_columns=self._limits.num_columns(works[0].state.vocab_size),
            )
        except BaseException:
            self._pool.release(slots)
            for work in works:
                self._pool.release(work.slots)
            raise
        for work, own, rows in zip(works, shares, grown, strict=True):
            places = work.places  # they are known by what is missing
            _settle(work)
            used = _add_rows(work, places, rows)
            self._pool.release([slot for slot in own if slot not in used])

    def _seed(self, work: Work, slots: Sequence[int], first_rows: int) -> "Seed":
        session, places = work.session, work.places
        segment = build_segment(work)
        missing = first_rows - len(places)
        outputs = [*segment.output_rows, *[segment.output_rows[-1]] * missing]
        deepest = session.num_tokens - 2 + session.limits.max_depth
        return self._make_seed(
            segment=replace(segment, output_rows=outputs),
            scores=[*map(session.tree.score, places), *[-math.inf] * missing],
            law=law_row(session, work.state, places[0]),
            slots=slots,
            last_position=min(deepest, self._limits.context_length - 2),
            min_score=session.limits.min_score,
        )


def _settle(work: Work) -> None:
    """Note that the first rows have keys and values now."""
    if work.node_ids:
        work.state.node_slots.update(zip(work.node_ids, work.slots, strict=True))
    else:
        work.state.extend_prefix(work.slots)
        work.state.is_evicted = False


def _add_rows(work: Work, places: Sequence[int], rows: Sequence["GrownRow"]) -> set[int]:
    """Add the children of all rows that the tree takes; return the slots that nodes keep."""
    session, state = work.session, work.state
    place_of: dict[int, int] = {}
    used: set[int] = set()
    for index, row in enumerate(rows):
        if row.parent is None:
            if index >= len(places):
                continue  # a repeated one
            place = places[index]
        else:
            if row.parent not in place_of:
                continue
            assert row.token_id is not None
            assert row.slot is not None
            node = session.tree.children(place_of[row.parent]).get(row.token_id)
            if node is None or node in state.node_slots:
                continue
            state.node_slots[node] = row.slot
            used.add(row.slot)
            place = node
        place_of[index] = place
        if row.children:
            add_children(session, place, row.children)
    return used


def _next_power_of_two(number: int) -> int:
    return 1 << (number - 1).bit_length()

"""Steps that grow trees by several levels in one call, where the model's passes allow it.

Which nodes are run is chosen where the passes run (`inference.level_growth`); here the
choice becomes nodes of the trees. What a tree does not take, for want of score say, is
dropped with all below it, and its slot given back. Trees of rejection mode, and laws that
the passes do not know, are left to single passes.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from treedraft.core.growth import ROOT
from treedraft.draft.breadth import Breadth
from treedraft.draft.growth import frontier
from treedraft.draft.model_children import DraftLimits, law_row
from treedraft.draft.model_state import DraftModelState
from treedraft.draft.segments import Work, build_segment
from treedraft.draft.session import DraftSession
from treedraft.draft.settings import GrowthSettings
from treedraft.inference.block_pool import SlotPool
from treedraft.inference.law import is_plain
from treedraft.inference.level_growth import GrownRow, LevelGrower, Seed, WaitingNode, Worth


@dataclass(frozen=True, slots=True)
class LevelReport:
    """What one pass of a step took, and of each of its rows the score and its children's."""

    elapsed_ms: float
    expanded: list[tuple[float, tuple[float, ...]]] = field(default_factory=list)


class LevelSteps:
    """Runs such steps; used by the grower's thread."""

    def __init__(
        self,
        grower: LevelGrower,
        pool: SlotPool,
        limits: DraftLimits,
        settings: GrowthSettings,
    ) -> None:
        """Grow with `grower`, into slots of `pool`."""
        self._grower = grower
        self._pool = pool
        self._limits = limits
        self._settings = settings
        # What the passes of the last step took, the wait for them included.
        self.passes_ms = 0.0

    @property
    def max_new_rows(self) -> int:
        """Nodes that a step runs for one session beyond those of a single pass, at most."""
        return self._settings.levels * self._settings.max_rows_per_session

    @property
    def is_whole(self) -> bool:
        """Whether a step always runs all of its passes."""
        return not self._grower.minds_room

    @property
    def max_sessions(self) -> int:
        """Sessions of a step."""
        return self._grower.max_sessions

    def can_run(self, works: Sequence[Work]) -> bool:
        """Return whether a step can be run like this."""
        first, needed = works[0], len(works) * self.max_new_rows
        columns = self._limits.num_columns(first.state.vocab_size)
        return (
            len(works) <= self._grower.max_sessions
            and self._pool.num_free >= needed
            and columns >= self._settings.num_children
            and all(self._is_plain(work, columns) for work in works)
        )

    def may_run(self, session: DraftSession, state: DraftModelState) -> bool:
        """Return whether a session's tree can grow by levels at all, whoever is in the step."""
        return not session.is_rejection and is_plain(law_row(session, state, ROOT))

    def _is_plain(self, work: Work, num_columns: int) -> bool:
        session, places = work.session, work.places
        if not places or session.is_rejection:
            return False
        # A tree with any room has room for a whole step (`tree_capacity`): single passes, each
        # with a wait of its own, would never get ahead of a target that makes tokens as fast.
        return self._limits.num_columns(work.state.vocab_size) == num_columns and is_plain(
            law_row(session, work.state, places[0])
        )

    def run(
        self,
        works: Sequence[Work],
        worth: Worth | None,
        breadth: Breadth,
        *,
        is_measured: bool = True,
    ) -> list[LevelReport]:
        """Run a step and put what it grew into the trees; return what is known of its passes.

        `worth` says when a pass after the first is run at all; None for always. Unless it
        `is_measured`, nothing is told of them.
        """
        each = self._settings.levels * breadth.rows
        slots = self._pool.allocate(len(works) * each)
        shares = [slots[at : at + each] for at in range(0, len(slots), each)]
        waiting = [self._waiting(work, each) for work in works]
        try:
            seeds = [self._seed(*given) for given in zip(works, shares, waiting, strict=True)]
            started = time.perf_counter()
            grown = self._grower.grow(
                seeds,
                levels=self._settings.levels,
                width=breadth.rows,
                num_children=breadth.num_children,
                num_columns=self._limits.num_columns(works[0].state.vocab_size),
                max_rows=self._settings.max_rows_per_step,
                worth=worth,
            )
        except BaseException:
            self._pool.release(slots)
            for work in works:
                self._pool.release(work.slots)
            raise
        self.passes_ms = (time.perf_counter() - started) * 1e3
        times = self._grower.level_ms if is_measured else ()
        reports = [LevelReport(elapsed_ms) for elapsed_ms in times]
        for work, own, others, rows in zip(works, shares, waiting, grown, strict=True):
            self._settle(work, own, others, rows, reports)
        return reports

    def _settle(
        self,
        work: Work,
        slots: Sequence[int],
        waiting: Sequence[int],
        rows: Sequence[GrownRow],
        reports: Sequence[LevelReport],
    ) -> None:
        """Note that rows have keys and values now, and put their children into the tree."""
        places = work.places  # they are known by what is missing
        if work.node_ids:
            work.state.node_slots.update(zip(work.node_ids, work.slots, strict=True))
        else:
            work.state.extend_prefix(work.slots)
            work.state.is_evicted = False
        place_of = _add_rows(work, places, waiting, rows)
        used = {rows[index].slot for index in place_of}
        self._pool.release([slot for slot in slots if slot not in used])
        tree = work.session.tree
        for index, place in place_of.items() if reports else ():
            children = tuple(map(tree.score, tree.children(place).values()))
            reports[rows[index].level].expanded.append((tree.score(place), children))

    def _waiting(self, work: Work, max_nodes: int) -> list[int]:
        """Return the nodes that could be run, beyond those of the first pass, best first."""
        if not (work.node_ids and self._grower.minds_room):
            return []
        session = work.session
        nodes = frontier(
            session.tree,
            session.limits,
            expanded=work.state.node_slots,
            barren=self._limits.eos_token_ids,
        )
        return [node for _, node in nodes if node not in work.node_ids][:max_nodes]

    def _seed(self, work: Work, slots: Sequence[int], waiting: Sequence[int]) -> Seed:
        session, places = work.session, work.places
        deepest = session.num_tokens - 2 + session.limits.max_depth
        return Seed(
            segment=build_segment(work),
            scores=[session.tree.score(place) for place in places],
            law=law_row(session, work.state, places[0]),
            slots=slots,
            last_position=min(deepest, self._limits.context_length - 2),
            min_score=max(session.limits.min_score, session.least_score),
            least_score=session.least_score,
            room=session.num_new_nodes,
            belief=session.opinions.model_belief,
            waiting=tuple(_waiting_node(work, node_id) for node_id in waiting),
        )


def _waiting_node(work: Work, node_id: int) -> WaitingNode:
    session, state = work.session, work.state
    path = session.tree.path(node_id)
    return WaitingNode(
        token_id=session.tree[node_id].token_id,
        position=session.num_tokens - 1 + len(path),
        score=session.tree.score(node_id),
        ancestor_slots=[state.node_slots[above] for above in path[:-1]],
    )


def _add_rows(
    work: Work, places: Sequence[int], waiting: Sequence[int], rows: Sequence[GrownRow]
) -> dict[int, int]:
    """Add the children of all rows that the tree takes; return the place of each of these rows."""
    session, state = work.session, work.state
    place_of: dict[int, int] = {}
    for index, row in enumerate(rows):
        if row.waited is not None:
            assert row.slot is not None
            place = waiting[row.waited]
            state.node_slots[place] = row.slot
        elif row.parent is None:
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
            place = node
        place_of[index] = place
        if row.children:
            session.add_likely(place, row.children)
    return place_of

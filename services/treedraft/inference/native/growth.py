"""Several levels of drafters' trees in one call of the library.

Between two passes no thread rests and nothing is asked of Python: children are chosen
where the logits are, by all threads, and the best of them are the next pass. See
`growth.h`.
"""

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from treedraft.inference.draw import seed_of
from treedraft.inference.kv_pool import KVPool
from treedraft.inference.law import LawRow, temperature_of
from treedraft.inference.level_growth import GrownRow, Seed, Worth
from treedraft.inference.native.decoder import NativeDecoder, PassOrder
from treedraft.inference.native.rows import rows_of


class _Choice(ctypes.Structure):
    _fields_ = (
        ("num_columns", ctypes.c_int64),
        ("column_ids", ctypes.c_void_p),
        ("num_children", ctypes.c_int64),
        ("score_temperature", ctypes.c_float),
    )


class _GrowthOrder(ctypes.Structure):
    _fields_ = (
        ("first", PassOrder),
        ("choice", _Choice),
        *((name, ctypes.c_int64) for name in ("num_sessions", "levels", "width", "max_rows")),
        ("barren", ctypes.c_void_p),
        ("num_barren", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("output_sessions", "output_scores", "slots")),
        *((name, ctypes.c_void_p) for name in ("last_positions", "rooms", "min_scores", "laws")),
        *((name, ctypes.c_void_p) for name in ("beliefs", "least_scores")),
        ("num_waiting", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("waiting_sessions", "waiting_tokens")),
        *((name, ctypes.c_void_p) for name in ("waiting_positions", "waiting_scores")),
        *((name, ctypes.c_void_p) for name in ("waiting_offsets", "waiting_slots", "contexts")),
        *((name, ctypes.c_void_p) for name in ("step_costs", "profile")),
        ("profile_size", ctypes.c_int64),
        ("row_price", ctypes.c_double),
        *((name, ctypes.c_void_p) for name in ("parents", "ranks", "row_slots", "num_children")),
        *((name, ctypes.c_void_p) for name in ("child_tokens", "child_gains")),
        *((name, ctypes.c_void_p) for name in ("level_rows", "level_ms")),
    )


_LAW = np.dtype([("seed", np.uint64), ("choice", np.uint32), ("temperature", np.float32)])

Numbers = npt.NDArray[Any]


class NativeLevelGrower:
    """Grows trees on one pool by a native decoder; used by the decoder's thread."""

    max_sessions = 1 << 30
    minds_room = True

    def __init__(
        self,
        decoder: NativeDecoder,
        pool: KVPool,
        *,
        column_ids: npt.NDArray[np.int64] | None,
        barren: Sequence[int],
        score_temperature: float,
    ) -> None:
        """Grow with `decoder`; its head has `column_ids`, after `barren` tokens nothing follows."""
        self._decoder = decoder
        self._pool = pool
        self._column_ids = None if column_ids is None else np.ascontiguousarray(column_ids)
        self._barren = np.array(barren, dtype=np.int64)
        self._score_temperature = score_temperature
        self.level_ms: Sequence[float] = ()

    def grow(
        self,
        seeds: Sequence[Seed],
        *,
        levels: int,
        width: int,
        num_children: int,
        num_columns: int,
        max_rows: int,
        worth: Worth | None,
    ) -> list[list[GrownRow]]:
        """Run the first pass and up to `levels` more, see `level_growth.LevelGrower`."""
        rows = rows_of([seed.segment for seed in seeds], self._pool.num_slots)
        given = _Given(seeds, levels * width, max_rows, worth)
        assert given.slots.min(initial=0) >= 0
        most = max(given.slots.max(initial=0), given.waiting_slots.max(initial=0))
        assert most < self._pool.num_slots
        results = _Results(len(rows.output_rows), levels, max_rows, num_children)
        end = max(int(rows.positions.max()), int(given.last_positions.max())) + 1
        order = _GrowthOrder(
            first=self._decoder.order_of(rows, self._pool, num_positions=end),
            choice=self._choice(num_columns, num_children),
            num_sessions=len(seeds),
            levels=levels,
            width=width,
            max_rows=max_rows,
            barren=self._barren.ctypes.data,
            num_barren=len(self._barren),
        )
        given.point(order)
        results.point(order)
        count = self._decoder.grow(order)
        self.level_ms, level_of = results.times()
        return results.read(given, len(seeds), count, level_of)

    def _choice(self, num_columns: int, num_children: int) -> _Choice:
        columns = None if self._column_ids is None else self._column_ids.ctypes.data
        return _Choice(num_columns, columns, num_children, self._score_temperature)


class _Given:
    """What the library reads, kept while it does."""

    def __init__(
        self, seeds: Sequence[Seed], num_slots: int, max_rows: int, worth: Worth | None
    ) -> None:
        each = [len(seed.scores) for seed in seeds]
        self.output_sessions = np.repeat(np.arange(len(seeds)), each)
        self.output_scores = np.array([s for seed in seeds for s in seed.scores], np.float32)
        self.slots = np.array([seed.slots for seed in seeds], np.int64)
        assert self.slots.shape == (len(seeds), num_slots)
        self.last_positions = np.array([seed.last_position for seed in seeds], np.int64)
        self.rooms = np.array([seed.room for seed in seeds], np.int64)
        self.min_scores = np.array([seed.min_score for seed in seeds], np.float32)
        self.least_scores = np.array([seed.least_score for seed in seeds], np.float32)
        self.laws = np.array([_law_of(seed.law) for seed in seeds], _LAW)
        self.beliefs = np.array([seed.belief for seed in seeds], np.float64)
        self._wait(seeds)
        self.worth = worth
        if worth:
            costs = [worth.step_costs[min(i, len(worth.step_costs) - 1)] for i in range(max_rows)]
            self.step_costs = np.array(costs, np.float64)
            self.profile = np.array(worth.profile, np.float64)

    def _wait(self, seeds: Sequence[Seed]) -> None:
        waiting = [(number, node) for number, seed in enumerate(seeds) for node in seed.waiting]
        self.num_waiting = len(waiting)
        self.waiting_sessions = np.array([number for number, _ in waiting], np.int64)
        self.waiting_tokens = np.array([node.token_id for _, node in waiting], np.int64)
        self.waiting_positions = np.array([node.position for _, node in waiting], np.int64)
        self.waiting_scores = np.array([node.score for _, node in waiting], np.float32)
        sizes = [len(node.ancestor_slots) for _, node in waiting]
        self.waiting_offsets = np.cumsum([0, *sizes], dtype=np.int64)
        slots = [slot for _, node in waiting for slot in node.ancestor_slots]
        self.waiting_slots = np.array(slots, np.int64)
        self.contexts = np.array([len(seed.segment.context_slots) for seed in seeds], np.int64)
        # Of each session, which was the first of those that wait.
        counts = [len(seed.waiting) for seed in seeds]
        self.first_waiting = np.cumsum([0, *counts[:-1]]).tolist()

    def point(self, order: _GrowthOrder) -> None:
        """Tell the library where all of it is."""
        order.num_waiting = self.num_waiting
        _point(order, self, ("waiting_sessions", "waiting_tokens", "waiting_positions"))
        _point(order, self, ("waiting_scores", "waiting_offsets", "waiting_slots", "contexts"))
        names = ("output_sessions", "output_scores", "slots", "last_positions")
        _point(order, self, (*names, "rooms", "min_scores", "laws", "beliefs", "least_scores"))
        if self.worth:
            _point(order, self, ("step_costs", "profile"))
            order.profile_size, order.row_price = len(self.profile), self.worth.row_price


class _Results:
    """What the library writes."""

    def __init__(self, num_outputs: int, levels: int, max_rows: int, num_children: int) -> None:
        size = num_outputs + levels * max_rows
        self.parents = np.empty(size, np.int32)
        self.ranks = np.empty(size, np.int32)
        self.row_slots = np.empty(size, np.int64)
        self.num_children = np.empty(size, np.int32)
        self.child_tokens = np.empty((size, num_children), np.int32)
        self.child_gains = np.empty((size, num_children), np.float32)
        self.level_rows = np.zeros(levels + 1, np.int64)
        self.level_ms = np.zeros(levels + 1, np.float64)

    def point(self, order: _GrowthOrder) -> None:
        """Tell the library where to write."""
        _point(order, self, ("parents", "ranks", "row_slots", "num_children"))
        _point(order, self, ("child_tokens", "child_gains", "level_rows", "level_ms"))

    def times(self) -> tuple[list[float], list[int]]:
        """Return what each pass took, and the pass of each row."""
        rows = self.level_rows.tolist()
        num_passes = sum(count > 0 for count in rows)
        level_of = [level for level in range(num_passes) for _ in range(rows[level])]
        return self.level_ms[:num_passes].tolist(), level_of

    def read(
        self, given: _Given, num_sessions: int, count: int, level_of: Sequence[int]
    ) -> list[list[GrownRow]]:
        """Return the rows of each session; parents count among them."""
        grown: list[list[GrownRow]] = [[] for _ in range(num_sessions)]
        session_of: list[int] = given.output_sessions.tolist()
        num_outputs = len(session_of)
        place_of: list[int] = []
        parents, ranks, slots, sizes, tokens, gains = (
            numbers[:count].tolist()
            for numbers in (
                *(self.parents, self.ranks, self.row_slots, self.num_children),
                *(self.child_tokens, self.child_gains),
            )
        )
        for row, (parent, rank) in enumerate(zip(parents, ranks, strict=True)):
            children = tuple(zip(tokens[row][: sizes[row]], gains[row], strict=False))
            if row < num_outputs:
                made = GrownRow(None, None, None, children)
            elif parent < 0:
                session = int(given.waiting_sessions[rank])
                session_of.append(session)
                waited = rank - given.first_waiting[session]
                made = GrownRow(None, None, slots[row], children, level_of[row], waited)
            else:
                session_of.append(session_of[parent])
                token_id = tokens[parent][rank]
                made = GrownRow(place_of[parent], token_id, slots[row], children, level_of[row])
            own = grown[session_of[row]]
            place_of.append(len(own))
            own.append(made)
        return grown


def _point(order: _GrowthOrder, arrays: object, names: Sequence[str]) -> None:
    for name in names:
        setattr(order, name, getattr(arrays, name).ctypes.data)


def _law_of(law: LawRow) -> tuple[int, int, float]:
    if law.sampling.is_greedy:
        return 0, 0, 0.0
    return seed_of(law), law.choice, temperature_of(law.sampling)

"""Several levels of drafters' trees in one go: passes and choices, nothing asked of the host.

The first pass is that of any step. Then, level by level, the children of the rows just run
join their session's candidates, the best candidates are the rows of the next pass, and its
logits give them children. All of it is one graph; the host brings what each session starts
with and fetches at the end which nodes were run and what their children are.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
import triton
from torch import Tensor

from treedraft.inference.fused.children import ChildKernels
from treedraft.inference.fused.decoder import FusedDecoder
from treedraft.inference.fused.draw import key_of, staged
from treedraft.inference.fused.kernels.levels import choose_rows
from treedraft.inference.fused.layout import Column, PassLayout, column_stride
from treedraft.inference.fused.workspace import MAX_GROWN_ROWS, MAX_PATH, PassView, Workspace
from treedraft.inference.kv_pool import KVPool
from treedraft.inference.law import LawRow, temperature_of
from treedraft.inference.level_growth import GrownRow, Seed, Worth

_NUM_BARREN = 8
# With more sessions the host's share of a step is small, and there would be too many graphs.
_MAX_SESSIONS = 4


@dataclass(frozen=True, slots=True)
class GrowthShape:
    """What a graph is captured for."""

    num_sessions: int
    first_rows: int
    levels: int
    width: int
    num_children: int

    @property
    def first_stride(self) -> int:
        """Rows before the first level."""
        return column_stride(self.num_sessions * self.first_rows)

    @property
    def level_stride(self) -> int:
        """Rows of a level, padded."""
        return column_stride(self.num_sessions * self.width)

    @property
    def total(self) -> int:
        """Rows of all levels."""
        return self.first_stride + self.levels * self.level_stride

    @property
    def fits(self) -> bool:
        """Whether there is room for all paths."""
        return self.total <= MAX_GROWN_ROWS

    def base(self, level: int) -> int:
        """Return the first row of a level; level 0 is what sessions begin with."""
        return self.first_stride + (level - 1) * self.level_stride if level else 0

    def count(self, level: int) -> int:
        """Return how many rows a level has."""
        return self.num_sessions * (self.width if level else self.first_rows)


class LevelGrower:
    """Grows trees on one pool by a fused decoder; used by the decoder's thread."""

    max_sessions = _MAX_SESSIONS
    minds_room = False
    level_ms: Sequence[float] = ()

    def __init__(
        self,
        decoder: FusedDecoder,
        pool: KVPool,
        *,
        column_ids: npt.NDArray[np.int64] | None,
        barren: Sequence[int],
        score_temperature: float,
    ) -> None:
        """Grow with `decoder`; after `barren` tokens nothing follows."""
        self._decoder = decoder
        self._pool = pool
        self._column_ids = column_ids
        self._score_temperature = score_temperature
        ends = [*list(barren)[:_NUM_BARREN], *[-2] * _NUM_BARREN][:_NUM_BARREN]
        self._barren = torch.tensor(ends, dtype=torch.int32, device=pool.keys.device)
        self._boards: dict[tuple[GrowthShape, int], _Board] = {}

    @torch.inference_mode()
    def grow(
        self,
        seeds: Sequence[Seed],
        *,
        levels: int,
        width: int,
        num_children: int,
        num_columns: int,
        max_rows: int = 0,
        worth: Worth | None = None,
    ) -> list[list[GrownRow]]:
        """Run all levels and return the rows of each session, parents first.

        A graph always runs whole: `max_rows` and `worth` change nothing.
        """
        seeds = _of_one_shape(seeds)
        shape = GrowthShape(len(seeds), len(seeds[0].scores), levels, width, num_children)
        layout, space = self._decoder.prepare([seed.segment for seed in seeds], self._pool)
        board = self._boards.get((shape, num_columns))
        if board is None:
            board = _Board(shape, num_columns, self._column_ids, self._barren)
            self._boards[shape, num_columns] = board
        board.upload(seeds, layout)
        key = (layout.row_bucket, layout.output_bucket, *_key(shape), num_columns)
        self._decoder.replay(key, lambda: self._launch(space, layout, board))
        return board.read(seeds)

    def _launch(self, space: Workspace, layout: PassLayout, board: "_Board") -> None:
        view = space.view(layout.row_bucket, layout.output_bucket)
        region = space.path_region(layout.row_bucket, layout.output_bucket)
        self._decoder.launch(space, view)
        board.queue_children(0, space.logits, self._score_temperature)
        for level in range(1, board.shape.levels + 1):
            board.queue_rows(level, view.key_slots, region)
            self._decoder.launch(space, board.view(level, view.key_slots))
            board.queue_children(level, space.logits, self._score_temperature)


def _key(shape: GrowthShape) -> tuple[int, ...]:
    return (shape.num_sessions, shape.first_rows, shape.levels, shape.width, shape.num_children)


class _Board:
    """The memory of one shape of growth, at addresses that stay."""

    def __init__(
        self,
        shape: GrowthShape,
        num_columns: int,
        column_ids: npt.NDArray[np.int64] | None,
        barren: Tensor,
    ) -> None:
        self.shape = shape
        device, total = barren.device, shape.total
        self._kernels = ChildKernels(total, num_columns, shape.num_children, column_ids, device)
        self._barren = barren

        def integers(*sizes: int, dtype: torch.dtype = torch.int32) -> Tensor:
            return torch.zeros(sizes, dtype=dtype, device=device)

        self._table = integers(len(Column), total)
        self._slots = integers(shape.num_sessions, shape.levels * shape.width)
        self._last_positions = integers(shape.num_sessions)
        self._keys = integers(total, 4, dtype=torch.int64)
        self._floats = integers(2, total, dtype=torch.float32)  # temperatures, scores
        self._min_scores = integers(shape.num_sessions, dtype=torch.float32)
        rows = shape.first_rows + (shape.levels - 1) * shape.width
        self._num_candidates = triton.next_power_of_2(rows * shape.num_children)
        self._candidates = integers(shape.num_sessions, self._num_candidates, dtype=torch.float32)
        self._chosen = integers(shape.levels * shape.level_stride)
        self._identity = torch.arange(
            shape.num_sessions * shape.width, dtype=torch.int32, device=device
        )

    def upload(self, seeds: Sequence[Seed], layout: PassLayout) -> None:
        """Queue copies of what sessions begin with."""
        shape = self.shape
        table = np.zeros((len(Column), shape.total), dtype=np.int32)
        stride = column_stride(layout.row_bucket)
        end = len(Column) * stride
        rows = layout.numbers[end : end + shape.count(0)]
        table[:, : shape.count(0)] = layout.numbers[:end].reshape(len(Column), -1)[:, rows]
        floats = np.zeros((2, shape.total), dtype=np.float32)
        keys = np.zeros((shape.total, 4), dtype=np.int64)
        for level in range(shape.levels + 1):
            each = shape.count(level) // shape.num_sessions
            part = slice(shape.base(level), shape.base(level) + shape.count(level))
            keys[part] = np.repeat([key_of(seed.law) for seed in seeds], each, axis=0)
            floats[0, part] = np.repeat([_heat(seed.law) for seed in seeds], each)
        keys[: shape.count(0), 2] = table[Column.POSITION, : shape.count(0)] + 1
        floats[1, : shape.count(0)] = [score for seed in seeds for score in seed.scores]
        for place, numbers in (
            (self._table, table),
            (self._floats, floats),
            (self._keys, keys),
            (self._slots, np.array([seed.slots for seed in seeds], dtype=np.int32)),
            (self._last_positions, np.array([s.last_position for s in seeds], dtype=np.int32)),
            (self._min_scores, np.array([s.min_score for s in seeds], dtype=np.float32)),
        ):
            place.copy_(staged(numbers, place.device), non_blocking=True)

    def view(self, level: int, key_slots: Tensor) -> PassView:
        """Return what the rows of a level read."""
        first = self.shape.base(level)
        columns = tuple(self._table[:, first : first + self.shape.count(level)].unbind(0))
        return PassView(columns, self._identity, key_slots)

    def queue_children(self, level: int, logits: Tensor, score_temperature: float) -> None:
        """Queue the choice of children for the rows of a level."""
        first, count = self.shape.base(level), self.shape.count(level)
        self._kernels.queue(
            logits[:count], self._keys, self._floats[0], score_temperature, first=first
        )

    def queue_rows(self, level: int, key_slots: Tensor, path_region: int) -> None:
        """Queue the choice of the rows of a level."""
        shape = self.shape
        choose_rows[(shape.num_sessions,)](
            self._table,
            self._slots,
            self._last_positions,
            self._barren,
            self._floats[1],
            self._min_scores,
            self._keys,
            self._kernels.tokens,
            self._kernels.gains,
            self._candidates,
            self._chosen,
            key_slots,
            path_region,
            TOTAL=shape.total,
            LEVEL=level,
            FIRST_ROWS=shape.first_rows,
            WIDTH=shape.width,
            NUM_SLOTS=shape.levels * shape.width,
            NUM_CHILDREN=shape.num_children,
            FIRST_STRIDE=shape.first_stride,
            LEVEL_STRIDE=shape.level_stride,
            NUM_CANDIDATES=self._num_candidates,
            NUM_BARREN=_NUM_BARREN,
            MAX_PATH=MAX_PATH,
            num_warps=1,
        )

    def read(self, seeds: Sequence[Seed]) -> list[list[GrownRow]]:
        """Wait for the device and return what grew."""
        size = self.shape.num_children
        parts = self._kernels.tokens, self._kernels.gains.view(torch.int32), self._chosen
        fetched = torch.cat([part.reshape(-1) for part in parts]).cpu()
        tokens, gains, chosen = torch.split(fetched, [part.numel() for part in parts])
        told = tokens.view(-1, size).tolist(), gains.view(torch.float32).view(-1, size).tolist()
        children = [
            tuple((t, min(g, 0.0)) for t, g in zip(*row, strict=True) if g > -1e30)
            for row in zip(*told, strict=True)
        ]
        picks = chosen.tolist()
        return [self._rows_of(session, seed, children, picks) for session, seed in enumerate(seeds)]

    def _rows_of(
        self,
        session: int,
        seed: Seed,
        children: Sequence[tuple[tuple[int, float], ...]],
        picks: Sequence[int],
    ) -> list[GrownRow]:
        shape = self.shape
        first = range(session * shape.first_rows, (session + 1) * shape.first_rows)
        place_of = {row: place for place, row in enumerate(first)}
        grown = [GrownRow(None, None, None, children[row]) for row in first]
        for level in range(1, shape.levels + 1):
            for turn in range(shape.width):
                own = session * shape.width + turn
                pick = picks[(level - 1) * shape.level_stride + own]
                if pick < 0:
                    continue
                parent, rank = divmod(pick, shape.num_children)
                row = shape.base(level) + own
                place_of[row] = len(grown)
                slot = seed.slots[(level - 1) * shape.width + turn]
                token_id = children[parent][rank][0]
                grown.append(GrownRow(place_of[parent], token_id, slot, children[row]))
        return grown


def _of_one_shape(seeds: Sequence[Seed]) -> list[Seed]:
    """Return seeds of equally many output rows, a power of two; repeated ones score -inf."""
    count = 1 << (max(len(seed.scores) for seed in seeds) - 1).bit_length()
    shaped = []
    for seed in seeds:
        missing, outputs = count - len(seed.scores), seed.segment.output_rows
        segment = replace(seed.segment, output_rows=[*outputs, *[outputs[-1]] * missing])
        scores = [*seed.scores, *[-math.inf] * missing]
        shaped.append(replace(seed, segment=segment, scores=scores))
    return shaped


def _heat(law: LawRow) -> float:
    return 0.0 if law.sampling.is_greedy else temperature_of(law.sampling)

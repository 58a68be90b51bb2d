"""Several levels of drafters' trees in one go: passes and choices, nothing asked of the host.

The first pass is that of any step. Then, level by level, the children of the rows just run
join their session's candidates, the best candidates are the rows of the next pass, and its
logits give them children. All of it is one graph, the copies there and back included: the
host writes what each session starts with, and reads at the end which nodes were run and
what their children are.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

from treedraft.inference.fused.decoder import FusedDecoder
from treedraft.inference.fused.layout import PassLayout
from treedraft.inference.fused.level_board import NUM_BARREN, GrowthShape, LevelBoard
from treedraft.inference.fused.workspace import Workspace
from treedraft.inference.kv_pool import KVPool
from treedraft.inference.level_growth import GrownRow, Seed, Worth

# With more sessions the host's share of a step is small, and there would be too many graphs.
_MAX_SESSIONS = 4
# A first pass of so many rows takes what those of the levels take; one of a prompt does not.
_MEASURED_ROWS = 16


class LevelGrower:
    """Grows trees on one pool by a fused decoder; used by the decoder's thread."""

    max_sessions = _MAX_SESSIONS
    minds_room = False

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
        ends = [*list(barren)[:NUM_BARREN], *[-2] * NUM_BARREN][:NUM_BARREN]
        self._barren = torch.tensor(ends, dtype=torch.int32, device=pool.keys.device)
        self._boards: dict[tuple[GrowthShape, int], LevelBoard] = {}
        self.level_ms: Sequence[float] = ()

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

        A graph always runs whole: `max_rows` and `worth` change nothing, and passes are told
        to have taken the same each.
        """
        started = time.perf_counter()
        seeds = _of_one_shape(seeds)
        shape = GrowthShape(len(seeds), len(seeds[0].scores), levels, width, num_children)
        layout, space = self._decoder.prepare([seed.segment for seed in seeds], self._pool)
        board = self._boards.get((shape, num_columns))
        if board is None:
            board = LevelBoard(shape, num_columns, self._column_ids, self._barren)
            self._boards[shape, num_columns] = board
        board.tell(seeds, layout)
        key = (layout.row_bucket, layout.output_bucket, *_key(shape), num_columns)
        try:
            self._decoder.replay(key, lambda: self._launch(space, layout, board))
        finally:
            board.mark()
        grown = board.read(seeds)
        elapsed_ms = (time.perf_counter() - started) * 1e3
        is_measure = layout.num_rows <= _MEASURED_ROWS
        self.level_ms = [elapsed_ms / (levels + 1)] * (levels + 1) if is_measure else ()
        return grown

    def _launch(self, space: Workspace, layout: PassLayout, board: LevelBoard) -> None:
        view = space.view(layout.row_bucket, layout.output_bucket)
        region = space.path_region(layout.row_bucket, layout.output_bucket)
        self._decoder.launch(space, view)
        # Behind the pass, whose first kernel may come up before what is queued before it is over.
        board.queue_upload()
        board.queue_children(0, space.logits, self._score_temperature)
        for level in range(1, board.shape.levels + 1):
            board.queue_rows(level, view.key_slots, region)
            self._decoder.launch(space, board.view(level, view.key_slots))
            board.queue_children(level, space.logits, self._score_temperature)
        board.queue_fetch()


def _key(shape: GrowthShape) -> tuple[int, ...]:
    return (shape.num_sessions, shape.first_rows, shape.levels, shape.width, shape.num_children)


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

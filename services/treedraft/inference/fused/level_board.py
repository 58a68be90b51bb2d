"""The memory of one shape of growth by levels: what the host tells, what kernels hand on.

What the host tells lies side by side in one piece of page-locked memory and one of the
device, and so does what it is told: one copy there and one back a step, and the host waits
once. Nobody writes to the host's side while a step is under way: `read` waits for it, and
`tell` does where a step ended by an error before that.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import triton
from torch import Tensor

from treedraft.inference.fused.children import ChildKernels
from treedraft.inference.fused.draw import key_of
from treedraft.inference.fused.fence import Fence
from treedraft.inference.fused.kernels.levels import choose_rows
from treedraft.inference.fused.layout import Column, PassLayout, column_stride
from treedraft.inference.fused.workspace import MAX_GROWN_ROWS, MAX_PATH, PassView
from treedraft.inference.law import LawRow, temperature_of
from treedraft.inference.level_growth import GrownRow, Seed

NUM_BARREN = 8
_ALIGNMENT = 4  # int32 in 16 bytes, which kernels are compiled for


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

    def sessions_of_rows(self) -> npt.NDArray[np.int64]:
        """Return the session of each row; rows that pad are the first one's."""
        sessions = np.zeros(self.total, dtype=np.int64)
        for level in range(self.levels + 1):
            base, count = self.base(level), self.count(level)
            sessions[base : base + count] = np.arange(count) // (count // self.num_sessions)
        return sessions


class _Packed:
    """Arrays side by side, on the host and on the device, that one copy brings over."""

    def __init__(self, sizes: Mapping[str, tuple[int, ...]], device: torch.device) -> None:
        """Hold int32 arrays of these sizes, each at 16 bytes; `host` and `device` name them."""
        starts, end = {}, 0
        for name, size in sizes.items():
            starts[name] = end
            end += -(-int(np.prod(size)) // _ALIGNMENT) * _ALIGNMENT
        self._staged = torch.zeros(end, dtype=torch.int32, pin_memory=device.type == "cuda")
        self._held = torch.zeros(end, dtype=torch.int32, device=device)
        numbers = self._staged.numpy()
        self.host = {
            name: numbers[start : start + int(np.prod(sizes[name]))].reshape(sizes[name])
            for name, start in starts.items()
        }
        self.device = {
            name: self._held[start : start + int(np.prod(sizes[name]))].view(sizes[name])
            for name, start in starts.items()
        }

    def queue_there(self) -> None:
        """Queue the copy to the device."""
        self._held.copy_(self._staged, non_blocking=True)

    def queue_back(self) -> None:
        """Queue the copy to the host."""
        self._staged.copy_(self._held, non_blocking=True)


class LevelBoard:
    """The memory of one shape of growth, at addresses that stay."""

    def __init__(
        self,
        shape: GrowthShape,
        num_columns: int,
        column_ids: npt.NDArray[np.int64] | None,
        barren: Tensor,
    ) -> None:
        """Allocate for a head of `num_columns` columns; nothing follows `barren` tokens."""
        self.shape = shape
        device, total, count = barren.device, shape.total, shape.num_sessions
        self._barren = barren
        self._given = _Packed(
            {
                "keys": (total, 4 * 2),  # of int64
                "table": (len(Column), total),
                "floats": (2, total),  # temperatures, scores
                "slots": (count, shape.levels * shape.width),
                "last_positions": (count,),
                "min_scores": (count,),
            },
            device,
        )
        found = (2, total, shape.num_children)
        self._told = _Packed(
            {"found": found, "chosen": (shape.levels * shape.level_stride,)}, device
        )
        self._kernels = ChildKernels(
            total,
            num_columns,
            shape.num_children,
            column_ids,
            device,
            found=self._told.device["found"],
        )
        given = self._given.device
        self._table = given["table"]
        self._keys = given["keys"].view(torch.int64)
        self._floats = given["floats"].view(torch.float32)
        self._min_scores = given["min_scores"].view(torch.float32)
        rows = shape.first_rows + (shape.levels - 1) * shape.width
        num_candidates = triton.next_power_of_2(rows * shape.num_children)
        self._candidates = torch.zeros((count, num_candidates), dtype=torch.float32, device=device)
        self._identity = torch.arange(count * shape.width, dtype=torch.int32, device=device)
        self._session_of = shape.sessions_of_rows()
        self._fence = Fence(device)

    def tell(self, seeds: Sequence[Seed], layout: PassLayout) -> None:
        """Write what sessions begin with; `queue_upload` brings it to the device."""
        self._fence.wait()
        given, count = self._given.host, self.shape.count(0)
        stride = column_stride(layout.row_bucket)
        end = len(Column) * stride
        rows = layout.numbers[end : end + count]
        table, floats = given["table"], given["floats"].view(np.float32)
        table[:, :count] = layout.numbers[:end].reshape(len(Column), stride)[:, rows]
        keys = given["keys"].view(np.int64)
        keys[:] = np.array([key_of(seed.law) for seed in seeds], dtype=np.int64)[self._session_of]
        keys[:count, 2] = table[Column.POSITION, :count] + 1
        heat = np.array([_heat(seed.law) for seed in seeds], dtype=np.float32)
        floats[0] = heat[self._session_of]
        floats[1, :count] = [score for seed in seeds for score in seed.scores]
        given["slots"][:] = [seed.slots for seed in seeds]
        given["last_positions"][:] = [seed.last_position for seed in seeds]
        given["min_scores"].view(np.float32)[:] = [seed.min_score for seed in seeds]

    def queue_upload(self) -> None:
        """Queue the copy of what was told."""
        self._given.queue_there()

    def queue_fetch(self) -> None:
        """Queue the copy of what grew."""
        self._told.queue_back()

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
            self._given.device["slots"],
            self._given.device["last_positions"],
            self._barren,
            self._floats[1],
            self._min_scores,
            self._keys,
            self._kernels.tokens,
            self._kernels.gains,
            self._candidates,
            self._told.device["chosen"],
            key_slots,
            path_region,
            shape.total,
            level,
            shape.first_rows,
            shape.levels * shape.width,
            shape.first_stride,
            shape.level_stride,
            WIDTH=shape.width,
            NUM_CHILDREN=shape.num_children,
            NUM_CANDIDATES=self._candidates.shape[1],
            NUM_BARREN=NUM_BARREN,
            MAX_PATH=MAX_PATH,
            num_warps=1,
        )

    def mark(self) -> None:
        """Note that all that is to be waited for is queued."""
        self._fence.mark()

    def read(self, seeds: Sequence[Seed]) -> list[list[GrownRow]]:
        """Wait for the device and return what grew."""
        self._fence.wait()
        tokens, gains = self._told.host["found"]
        told = tokens.tolist(), np.minimum(gains.view(np.float32), 0.0).tolist()
        children = [
            tuple(pair for pair in zip(*row, strict=True) if pair[1] > -1e30)
            for row in zip(*told, strict=True)
        ]
        picks = self._told.host["chosen"].tolist()
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
                grown.append(GrownRow(place_of[parent], token_id, slot, children[row], level))
        return grown


def _heat(law: LawRow) -> float:
    return 0.0 if law.sampling.is_greedy else temperature_of(law.sampling)

"""The memory that fused passes work in: allocated once, at addresses that stay.

A captured graph holds addresses, so a workspace that has become too small is thrown
away as a whole, and with it the graphs that were captured on it.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from treedraft.inference.fused.layout import Column, PassLayout, column_stride, fixed_length
from treedraft.inference.fused.plans import MAX_ROWS, NUM_PARTS, padded_rows
from treedraft.inference.fused.weights import DecoderWeights
from treedraft.inference.kv_pool import KVPool

_FIRST_OUTPUTS = 512
_FIRST_SLOTS = 1 << 18
# Where the paths of rows go that the device itself makes up, see `levels`.
MAX_PATH = 64
MAX_GROWN_ROWS = 2048
# So many numbers are copied or none: to cut memory to size takes as long as to queue its copy.
_COPIED_NUMBERS = 1024
_NUM_STAGED = 3  # passes whose integers may be on their way at once


@dataclass(frozen=True, slots=True)
class Capacity:
    """The largest pass that fits."""

    rows: int = MAX_ROWS
    outputs: int = _FIRST_OUTPUTS
    numbers: int = _FIRST_SLOTS

    def covering(self, layout: PassLayout) -> "Capacity":
        """Return what holds a pass as well; `self` if it fits already."""
        return Capacity(
            max(self.rows, padded_rows(layout.row_bucket)),
            _doubled(self.outputs, padded_rows(layout.output_bucket)),
            _doubled(self.numbers, len(layout.numbers)),
        )


def _doubled(size: int, needed: int) -> int:
    while size < needed:
        size *= 2
    return size


@dataclass(frozen=True, slots=True)
class PassView:
    """What the rows of a pass read: each `Column`, rows of logits, slots of lines and paths."""

    columns: tuple[Tensor, ...]
    output_rows: Tensor
    key_slots: Tensor

    @property
    def num_rows(self) -> int:
        """Rows, those that pad included."""
        return len(self.columns[0])

    @property
    def num_outputs(self) -> int:
        """Rows of logits, those that pad included."""
        return len(self.output_rows)


class Workspace:
    """Buffers for passes of one decoder on one pool."""

    def __init__(self, weights: DecoderWeights, pool: KVPool, capacity: Capacity) -> None:
        """Allocate everything."""
        shape, plans = weights.shape, weights.plans
        device, dtype = weights.head.device, weights.head.dtype
        self.pool = pool
        self.capacity = capacity
        self._shape = shape

        def floats(*sizes: int) -> Tensor:
            return torch.zeros(sizes, dtype=torch.float32, device=device)

        def numbers(*sizes: int) -> Tensor:
            return torch.zeros(sizes, dtype=dtype, device=device)

        rows = capacity.rows
        size = capacity.numbers + MAX_GROWN_ROWS * MAX_PATH
        self.numbers = torch.zeros(size, dtype=torch.int32, device=device)
        self.states = floats(rows, shape.hidden)
        self.normed = numbers(max(rows, capacity.outputs), shape.hidden)
        products = (plans.qkv, plans.out, plans.down)
        self.parts = floats(max(p.num_splits * p.outputs for p in products) * rows)
        self.queries = numbers(rows, shape.num_heads * shape.head_dim)
        self.attended = numbers(rows, shape.num_heads * shape.head_dim)
        heads = rows * shape.num_kv_heads * NUM_PARTS * shape.group
        self.sums = floats(heads, shape.head_dim)
        self.peaks, self.masses = floats(heads), floats(heads)
        self.activated = numbers(rows, shape.intermediate)
        self.logits = floats(capacity.outputs, shape.vocab_size)
        self._staging = _Staging(self.numbers[: capacity.numbers])

    def room(self) -> npt.NDArray[np.int32]:
        """Return memory of the host for the next pass's integers, to be given to `upload`."""
        return self._staging.room()

    def upload(self, numbers: npt.NDArray[np.int32]) -> None:
        """Queue the copy of a pass's integers to the device."""
        self._staging.copy(numbers)

    def view(self, row_bucket: int, output_bucket: int) -> "PassView":
        """Return where a pass of this size finds what was uploaded for it."""
        stride = column_stride(row_bucket)
        end = len(Column) * stride
        return PassView(
            columns=tuple(self.numbers[at : at + row_bucket] for at in range(0, end, stride)),
            output_rows=self.numbers[end : end + output_bucket],
            key_slots=self.numbers[fixed_length(row_bucket, output_bucket) :],
        )

    def path_region(self, row_bucket: int, output_bucket: int) -> int:
        """Return where in the slots of such a pass the device may write paths."""
        return self.capacity.numbers - fixed_length(row_bucket, output_bucket)


class _Staging:
    """Page-locked memory, from which a copy does not wait for the device."""

    def __init__(self, there: Tensor) -> None:
        """Stage what goes to the beginning of `there`."""
        is_on_cuda, capacity = there.device.type == "cuda", len(there)
        self._there = there
        self._ways: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
        self._turn = 0
        self._buffers = [
            torch.zeros(capacity, dtype=torch.int32, pin_memory=is_on_cuda)
            for _ in range(_NUM_STAGED if is_on_cuda else 1)
        ]
        self._rooms = [buffer.numpy() for buffer in self._buffers]
        self._events: list[torch.cuda.Event | None] = [
            torch.cuda.Event() if is_on_cuda else None  # type: ignore[no-untyped-call]
            for _ in self._buffers
        ]

    def room(self) -> npt.NDArray[np.int32]:
        """Return the buffer whose turn it is, once the copy out of it is over."""
        self._turn = (self._turn + 1) % len(self._buffers)
        event = self._events[self._turn]
        if event is not None and not event.query():  # type: ignore[no-untyped-call]
            event.synchronize()
        return self._rooms[self._turn]

    def copy(self, numbers: npt.NDArray[np.int32]) -> None:
        """Queue the copy of `numbers`, which are mostly in the room given out last."""
        room = self._rooms[self._turn]
        if numbers.base is not room:
            room = self.room()
            room[: len(numbers)] = numbers
        event, key = self._events[self._turn], (self._turn, -(-len(numbers) // _COPIED_NUMBERS))
        if key not in self._ways:
            count = key[1] * _COPIED_NUMBERS  # beyond the last there may be fewer
            self._ways[key] = self._there[:count], self._buffers[self._turn][:count]
        there, staged = self._ways[key]
        there.copy_(staged, non_blocking=True)
        if event is not None:
            event.record()

"""What each row of a pass reads, as one array of integers for one copy to the device.

A row sees a *line* of slots, which rows of its session share from its start, and then
a *path*, which are the nodes of its own branch: see `kernels.attention`. The rows of
a prompt have a line each and no path; of a tree, the root and the first branch too.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import accumulate

import numpy as np
import numpy.typing as npt

from treedraft.inference.fused.plans import row_bucket
from treedraft.inference.segment import Segment, checked_slots, concatenate, written_slots

_ALIGNMENT = 4  # numbers in 16 bytes

Integers = npt.NDArray[np.int64]


class Column(IntEnum):
    """What is told of every row, in the order of the array."""

    TOKEN = 0
    POSITION = 1
    WRITE_SLOT = 2
    LINE_START = 3
    LINE_LENGTH = 4
    PATH_START = 5
    PATH_LENGTH = 6


@dataclass(frozen=True, slots=True)
class PassLayout:
    """The integers of a pass, padded to buckets.

    `numbers` (int32): the columns, then the rows whose logits are wanted, each padded to
    a multiple of 16 bytes, then the slots of all lines and paths, to which starts refer.
    Rows that pad have no slot and see nothing; outputs that pad are of row 0.
    """

    numbers: npt.NDArray[np.int32]
    num_rows: int
    num_outputs: int
    row_bucket: int
    output_bucket: int

    @property
    def num_fixed(self) -> int:
        """Numbers before the slots."""
        return fixed_length(self.row_bucket, self.output_bucket)


def column_stride(bucket: int) -> int:
    """Return how many numbers a column takes; kernels are compiled for aligned ones."""
    return -(-bucket // _ALIGNMENT) * _ALIGNMENT


def fixed_length(row_bucket: int, output_bucket: int) -> int:
    """Return how many numbers come before the slots."""
    return len(Column) * column_stride(row_bucket) + column_stride(output_bucket)


def lay_out(
    segments: Sequence[Segment], num_slots: int, room: npt.NDArray[np.int32] | None = None
) -> PassLayout:
    """Lay out the rows of segments, in their order, on a pool of `num_slots`.

    `room` is memory that the numbers may be written into, if they fit.
    """
    if _is_plain(segments):
        return _lay_out_plain(segments, num_slots, room)
    num_rows = sum(s.num_rows for s in segments)
    starts = [0, *accumulate(s.num_rows for s in segments)]
    outputs = [
        start + row for start, s in zip(starts, segments, strict=False) for row in s.output_rows
    ]
    own_rows, own_outputs = row_bucket(num_rows), row_bucket(max(1, len(outputs)))
    slots, seen = _seen(segments, num_slots)
    num_fixed = fixed_length(own_rows, own_outputs)
    numbers = _room_for(num_fixed + len(slots), num_fixed, room)
    end = len(Column) * column_stride(own_rows)
    columns = numbers[:end].reshape(len(Column), -1)
    columns[Column.WRITE_SLOT] = -1
    columns[Column.TOKEN, :num_rows] = concatenate([s.token_ids for s in segments])
    columns[Column.POSITION, :num_rows] = concatenate([s.positions for s in segments])
    columns[Column.WRITE_SLOT, :num_rows] = written_slots(segments, num_slots)
    columns[Column.LINE_START :, :num_rows] = seen
    numbers[end : end + len(outputs)] = outputs
    numbers[num_fixed:] = slots
    return PassLayout(numbers, num_rows, len(outputs), own_rows, own_outputs)


def _is_plain(segments: Sequence[Segment]) -> bool:
    return all(len(s.tree_slots) == len(s.output_rows) == 1 for s in segments)


def _lay_out_plain(
    segments: Sequence[Segment], num_slots: int, room: npt.NDArray[np.int32] | None
) -> PassLayout:
    """Lay out a step of plain decoding: one row a session, which sees all before it.

    The same numbers as of any other pass, without the arrays in between: at one session
    these take as long as a tenth of a small model's pass.
    """
    count, bucket = len(segments), row_bucket(len(segments))
    stride, num_fixed = column_stride(bucket), fixed_length(bucket, bucket)
    lengths = [len(s.context_slots) + 1 for s in segments]
    numbers = _room_for(num_fixed + sum(lengths), num_fixed, room)
    columns = numbers[: len(Column) * stride].reshape(len(Column), stride)
    columns[Column.WRITE_SLOT] = -1
    columns[Column.TOKEN, :count] = [s.token_ids[0] for s in segments]
    columns[Column.POSITION, :count] = [s.positions[0] for s in segments]
    own = [s.write_slots[0] for s in segments]
    columns[Column.WRITE_SLOT, :count] = own
    columns[Column.LINE_LENGTH, :count] = lengths
    ends = list(accumulate(lengths))
    columns[Column.LINE_START, 1:count] = ends[:-1]
    columns[Column.PATH_START, :count] = ends
    numbers[len(Column) * stride : len(Column) * stride + count] = range(count)
    parts = [part for s in segments for part in (s.context_slots, s.tree_slots)]
    slots = np.concatenate(parts, out=numbers[num_fixed:], casting="same_kind")
    # One below zero is a huge one to this view.
    assert slots.view(np.uint32).max() < num_slots, "a slot outside the pool"
    assert count == 1 or len(set(own)) == count, "two rows write to one slot"
    assert all(s.tree_mask[0, 0] for s in segments), "a row sees nothing"
    return PassLayout(numbers, count, count, bucket, bucket)


def _room_for(
    size: int, num_fixed: int, room: npt.NDArray[np.int32] | None
) -> npt.NDArray[np.int32]:
    """Return so many numbers, the first of them zeros, in `room` if they fit."""
    if room is None or len(room) < size:
        return np.zeros(size, dtype=np.int32)
    room[:num_fixed] = 0
    return room[:size]


def _seen(segments: Sequence[Segment], num_slots: int) -> tuple[Integers, Integers]:
    """Return the slots of all lines and paths, and [4, rows]: starts and lengths of both."""
    parts: list[Integers] = []
    described: list[Integers] = []
    start = 0
    for segment in segments:
        tree_slots = np.asarray(segment.tree_slots, dtype=np.int64)
        line_lengths, branch, path_lengths = _lines_and_paths(segment.tree_mask)
        parts += [segment.context_slots, tree_slots, tree_slots[branch]]
        path_start = start + segment.num_keys
        path_ends = path_start + np.cumsum(path_lengths)
        described.append(
            np.stack(
                [
                    np.full(segment.num_rows, start),
                    len(segment.context_slots) + line_lengths,
                    path_ends - path_lengths,
                    path_lengths,
                ]
            )
        )
        start = path_start + len(branch)
    return checked_slots(parts, num_slots), np.concatenate(described, axis=1)


def _lines_and_paths(tree_mask: npt.NDArray[np.bool_]) -> tuple[Integers, Integers, Integers]:
    """Split what rows see of the tree: (line lengths, columns of all paths, path lengths)."""
    if tree_mask.shape == (1, 1):  # plain decoding
        assert tree_mask[0, 0], "a row sees nothing"
        return np.ones(1, np.int64), np.zeros(0, np.int64), np.zeros(1, np.int64)
    counts = tree_mask.sum(axis=1)
    assert counts.all(), "a row sees nothing"
    # Up to the first column that is hidden: argmin finds it, unless there is none.
    width = tree_mask.shape[1]
    line_lengths = np.where(counts == width, width, tree_mask.argmin(axis=1))
    is_path = tree_mask & (np.arange(width) >= line_lengths[:, None])
    return line_lengths, np.nonzero(is_path)[1], counts - line_lengths

"""What each row of a pass reads, as one array of integers for one copy to the device.

A row sees a *line* of slots, which rows of its session share from its start, and then
a *path*, which are the nodes of its own branch: see `kernels.attention`. The rows of
a prompt have a line each and no path; of a tree, the root and the first branch too.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import accumulate, chain
from operator import add

import numpy as np
import numpy.typing as npt

from treedraft.inference.fused.plans import row_bucket
from treedraft.inference.segment import Segment

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


# As plain numbers: a member of an enumeration takes as long to look up as to write a column.
_TOKEN, _POSITION, _WRITE_SLOT, _LINE_START, _LINE_LENGTH, _PATH_START, _PATH_LENGTH = map(
    int, Column
)


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
    counts = [s.num_rows for s in segments]
    starts = list(accumulate(counts, initial=0))
    num_rows = starts.pop()
    outputs = [
        start + row for start, s in zip(starts, segments, strict=True) for row in s.output_rows
    ]
    own_rows, own_outputs = row_bucket(num_rows), row_bucket(max(1, len(outputs)))
    num_fixed, num_keys = fixed_length(own_rows, own_outputs), sum([s.num_keys for s in segments])
    line_lengths, path_lengths, branch_rows, branch = _lines_and_paths(segments, starts, num_rows)
    numbers = _room_for(num_fixed + num_keys + len(branch), num_fixed, room)
    end = len(Column) * column_stride(own_rows)
    columns = numbers[:end].reshape(len(Column), -1)
    line_starts = [*accumulate((s.num_keys for s in segments[:-1]), initial=0)]
    contexts = [len(s.context_slots) for s in segments]
    columns[_WRITE_SLOT, num_rows:] = -1
    columns[_TOKEN, :num_rows] = list(chain(*[s.token_ids for s in segments]))
    columns[_POSITION, :num_rows] = list(chain(*[s.positions for s in segments]))
    own = columns[_WRITE_SLOT, :num_rows]
    np.concatenate([s.write_slots for s in segments], out=own, casting="same_kind")
    _check_written(own.tolist(), num_slots)
    columns[_LINE_START, :num_rows] = _by_row(line_starts, counts)
    columns[_LINE_LENGTH, :num_rows] = line_lengths + _by_row(contexts, counts)
    columns[_PATH_LENGTH, :num_rows] = path_lengths
    columns[_PATH_START, :num_rows] = path_lengths.cumsum() - path_lengths + num_keys
    numbers[end : end + len(outputs)] = outputs
    lines = numbers[num_fixed : num_fixed + num_keys]
    _write_slots(segments, lines, num_slots)
    tree_starts = _by_row([*map(add, line_starts, contexts)], counts)
    places = branch + (tree_starts if isinstance(tree_starts, int) else tree_starts[branch_rows])
    numbers[num_fixed + num_keys :] = lines[places]
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
    columns[_WRITE_SLOT] = -1
    columns[_TOKEN, :count] = [s.token_ids[0] for s in segments]
    columns[_POSITION, :count] = [s.positions[0] for s in segments]
    own = [s.write_slots[0] for s in segments]
    columns[_WRITE_SLOT, :count] = own
    columns[_LINE_LENGTH, :count] = lengths
    ends = list(accumulate(lengths))
    columns[_LINE_START, 1:count] = ends[:-1]
    columns[_PATH_START, :count] = ends[-1]
    numbers[len(Column) * stride : len(Column) * stride + count] = range(count)
    _write_slots(segments, numbers[num_fixed:], num_slots)
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


def _write_slots(segments: Sequence[Segment], room: npt.NDArray[np.int32], num_slots: int) -> None:
    """Write the slots of all lines, having checked that the pool has them."""
    parts = [part for s in segments for part in (s.context_slots, s.tree_slots)]
    parts = [part for part in parts if len(part)]  # an empty range has no type
    slots = np.concatenate(parts, out=room, casting="same_kind")
    # One below zero is a huge one to this view.
    assert np.maximum.reduce(slots.view(np.uint32)) < num_slots, "a slot outside the pool"


def _by_row(numbers: Sequence[int], counts: Sequence[int]) -> Integers | int:
    """Return a number of each session for each of its rows; just the number for one session."""
    return numbers[0] if len(numbers) == 1 else np.repeat(numbers, counts)


def _check_written(slots: Sequence[int], num_slots: int) -> None:
    different = set(slots)
    assert len(different) == len(slots), "two rows write to one slot"
    assert min(different) >= 0, "a slot outside the pool"
    assert max(different) < num_slots, "a slot outside the pool"


def _lines_and_paths(
    segments: Sequence[Segment], starts: Sequence[int], num_rows: int
) -> tuple[Integers, Integers, Integers, Integers]:
    """Split what rows see of their trees.

    Returns:
        Line lengths, path lengths, then of all paths, one after the other, the rows and
        their columns.
    """
    # The last column is nobody's: the first that is hidden, if there is no other.
    width = 1 + max([len(s.tree_slots) for s in segments])
    sees = np.zeros((num_rows, width), dtype=np.bool_)
    for start, segment in zip(starts, segments, strict=True):
        mask = segment.tree_mask
        sees[start : start + mask.shape[0], : mask.shape[1]] = mask
    counts = np.add.reduce(sees, axis=1, dtype=np.int64)
    assert np.minimum.reduce(counts), "a row sees nothing"
    line_lengths = sees.argmin(axis=1)
    sees &= np.arange(width) >= line_lengths[:, None]
    return line_lengths, counts - line_lengths, *sees.nonzero()

"""What each row of a pass sees, written out row by row for the native decoder."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from treedraft.inference.segment import Segment, checked_slots, concatenate, written_slots


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of a pass, of all its sessions.

    `token_ids`, `positions` and `write_slots` are [rows]. Row `r` sees
    `key_slots[key_offsets[r] : key_offsets[r + 1]]`, in the order of its text,
    itself last. `output_rows` are those whose logits are wanted. All int64.
    """

    token_ids: npt.NDArray[np.int64]
    positions: npt.NDArray[np.int64]
    write_slots: npt.NDArray[np.int64]
    key_offsets: npt.NDArray[np.int64]
    key_slots: npt.NDArray[np.int64]
    output_rows: npt.NDArray[np.int64]


def rows_of(segments: Sequence[Segment], num_slots: int) -> Rows:
    """Lay out the rows of segments, in their order, on a pool of `num_slots`."""
    if all(_is_plain(segment) for segment in segments):
        return _plain_rows(segments, num_slots)
    starts = np.cumsum([0, *(s.num_rows for s in segments)])[:-1]
    seen = [keys for segment in segments for keys in _seen_by_rows(segment)]
    outputs = [
        start + np.asarray(s.output_rows, dtype=np.int64)
        for start, s in zip(starts, segments, strict=True)
    ]
    return Rows(
        token_ids=concatenate([s.token_ids for s in segments]),
        positions=concatenate([s.positions for s in segments]),
        write_slots=written_slots(segments, num_slots),
        key_offsets=np.cumsum([0, *map(len, seen)], dtype=np.int64),
        key_slots=checked_slots(seen, num_slots),
        output_rows=concatenate(outputs),
    )


def _is_plain(segment: Segment) -> bool:
    """Return whether a segment is one row that sees its context and itself."""
    return segment.num_rows == len(segment.tree_slots) == 1


def _plain_rows(segments: Sequence[Segment], num_slots: int) -> Rows:
    """Lay out plain decoding, nearly all that there is at a load, by a few calls for all."""
    assert all(s.tree_mask[0, 0] for s in segments), "a row sees nothing"
    seen = [slots for s in segments for slots in (s.context_slots, s.tree_slots)]
    key_offsets = np.zeros(len(segments) + 1, dtype=np.int64)
    np.cumsum([s.num_keys for s in segments], out=key_offsets[1:])
    return Rows(
        token_ids=np.array([s.token_ids[0] for s in segments], dtype=np.int64),
        positions=np.array([s.positions[0] for s in segments], dtype=np.int64),
        write_slots=written_slots(segments, num_slots),
        key_offsets=key_offsets,
        key_slots=checked_slots(seen, num_slots),
        output_rows=np.flatnonzero([len(s.output_rows) for s in segments]),
    )


def _seen_by_rows(segment: Segment) -> list[npt.NDArray[np.int64]]:
    assert segment.tree_mask.any(axis=1).all(), "a row sees nothing"
    tree_slots = np.asarray(segment.tree_slots, dtype=np.int64)
    return [np.concatenate([segment.context_slots, tree_slots[seen]]) for seen in segment.tree_mask]

from dataclasses import replace

import numpy as np
import pytest

from treedraft.inference.native.rows import Rows, rows_of
from treedraft.inference.segment import Segment

FIELDS = ("token_ids", "positions", "write_slots", "key_offsets", "key_slots", "output_rows")
NUM_SLOTS = 64


def decoding(token_id: int, slots: list[int], *, has_output: bool = True) -> Segment:
    """Return a session's last token, which sees all of its slots."""
    own = np.array(slots, dtype=np.int64)
    return Segment(
        token_ids=[token_id],
        positions=[len(slots) - 1],
        write_slots=own[-1:],
        context_slots=own[:-1],
        tree_slots=own[-1:],
        tree_mask=np.ones((1, 1), dtype=np.bool_),
        output_rows=(0,) if has_output else (),
    )


def chunk(token_ids: list[int], slots: list[int]) -> Segment:
    """Return the beginning of a prompt, no output wanted."""
    number = len(token_ids)
    return Segment(
        token_ids=token_ids,
        positions=range(number),
        write_slots=slots,
        context_slots=np.zeros(0, dtype=np.int64),
        tree_slots=slots,
        tree_mask=np.tri(number, dtype=np.bool_),
        output_rows=(),
    )


def lists(rows: Rows) -> dict[str, list[int]]:
    return {name: getattr(rows, name).tolist() for name in FIELDS}


def test_plain_rows_are_laid_out_as_beside_a_prompt():
    plain = [
        decoding(5, [8, 9, 3]),
        decoding(6, [20]),
        decoding(7, [30, 31], has_output=False),
        decoding(8, [41, 40, 43, 42]),
    ]
    alone = lists(rows_of(plain, NUM_SLOTS))
    beside = lists(rows_of([*plain, chunk([1, 2], [50, 51])], NUM_SLOTS))
    assert alone == {
        "token_ids": [5, 6, 7, 8],
        "positions": [2, 0, 1, 3],
        "write_slots": [3, 20, 31, 42],
        "key_offsets": [0, 3, 4, 6, 10],
        "key_slots": [8, 9, 3, 20, 30, 31, 41, 40, 43, 42],
        "output_rows": [0, 1, 3],
    }
    for name, numbers in alone.items():
        assert beside[name][: len(numbers)] == numbers
        assert getattr(rows_of(plain, NUM_SLOTS), name).dtype == np.int64


@pytest.mark.parametrize(
    ("segments", "complaint"),
    [
        ([decoding(5, [8, 64])], "outside the pool"),
        ([decoding(5, [8, 9]), decoding(6, [9])], "one slot"),
        ([replace(decoding(5, [8]), tree_mask=np.zeros((1, 1), dtype=np.bool_))], "sees nothing"),
    ],
)
def test_plain_rows_are_checked_as_others_are(segments, complaint):
    for others in ([], [chunk([1, 2], [50, 51])]):
        with pytest.raises(AssertionError, match=complaint):
            rows_of([*segments, *others], NUM_SLOTS)

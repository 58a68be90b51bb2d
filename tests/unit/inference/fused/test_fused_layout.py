"""Every row of a pass is told the slots that its segment's mask names, in their order."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.inference.tiny_segments import chunk, tokens, tree_of, tree_pass

from treedraft.core.growth import ROOT
from treedraft.inference.fused import layout as layout_module
from treedraft.inference.fused.layout import Column, column_stride, lay_out
from treedraft.inference.native.rows import rows_of
from treedraft.inference.segment import Segment

NUM_SLOTS = 200
SCATTERED = np.random.default_rng(1).permutation(NUM_SLOTS)


def columns_of(layout):
    return layout.numbers[: len(Column) * column_stride(layout.row_bucket)].reshape(len(Column), -1)


def seen_by(layout, row):
    columns, keys = columns_of(layout), layout.numbers[layout.num_fixed :]
    line, length = columns[Column.LINE_START, row], columns[Column.LINE_LENGTH, row]
    path, depth = columns[Column.PATH_START, row], columns[Column.PATH_LENGTH, row]
    return [*keys[line : line + length], *keys[path : path + depth]]


def assert_like_rows(segments):
    layout, rows = lay_out(segments, NUM_SLOTS), rows_of(segments, NUM_SLOTS)
    columns = columns_of(layout)
    for row, (start, stop) in enumerate(zip(rows.key_offsets, rows.key_offsets[1:], strict=False)):
        assert seen_by(layout, row) == rows.key_slots[start:stop].tolist()
    for column, expected in [
        (Column.TOKEN, rows.token_ids),
        (Column.POSITION, rows.positions),
        (Column.WRITE_SLOT, rows.write_slots),
    ]:
        assert columns[column, : layout.num_rows].tolist() == expected.tolist()
    outputs = layout.numbers[columns.size :][: layout.num_outputs]
    assert outputs.tolist() == rows.output_rows.tolist()
    return layout


parents = st.lists(st.integers(0, 100), max_size=12).map(
    lambda drawn: [ROOT if not i else (p % (i + 1)) - 1 for i, p in enumerate(drawn)]
)


@given(trees=st.lists(parents, min_size=1, max_size=3), first=st.integers(1, 20))
def test_trees_of_several_sessions(trees, first):
    segments = []
    for index, own in enumerate(trees):
        slots = SCATTERED[60 * index : 60 * (index + 1)]
        tree = tree_of([ROOT if p < 0 else p for p in own])
        segments.append(tree_pass(tokens(first + index), slots, tree))
    assert_like_rows(segments)


def test_prompts_have_no_paths_and_plain_steps_neither():
    segments = [
        chunk(tokens(30), SCATTERED[:60], 4, 30, [25]),
        chunk(tokens(30), SCATTERED[60:], 29, 30),
    ]
    layout = assert_like_rows(segments)
    assert not columns_of(layout)[Column.PATH_LENGTH].any()


def test_rows_that_pad_write_nowhere_and_see_nothing():
    layout = lay_out([chunk(tokens(9), SCATTERED, 0, 9)], NUM_SLOTS)
    padding = columns_of(layout)[:, 9:]
    assert layout.row_bucket > 9
    assert (padding[Column.WRITE_SLOT] == -1).all()
    assert not padding[Column.LINE_LENGTH].any()
    assert not padding[Column.PATH_LENGTH].any()


def test_a_row_that_sees_nothing_is_a_bug():
    segment = Segment([1, 2], [0, 1], [0, 1], np.zeros(0, np.int64), [0, 1], np.eye(2) > 1, [1])
    with pytest.raises(AssertionError, match="sees nothing"):
        lay_out([segment], NUM_SLOTS)


def plain_step(index, num_context):
    slots = SCATTERED[20 * index : 20 * index + num_context + 1]
    return chunk(tokens(num_context + 1), slots, num_context, num_context + 1)


@given(
    lengths=st.lists(st.integers(0, 19), min_size=1, max_size=9),
    room=st.sampled_from([None, 10, 4096]),
)
def test_plain_steps_are_laid_out_as_any_others(lengths, room):
    segments = [plain_step(*one) for one in enumerate(lengths)]
    memory = None if room is None else np.full(room, 7, dtype=np.int32)
    found = lay_out(segments, NUM_SLOTS, memory)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layout_module, "_is_plain", lambda segments: False)
        expected = lay_out(segments, NUM_SLOTS)
        again = lay_out(segments, NUM_SLOTS, memory)
    assert found.numbers.tolist() == expected.numbers.tolist() == again.numbers.tolist()
    assert (memory is not None and found.numbers.base is memory) == (room == 4096)
    for one in ("num_rows", "num_outputs", "row_bucket", "output_bucket"):
        assert getattr(found, one) == getattr(expected, one)


def test_plain_steps_into_one_slot_or_outside_the_pool_are_refused():
    one = plain_step(0, 3)
    with pytest.raises(AssertionError, match="one slot"):
        lay_out([one, one], NUM_SLOTS)
    with pytest.raises(AssertionError, match="outside"):
        lay_out([plain_step(0, 3)], int(max(one.tree_slots)))
    below = replace(one, context_slots=np.array([-1, 0, 1]))
    with pytest.raises(AssertionError, match="outside"):
        lay_out([below], NUM_SLOTS)

"""Products are cut so that every input is in one part, and passes padded by little."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from treedraft.inference.fused.plans import (
    MAX_ROWS,
    ROW_TILE,
    padded_rows,
    plan_product,
    row_bucket,
    row_tile,
)


@given(outputs=st.integers(1, 130_000), inputs=st.integers(1, 20_000), may_split=st.booleans())
def test_parts_cover_all_inputs_in_whole_blocks(outputs, inputs, may_split):
    plan = plan_product(outputs, inputs, may_split=may_split)
    assert plan.split_inputs % plan.block_k == 0
    assert (plan.num_splits - 1) * plan.split_inputs < inputs <= plan.num_splits * plan.split_inputs
    assert (plan.num_column_programs - 1) * plan.block_n < outputs
    assert may_split or plan.num_splits == 1


# Layers of models of 135 M, 1.5 B and 8 B parameters, and what should keep a GPU busy.
@pytest.mark.parametrize(
    ("outputs", "inputs"), [(576, 1536), (960, 576), (1536, 8960), (4096, 14336), (6144, 4096)]
)
def test_layers_are_cut_into_enough_programs(outputs, inputs):
    plan = plan_product(outputs, inputs)
    assert plan.num_column_programs * plan.num_splits >= 100
    assert plan.num_splits <= 8


@given(num_rows=st.integers(1, 5000))
def test_buckets_hold_their_passes(num_rows):
    bucket = row_bucket(num_rows)
    assert num_rows <= bucket <= max(num_rows + ROW_TILE, 1.5 * num_rows)
    tile = row_tile(bucket)
    assert -(-bucket // tile) * tile <= padded_rows(bucket)


def test_the_largest_bucket_is_whole_tiles():
    assert row_bucket(MAX_ROWS) == MAX_ROWS
    assert row_bucket(MAX_ROWS + 1) == MAX_ROWS + ROW_TILE

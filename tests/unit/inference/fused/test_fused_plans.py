"""Products are cut so that every input is in one part, and passes padded by little."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from treedraft.inference.fused.plans import (
    MAX_ROWS,
    ROW_TILE,
    padded_rows,
    plan_gated_product,
    plan_head,
    plan_product,
    row_bucket,
    row_tile,
)


@given(outputs=st.integers(1, 130_000), inputs=st.integers(1, 20_000))
def test_parts_cover_all_inputs_in_whole_blocks(outputs, inputs):
    plan = plan_product(outputs, inputs)
    assert plan.split_inputs % plan.block_k == 0
    assert (plan.num_splits - 1) * plan.split_inputs < inputs <= plan.num_splits * plan.split_inputs
    _check_columns(plan, outputs)


@given(outputs=st.integers(1, 130_000), inputs=st.integers(1, 20_000))
def test_gated_pairs_and_heads_have_no_parts(outputs, inputs):
    for plan in (plan_gated_product(outputs, inputs), plan_head(outputs, inputs)):
        assert plan.num_splits == 1
        _check_columns(plan, outputs)


def _check_columns(plan, outputs):
    assert (plan.num_column_programs - 1) * plan.block_n < outputs
    assert plan.num_column_programs * plan.block_n >= outputs


# Layers of models of 1.5 B and 8 B parameters.
@pytest.mark.parametrize(
    ("outputs", "inputs"), [(2048, 1536), (1536, 8960), (4096, 4096), (4096, 14336), (6144, 4096)]
)
def test_layers_are_cut_into_enough_programs_for_all_multiprocessors_alike(outputs, inputs):
    plan = plan_product(outputs, inputs)
    programs = plan.num_column_programs * plan.num_splits
    assert programs >= 120
    assert programs / 132 / -(-programs // 132) > 0.9


def test_large_weights_are_not_fetched_before_their_turn():
    assert plan_product(576, 1536).early_lines > 0
    assert plan_product(4096, 4096).early_lines == 0


@given(num_rows=st.integers(1, 5000))
def test_buckets_hold_their_passes(num_rows):
    bucket = row_bucket(num_rows)
    assert num_rows <= bucket <= max(num_rows + ROW_TILE, 1.5 * num_rows)
    tile = row_tile(bucket)
    assert -(-bucket // tile) * tile <= padded_rows(bucket)


def test_the_largest_bucket_is_whole_tiles():
    assert row_bucket(MAX_ROWS) == MAX_ROWS
    assert row_bucket(MAX_ROWS + 1) == MAX_ROWS + ROW_TILE

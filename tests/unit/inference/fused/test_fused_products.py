"""Products, norms and gates by kernels are those of torch, in every tile and split."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import silu

from treedraft.inference.fused.kernels.norm import add_norm
from treedraft.inference.fused.kernels.product import gated_product, product
from treedraft.inference.fused.plans import plan_gated_product, plan_product

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def random(*sizes, seed=0):
    return torch.randn(sizes, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def run_product(inputs, weight, plan, tile, num_rows):
    rows = -(-num_rows // tile) * tile
    parts = torch.full((plan.num_splits, rows, plan.outputs), torch.nan, device=DEVICE)
    product[(rows // tile, plan.num_column_programs, plan.num_splits)](
        inputs,
        weight,
        parts,
        parts.stride(0),
        num_rows,
        SPLIT_INPUTS=plan.split_inputs,
        **plan.cut(tile),
    )
    return parts


@settings(deadline=None, max_examples=12)
@given(outputs=st.integers(1, 70), inputs=st.integers(1, 300), num_rows=st.integers(1, 40))
def test_parts_of_a_product_add_up_to_it_and_rows_do_not_depend_on_the_tile(
    outputs, inputs, num_rows
):
    plan = plan_product(outputs, inputs)
    rows, weight = random(64, inputs), random(outputs, inputs, seed=1)
    parts = {tile: run_product(rows, weight, plan, tile, num_rows) for tile in (16, 64)}
    expected = rows.double() @ weight.double().T
    found = parts[16].double().sum(0)[:num_rows]
    assert (found - expected[:num_rows]).norm() < 1e-5 * expected[:num_rows].norm()
    # The interpreter multiplies by numpy, which may round otherwise for another shape.
    tolerance = 0.0 if DEVICE == "cuda" else 1e-5
    torch.testing.assert_close(
        parts[16][:, :num_rows], parts[64][:, :num_rows], atol=tolerance, rtol=tolerance
    )


@settings(deadline=None, max_examples=8)
@given(outputs=st.integers(1, 50), inputs=st.integers(1, 200))
def test_gates_are_applied(outputs, inputs):
    plan = plan_gated_product(outputs, inputs)
    rows, weight = random(16, inputs), random(2 * outputs, inputs, seed=2)
    found = torch.full((16, outputs), torch.nan, device=DEVICE)
    gated_product[(1, plan.num_column_programs)](
        rows,
        weight,
        found,
        16,
        **plan.cut(16),
    )
    gates, gated = (rows.double() @ weight.double().T).chunk(2, 1)
    expected = silu(gates) * gated
    assert (found.double() - expected).norm() < 1e-5 * expected.norm()


@pytest.mark.parametrize("num_splits", [1, 3])
def test_parts_are_added_to_the_stream_and_normed(num_splits):
    states, parts = random(4, 48), random(num_splits, 16, 48, seed=1)
    weight, normed = random(48, seed=2), torch.full((4, 48), torch.nan, device=DEVICE)
    expected = states + parts[:, :4].sum(0)
    add_norm[(4,)](
        states,
        parts,
        parts.stride(0),
        weight,
        normed,
        1e-5,
        NUM_SPLITS=num_splits,
        HIDDEN=48,
        BLOCK=64,
    )
    torch.testing.assert_close(states, expected)
    torch.testing.assert_close(normed, torch.nn.functional.rms_norm(expected, (48,), weight, 1e-5))

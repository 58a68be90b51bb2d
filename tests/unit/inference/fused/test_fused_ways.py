"""Every way to queue a pass says what transformers says, and keeps its rows apart to the bit."""

from dataclasses import replace

import pytest
import torch
from tests.unit.inference.fused.fused_models import (
    SCATTERED,
    fused_runner,
    model_of_wide_heads,
    small_model,
)
from tests.unit.inference.tiny_segments import (
    assert_same,
    chunk,
    logits_by_definition,
    tokens,
    tree_of,
    tree_pass,
)

from treedraft.core.growth import ROOT
from treedraft.inference.fused.ways import Early

TREE = tree_of([ROOT, 0, 1, 0, ROOT, 4, 2])


@pytest.mark.parametrize("name", ["llama", "qwen2"])
def test_what_is_turned_in_the_product_has_the_logits_of_the_modules_own_forward(name):
    model = model_of_wide_heads(name)
    runner = fused_runner(model, turns_in_product=True)
    assert runner.model.native.ways.turns_in_product
    text = tokens(12)
    parts = [
        runner.forward([chunk(text, SCATTERED, a, b, [b - a - 1])]).clone()
        for a, b in [(0, 7), (7, 11)]
    ]
    assert_same(torch.cat(parts).cpu(), model.causal_logits(text)[[6, 10]])
    logits = runner.forward([tree_pass(text, SCATTERED, TREE)])
    assert_same(logits.cpu(), logits_by_definition(model, text, TREE))


def test_what_is_turned_in_the_product_is_the_same_to_the_bit_whatever_shares_its_pass():
    model = model_of_wide_heads("qwen2")
    text = tokens(6)
    together = fused_runner(model, turns_in_product=True).forward([chunk(text, range(6), 0, 6)])
    alone = fused_runner(model, turns_in_product=True)
    other = chunk(tokens(3, seed=5), SCATTERED[100:], 0, 3)
    for i in range(6):
        logits = alone.forward([other, chunk(text, SCATTERED, i, i + 1)])
        assert torch.equal(logits[-1], together[i])


def test_rows_that_pad_put_nothing_into_the_pool():
    runner = fused_runner(model_of_wide_heads("llama"), turns_in_product=True)
    text = tokens(5)  # padded to six
    runner.forward([chunk(text, range(10, 15), 0, 5)])
    written = runner.pool.keys.abs().sum(dim=(0, -1)).reshape(-1).nonzero().flatten()
    assert set(written.tolist()) == set(range(10, 15))


def test_heads_too_narrow_are_turned_behind_the_product():
    runner = fused_runner(small_model("llama"), turns_in_product=True)
    assert not runner.model.native.ways.turns_in_product


def test_where_no_kernel_can_come_up_early_none_does():
    decoder = fused_runner(small_model("llama")).model.native
    if torch.cuda.is_available():
        pytest.skip("here they can")
    decoder.ways = replace(decoder.ways, early=Early.BETWEEN)
    assert decoder.ways.early is Early.NEVER
    assert decoder._early() == {}


def test_between_products_kernels_come_up_and_products_do_not():
    decoder = fused_runner(small_model("llama")).model.native
    plan = decoder.weights.plans.down
    decoder._can_come_early = True
    decoder.ways = replace(decoder.ways, early=Early.BETWEEN)
    assert decoder._early() == {"IS_EARLY": True, "launch_pdl": True}
    # It lets the next kernel come up, and is launched when all before it is over.
    assert decoder._early(plan) == {"IS_EARLY": True}
    decoder.ways = replace(decoder.ways, early=Early.ALWAYS)
    assert decoder._early(plan)["launch_pdl"]

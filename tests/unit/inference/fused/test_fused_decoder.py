"""Fused passes say what transformers' own forward says, whatever shares the pass."""

import copy
from dataclasses import replace

import pytest
import torch
from tests.unit.inference.fused.fused_models import SCATTERED, fused_runner, small_model
from tests.unit.inference.tiny_segments import (
    assert_same,
    chunk,
    logits_by_definition,
    tokens,
    tree_of,
    tree_pass,
)

from treedraft.core.growth import ROOT
from treedraft.inference.fused.workspace import Capacity

TREE = tree_of([ROOT, 0, 1, 0, ROOT, 4, 2])


@pytest.mark.parametrize("name", ["llama", "qwen2"])
def test_prompts_and_trees_have_the_logits_of_the_modules_own_forward(name):
    model = small_model(name)
    runner = fused_runner(model)
    text = tokens(12)
    parts = [
        runner.forward([chunk(text, SCATTERED, a, b, [b - a - 1])]).clone()
        for a, b in [(0, 7), (7, 11)]
    ]
    assert_same(torch.cat(parts).cpu(), model.causal_logits(text)[[6, 10]])
    logits = runner.forward([tree_pass(text, SCATTERED, TREE)])
    assert_same(logits.cpu(), logits_by_definition(model, text, TREE))


def test_a_row_is_the_same_to_the_bit_whatever_shares_its_pass():
    model = small_model("llama")
    text = tokens(6)
    together = fused_runner(model).forward([chunk(text, range(6), 0, 6)])
    alone = fused_runner(model)
    other = chunk(tokens(3, seed=5), SCATTERED[100:], 0, 3)
    for i in range(6):  # one token a pass, in other slots, beside another session
        logits = alone.forward([other, chunk(text, SCATTERED, i, i + 1)])
        assert torch.equal(logits[-1], together[i])


def test_a_drafted_path_has_the_very_logits_of_plain_decoding():
    model = small_model("qwen2")
    text = tokens(9)
    path = [text[-1], *(TREE.token_ids[i] for i in (0, 1, 2))]
    plain, drafted = fused_runner(model), fused_runner(model)
    for runner in (plain, drafted):
        runner.forward([chunk(text, SCATTERED, 0, 8, [])])
    tree = drafted.forward([tree_pass(text, SCATTERED, TREE)])[[0, 1, 2, 3]]
    whole = text[:-1] + path
    steps = [plain.forward([chunk(whole, SCATTERED, i, i + 1)]).clone() for i in range(8, 12)]
    assert torch.equal(tree, torch.cat(steps))


def test_half_precision_stays_near():
    model = small_model("llama", torch.float16)
    text = tokens(8)
    logits = fused_runner(model).forward([chunk(text, SCATTERED, 0, 8)])
    # Made from the same numbers: what is drawn as float16 need not be what is drawn as float32.
    exact = copy.deepcopy(model.eager).float()
    expected = replace(model, eager=exact).causal_logits(text)
    assert (logits.cpu() - expected).abs().mean() < 0.05 * expected.abs().mean()


def test_a_pass_too_large_for_the_workspace_gets_a_larger_one():
    runner = fused_runner(small_model("llama"))
    decoder = runner.model.native
    decoder._fitting = _with_first_capacity(decoder, Capacity(rows=64, outputs=64, numbers=64))
    text = tokens(12)
    small = runner.forward([chunk(text, range(12), 0, 2)]).clone()
    assert decoder._workspace.capacity.numbers == 64
    large = runner.forward([chunk(text, range(12), 0, 12)])
    assert decoder._workspace.capacity.numbers == 128
    assert torch.equal(large[:2], small)


def _with_first_capacity(decoder, capacity):
    from treedraft.inference.fused.workspace import Workspace

    fitting = type(decoder)._fitting

    def fit(layout, pool):
        if decoder._workspace is None:
            decoder._workspace = Workspace(decoder.weights, pool, capacity)
        return fitting(decoder, layout, pool)

    return fit


def test_rows_of_many_sessions_keep_apart():
    model = small_model("llama")
    runner = fused_runner(model)
    texts = [tokens(2 + i, seed=i) for i in range(3)]
    segments = [
        chunk(text, SCATTERED[20 * i :], 0, len(text), [len(text) - 1])
        for i, text in enumerate(texts)
    ]
    logits = runner.forward(segments)
    assert_same(logits.cpu(), torch.stack([model.causal_logits(text)[-1] for text in texts]))
    assert torch.isfinite(logits).all()

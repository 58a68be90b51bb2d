import numpy as np
import pytest
import torch
from tests.unit.inference.tiny_models import SIZES, TinyModel, build, tiny_model
from tests.unit.inference.tiny_segments import (
    assert_same,
    chunk,
    logits_by_definition,
    tokens,
    tree_of,
    tree_pass,
)
from transformers import MistralConfig, MistralForCausalLM

from treedraft.core.errors import UnsupportedModelError
from treedraft.core.growth import ROOT
from treedraft.inference.runner import Runner
from treedraft.inference.segment import Segment

ARCHITECTURES = ["llama", "qwen2", "granite"]
NUM_SLOTS = 256


FORWARD = np.arange(NUM_SLOTS)
SCATTERED = np.random.default_rng(3).permutation(NUM_SLOTS)
TREE = tree_of([ROOT, 0, 1, 0, ROOT, 4, 2])


@pytest.mark.parametrize("slots", [FORWARD, SCATTERED], ids=["in place", "scattered"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_prefill_in_chunks_equals_a_causal_forward(architecture, slots):
    model = tiny_model(architecture)
    runner = Runner(model, model.pool(NUM_SLOTS))
    text = tokens(40)
    parts = [
        runner.forward([chunk(text, slots, a, b)])
        for a, b in [(0, 17), (17, 18), (18, 31), (31, 40)]
    ]
    assert_same(torch.cat(parts), model.causal_logits(text))


@pytest.mark.parametrize("slots", [FORWARD, SCATTERED], ids=["in place", "scattered"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_each_node_equals_a_fresh_forward_over_its_path(architecture, slots):
    model = tiny_model(architecture)
    runner = Runner(model, model.pool(NUM_SLOTS))
    text = tokens(30)
    runner.forward([chunk(text, slots, 0, 29)])
    logits = runner.forward([tree_pass(text, slots, TREE)])
    assert logits.dtype == torch.float32
    assert_same(logits, logits_by_definition(model, text, TREE))


def test_mixed_sessions_in_one_pass_equal_each_alone_in_the_order_given():
    model = tiny_model()
    runner = Runner(model, model.pool(4096))
    all_slots = np.random.default_rng(5).permutation(4096)
    trees = [tree_of([]), TREE, tree_of([ROOT] * 5), tree_of([]), tree_of([ROOT, 0, 1, 2, 3])]
    segments, expected = [], []
    for number in range(24):
        text, slots = tokens(5 + 3 * number, seed=number), all_slots[150 * number :][:150]
        if number % 6 == 5:
            rows = range(len(text) - 1, len(text))
            segments.append(chunk(text, slots, 0, len(text), output_rows=rows))
            expected.append(model.causal_logits(text)[-1:])
        else:
            tree = trees[number % 6]
            runner.forward([chunk(text, slots, 0, len(text) - 1, output_rows=())])
            segments.append(tree_pass(text, slots, tree))
            expected.append(logits_by_definition(model, text, tree))
    assert_same(runner.forward(segments), torch.cat(expected))


def test_a_drafter_grows_level_by_level_on_the_slots_of_earlier_nodes():
    model = tiny_model("qwen2")
    runner = Runner(model, model.pool(NUM_SLOTS))
    text, slots = tokens(20), SCATTERED
    runner.forward([chunk(text, slots, 0, 20, output_rows=())])
    mask = TREE.ancestor_mask()[1:, 1:]
    node_slots = slots[20 : 20 + TREE.num_nodes]
    logits = {}
    for depth in range(1, max(TREE.depths) + 1):
        rows = [n for n in range(TREE.num_nodes) if TREE.depths[n] == depth]
        known = [n for n in range(TREE.num_nodes) if TREE.depths[n] <= depth]
        segment = Segment(
            token_ids=[TREE.token_ids[n] for n in rows],
            positions=[19 + depth] * len(rows),
            write_slots=[int(node_slots[n]) for n in rows],
            context_slots=slots[:20],
            tree_slots=[int(node_slots[n]) for n in known],
            tree_mask=mask[np.ix_(rows, known)],
            output_rows=range(len(rows)),
        )
        logits.update(zip(rows, runner.forward([segment]), strict=True))
    actual = torch.stack([logits[n] for n in range(TREE.num_nodes)])
    assert_same(actual, logits_by_definition(model, text, TREE)[1:])


def test_a_session_never_reads_slots_of_others():
    model = tiny_model()
    pool = model.pool(NUM_SLOTS)
    runner = Runner(model, pool)
    pool.keys.fill_(torch.nan)
    pool.values.fill_(torch.nan)
    long, short = tokens(60, seed=1), tokens(9, seed=2)
    mine, other = SCATTERED[:100], SCATTERED[100:200]
    runner.forward([chunk(long, mine, 0, 59, ()), chunk(short, other, 0, 8, ())])
    logits = runner.forward([tree_pass(long, mine, TREE), tree_pass(short, other, tree_of([]))])
    expected = [logits_by_definition(model, long, TREE), model.causal_logits(short)[-1:]]
    assert_same(logits, torch.cat(expected))


def test_a_session_of_nan_spoils_only_itself():
    model = tiny_model()
    pool = model.pool(NUM_SLOTS)
    runner = Runner(model, pool)
    sick, healthy = tokens(12, seed=1), tokens(14, seed=2)
    runner.forward([chunk(sick, FORWARD, 0, 11, ()), chunk(healthy, FORWARD[50:], 0, 13, ())])
    pool.values[:, :11] = torch.nan
    segments = [tree_pass(sick, FORWARD, TREE), tree_pass(healthy, FORWARD[50:], tree_of([ROOT]))]
    logits = runner.forward(segments)
    assert logits[: TREE.num_nodes + 1].isnan().all()
    expected = logits_by_definition(model, healthy, tree_of([ROOT]))
    assert_same(logits[TREE.num_nodes + 1 :], expected)


def test_only_the_wanted_rows_are_returned():
    model = tiny_model()
    runner = Runner(model, model.pool(NUM_SLOTS))
    text = tokens(10)
    logits = runner.forward([chunk(text, FORWARD, 0, 10, output_rows=[9, 2])])
    assert_same(logits, model.causal_logits(text)[[9, 2]])
    assert runner.forward([chunk(text, FORWARD, 0, 10, output_rows=())]).shape == (0, 97)
    assert runner.forward([]).shape == (0, 97)


def test_bfloat16_gives_float32_logits_near_those_of_transformers():
    model = tiny_model("llama", torch.bfloat16)
    runner = Runner(model, model.pool(NUM_SLOTS))
    text = tokens(30)
    runner.forward([chunk(text, SCATTERED, 0, 29)])
    logits = runner.forward([tree_pass(text, SCATTERED, TREE)])
    expected = logits_by_definition(model, text, TREE)
    assert logits.dtype == torch.float32
    assert (logits - expected).abs().max() < 0.1 * expected.std()


def test_slots_outside_the_pool_are_caught_before_they_are_written():
    model = tiny_model()
    runner = Runner(model, model.pool(8))
    with pytest.raises(AssertionError, match="outside the pool"):
        runner.forward([chunk(tokens(9), FORWARD, 0, 9)])


def test_two_sessions_cannot_write_to_one_slot():
    model = tiny_model()
    runner = Runner(model, model.pool(8))
    with pytest.raises(AssertionError, match="one slot"):
        runner.forward([chunk(tokens(3), FORWARD, 0, 3), chunk(tokens(2), FORWARD[2:], 0, 2)])


def test_a_model_with_other_attention_is_refused():
    model = tiny_model()
    other = TinyModel(module=model.eager, eager=model.eager)
    with pytest.raises(UnsupportedModelError, match="attn_implementation"):
        Runner(other, model.pool(8))


def test_a_sliding_window_is_refused_where_it_would_hide_keys():
    config = MistralConfig(**SIZES, sliding_window=16)
    model = build(config, MistralForCausalLM, torch.float32)
    runner = Runner(model, model.pool(NUM_SLOTS))
    assert_same(
        runner.forward([chunk(tokens(16), FORWARD, 0, 16)]), model.causal_logits(tokens(16))
    )
    with pytest.raises(UnsupportedModelError, match="window of 16"):
        runner.forward([chunk(tokens(17), FORWARD, 0, 17)])

"""The KV pool, the mask and the runner against their definitions, on random trees."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.inference.tiny_models import tiny_model
from tests.unit.inference.tiny_segments import (
    assert_same,
    chunk,
    logits_by_definition,
    tokens,
    tree_of,
    tree_pass,
)

from treedraft.core.flat_tree import FlatTree
from treedraft.core.growth import ROOT
from treedraft.core.prefix import page_hashes
from treedraft.inference.block_pool import BlockPool, slots_of
from treedraft.inference.kv_pool import KVPool
from treedraft.inference.runner import Runner

BLOCK_SIZE = 4
NUM_BLOCKS = 64


@st.composite
def trees(draw: st.DrawFn, max_nodes: int = 12) -> FlatTree:
    num_nodes = draw(st.integers(0, max_nodes))
    parents = [draw(st.integers(ROOT, node - 1)) for node in range(num_nodes)]
    return tree_of(parents, seed=draw(st.integers(0, 99)))


def scattered_blocks(seed: int) -> list[int]:
    return np.random.default_rng(seed).permutation(NUM_BLOCKS).tolist()


def stored(pool: KVPool, slots: np.ndarray) -> torch.Tensor:
    index = torch.from_numpy(slots)
    return torch.stack([pool.keys[:, index], pool.values[:, index]])


@given(trees(max_nodes=20))
def test_the_mask_equals_its_definition(tree):
    mask = tree.ancestor_mask()
    for row in range(tree.num_nodes + 1):
        path = [node + 1 for node in tree.path(row - 1)] if row else []
        assert set(np.flatnonzero(mask[row])) == {0, *path}


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 30), trees()), min_size=1, max_size=6),
    st.integers(0, 99),
)
def test_every_node_of_every_session_equals_a_fresh_forward(sessions, seed):
    model = tiny_model()
    runner = Runner(model, model.pool(512))
    slots = np.random.default_rng(seed).permutation(512)
    texts = [tokens(length, seed + number) for number, (length, _) in enumerate(sessions)]
    own = [slots[64 * number :][:64] for number in range(len(sessions))]
    prefills = [
        chunk(text, mine, 0, len(text) - 1, ())
        for text, mine in zip(texts, own, strict=True)
        if len(text) > 1
    ]
    runner.forward(prefills)
    parts = list(zip(texts, own, (tree for _, tree in sessions), strict=True))
    logits = runner.forward([tree_pass(text, mine, tree) for text, mine, tree in parts])
    expected = [logits_by_definition(model, text, tree) for text, _, tree in parts]
    assert_same(logits, torch.cat(expected))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 25), trees(), st.data())
def test_kv_after_compaction_equals_kv_of_a_fresh_prefill(length, tree, data):
    model = tiny_model("qwen2")
    pool = model.pool(NUM_BLOCKS * BLOCK_SIZE)
    runner = Runner(model, pool)
    text = tokens(length, seed=length)
    slots = slots_of(scattered_blocks(1), BLOCK_SIZE, 0, 40)
    if length > 1:
        runner.forward([chunk(text, slots, 0, length - 1, ())])
    runner.forward([tree_pass(text, slots, tree)])
    end = data.draw(st.integers(ROOT, tree.num_nodes - 1))
    accepted = tree.path(end)
    sources = [int(slots[length + node]) for node in accepted]
    pool.copy_slots(sources, slots[length : length + len(accepted)].tolist())

    whole = [*text, *(tree.token_ids[node] for node in accepted)]
    fresh = model.pool(NUM_BLOCKS * BLOCK_SIZE)
    own = slots_of(scattered_blocks(2), BLOCK_SIZE, 0, len(whole))
    Runner(model, fresh).forward([chunk(whole, own, 0, len(whole), ())])
    torch.testing.assert_close(
        stored(pool, slots[: len(whole)]), stored(fresh, own), atol=1e-4, rtol=0
    )
    # And the next pass, on the compacted slots, draws from the right logits.
    following = [*whole, 5]
    logits = runner.forward([chunk(following, slots, len(whole), len(following))])
    assert_same(logits, model.causal_logits(following)[-1:])


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 30), st.integers(1, 12), trees(max_nodes=8))
def test_a_shared_prefix_serves_as_well_as_an_own_prefill(num_common, num_own, tree):
    model = tiny_model()
    kv, pages = model.pool(NUM_BLOCKS * BLOCK_SIZE), BlockPool(NUM_BLOCKS, BLOCK_SIZE)
    runner = Runner(model, kv)
    common = tokens(num_common, seed=1)
    first, second = [*common, *tokens(9, seed=2)], [*common, *tokens(num_own, seed=3)]

    blocks = pages.allocate(-(-len(first) // BLOCK_SIZE))
    slots = slots_of(blocks, BLOCK_SIZE, 0, len(first))
    runner.forward([chunk(first, slots, 0, len(first), ())])
    for block, page_hash in zip(blocks, hashes_of(first), strict=False):
        pages.publish(block, page_hash)
    before = stored(kv, slots)

    shared = pages.match_prefix(hashes_of(second[:-1]))
    assert len(shared) >= (min(num_common, len(second) - 1)) // BLOCK_SIZE
    rows = len(second) + tree.num_nodes
    own = pages.allocate(-(-rows // BLOCK_SIZE) - len(shared))
    assert not any(pages.is_shared(block) for block in own)
    slots_of_second = slots_of(shared + own, BLOCK_SIZE, 0, rows)
    start = len(shared) * BLOCK_SIZE
    if start < len(second) - 1:
        runner.forward([chunk(second, slots_of_second, start, len(second) - 1, ())])
    logits = runner.forward([tree_pass(second, slots_of_second, tree)])
    assert_same(logits, logits_by_definition(model, second, tree))
    assert torch.equal(stored(kv, slots), before), "a shared page was written"
    pages.release(shared + own)
    pages.release(blocks)
    assert pages.num_free == NUM_BLOCKS
    pages.check_integrity()


def hashes_of(token_ids: list[int]) -> list[bytes]:
    return page_hashes(token_ids, block_size=BLOCK_SIZE, fingerprint="tiny", tenant_salt=b"")

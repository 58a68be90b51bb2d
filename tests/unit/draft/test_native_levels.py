"""Trees that the native decoder grows by levels, and when it stops."""

import copy
from dataclasses import replace

import pytest
from draft_support import GREEDY, REJECTION, SAMPLED
from level_support import CUT, GROWTH, assert_grows_by_levels, open_session
from tests.unit.inference.tiny_models import tiny_model

from treedraft.core.exchange import Economics
from treedraft.core.growth import ROOT
from treedraft.draft.growth import frontier
from treedraft.draft.model_children import DraftLimits
from treedraft.draft.model_grower import ModelGrower
from treedraft.draft.model_levels import LevelSteps
from treedraft.inference.block_pool import SlotPool
from treedraft.inference.native.compiler import find_compiler, native_library
from treedraft.inference.native.decoder import WeightStorage, go_native
from treedraft.inference.native.growth import NativeLevelGrower
from treedraft.inference.runner import Runner

pytestmark = pytest.mark.skipif(find_compiler() is None, reason="no C++ compiler")

NUM_SLOTS = 256


def make_grower(growth=GROWTH, num_slots=NUM_SLOTS):
    model = tiny_model()
    module = copy.deepcopy(model.module)
    decoder = go_native(module, native_library(), WeightStorage.FLOAT32)
    runner = Runner(replace(model, module=module, native=decoder), model.pool(num_slots))
    pool = SlotPool(num_slots)
    limits = DraftLimits(model.vocab_size, model.vocab_size, 512, frozenset({2}))
    levels = NativeLevelGrower(
        decoder, runner.pool, column_ids=None, barren=[2], score_temperature=1.0
    )
    steps = LevelSteps(levels, pool, limits, growth)
    return ModelGrower(runner, pool, limits, growth, steps), pool


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_nodes_of_all_levels_have_the_children_of_their_own_path(sampling):
    grower, pool = make_grower()
    assert_grows_by_levels(tiny_model(), grower, pool, sampling)


@pytest.mark.parametrize("sampling", [REJECTION, CUT], ids=["rejection", "cut"])
def test_laws_that_it_does_not_know_grow_by_single_passes(sampling):
    grower, _ = make_grower()
    session = open_session(grower, [5, 9, 3], sampling)
    grower.step([session])
    assert session.tree.children(ROOT)
    assert not session.model.node_slots


def test_where_slots_are_few_a_step_is_a_single_pass():
    grower, _ = make_grower(num_slots=6)
    session = open_session(grower, [5, 9, 3], GREEDY)
    grower.step([session])
    assert session.tree.children(ROOT)
    assert not session.model.node_slots


def test_a_tree_is_grown_up_to_its_limit_and_no_further():
    growth = GROWTH.model_copy(update={"max_live_nodes": 5, "levels": 8})
    grower, _ = make_grower(growth)
    session = open_session(grower, [5, 9, 3], GREEDY, growth=growth)
    grower.step([session])
    # A pass that begins below the limit is run whole: the root's two children get theirs.
    assert len(session.model.node_slots) == 2
    assert len(session.tree) == 2 + 4
    assert not grower.wants_work(session)


def test_on_a_shared_device_a_step_ends_where_the_next_pass_does_not_pay():
    growth = GROWTH.model_copy(update={"shares_device": True, "levels": 8})
    grower, _ = make_grower(growth)
    grower.calibrate({1: 1.0, 2: 1.0})
    session = open_session(grower, [5, 9, 3], GREEDY, growth=growth)
    grower.target_says(Economics(token_us=1, row_us=0))
    grower.step([session])
    assert session.tree.children(ROOT)  # the target asked for these, whatever they cost
    assert not session.model.node_slots
    grower.target_says(Economics(token_us=1_000_000, row_us=0))
    grower.step([session])
    assert max(session.tree.depth(node) for node in session.model.node_slots) > 2


def test_leaves_of_a_tree_that_lives_on_are_candidates_at_every_level():
    growth = GROWTH.model_copy(update={"max_rows_per_session": 1, "levels": 2})
    grower, pool = make_grower(growth)
    session = open_session(grower, [5, 9, 3], GREEDY, growth=growth)
    for _ in range(4):
        grower.step([session])
    run = session.model.node_slots
    best = max(session.tree.children(ROOT).values(), key=session.tree.score)
    session.commit([session.tree[best].token_id], arrived_ns=0)  # a hit: its subtree lives on
    before = dict(run)
    leaves = frontier(session.tree, session.limits, expanded=before, barren=())
    grower.step([session])
    assert len(run) == len(before) + 3
    new = [node for node in run if node not in before]
    # Whatever was run is as likely as the leaves that were left alone.
    left = [score for score, node in leaves if node not in new]
    assert min(map(session.tree.score, new)) >= max(left)
    assert len(set(new) & {node for _, node in leaves}) > 1
    assert pool.num_free == NUM_SLOTS - session.model.num_slots

"""Trees that grow by levels hold what the model says after each of their paths.

The kernels run in Triton's interpreter where there is no CUDA device, hence the size of it.
"""

import pytest

pytest.importorskip("triton", reason="no Triton here")
import tests.unit.inference.fused.conftest  # noqa: F401  it mends the interpreter
from draft_support import GREEDY, REJECTION, SAMPLED
from level_support import CUT, GROWTH, assert_grows_by_levels, open_session
from tests.unit.inference.fused.fused_models import NUM_SLOTS, fused_runner, small_model

from treedraft.core.exchange import Economics
from treedraft.core.growth import ROOT
from treedraft.draft.model_children import DraftLimits
from treedraft.draft.model_grower import ModelGrower
from treedraft.draft.model_levels import LevelSteps
from treedraft.inference.block_pool import SlotPool
from treedraft.inference.fused.levels import LevelGrower


def make_grower(model, growth=GROWTH):
    runner = fused_runner(model)
    pool = SlotPool(NUM_SLOTS)
    limits = DraftLimits(model.vocab_size, model.vocab_size, 512, frozenset({2}))
    levels = LevelGrower(
        runner.model.native, runner.pool, column_ids=None, barren=[2], score_temperature=1.0
    )
    steps = LevelSteps(levels, pool, limits, growth)
    return ModelGrower(runner, pool, limits, growth, steps), pool


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_nodes_of_all_levels_have_the_children_of_their_own_path(sampling):
    model = small_model("llama")
    grower, pool = make_grower(model)
    assert_grows_by_levels(model, grower, pool, sampling)


@pytest.mark.parametrize("sampling", [REJECTION, CUT], ids=["rejection", "cut"])
def test_what_kernels_do_not_know_grows_by_single_passes(sampling):
    grower, _ = make_grower(small_model("llama"))
    session = open_session(grower, [5, 9, 3], sampling)
    grower.step([session])
    assert session.tree.children(ROOT)
    assert not session.model.node_slots


def test_a_tree_with_any_room_grows_by_levels():
    growth = GROWTH.model_copy(update={"max_live_nodes": 13})  # a step adds up to twelve
    grower, _ = make_grower(small_model("llama"), growth)
    session = open_session(grower, [5, 9, 3], GREEDY, growth)
    grower.step([session])
    run = set(session.model.node_slots)
    assert session.num_free_nodes < grower.max_new_nodes
    grower.step([session])
    depths = [session.tree.depth(node) for node in set(session.model.node_slots) - run]
    assert max(depths) > min(depths)  # more than one level in one step
    grower.step([session])
    assert not session.num_free_nodes
    assert len(session.tree) <= session.tree.max_nodes


def test_credit_covers_all_levels():
    grower, _ = make_grower(small_model("llama"))
    assert grower.max_new_nodes == (2 + 2 * 2) * 2


def test_on_a_shared_device_a_step_pays_for_all_its_passes_or_is_not_run():
    growth = GROWTH.model_copy(update={"shares_device": True})
    grower, _ = make_grower(small_model("llama"), growth)
    grower.calibrate({1: 1.0, 2: 1.0})
    session = open_session(grower, [5, 9, 3], GREEDY, growth)
    grower.step([session])  # the target asked for these, whatever they cost
    run = set(session.model.node_slots)
    assert run
    # What passes take in the interpreter, which was learned: a token takes less than three.
    pass_ms = grower._thrift._estimate_ms(2)
    assert pass_ms > 1.0
    grower.target_says(Economics(token_us=int(1000 * pass_ms), row_us=0))
    assert not grower.step([session]).num_rows
    grower.target_says(Economics(token_us=int(1e6 * pass_ms), row_us=0))
    assert grower.step([session]).num_rows
    assert set(session.model.node_slots) > run


@pytest.mark.parametrize("sampling", [REJECTION, CUT], ids=["rejection", "cut"])
def test_on_a_shared_device_a_single_pass_has_to_pay_for_itself_alone(sampling):
    growth = GROWTH.model_copy(update={"shares_device": True})
    grower, _ = make_grower(small_model("llama"), growth)
    grower.calibrate({1: 1.0, 2: 1.0})
    session = open_session(grower, [5, 9, 3], sampling, growth)
    grower.step([session])  # the target asked for these, whatever they cost
    thrift = grower._thrift
    best = [score for score, _ in grower._wish(session).nodes]
    for step in range(1, 400):  # tokens become dearer, until one pass pays
        grower.target_says(Economics(token_us=int(1000 * thrift._estimate_ms(2) * 1.05**step)))
        if thrift.num_worth_it(best):
            break
    assert not thrift.is_worth_levels(best, levels=2, width=2)
    assert grower.step([session]).num_rows

"""Trees that grow by levels hold what the model says after each of their paths.

The kernels run in Triton's interpreter where there is no CUDA device, hence the size of it.
"""

import random

import pytest

pytest.importorskip("triton", reason="no Triton here")
import tests.unit.inference.fused.conftest  # noqa: F401  it mends the interpreter
from draft_support import GREEDY, REJECTION, SAMPLED, make_session
from tests.unit.inference.fused.fused_models import NUM_SLOTS, fused_runner, small_model

from treedraft.core.growth import ROOT
from treedraft.core.sampling import SamplingParameters
from treedraft.draft.model_children import DraftLimits
from treedraft.draft.model_grower import ModelGrower
from treedraft.draft.model_levels import LevelSteps
from treedraft.draft.settings import DraftSettings, GrowthSettings
from treedraft.inference.block_pool import SlotPool
from treedraft.inference.draft_sampler import draft_children
from treedraft.inference.fused.levels import LevelGrower, Seed
from treedraft.inference.sampler import LawRow

GROWTH = GrowthSettings(levels=2, max_rows_per_session=2, num_children=2, min_score=-20.0)
CUT = SamplingParameters(temperature=1.0, top_k=5, seed=3)


def make_grower(model):
    runner = fused_runner(model)
    pool = SlotPool(NUM_SLOTS)
    limits = DraftLimits(model.vocab_size, model.vocab_size, 512, frozenset({2}))
    levels = LevelGrower(
        runner.model.native, runner.pool, column_ids=None, barren=[2], score_temperature=1.0
    )
    steps = LevelSteps(levels, Seed, pool, limits, GROWTH)
    return ModelGrower(runner, pool, limits, GROWTH, steps), pool


def open_session(grower, text, sampling):
    session = make_session(text, settings=DraftSettings(growth=GROWTH), sampling=sampling)
    grower.add(session, 97)
    return session


def assert_children_are_the_models(model, session):
    """Compare the best child of every node that was run with the model's own best."""
    for place in [ROOT, *session.model.node_slots]:
        path = () if place == ROOT else session.path_tokens(place)
        text = [*session.token_ids, *path]
        row = LawRow(session.spec.sampling, position=len(text))
        expected = draft_children(model.causal_logits(text)[-1:], [row], 1)[0][0][0]
        assert expected in session.tree.children(place)


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_nodes_of_all_levels_have_the_children_of_their_own_path(sampling):
    model = small_model("llama")
    grower, pool = make_grower(model)
    sessions = [open_session(grower, text, sampling) for text in ([5, 9, 3], [8, 4])]
    rng = random.Random(1)
    for _ in range(2):
        report = grower.step(sessions)
        assert set(report.num_rows) == set(sessions)
        for session in sessions:
            depths = [session.tree.depth(node) for node in session.model.node_slots]
            assert max(depths) == 2
            assert_children_are_the_models(model, session)
            used = [s.model.num_slots for s in sessions]
            assert pool.num_free == NUM_SLOTS - sum(used)
        for session in sessions:  # part of the best path, then a surprise
            child = max(session.tree.children(ROOT).values(), key=session.tree.score)
            accepted = session.tree[child].token_id
            session.commit([accepted, rng.randrange(3, 90)], arrived_ns=0)
    for session in sessions:
        session.model.release()
    assert pool.num_free == NUM_SLOTS


@pytest.mark.parametrize("sampling", [REJECTION, CUT], ids=["rejection", "cut"])
def test_what_kernels_do_not_know_grows_by_single_passes(sampling):
    grower, _ = make_grower(small_model("llama"))
    session = open_session(grower, [5, 9, 3], sampling)
    grower.step([session])
    assert session.tree.children(ROOT)
    assert not session.model.node_slots


def test_credit_covers_all_levels():
    grower, _ = make_grower(small_model("llama"))
    assert grower.max_new_nodes == (2 + 2 * 2) * 2

"""What tests of growth by levels share, whoever runs the passes."""

import random

from draft_support import make_session

from treedraft.core.growth import ROOT
from treedraft.core.sampling import SamplingParameters
from treedraft.draft.settings import DraftSettings, GrowthSettings
from treedraft.inference.draft_sampler import draft_children
from treedraft.inference.sampler import LawRow

GROWTH = GrowthSettings(levels=2, max_rows_per_session=2, num_children=2, min_score=-20.0)
CUT = SamplingParameters(temperature=1.0, top_k=5, seed=3)


def open_session(grower, text, sampling, growth=GROWTH):
    session = make_session(text, settings=DraftSettings(growth=growth), sampling=sampling)
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


def assert_grows_by_levels(model, grower, pool, sampling):
    """Grow two sessions through surprises, and give all back."""
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
            assert pool.num_free == pool.num_slots - sum(used)
        for session in sessions:  # part of the best path, then a surprise
            child = max(session.tree.children(ROOT).values(), key=session.tree.score)
            accepted = session.tree[child].token_id
            session.commit([accepted, rng.randrange(3, 90)], arrived_ns=0)
    for session in sessions:
        session.model.release()
    assert pool.num_free == pool.num_slots

"""One score of what model and lookup say, in whatever order they say it."""

import math

import pytest
from draft_support import GREEDY, SAMPLED, FakeTarget, make_drafter, make_session, make_spec
from hypothesis import given, settings
from hypothesis import strategies as st

from treedraft.core.growth import ROOT, TokenSource
from treedraft.core.token_tree import TokenTree
from treedraft.draft.assembly import assemble
from treedraft.draft.calibration import OpinionMixer
from treedraft.draft.settings import DraftSettings, GrowthSettings

MODEL, LOOKUP = TokenSource.DRAFT_MODEL, TokenSource.LOOKUP
TEXT = [11, 42, 7, 99, 300, 5, 64, 8, 11, 42, 7, 99]


def say(session, place, source, **probabilities):
    """Let a source name tokens `t5=0.3` at a place, and add those that are new."""
    guesses = [(int(name[1:]), math.log(p)) for name, p in probabilities.items()]
    for token_id, log_probability in session.hear(place, guesses, source):
        session.add(place, token_id, log_probability, source)


def edges(session, place=ROOT):
    above = session.tree.score(place)
    return {
        token: math.exp(session.tree.score(child) - above)
        for token, child in session.tree.children(place).items()
    }


@pytest.mark.parametrize("sources", [(MODEL, LOOKUP), (LOOKUP, MODEL)])
def test_who_came_first_makes_no_difference(sources):
    session = make_session(TEXT)
    said = {MODEL: {"t5": 0.3, "t6": 0.2}, LOOKUP: {"t5": 0.6, "t7": 0.5}}
    for source in sources:
        say(session, ROOT, source, **said[source])
    mixer, model, lookup = OpinionMixer(), {5: 0.3, 6: 0.2}, {5: 0.6, 7: 0.5}
    assert edges(session) == pytest.approx(
        {token: mixer.probability(token, model, lookup) for token in (5, 6, 7)}, rel=0.11
    )
    assert edges(session)[5] > 0.3
    assert edges(session)[7] < 0.5


def test_a_second_opinion_moves_what_hangs_below_and_is_sent():
    session, target = make_session(TEXT), TokenTree(len(TEXT))
    say(session, ROOT, LOOKUP, t5=0.6)
    first = session.tree.children(ROOT)[5]
    say(session, first, LOOKUP, t6=0.8)
    (growth,) = session.take_growths(draft_us=0, now_ns=0)
    target.graft(growth, session.token_ids)
    say(session, ROOT, MODEL, t9=0.7)
    (growth,) = session.take_growths(draft_us=0, now_ns=0)
    growth.check(1000)
    assert growth.rescored_ids == (first,)
    assert growth.num_nodes == 1
    target.graft(growth, session.token_ids)
    assert {node.token_id: node.score for node in target} == pytest.approx(
        {node.token_id: node.score for node in session.tree}
    )
    assert edges(session)[5] < 0.4
    assert edges(session, first)[6] == pytest.approx(0.8)
    # Said once, it is not said again.
    assert not session.take_growths(draft_us=0, now_ns=0)


def test_a_score_alone_is_worth_a_message_but_not_a_trifle():
    session = make_session(TEXT)
    say(session, ROOT, MODEL, t5=0.5)
    session.take_growths(draft_us=0, now_ns=0)
    say(session, ROOT, MODEL, t5=0.505)
    assert not session.take_growths(draft_us=0, now_ns=0)
    say(session, ROOT, MODEL, t5=0.05)
    (growth,) = session.take_growths(draft_us=0, now_ns=0)
    assert (growth.num_nodes, len(growth.rescored_ids)) == (0, 1)
    growth.check(1000)


def test_opinions_move_with_the_root():
    session = make_session(TEXT)
    say(session, ROOT, LOOKUP, t5=0.6)
    child = session.tree.children(ROOT)[5]
    say(session, child, LOOKUP, t6=0.6)
    session.commit([5], arrived_ns=0)
    say(session, ROOT, MODEL, t6=0.6)
    assert edges(session)[6] > 0.62  # both, although lookup spoke before the commit
    session.commit([77], arrived_ns=0)
    say(session, ROOT, MODEL, t6=0.6)
    assert edges(session)[6] == pytest.approx(0.6, abs=0.02)  # lookup spoke of another place


def test_commits_teach_how_far_to_trust_a_model():
    session = make_session(TEXT)
    for number in range(400):
        say(session, ROOT, MODEL, t5=0.8)
        session.commit([5 if number % 4 == 0 else 99], arrived_ns=0)
    say(session, ROOT, MODEL, t5=0.8)
    assert edges(session)[5] == pytest.approx(0.25, abs=0.15)


def test_what_was_said_below_a_root_counts_as_far_as_the_text_went_that_way():
    def trust(committed):
        session = make_session(TEXT)
        for _ in range(100):
            say(session, ROOT, MODEL, t5=0.6)
            say(session, session.tree.children(ROOT)[5], MODEL, t6=0.6)
            session.commit(committed, arrived_ns=0)
        say(session, ROOT, MODEL, t5=0.6)
        return edges(session)[5]

    assert trust([5, 6]) > trust([5, 99]) > trust([99, 6])


SAID = st.dictionaries(st.sampled_from(["t1", "t2", "t3"]), st.floats(0.01, 1.0), max_size=3)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.integers(0, 30), st.sampled_from([MODEL, LOOKUP]), SAID),
        st.lists(st.integers(1, 4), min_size=1, max_size=3),
        st.just("tell"),
    ),
    max_size=40,
)


@settings(max_examples=150, deadline=None)
@given(STEPS)
def test_scores_never_exceed_the_parents_and_a_target_holds_the_same(steps):
    session, target = make_session(TEXT), TokenTree(len(TEXT))
    for step in [*steps, "tell"]:
        if isinstance(step, list):  # whether all that lives was told before or not
            session.commit(step, arrived_ns=0)
            target.reroot(step)
        elif step != "tell":
            place, source, said = step
            places = [ROOT, *(node.node_id for node in session.tree)]
            say(session, places[place % len(places)], source, **said)
        if step != "tell":
            continue
        for growth in session.take_growths(draft_us=0, now_ns=0):
            growth.check(1000)
            assert not target.graft(growth, session.token_ids).num_dropped
        assert len(target) == len(session.tree)
        for node in session.tree:
            assert node.score <= session.tree.score(node.parent_id) <= 0.0
            assert target[node.node_id].score == pytest.approx(node.score)
        places = {ROOT, *(node.node_id for node in session.tree)}
        opinions = session.opinions
        assert places >= opinions._model.keys() | opinions._lookup.keys()  # nothing piles up


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "T1"])
def test_model_and_lookup_share_a_tree_whose_scores_reach_the_target(tmp_path, toy_model, sampling):
    config = DraftSettings(
        model="toy", kv_tokens=512, growth=GrowthSettings(max_live_nodes=24, num_children=3)
    )
    drafter = make_drafter(tmp_path, settings=config, grower=assemble(toy_model, config).grower)
    target = FakeTarget(drafter)
    target.open(1, make_spec(TEXT, sampling=sampling))
    sources, num_rescored = set(), 0
    for _ in range(30):
        target.grow()
        ((session, _),) = drafter._book.sessions
        assert {node.node_id: node.score for node in target.trees[1]} == pytest.approx(
            {node.node_id: node.score for node in session.tree}, abs=0.11 * 24
        )
        for node in session.tree:
            assert node.score <= session.tree.score(node.parent_id)
            sources.add(node.source)
        target.commit(1, target.best_path(1)[:2] or [1])
        num_rescored += sum(len(g.rescored_ids) for f in target.frames for g in f.growths)
    assert sources == {MODEL, LOOKUP}
    assert num_rescored

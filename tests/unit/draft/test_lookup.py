"""Suffix matching, calibration, and growth by lookup from any place of a tree."""

import math

import pytest
from draft_support import REJECTION, make_session
from hypothesis import given
from hypothesis import strategies as st

from treedraft.core.growth import ROOT, TokenSource
from treedraft.draft.lookup import SessionLookup, weigh
from treedraft.draft.lookup_grower import grow_by_lookup
from treedraft.draft.settings import DraftSettings, GrowthSettings, LookupSettings
from treedraft.draft.tenants import Tenants

SETTINGS = LookupSettings(min_probability=0.0)


def tenant_with(*texts):
    """Return a tenant whose ended sessions wrote these texts."""
    tenants = Tenants(SETTINGS)
    for text in texts:
        tenants.remember(b"t", text)
        while tenants.digest(1000):
            pass
    return tenants.get(b"t")


def path_of(session):
    tokens, place = [], ROOT
    while children := session.tree.children(place):
        place = max(children.values(), key=session.tree.score)
        tokens.append(session.tree[place].token_id)
    return tokens


def test_the_longest_match_wins_over_the_latest():
    lookup = SessionLookup(SETTINGS)
    lookup.read([1, 2, 3, 50, 9, 2, 3, 60, 1, 2, 3])
    assert [p.token_id for p in lookup.propose(())] == [50, 60]


def test_of_equal_matches_the_latest_wins():
    lookup = SessionLookup(SETTINGS)
    lookup.read([7, 2, 3, 50, 8, 2, 3, 60, 9, 2, 3])
    assert lookup.propose(())[0].token_id == 60


def test_a_drafted_path_is_part_of_the_suffix():
    lookup = SessionLookup(SETTINGS)
    lookup.read([1, 2, 3, 4, 5, 9])
    assert lookup.propose(()) == []
    assert [p.token_id for p in lookup.propose((2, 3))] == [4]


def test_what_followed_more_often_counts_for_more():
    """SuffixDecoding's tree of several branches, weighed by frequency."""
    lookup = SessionLookup(SETTINGS)
    lookup.read([*[1, 2, 50, 9] * 3, 1, 2, 60, 8, 1, 2])
    proposals = lookup.propose(())
    assert [p.token_id for p in proposals] == [50, 60]
    assert proposals[0].probability > 2.0 * proposals[1].probability


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(2, 5)), max_size=20))
def test_each_token_is_weighed_by_the_places_that_match_as_long(found):
    matches = weigh(found, max_matches=100)
    for match in matches:
        lengths = [length for token, length in found if token == match.token_id]
        assert match.length == max(lengths)
        assert match.num_agreeing == lengths.count(match.length)
        assert match.num_places == sum(length >= match.length for _, length in found)
        assert 0.0 < match.claim < 1.0
    assert {match.token_id for match in matches} == {token for token, _ in found}
    assert weigh(found, max_matches=2) == matches[:2]


def test_failures_make_a_match_less_trusted_and_successes_more():
    lookup = SessionLookup(SETTINGS)
    lookup.read([1, 2, 3])
    lookup.learn([1, 2])
    before = lookup.propose(())[0].probability
    for other in range(100, 110):
        lookup.learn([other, 1, 2])
    after = max(p.probability for p in lookup.propose(()))
    assert after < before
    copying = SessionLookup(SETTINGS)
    copying.read([1, 2, 3, 4])
    copying.learn([1, 2, 3, 4] * 10 + [1, 2])
    assert copying.propose(())[0].probability > before


def test_weak_matches_are_not_proposed_and_strong_ones_needed_beside_a_model():
    settings = LookupSettings(min_probability=0.1, min_probability_beside_model=0.6)
    text = [1, 2, 3, 9, 1, 2]
    alone, beside = SessionLookup(settings), SessionLookup(settings, is_beside_model=True)
    alone.read(text)
    beside.read(text)
    assert alone.propose(())
    assert not beside.propose(())


def test_recent_traffic_is_looked_up_like_own_text():
    lookup = SessionLookup(SETTINGS, tenant_with([7, 8, 9, 10, 11]))
    lookup.read([1, 7, 8, 9])
    assert [p.token_id for p in lookup.propose(())] == [10]
    assert [p.token_id for p in lookup.propose((10,))] == [11]


def test_two_sources_that_agree_are_surer_than_one():
    text, tenant = [7, 8, 9, 10, 5, 7, 8, 9], tenant_with([7, 8, 9, 10, 11])
    own, both = SessionLookup(SETTINGS), SessionLookup(SETTINGS, tenant)
    for lookup in (own, both):
        lookup.read(text)
    assert both.propose(())[0].token_id == own.propose(())[0].token_id == 10
    assert both.propose(())[0].probability > own.propose(())[0].probability


def test_sources_that_disagree_do_not_add_up_to_more_than_certainty():
    settings = LookupSettings(min_probability=0.0, max_branches=8)
    long = list(range(20, 40))
    lookup = SessionLookup(settings, tenant_with([*long, 60]))
    lookup.read([*long, 50, 9, *long])
    said = {p.token_id: p.probability for p in lookup.say(())}
    assert said.keys() == {50, 60}
    assert sum(said.values()) < 1.0


def test_each_source_is_trusted_by_what_it_would_have_said():
    """Recent traffic that misleads loses its credit, and the own text keeps its own."""
    pairs = [(100 + 2 * i, 101 + 2 * i) for i in range(40)]
    tenant = tenant_with([t for first, second in pairs for t in (first, second, 7)])
    lookup = SessionLookup(SETTINGS, tenant)
    lookup.read([1, 2, 3, 4])
    said_before = lookup.say((*pairs[0],))[0].probability
    for first, second in pairs:
        lookup.learn([first, second, 8])
        lookup.learn([1, 2, 3, 4])
    own, recent = lookup.say((1, 2))[0], lookup.say((50, *pairs[0]))
    assert own.probability > 0.8
    by_token = {p.token_id: p.probability for p in recent}
    assert by_token[8] > by_token[7]
    # The tenant's next session begins with what was learned.
    fresh = SessionLookup(SETTINGS, tenant)
    fresh.read([1])
    assert fresh.say((*pairs[0],))[0].probability < 0.5 * said_before


def test_a_copy_grows_into_a_chain_and_ahead_of_the_root():
    text = [*range(10, 30), 5, 10, 11, 12]
    session = make_session(text, lookup=True)
    added = grow_by_lookup(session, max_nodes=8)
    assert added == 8
    assert path_of(session) == list(range(13, 21))
    assert {node.source for node in session.tree} == {TokenSource.LOOKUP}
    # The rest comes with the next step, and the chain lives on after a commit.
    (growth,) = session.take_growths(draft_us=1, now_ns=5000)
    assert growth.token_ids == tuple(range(13, 21))
    assert growth.parent_offsets == (0, *[1] * 7)
    assert growth.held_us == 5
    session.commit([13, 14], arrived_ns=7)
    grow_by_lookup(session, max_nodes=3)
    assert path_of(session) == list(range(15, 24))


def test_beside_a_model_places_that_hardly_come_true_are_not_looked_at():
    session = make_session([7, 8, 9, 7, 8, 3], lookup=True)
    for token_id, probability in ((40, 0.6), (41, 0.1)):
        session.add(ROOT, token_id, math.log(probability), TokenSource.DRAFT_MODEL)
    likely, unlikely = (session.tree.children(ROOT)[token_id] for token_id in (40, 41))
    session.model = object()
    grow_by_lookup(session, max_nodes=100)
    assert likely in session.looked_up
    assert unlikely not in session.looked_up
    session.model = None  # nobody else will look
    grow_by_lookup(session, max_nodes=100)
    assert unlikely in session.looked_up


def test_scores_never_rise_and_growth_stops_at_its_limits():
    settings = DraftSettings(growth=GrowthSettings(max_live_nodes=5, max_depth=3, min_score=-2.0))
    text = [1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3]
    session = make_session(text, settings=settings, lookup=True)
    grow_by_lookup(session, max_nodes=100)
    assert path_of(session) == [4, 5, 6]
    for node in session.tree:
        assert node.score <= session.tree.score(node.parent_id)
        assert node.score >= -2.0


def test_in_rejection_mode_each_place_gets_one_child_of_a_point_mass():
    session = make_session([1, 2, 3, 50, 9, 2, 3, 60, 1, 2, 3], sampling=REJECTION, lookup=True)
    grow_by_lookup(session, max_nodes=100)
    (growth,) = session.take_growths(draft_us=0, now_ns=0)
    assert growth.num_nodes == len(growth.sibling_laws) > 1
    growth.check(100)
    for law in growth.sibling_laws:
        assert law.num_children == 1
        assert law.probabilities == (1.0,)
    # The root after a commit has its child already and never gets a second one.
    session.commit([growth.token_ids[0]], arrived_ns=0)
    grow_by_lookup(session, max_nodes=100)
    assert all(len(session.tree.children(n.node_id)) <= 1 for n in session.tree)
    assert len(session.tree.children(ROOT)) == 1


@pytest.mark.parametrize("path", [(), (3,), (3, 1, 2)])
def test_probabilities_are_probabilities(path):
    lookup = SessionLookup(SETTINGS)
    lookup.read([1, 2, 3] * 20)
    lookup.learn([1, 2, 3] * 20)
    for proposal in lookup.propose(path):
        assert 0.0 < proposal.probability < 1.0
        assert math.log(proposal.probability) < 0.0

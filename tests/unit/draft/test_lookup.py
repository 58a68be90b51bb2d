"""Suffix matching, calibration, and growth by lookup from any place of a tree."""

import math

import pytest
from draft_support import REJECTION, make_session
from hypothesis import given
from hypothesis import strategies as st

from treedraft.core.growth import ROOT, TokenSource
from treedraft.draft.lookup import SessionLookup, SuffixIndex
from treedraft.draft.lookup_grower import grow_by_lookup
from treedraft.draft.settings import DraftSettings, GrowthSettings, LookupSettings

SETTINGS = LookupSettings(min_probability=0.0)


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


@given(st.lists(st.integers(0, 2), max_size=30), st.lists(st.integers(0, 2), max_size=4))
def test_what_is_found_is_the_longest_earlier_occurrence(text, path):
    index = SuffixIndex(LookupSettings(min_suffix=2, max_suffix=6, max_candidates=100))
    for token_id in text:
        index.append(token_id)
    whole = (text + path)[-6:]
    longest = {}
    for place in range(1, len(text)):
        length = 0
        while length < min(place, len(whole)) and text[place - 1 - length] == whole[-1 - length]:
            length += 1
        if length >= 2:
            longest[text[place]] = max(length, longest.get(text[place], 0))
    found = index.find(path)
    assert len(found) == min(2, len(longest))
    assert all(match.length == longest[match.token_id] for match in found)
    if found:
        assert found[0].length == max(longest.values())


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


def test_a_copy_grows_into_a_chain_and_ahead_of_the_root():
    text = [*range(10, 30), 5, 10, 11, 12]
    session = make_session(text, lookup=True)
    added = grow_by_lookup(session, max_nodes=8)
    assert added == 8
    assert path_of(session) == list(range(13, 21))
    assert {node.source for node in session.tree} == {TokenSource.LOOKUP}
    # The rest comes with the next step, and the chain lives on after a commit.
    growth = session.take_growth(draft_us=1, now_ns=5000)
    assert growth.token_ids == tuple(range(13, 21))
    assert growth.parent_offsets == (0, *[1] * 7)
    assert growth.held_us == 5
    session.commit([13, 14], arrived_ns=7)
    grow_by_lookup(session, max_nodes=3)
    assert path_of(session) == list(range(15, 24))


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
    growth = session.take_growth(draft_us=0, now_ns=0)
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

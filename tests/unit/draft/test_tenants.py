"""Recent traffic: what is kept, for whom, and how much of it at most."""

from array import array

import pytest
from draft_support import FakeTarget, make_drafter, make_spec
from hypothesis import given, settings
from hypothesis import strategies as st

from treedraft.draft.settings import DraftSettings, LookupSettings, RecentTrafficSettings
from treedraft.draft.tenants import Tenants

TEXT = list(range(10, 60))
MAX_TOKENS = 1024


def make_tenants(**recent):
    return Tenants(LookupSettings(recent=RecentTrafficSettings(**recent)))


def remember(tenants, salt, token_ids):
    tenants.remember(salt, token_ids)
    while tenants.digest(64):
        pass


def finds(tenants, salt, suffix):
    return [token for token, _ in tenants.get(salt).recent.find(array("I", suffix))]


def test_a_text_is_found_by_its_own_tenant_alone():
    tenants = make_tenants()
    remember(tenants, b"a", TEXT)
    assert finds(tenants, b"a", [12, 13, 14]) == [15]
    assert finds(tenants, b"b", [12, 13, 14]) == []
    assert finds(tenants, b"", [12, 13, 14]) == []


def test_text_without_a_tenant_is_kept_only_where_all_are_one():
    tenants = make_tenants()
    remember(tenants, b"", TEXT)
    assert tenants.num_tokens == 0
    tenants = make_tenants(without_tenant=True)
    remember(tenants, b"", TEXT)
    assert finds(tenants, b"", [12, 13, 14]) == [15]
    assert finds(tenants, b"a", [12, 13, 14]) == []


def test_a_text_is_taken_in_bit_by_bit():
    tenants = make_tenants()
    tenants.remember(b"t", list(range(500)))
    num_calls = 0
    while tenants.digest(64):
        num_calls += 1
        assert tenants.num_tokens <= 64 * num_calls + 1
    assert num_calls >= 500 // 64
    assert finds(tenants, b"t", [497, 498]) == [499]


def test_a_known_beginning_is_not_kept_twice_and_what_follows_it_is():
    tenants = make_tenants()
    prompt = list(range(1000, 1320))
    remember(tenants, b"t", [*prompt, 1, 2, 3])
    once = tenants.num_tokens
    remember(tenants, b"t", [*prompt, 4, 5, 6])
    assert tenants.num_tokens - once < 64
    # Also across the seam between what is known and what is new.
    assert finds(tenants, b"t", prompt[-16:]) == [4, 1]
    assert finds(tenants, b"t", [4, 5]) == [6]
    # A conversation that goes on, and a session that was opened afresh.
    before = tenants.num_tokens
    remember(tenants, b"t", prompt)
    assert tenants.num_tokens == before


def test_the_oldest_text_of_a_tenant_goes_first():
    tenants = make_tenants(max_tokens_per_tenant=MAX_TOKENS)
    texts = [list(range(1000 * n, 1000 * n + 200)) for n in range(1, 20)]
    for text in texts:
        remember(tenants, b"t", text)
        assert tenants.num_tokens <= MAX_TOKENS
    assert tenants.num_tokens > MAX_TOKENS // 2
    assert finds(tenants, b"t", texts[-1][:16]) == [texts[-1][16]]
    assert finds(tenants, b"t", texts[0][:16]) == []
    # What was pushed out is taken in again.
    remember(tenants, b"t", texts[0])
    assert finds(tenants, b"t", texts[0][:16]) == [texts[0][16]]


def test_the_tenant_that_came_longest_ago_pays_for_the_others():
    tenants = make_tenants(max_tokens_per_tenant=MAX_TOKENS, max_tokens=2 * MAX_TOKENS)
    for salt in (b"old", b"young"):
        remember(tenants, salt, range(900))
    tenants.get(b"old")  # comes again
    remember(tenants, b"new", range(900))
    assert tenants.num_tokens <= 2 * MAX_TOKENS
    assert finds(tenants, b"old", [1, 2]) == [3]
    assert finds(tenants, b"new", [1, 2]) == [3]
    assert finds(tenants, b"young", [1, 2]) == []


def test_of_too_many_tenants_the_one_that_came_longest_ago_is_forgotten():
    tenants = make_tenants(max_tenants=2)
    held = tenants.get(b"first")
    remember(tenants, b"first", TEXT)
    for salt in (b"second", b"third"):
        remember(tenants, salt, TEXT)
    assert len(tenants) == 2
    assert held.recent.num_tokens == 0  # also where a session still holds it
    assert finds(tenants, b"first", [12, 13]) == []


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.binary(max_size=1), st.integers(1, 3000)), max_size=12))
def test_no_limit_is_ever_exceeded(arrivals):
    tenants = make_tenants(
        max_tokens_per_tenant=MAX_TOKENS, max_tokens=3 * MAX_TOKENS, max_tenants=5
    )
    for number, (salt, length) in enumerate(arrivals):
        tenants.remember(salt, range(number * 10_000, number * 10_000 + length))
        is_busy = True
        while is_busy:
            is_busy = tenants.digest(64)
            assert tenants.num_tokens <= 3 * MAX_TOKENS
            assert len(tenants) <= 5
            assert tenants.get(salt).recent.num_tokens <= MAX_TOKENS
    # Tables are laid out by blocks, so a tenant of few tokens takes one block's.
    assert tenants.num_bytes <= 5 * (MAX_TOKENS * 24 + 4 * 2048)


def test_a_full_store_takes_about_twenty_bytes_for_a_token():
    tenants = make_tenants()
    remember(tenants, b"t", range(70_000))
    assert tenants.num_tokens > 50_000
    assert tenants.num_bytes / tenants.num_tokens < 22


def test_the_line_of_texts_is_bounded():
    tenants = make_tenants(max_tokens=MAX_TOKENS)
    for first in range(0, 100_000, 1000):
        tenants.remember(b"t", range(first, first + 400))
    num_calls = 0
    while tenants.digest(64):
        num_calls += 1
    assert num_calls <= MAX_TOKENS // 64 + 1


@pytest.mark.parametrize(
    "lookup",
    [
        LookupSettings(enabled=False),
        LookupSettings(recent=RecentTrafficSettings(enabled=False)),
    ],
)
def test_nothing_is_kept_where_that_is_turned_off(lookup):
    tenants = Tenants(lookup)
    tenants.remember(b"t", TEXT)
    assert not tenants.digest(1000)
    assert tenants.num_tokens == tenants.num_bytes == 0


# Sessions of the drafter as its targets see them.


def hold_session(target, number, salt, token_ids, commits):
    """Open, commit and close a session; return all that the drafter sent for it."""
    first = len(target.frames)
    target.open(number, make_spec(token_ids, tenant_salt=salt))
    target.grow()
    for token_id in commits:
        target.commit(number, [token_id])
        target.grow()
    target.send(closes=[number])
    target.grow()
    return [
        (g.base_length, g.parent_offsets, g.token_ids, g.scores, g.rescored_ids, g.rescored_scores)
        for frame in target.frames[first:]
        for g in frame.growths
    ]


def test_a_session_profits_from_those_of_its_tenant_that_have_ended(tmp_path):
    target = FakeTarget(make_drafter(tmp_path))
    assert not hold_session(target, 1, b"a", [1, 2, 3], TEXT)
    sent = hold_session(target, 2, b"a", [7, *TEXT[:5]], [])
    assert sent[0][2][:5] == tuple(TEXT[5:10])
    assert not hold_session(target, 3, b"b", [7, *TEXT[:5]], [])
    assert not hold_session(target, 4, b"", [7, *TEXT[:5]], [])


SESSIONS = st.tuples(
    st.lists(st.integers(0, 3), min_size=1, max_size=12), st.lists(st.integers(0, 3), max_size=8)
)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.booleans(), SESSIONS), max_size=8),
    st.lists(st.sampled_from([b"b", b"", b"aa"]), min_size=1, max_size=1),
)
def test_nothing_that_a_tenant_is_sent_depends_on_another(tmp_path_factory, plan, salts):
    """Tenants interleave at one drafter; each gets, score by score, what it gets alone."""
    salt_of = {True: b"a", False: salts[0]}
    folder = tmp_path_factory.mktemp("tenants")
    shared = FakeTarget(make_drafter(folder))
    alone = {who: FakeTarget(make_drafter(folder)) for who in salt_of}
    for number, (who, (prompt, output)) in enumerate(plan, start=1):
        sent = hold_session(shared, number, salt_of[who], prompt, output)
        assert sent == hold_session(alone[who], number, salt_of[who], prompt, output)


def test_off_by_setting_a_session_sees_its_own_text_alone(tmp_path):
    lookup = LookupSettings(recent=RecentTrafficSettings(enabled=False))
    target = FakeTarget(make_drafter(tmp_path, settings=DraftSettings(lookup=lookup)))
    hold_session(target, 1, b"", [1, 2, 3], TEXT)
    assert not hold_session(target, 2, b"", [7, *TEXT[:5]], [])

"""The policy: which nodes, of which sessions, next."""

import math

import pytest
from draft_support import make_session
from hypothesis import given
from hypothesis import strategies as st

from treedraft.core.exchange import Economics
from treedraft.core.growth import ROOT, TokenSource
from treedraft.core.sampling import SpeculationOptions
from treedraft.core.token_tree import TokenTree
from treedraft.draft.growth import GrowthLimits, Wish, frontier, least_score, plan_step
from treedraft.draft.settings import GrowthSettings
from treedraft.target.settings import DraftLinkSettings

MODEL = TokenSource.DRAFT_MODEL
LIMITS = GrowthLimits(max_live_nodes=10, max_depth=3, num_children=2, min_score=-4.0)


def two_levels():
    tree = TokenTree(1)
    a = tree.add(ROOT, 1, -0.5, MODEL)
    b = tree.add(ROOT, 2, -1.0, MODEL)
    c = tree.add(a, 3, -0.75, MODEL)
    return tree, a, b, c


def test_the_best_score_is_expanded_first():
    tree, a, b, _ = two_levels()
    assert frontier(tree, LIMITS, expanded=(), barren=()) == [(-0.5, a), (-1.0, b)]


def test_a_node_waits_for_its_parent():
    tree, a, b, c = two_levels()
    assert frontier(tree, LIMITS, expanded={a}, barren=()) == [(-0.75, c), (-1.0, b)]


def test_growth_stops_below_the_least_score_at_the_depth_and_after_the_end_of_text():
    tree, a, _, c = two_levels()
    deep = tree.add(c, 4, -0.8, MODEL)
    tree.add(ROOT, 5, -4.5, MODEL)
    found = frontier(tree, LIMITS, expanded={a, c}, barren={2})
    assert deep not in [node for _, node in found]  # its children would be at depth 4
    assert found == []


def test_a_full_tree_is_not_grown():
    tree = TokenTree(1)
    for token_id in range(10):
        tree.add(ROOT, token_id, -0.5, MODEL)
    assert frontier(tree, LIMITS, expanded=(), barren=()) == []


def test_no_speculation_means_no_growth():
    for options in (
        SpeculationOptions(enabled=False),
        SpeculationOptions(max_nodes=0),
        SpeculationOptions(max_depth=0),
    ):
        assert GrowthLimits.of(GrowthSettings(), options).max_live_nodes == 0
        assert make_session([1], speculation=options).num_free_nodes == 0
    assert GrowthLimits.of(GrowthSettings(), SpeculationOptions(max_depth=2)).max_depth == 5


def test_roots_come_before_nodes_and_nodes_by_score_over_all_sessions():
    wishes = [
        Wish(0, ((-0.1, 11), (-0.2, 12), (-0.3, 13))),
        Wish(3),
        Wish(0, ((-0.15, 31),)),
    ]
    shares = plan_step(wishes, max_rows=4, max_rows_per_session=2, prefill_chunk=100)
    assert [(s.index, s.num_tokens, s.node_ids) for s in shares] == [
        (1, 3, ()),
        (0, 0, (11, 12)),
        (2, 0, (31,)),
    ]


@given(
    st.lists(st.integers(0, 50), max_size=12),
    st.integers(1, 8),
    st.integers(1, 4),
    st.integers(0, 60),
)
def test_a_step_keeps_its_size_and_serves_somebody(missing, max_rows, per_session, chunk):
    wishes = [
        Wish(count)
        if count % 2
        else Wish(0, ((-float(count), 2 * i), (-float(count) - 1, 2 * i + 1)))
        for i, count in enumerate(missing)
    ]
    shares = plan_step(
        wishes, max_rows=max_rows, max_rows_per_session=per_session, prefill_chunk=chunk
    )
    assert bool(shares) == bool(wishes)
    assert sum(len(s.node_ids) or 1 for s in shares) <= max_rows
    assert sum(max(0, s.num_tokens - 1) for s in shares) <= chunk
    assert len({s.index for s in shares}) == len(shares)
    for share in shares:
        wish = wishes[share.index]
        assert share.num_tokens <= wish.num_missing
        assert bool(share.num_tokens) == bool(wish.num_missing)
        assert len(share.node_ids) <= per_session


def test_the_least_score_worth_telling_follows_what_a_token_takes():
    def least(token_us):
        return least_score(LIMITS, Economics(token_us=token_us))

    assert least(0) == LIMITS.min_child_score == -8.0
    assert least(1_000_000) == -8.0
    assert least(6000) == pytest.approx(math.log(1e-3))
    assert least(1) == least(6) == -4.0


def test_on_cores_of_its_own_a_drafter_grows_wide_but_for_what_was_set():
    wide = GrowthSettings(num_children=3, levels=2).on_own_cores()
    assert (wide.num_children, wide.levels) == (3, 2)
    assert (wide.max_live_nodes, wide.max_rows_per_session, wide.min_score) == (320, 12, -6.0)
    # What a step may add beyond the limit still fits at a target.
    widest = GrowthSettings().on_own_cores()
    beyond = widest.max_rows_per_session * widest.num_children
    assert widest.max_live_nodes + beyond <= DraftLinkSettings().max_live_nodes

import random
from collections import Counter
from dataclasses import replace

import pytest
from scipy import stats
from tests.unit.coordinator.support import a_drafter, a_target

from treedraft.coordinator.placement import (
    DrafterCandidate,
    TargetCandidate,
    choose_drafters,
    choose_in_pool,
    place,
)
from treedraft.coordinator.shares import draw_order, shares_of
from treedraft.core.errors import UnavailableError
from treedraft.core.rollout import NO_WEIGHTS, Pool
from treedraft.core.worker import WorkerReport


def in_pool(pool, weight=1.0, worker_id="", **report):
    registration = a_target(worker_id or f"of-{pool}", pool=pool, weight=weight)
    return TargetCandidate(registration, WorkerReport(**report))


def drafter_in(pool, weight=1.0, worker_id="", **registration):
    return DrafterCandidate(
        a_drafter(worker_id or f"of-{pool}", pool=pool, weight=weight, **registration),
        WorkerReport(),
    )


def no_draw():
    pytest.fail("one pool needs no draw")


def test_shares_are_announced_unless_somebody_has_set_them():
    workers = [a_target("a", pool="v1", weight=3.0), a_target("b", pool="v2", weight=1.0)]
    assert shares_of(workers, NO_WEIGHTS) == {"v1": 3.0, "v2": 1.0}
    assert shares_of(workers, {Pool("target", "v2"): 0.0}) == {"v1": 3.0, "v2": 0.0}
    # The pool of drafters with the same name is another one.
    assert shares_of(workers, {Pool("draft", "v2"): 0.0}) == {"v1": 3.0, "v2": 1.0}


def test_a_new_announcement_counts_once_the_first_worker_has_it():
    workers = [a_target("a", pool="v1", weight=0.0), a_target("b", pool="v1", weight=2.0)]
    assert shares_of(workers, NO_WEIGHTS) == {"v1": 2.0}


def test_sessions_follow_the_shares():
    rng = random.Random(7)
    shares = {"a": 1.0, "b": 2.0, "c": 7.0, "none": 0.0}
    first = Counter(draw_order(shares, rng.random)[0] for _ in range(10_000))
    expected = [1000, 2000, 7000]
    assert set(first) == {"a", "b", "c"}
    assert stats.chisquare([first["a"], first["b"], first["c"]], expected).pvalue > 1e-4


def test_the_second_place_is_drawn_among_the_rest():
    rng = random.Random(8)
    shares = {"a": 1.0, "b": 3.0, "c": 4.0}
    orders = [draw_order(shares, rng.random) for _ in range(10_000)]
    second = Counter(order[1] for order in orders if order[0] == "c")
    total = sum(second.values())
    assert stats.chisquare([second["a"], second["b"]], [total / 4, total * 3 / 4]).pvalue > 1e-4


def test_without_pools_nothing_is_drawn():
    candidates = [in_pool("", worker_id="b"), in_pool("", worker_id="a")]
    assert choose_in_pool(candidates, NO_WEIGHTS, no_draw).registration.worker_id == "a"


def test_a_pool_with_no_share_gets_nothing_even_alone():
    with pytest.raises(UnavailableError) as caught:
        choose_in_pool([in_pool("v2", weight=0.0)], NO_WEIGHTS, no_draw)
    assert caught.value.reason == "NO_TARGET"


@pytest.mark.parametrize("state", [{"is_draining": True}, {"num_sessions": 8}])
def test_a_pool_that_cannot_take_it_is_passed_over(state):
    candidates = [in_pool("large", 1e6, **state), in_pool("small", 1e-6)]
    for seed in range(20):
        found = choose_in_pool(candidates, NO_WEIGHTS, random.Random(seed).random)
        assert found.registration.pool == "small"


def test_a_pool_whose_targets_may_be_gone_is_passed_over():
    gone = replace(in_pool("large", 1e6), is_doubted=True)
    found = choose_in_pool([gone, in_pool("small", 1e-6)], NO_WEIGHTS, random.Random(1).random)
    assert found.registration.pool == "small"


def test_if_all_are_full_the_session_waits_where_sessions_go_at_all():
    candidates = [
        in_pool("v1", num_sessions=8),
        in_pool("v2", num_sessions=9),
        in_pool("out", weight=0.0),
    ]
    found = choose_in_pool(candidates, NO_WEIGHTS, random.Random(1).random)
    assert found.registration.pool == "v1"


def test_within_a_pool_the_cheapest_target_is_taken():
    candidates = [in_pool("v1", worker_id="a", num_sessions=3), in_pool("v1", worker_id="b")]
    assert choose_in_pool(candidates, NO_WEIGHTS, no_draw).registration.worker_id == "b"


def test_a_session_that_moves_stays_with_its_numbers_whatever_the_share():
    placement = place([in_pool("v1", weight=0.0)], (), num_drafters=1, is_new=False)
    assert placement.target.pool == "v1"


def test_drafters_are_of_one_pool_and_lookup_fills_up():
    candidates = [
        drafter_in("new", worker_id="n1"),
        drafter_in("new", worker_id="n2"),
        drafter_in("old", worker_id="o1"),
        drafter_in("copy", worker_id="c1", tokenizer_hash=""),
    ]
    seen = set()
    for seed in range(20):
        found = choose_drafters(candidates, a_target(), 3, draw=random.Random(seed).random)
        seen.add(tuple(drafter.worker_id for drafter in found))
    assert seen == {("n1", "n2", "c1"), ("o1", "c1")}


def test_a_pool_of_drafters_is_backed_out_of():
    candidates = [drafter_in("new"), drafter_in("old"), drafter_in("copy", tokenizer_hash="")]
    out = {Pool("draft", "new"): 0.0, Pool("draft", "copy"): 0.0}
    placement = place([in_pool("v1")], candidates, num_drafters=3, weights=out, draw=no_draw)
    assert placement.draft_pools == ("old",)
    assert [drafter.worker_id for drafter in placement.drafters] == ["of-old"]


def test_without_any_share_there_are_no_drafts():
    out = {Pool("draft", "new"): 0.0}
    placement = place([in_pool("v1")], [drafter_in("new")], num_drafters=3, weights=out)
    assert (placement.drafters, placement.draft_pools) == ((), ())


def test_the_reason_names_the_pool():
    assert "of pool v1" in place([in_pool("v1")], (), num_drafters=0).reason

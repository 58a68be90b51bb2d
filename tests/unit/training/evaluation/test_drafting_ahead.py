"""Recorded texts, a real drafter, a link, and a clock that is computed."""

import pytest
from evaluation_toys import at
from scripts.drafting_ahead import PASS_MS, Player
from scripts.far_drafter import Link, time_of

from treedraft.draft.settings import GrowthSettings


@pytest.fixture(scope="module")
def play(target, drafter, texts):
    def played(round_trip_ms, *, is_synchronous=False, **growth):
        link = Link(round_trip_ms, num_verified=4, is_synchronous=is_synchronous)
        player = Player(drafter, GrowthSettings(**growth), link, target.vocab_size)
        return player.play(at(texts, 0.0))

    return played


def test_all_tokens_are_emitted_whatever_the_link(play, texts):
    num_tokens = sum(text.num_response_tokens - 1 for text in at(texts, 0.0))
    for round_trip_ms in (0.0, 19.0):
        for is_synchronous in (False, True):
            played = play(round_trip_ms, is_synchronous=is_synchronous, max_live_nodes=8)
            assert played.num_tokens == num_tokens
            assert played.num_rounds < num_tokens


def test_the_synchronous_exchange_pays_for_the_way_and_drafting_ahead_less(play):
    near, far = (play(ms, is_synchronous=True, max_live_nodes=8) for ms in (0.0, 19.0))
    assert far.num_rounds == near.num_rounds
    assert far.time_ms >= near.time_ms + 19.0 * (far.num_rounds - 3)
    ahead = play(19.0)
    assert near.time_ms < ahead.time_ms < far.time_ms
    assert "hits" in ahead.line()


def test_nothing_depends_on_the_machine(play):
    assert play(5.0) == play(5.0)


def test_times_lie_on_lines_between_what_is_known():
    assert time_of(PASS_MS, 1) == 19.0
    assert time_of(PASS_MS, 3) == pytest.approx((18.6 + 19.7) / 2)
    assert time_of(PASS_MS, 32) == 2 * PASS_MS[16]

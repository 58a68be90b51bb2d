"""Steps are as wide as a drafter is quick and its target slow."""

import pytest

from treedraft.core.exchange import Economics
from treedraft.draft.breadth import Breadth
from treedraft.draft.settings import GrowthSettings

NARROW = GrowthSettings()
WIDE = NARROW.on_own_cores()


def settled(token_us, *, child_us=2.0, step_ms=0.1, num_sessions=1, breadth=None):
    """Return what a drafter comes to whose host takes so long for a step and for each child."""
    breadth = breadth or Breadth(NARROW, WIDE)
    breadth.target_says(Economics(token_us, 0))
    for _ in range(400):
        num_children = num_sessions * 4 * breadth.rows * breadth.num_children
        host_ms = step_ms + num_children * child_us / 1e3
        breadth.step_finished(host_ms, num_sessions=num_sessions)
    return breadth.rows, breadth.num_children


def test_it_begins_wide_and_stays_so_where_nobody_says_what_a_token_takes():
    assert settled(0) == (12, 16)


def test_long_passes_leave_time_for_wide_steps_and_short_ones_do_not():
    assert settled(12_000) == (12, 16)
    assert settled(600) == (4, 4)


def test_between_the_two_the_host_has_a_quarter_of_a_tokens_time():
    rows, num_children = settled(2000)
    assert 4 < rows < 12
    assert 0.1 + 4 * rows * num_children * 2e-3 == pytest.approx(0.5, rel=0.15)


def test_a_quicker_host_grows_wider():
    assert settled(2000, child_us=1.0) > settled(2000, child_us=2.0)


def test_sessions_that_wait_together_have_the_time_of_all():
    alone = settled(1500, step_ms=0.0)
    assert settled(1500, step_ms=0.0, num_sessions=4) == alone


def test_it_widens_again_when_the_target_slows_down():
    breadth = Breadth(NARROW, WIDE)
    assert settled(600, breadth=breadth) == (4, 4)
    assert settled(12_000, breadth=breadth) == (12, 16)


def test_a_hiccup_hardly_changes_it():
    breadth = Breadth(NARROW, WIDE)
    breadth.target_says(Economics(12_000, 0))
    breadth.step_finished(500.0, num_sessions=1)
    assert breadth.rows >= 11


def test_where_there_is_one_shape_nothing_is_chosen():
    breadth = Breadth(NARROW, NARROW)
    breadth.target_says(Economics(10, 0))
    breadth.step_finished(50.0, num_sessions=1)
    assert (breadth.rows, breadth.num_children) == (4, 4)

"""What drafting promises at a load: by the prices of rows, and by what was seen elsewhere."""

import pytest

from treedraft.target.forecast import Forecast
from treedraft.target.step_costs import StepCosts


def costs(*, row_ms, session_ms=0.0):
    known = StepCosts()
    for rows in (1, 2, 4, 8, 16, 32, 64):
        known.observe(rows, 20.0 + row_ms * (rows - 1))
    known.calibrate_sessions(16, known.estimate(16) + 15 * session_ms)
    return known


def test_cheap_rows_promise_much_and_dear_ones_a_loss():
    assert Forecast(costs(row_ms=0.1)).gain_steps(1) > 0.5
    assert Forecast(costs(row_ms=15.0)).gain_steps(1) < 0.0


def test_the_more_sessions_the_less_a_step_gains():
    forecast = Forecast(costs(row_ms=0.6))
    gains = [forecast.gain_steps(number) for number in (1, 4, 8, 16, 32)]
    assert gains == sorted(gains, reverse=True)
    assert gains[0] > 0.0 > gains[-1]


def test_drafts_that_come_true_less_often_promise_less():
    forecast = Forecast(costs(row_ms=0.3))
    before = forecast.gain_steps(4)
    for _ in range(200):
        forecast.observe(num_sessions=1, num_nodes=8, num_accepted=0, draft_ms=5.0)
    assert forecast.gain_steps(4) < 0.0 < before


def test_what_drafts_took_at_one_load_is_expected_at_others():
    forecast = Forecast(costs(row_ms=0.1))
    for _ in range(100):
        forecast.observe(num_sessions=1, num_nodes=4, num_accepted=1.18, draft_ms=2.0)
    quick = forecast.gain_steps(8)
    for _ in range(100):
        forecast.observe(num_sessions=1, num_nodes=4, num_accepted=1.18, draft_ms=12.0)
    assert forecast.gain_steps(8) < quick - 0.5


def test_what_a_plain_step_takes_beside_its_pass_dilutes_the_price_of_drafts():
    forecast = Forecast(costs(row_ms=1.0))
    assert forecast.gain_steps(4, overhead_ms=20.0) > forecast.gain_steps(4)


@pytest.mark.parametrize("num_nodes", [0, 1, 3, 100])
def test_any_number_of_nodes_can_be_learned_from(num_nodes):
    forecast = Forecast(costs(row_ms=0.1))
    forecast.observe(num_sessions=2, num_nodes=num_nodes, num_accepted=0, draft_ms=-1.0)
    assert 0.0 < forecast.gain_steps(1) < 2.65  # what 16 nodes bring where rows are free


def test_a_drafter_that_takes_turns_is_worth_a_short_way_and_not_one_of_two_passes():
    forecast = Forecast(costs(row_ms=0.3), takes_turns=True)
    gains = [forecast.gain_steps(1, travel_ms=travel_ms) for travel_ms in (0, 5, 20, 50)]
    assert gains == sorted(gains, reverse=True)
    assert gains[1] > 0.3
    assert gains[3] < 0.0


def test_trees_that_are_grown_ahead_are_worth_less_over_a_long_way_and_still_something():
    forecast = Forecast(costs(row_ms=0.3))
    gains = [forecast.gain_steps(1, travel_ms=travel_ms) for travel_ms in (0, 5, 20, 50)]
    assert gains == sorted(gains, reverse=True)
    assert gains[-1] < 0.3 * gains[0]


def test_the_way_is_no_part_of_what_a_drafter_takes():
    near, far = (Forecast(costs(row_ms=0.3), takes_turns=True) for _ in range(2))
    for _ in range(100):
        near.observe(num_sessions=1, num_nodes=4, num_accepted=1, draft_ms=6.0)
        far.observe(num_sessions=1, num_nodes=4, num_accepted=1, draft_ms=36.0, travel_ms=30.0)
    assert far.gain_steps(1) == pytest.approx(near.gain_steps(1))


def test_what_a_missed_token_takes_is_learned_where_it_is_waited_for():
    def missed_token_ms(*, takes_turns):
        forecast = Forecast(costs(row_ms=0.3), takes_turns=takes_turns)
        for _ in range(100):
            forecast.observe(num_sessions=8, num_nodes=8, num_accepted=4, draft_ms=4.0)
        for _ in range(100):
            forecast.observe(
                num_sessions=8, num_nodes=8, num_accepted=4, draft_ms=44.0, num_missed=400
            )
        return forecast.missed_token_ms

    unknown = Forecast(costs(row_ms=0.3)).missed_token_ms
    assert missed_token_ms(takes_turns=True) == pytest.approx(0.1, rel=0.1)
    assert missed_token_ms(takes_turns=False) == unknown


def test_to_catch_up_is_no_part_of_what_a_step_with_drafts_takes():
    forecast = Forecast(costs(row_ms=0.3), takes_turns=True)
    for _ in range(100):
        forecast.observe(num_sessions=1, num_nodes=4, num_accepted=1, draft_ms=6.0)
    before = forecast.gain_steps(1)
    forecast.observe(num_sessions=1, num_nodes=4, num_accepted=1, draft_ms=500.0, num_missed=4000)
    assert forecast.gain_steps(1) == pytest.approx(before, abs=0.05)

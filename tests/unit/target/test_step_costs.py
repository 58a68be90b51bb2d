"""Prices of passes: by size, along with the machine, apart from what drafters disturb."""

import pytest

from treedraft.target.step_costs import StepCosts


def known(**times: float) -> StepCosts:
    costs = StepCosts()
    for rows, time_ms in times.items():
        costs.observe(int(rows[1:]), time_ms)
    return costs


def test_prices_interpolate_and_extrapolate():
    costs = StepCosts()
    assert costs.estimate(5) == 1.0
    costs = known(r1=10.0)
    assert costs.estimate(1) == costs.estimate(0) == 10.0
    assert costs.estimate(2) == pytest.approx(20.0)
    costs.observe(4, 30.0)
    assert costs.estimate(2) == pytest.approx(
        costs.estimate(1) + (costs.estimate(4) - costs.estimate(1)) / 3
    )


def test_a_size_says_more_about_those_near_it():
    costs = known(r1=10.0, r8=10.0, r16=10.0)
    for _ in range(20):
        costs.observe(8, 20.0)
    assert costs.estimate(8) > 17.0
    assert costs.estimate(8) > costs.estimate(16) > costs.estimate(1) > 10.0


def test_the_first_pass_of_a_size_between_others_does_not_set_its_price():
    costs = known(r8=10.0, r16=10.0)
    costs.observe(12, 500.0)
    assert costs.estimate(12) < 25.0


def test_what_a_drafter_adds_is_no_price_of_rows():
    costs = known(r1=40.0, r8=44.0)
    for _ in range(60):
        costs.observe(8, 44.0)
        costs.observe(8, 80.0, is_disturbed=True)
    assert costs.disturbance_ms == pytest.approx(36.0, rel=0.3)
    assert costs.estimate(8) == pytest.approx(44.0, rel=0.15)


def test_where_drafters_disturb_nothing_prices_are_as_if_they_rested():
    costs = known(r8=44.0)
    for _ in range(300):
        costs.observe(8, 44.0, is_disturbed=True)
    assert costs.disturbance_ms == pytest.approx(0.0, abs=0.1)
    for _ in range(600):  # a machine that became slower, and never a quiet pass to tell
        costs.observe(8, 60.0, is_disturbed=True)
    assert costs.estimate(8) == pytest.approx(60.0, rel=0.05)
    assert costs.disturbance_ms < 4.0


def test_what_sessions_add_is_no_price_of_rows():
    costs = known(r1=20.0, r8=22.0, r16=26.0)
    costs.calibrate_sessions(16, 38.0)
    for _ in range(100):  # sixteen texts, each with a context of its own
        costs.observe(16, 41.0, num_sessions=16)
    assert costs.estimate(16, 16) == pytest.approx(41.0, rel=0.05)
    assert costs.session_ms == pytest.approx(0.9, abs=0.1)
    assert costs.estimate(16) == pytest.approx(26.0, rel=0.1)
    assert costs.estimate(1) == pytest.approx(20.0, rel=0.05)


def test_slow_passes_with_drafts_do_not_make_plain_ones_of_many_sessions_seem_slow():
    costs = known(r1=20.0, r16=26.0, r32=50.0, r64=98.0)
    costs.calibrate_sessions(16, 38.0)
    for _ in range(50):
        costs.observe(36, 140.0, num_sessions=16)
    assert costs.session_ms == pytest.approx(0.8)


def test_what_more_rows_cost_grows_with_all_that_passes_take():
    costs = known(r1=20.0, r16=26.0, r32=50.0)
    for _ in range(200):
        costs.observe(16, 52.0, num_sessions=16)
    assert costs.usual_growth(16, 32) == pytest.approx(50.0 / 26.0)


def test_what_sessions_add_can_be_told_beforehand():
    costs = known(r1=20.0, r16=26.0)
    costs.calibrate_sessions(16, 41.0)
    assert costs.estimate(16, 16) == pytest.approx(41.0)
    assert costs.estimate(1, 1) == pytest.approx(20.0)
    assert costs.rows_within(26.0, 1) == 16
    assert costs.rows_within(26.0, 16) == 0


def test_no_noise_of_passes_of_many_sessions_makes_rows_free():
    costs = known(r1=1.2, r2=1.3, r4=3.0, r8=1.3)
    for index in range(2000):
        costs.observe(4, 1.0 if index % 3 else 6.0, num_sessions=4)
    assert costs.estimate(1) > 0.4
    assert costs.estimate(4, 4) == pytest.approx(2.7, rel=0.6)


def test_the_machine_slows_down_for_sessions_as_for_rows():
    costs = known(r1=20.0, r8=22.0)
    costs.calibrate_sessions(8, 36.0)
    for _ in range(100):
        costs.observe(8, 72.0, num_sessions=8)
    assert costs.estimate(8, 8) == pytest.approx(72.0, rel=0.1)


def test_passes_of_many_sessions_show_that_rows_were_thought_too_dear():
    # As after a warm-up beside other work: sixteen rows seem to take twice what they do.
    costs = known(r1=20.0, r8=30.0, r16=60.0, r32=120.0)
    for _ in range(40):
        costs.observe(16, 36.0, num_sessions=16)
    assert costs.estimate(16) == pytest.approx(36.0, rel=0.1)
    assert costs.estimate(32) < 100.0


def test_sizes_that_are_not_run_follow_those_that_are():
    # A warm-up beside other work: all sizes seem to take twice what they do, and passes of
    # many rows are thought too dear to be tried.
    costs = known(r1=38.0, r8=43.0, r16=54.0, r32=98.0)
    for _ in range(150):
        costs.observe(8, 21.5, num_sessions=8)
    assert costs.estimate(8) == pytest.approx(21.5, rel=0.05)
    assert costs.estimate(16) == pytest.approx(27.0, rel=0.15)
    assert costs.estimate(32) == pytest.approx(49.0, rel=0.3)


def test_passes_with_prompts_show_what_many_rows_cost():
    costs = known(r1=20.0, r8=22.0, r32=98.0)
    costs.calibrate_undrawn(32, 82.4)  # four fifths
    for _ in range(60):
        # 8 rows of 8 texts, and 30 of a prompt in place of 24 drafted ones.
        costs.observe(38, 49.0, num_sessions=9, num_undrawn=30)
    assert costs.estimate(32) == pytest.approx(49.0, rel=0.1)
    assert costs.session_ms == 0.0


def test_rows_without_logits_cost_a_part_of_one_and_no_more_than_one():
    costs = known(r1=20.0, r32=50.0, r64=80.0)
    costs.calibrate_undrawn(64, 200.0)
    costs.observe(64, 80.0, num_undrawn=63)
    assert costs.estimate(64) == pytest.approx(80.0)
    costs = known(r1=20.0)  # nothing to compare with
    costs.calibrate_undrawn(1, 20.0)
    assert costs.estimate(1) == pytest.approx(20.0)


def test_what_few_sessions_take_longer_is_no_whole_pass_of_many():
    costs = known(r1=20.0, r4=21.0, r32=54.0)
    for _ in range(20):  # four at once on a machine that others use
        costs.observe(4, 29.0, num_sessions=4)
    assert costs.estimate(4, 4) == pytest.approx(28.0, rel=0.1)
    assert costs.estimate(32, 32) < 1.15 * costs.estimate(32)


def test_a_slow_first_pass_of_a_large_size_does_not_become_a_proportion():
    costs = known(r1=10.0, r64=64.0)
    costs.observe(256, 10_000.0)
    for _ in range(2000):
        costs.observe(256, 250.0)
    assert costs.estimate(64) > 40.0

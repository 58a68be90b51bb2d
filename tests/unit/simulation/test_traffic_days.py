"""Whole simulations, of an hour at most."""

import json
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from treedraft.cli.app import make_app
from treedraft.core.errors import InvalidRequestError
from treedraft.simulation.limit import attainment_limit
from treedraft.simulation.oracle import OraclePlan, cheapest, densest, schedule_for
from treedraft.simulation.run import ClusterPlan, Objective, Outcome, Simulation
from treedraft.simulation.service_times import load_service_times
from treedraft.simulation.strategies import PolicyStrategy, StaticStrategy, policy_for
from treedraft.simulation.traffic import Traffic, TrafficPlan, make_traffic, read_traffic

TIMES = load_service_times()
PLAN = TrafficPlan(hours=0.5, peak_rate=3.0, num_losses=0, bursts_per_day=0)


def run(strategy, traffic, **changes):
    return Simulation(traffic, TIMES, strategy, **changes).run()


def test_the_same_seed_makes_the_same_traffic():
    one, same, other = (make_traffic(TrafficPlan(hours=2), seed) for seed in (1, 1, 2))
    assert np.array_equal(one.arrivals, same.arrivals)
    assert not np.array_equal(one.arrivals[:50], other.arrivals[:50])


def test_traffic_is_what_the_plan_says():
    traffic = make_traffic(TrafficPlan(bursts_per_day=0), 3)
    by_hour = np.bincount((traffic.arrivals / 3600).astype(int), minlength=24)
    assert by_hour[12] / by_hour[0] == pytest.approx(6.0, rel=0.2)
    assert np.median(traffic.prompts) == pytest.approx(600, rel=0.03)
    assert np.median(traffic.outputs) == pytest.approx(180, rel=0.03)


def test_every_request_is_met_refused_or_late():
    traffic = make_traffic(PLAN, 1)
    outcome = run(StaticStrategy(4, 0), traffic)
    assert 0 < outcome.num_requests <= len(traffic.arrivals)
    assert outcome.num_met + outcome.num_refused <= outcome.num_requests
    assert outcome.target_hours == pytest.approx(4 * 0.5)


def test_more_targets_meet_more():
    traffic = make_traffic(PLAN, 1)
    few, many = (run(StaticStrategy(number, 0), traffic) for number in (1, 20))
    assert few.attainment < many.attainment
    assert many.attainment > 0.99


def test_a_run_can_be_repeated():
    traffic = make_traffic(PLAN, 1)
    one, two = (run(PolicyStrategy(policy_for(Objective()), (4, 1)), traffic) for _ in range(2))
    assert one.history == two.history
    assert one.num_met == two.num_met


def test_the_policy_grows_with_the_traffic():
    traffic = make_traffic(TrafficPlan(hours=0.5, peak_rate=30.0, num_losses=0), 1)
    outcome = run(PolicyStrategy(policy_for(Objective()), (1, 0)), traffic)
    assert max(point[2] for point in outcome.history) > 3


def test_a_lost_node_moves_its_sessions_and_none_vanishes():
    calm = make_traffic(PLAN, 2)
    lossy = Traffic(calm.arrivals, calm.prompts, calm.outputs, (600.0, 900.0), calm.seconds)
    outcome = run(StaticStrategy(8, 0), lossy, plan=ClusterPlan(startup_seconds=10.0))
    whole = run(StaticStrategy(8, 0), calm)
    assert outcome.num_requests == pytest.approx(whole.num_requests, abs=20)
    assert outcome.attainment > 0.95


def test_the_oracle_follows_the_work_and_as_much_of_a_burst_as_it_means_to_serve():
    traffic = make_traffic(TrafficPlan(bursts_per_day=0, num_losses=0), 1)
    dense, loose = (
        [targets for targets, _ in schedule_for(traffic, TIMES, OraclePlan(use))]
        for use in (0.8, 0.4)
    )
    assert np.mean(dense[700:740]) > 3 * np.mean(dense[:20])
    assert loose[700] > dense[700]
    burst = np.full(600, 3600.0)
    more = np.concatenate([traffic.arrivals, burst + np.linspace(0, 59, 600)])
    bursty = replace(
        traffic,
        arrivals=more,
        prompts=np.concatenate([traffic.prompts, np.full(600, 800.0)]),
        outputs=np.concatenate([traffic.outputs, np.full(600, 200.0)]),
    )
    none, half, whole = (
        schedule_for(bursty, TIMES, OraclePlan(0.8, share))[60][0] for share in (0.0, 0.5, 1.0)
    )
    assert none == pytest.approx(dense[60], abs=2)
    assert none < half < whole


def test_a_family_is_searched_by_halves_and_the_cheapest_that_meets_is_taken():
    tried = []

    def run_at(use):
        tried.append(use)
        return Outcome(f"{use}", 100, 99 if use < 0.8 else 90, target_hours=1 / use)

    outcomes = list(densest(run_at, 0.99, (1.0, 0.9, 0.7, 0.5, 0.4)))
    assert tried == [0.7, 0.9]  # by halves
    assert cheapest(outcomes, 0.99, lambda one: one.target_hours).strategy == "0.7"
    assert cheapest(outcomes[1:], 0.99, lambda one: one.target_hours).strategy == "0.9"
    none = list(densest(lambda use: Outcome(f"{use}", 100, 0), 0.99, (0.9, 0.7, 0.5)))
    assert [one.strategy for one in none] == ["0.7", "0.5"]


def test_more_can_be_met_where_the_longest_are_refused():
    plan = TrafficPlan(hours=2.0, bursts_per_day=24.0, num_losses=0)
    traffic = make_traffic(plan, 4)
    assert traffic.bursts
    first_come = [attainment_limit(traffic, plan, h, is_first_come=True) for h in (1, 2, 4)]
    longest = [attainment_limit(traffic, plan, h) for h in (1, 2, 4)]
    assert first_come[0] < first_come[1] < first_come[2]
    assert first_come[0] < longest[0] < longest[1]
    assert longest[2] == pytest.approx(1.0, abs=0.005)


def test_a_file_of_ones_own_is_read_and_a_bad_one_named_by_line(tmp_path):
    path = tmp_path / "trace.csv"
    path.write_text("arrival_seconds,prompt_tokens,output_tokens\n2,20,5\n1,10,5\n")
    assert read_traffic(path).arrivals.tolist() == [1.0, 2.0]
    for content, word in [
        ("arrival_seconds,prompt_tokens,output_tokens\n1,ten,5\n", "line 2"),
        ("arrival_seconds,prompt_tokens,output_tokens\n1,-3,5\n", "out of range"),
        ("arrival_seconds\n1\n", "prompt_tokens"),
        ("", "no request"),
    ]:
        path.write_text(content)
        with pytest.raises(InvalidRequestError, match=word) as caught:
            read_traffic(path)
        assert caught.value.reason == "UNREADABLE_TRACE"


def test_service_times_come_from_a_report_and_from_nothing_else(tmp_path):
    path = tmp_path / "report.json"
    path.write_text("{}")
    with pytest.raises(InvalidRequestError) as caught:
        load_service_times(path)
    assert caught.value.reason == "UNREADABLE_REPORT"


def test_the_command_compares_and_writes(tmp_path):
    found, picture, curve = (tmp_path / name for name in ("found.json", "sizes.svg", "curve.svg"))
    files = ["--json", str(found), "--plot", str(picture), "--curve", str(curve)]
    result = CliRunner().invoke(make_app(), ["simulate", "--hours", "0.2", *files])
    assert result.exit_code == 0, result.output
    written = json.loads(found.read_text())
    names = [one["strategy"] for one in written["strategies"]]
    assert names == ["treedraft", "one pool", "HPA on CPU", "static", "oracle"]
    first = written["strategies"][0]
    assert first["pod_hours"] == pytest.approx(first["target_hours"] + first["drafter_hours"])
    hours = [one["target_hours"] for one in written["curve"]]
    assert hours == sorted(hours)
    assert "of oracle" in result.output
    assert all(file.read_text().startswith("<?xml") for file in (picture, curve))

"""The policy on one observation after the other."""

import random
import time
from dataclasses import replace

import pytest
from tests.unit.autoscaler.support import Run, a_policy, a_worker, load, seen, signals

from treedraft.autoscaler.need import measure_gain, target_need
from treedraft.autoscaler.settings import DraftGoals, PaceSettings, TargetGoals
from treedraft.autoscaler.signals import PoolLoad, pool_load
from treedraft.core.worker import LoadSignals, WorkerRole


def test_targets_follow_their_sessions():
    run = Run(a_policy())
    decision = run(seen(target=load(2, 35)))
    assert decision.target.replicas == 5  # 35 at 7 of 10
    assert "35 sessions at 7 a target" in decision.target.reason


def test_waiting_sessions_count_like_running_ones():
    assert Run(a_policy())(seen(target=load(1, 7, num_waiting=14))).target.replicas == 3


def test_a_need_close_to_what_there_is_changes_nothing():
    assert Run(a_policy())(seen(target=load(5, 37))).target.replicas == 5  # 5.29 of 5


def test_kv_that_runs_out_asks_for_more():
    decision = Run(a_policy())(seen(target=load(4, 8, kv_use=1.0)))
    assert decision.target.replicas == 5
    assert "KV" in decision.target.reason


@pytest.mark.parametrize(
    ("signal", "word"),
    [
        ("queue_wait_seconds", "queue wait"),
        ("time_to_first_token_seconds", "first token"),
        ("inter_token_seconds", "inter-token"),
    ],
)
def test_a_missed_goal_of_latency_asks_for_more(signal, word):
    decision = Run(a_policy())(seen(target=load(4, 20, of=signals(**{signal: 60.0}))))
    assert decision.target.replicas == 6  # half as many again at once, no more
    assert word in decision.target.reason


def test_latency_does_not_count_while_ordered_replicas_start():
    slow = load(4, 20, of=signals(time_to_first_token_seconds=60.0))
    run = Run(a_policy(pace=PaceSettings(up_seconds=0, up_cooldown_seconds=0)))
    assert run(seen(target=slow, replicas=6)).target.replicas == 6


def test_latency_does_not_count_where_there_is_room():
    slow = load(4, 12, of=signals(time_to_first_token_seconds=60.0))
    run = Run(a_policy())
    sizes = [run(seen(float(now), target=slow)).target.replicas for now in range(20)]
    assert max(sizes) <= 4  # a long prompt is as slow on an empty target


def test_prompts_that_wait_for_each_other_ask_for_more():
    decision = Run(a_policy())(seen(target=load(4, 8, of=signals(prompt_share=1.0))))
    assert decision.target.replicas == 7  # 5.7 at 70 %, and 0.8 to spare
    assert "prompts" in decision.target.reason
    assert "0.8 to spare" in decision.target.reason


def test_a_large_pool_spares_less_for_each_target_than_a_small_one():
    small, large = (
        target_need(TargetGoals(), seen(target=load(size, size, of=signals(prompt_share=0.8))))
        for size in (4, 400)
    )
    assert small.replicas / 4 > large.replicas / 400 > 1


def test_more_drafters_come_only_while_speculation_is_seen_to_pay():
    run = Run(a_policy(target=(4, 50)))
    some = load(1, 0, of=LoadSignals(utilisation=1.0))
    poor = seen(target=load(10, 60, of=signals(tokens_per_round=1.01)), draft=some)
    decision = run(poor)
    assert decision.draft.replicas == 1
    assert "not seen to pay" in decision.draft.reason
    good = seen(5.0, target=load(10, 60, of=signals(tokens_per_round=2.5)), draft=some)
    assert run(good).draft.replicas > 1


def test_drafts_beside_prompts_save_no_target():
    gains = [
        measure_gain(
            DraftGoals(), seen(target=load(4, of=signals(prompt_share=share)), draft=load(4))
        )
        for share in (0.0, 0.5, 1.0)
    ]
    factors = [gain.factor for gain in gains]
    assert factors[0] > factors[1] > factors[2] == 1.0
    assert not gains[2].pays


def test_drafts_save_no_time_that_is_idle_anyway():
    busy, bored = (
        measure_gain(DraftGoals(), seen(target=load(4, of=signals(utilisation=use)), draft=load(4)))
        for use in (1.0, 0.3)
    )
    assert busy.factor > bored.factor > 1.0


def a_gain_in_targets(target, **goals):
    pools = seen(target=target, draft=load(2))
    return measure_gain(DraftGoals(pays_in="targets", **goals), pools, TargetGoals())


def test_drafters_that_must_save_targets_save_none_where_prompts_are_what_asks_for_them():
    gain = a_gain_in_targets(load(4, 8, of=signals(prompt_share=0.8)))
    assert gain.factor > 1.0
    assert gain.per_cost == 0.0
    assert not gain.pays


def test_drafters_pay_in_targets_where_sessions_would_stay_longer_without_them():
    full = load(10, 70)
    gain = a_gain_in_targets(full, verification_cost=1.25)
    assert gain.factor == pytest.approx(2.0)
    assert gain.per_cost == pytest.approx(10 / (0.25 * 2))  # as many targets again
    assert a_gain_in_targets(full, cost=10.0).per_cost < 1.0


def test_drafters_pay_in_targets_where_tokens_would_come_too_slowly_without_them():
    slow = load(10, 65, of=signals(inter_token_seconds=0.15))  # 0.2 s are wanted
    assert a_gain_in_targets(slow).pays


def test_no_trial_is_made_where_not_even_much_faster_tokens_would_save_a_target():
    policy = a_policy(target=(4, 50))
    goals = DraftGoals(pays_in="targets", rest_seconds=10.0, probe_seconds=60.0)
    run = Run(replace(policy, draft=goals))
    prompts = load(4, 8, of=signals(prompt_share=0.8))
    for now in (0.0, 5.0, 20.0):
        run(seen(now, target=prompts, draft=load(2)))
    assert run(seen(200.0, target=prompts)).draft.replicas == 0
    assert run(seen(205.0, target=load(4, 25))).draft.replicas == 1


def test_the_reason_to_rest_says_in_what_drafters_did_not_pay():
    policy = a_policy(target=(4, 50))
    goals = DraftGoals(pays_in="targets", rest_seconds=10.0)
    run = Run(replace(policy, draft=goals))
    pools = [
        seen(now, target=load(4, 8, of=signals(prompt_share=0.8)), draft=load(2))
        for now in (0.0, 5.0, 20.0)
    ]
    decision = [run(one) for one in pools][-1]
    assert decision.draft.replicas == 0
    assert "saves 0.00 of its cost in targets" in decision.draft.reason


def test_bounds_win_over_everything():
    policy = a_policy(target=(2, 3))
    assert Run(policy)(seen(target=load(3, 300))).target.replicas == 3
    assert Run(policy)(seen(target=load(3, 0))).target.replicas == 2
    assert Run(policy)(seen(target=load(1, 0))).target.replicas == 2
    assert Run(policy)(seen(target=load(5, 300))).target.replicas == 3


def test_without_reports_the_size_stays():
    decision = Run(a_policy())(seen(target=PoolLoad(), replicas=4))
    assert decision.target.replicas == 4
    assert "no target reports" in decision.target.reason


def test_an_idle_pool_goes_to_zero_and_wakes_by_a_request():
    run = Run(a_policy(target=(0, 5)))
    assert run.every(60.0, 599.0, seen(target=load(1))).target.replicas == 1
    assert run(seen(600.0, target=load(1))).target.replicas == 0
    nobody = PoolLoad()
    assert run(seen(605.0, target=nobody, replicas=0)).target.replicas == 0
    woken = run(seen(610.0, target=nobody, replicas=0, unserved=1))
    assert woken.target.replicas == 1
    assert "found no target" in woken.target.reason
    assert run(seen(615.0, target=nobody, replicas=1)).target.replicas == 1


def test_drafters_follow_how_busy_they_are():
    busy = load(2, 0, of=LoadSignals(utilisation=0.9))
    decision = Run(a_policy())(seen(target=load(4, 10), draft=busy))
    assert decision.draft.replicas == 3
    assert "busy 90%" in decision.draft.reason


def test_late_drafts_ask_for_more_drafters_if_those_there_are_have_no_time():
    late = load(4, 10, of=signals(late_draft_share=0.5))
    goals = {"draft": (0, 10)}
    working = load(4, 0, of=LoadSignals(utilisation=0.5))
    assert Run(a_policy(**goals))(seen(target=late, draft=working)).draft.replicas == 6
    bored = load(4, 0, of=LoadSignals(utilisation=0.1))
    assert Run(a_policy(**goals))(seen(target=late, draft=bored)).draft.replicas < 4


def test_drafters_go_when_speculation_does_not_pay_and_come_back_to_be_tried():
    run = Run(a_policy(target=(4, 10)))
    useless = seen(target=load(4, 25, of=signals(tokens_per_round=1.05)), draft=load(2))
    assert run.every(30.0, 299.0, useless).draft.replicas > 0
    decision = run.every(30.0, 331.0, useless)
    assert decision.draft.replicas == 0
    assert not decision.gain.pays
    assert "1.04 times" in decision.draft.reason
    away = seen(360.0, target=load(4, 25), draft=PoolLoad())
    assert run.every(60.0, 2000.0, away).draft.replicas == 0
    assert run(seen(2200.0, target=load(4, 25), draft=PoolLoad())).draft.replicas == 1


def test_drafters_come_back_early_when_much_less_runs():
    run = Run(a_policy(target=(4, 10)))
    useless = seen(target=load(4, 25, of=signals(tokens_per_round=1.05)), draft=load(2))
    run.every(30.0, 331.0, useless)
    assert run(seen(340.0, target=load(4, 20), draft=PoolLoad())).draft.replicas == 0
    assert run(seen(345.0, target=load(4, 12), draft=PoolLoad())).draft.replicas == 1


def test_one_bad_minute_does_not_send_the_drafters_away():
    run = Run(a_policy())
    useless = seen(target=load(4, 25, of=signals(tokens_per_round=1.0)), draft=load(2))
    run.every(30.0, 270.0, useless)
    run(seen(300.0, target=load(4, 25), draft=load(2)))
    assert run(seen(330.0, target=useless.target, draft=load(2))).draft.replicas > 0


def test_drafters_that_cost_more_than_the_targets_they_replace_do_not_pay():
    dear, cheap = DraftGoals(cost=2.0, rest_seconds=0), DraftGoals(cost=0.1, rest_seconds=0)
    some = seen(target=load(4, 25, of=signals(tokens_per_round=1.5)), draft=load(4))
    assert Run(replace(a_policy(), draft=dear))(some).draft.replicas == 0
    assert Run(replace(a_policy(), draft=cheap))(some).draft.replicas > 0


def test_an_idle_pair_needs_no_drafters():
    run = Run(a_policy(target=(1, 5)))
    decision = run.every(60.0, 660.0, seen(target=load(1), draft=load(1)))
    assert decision.draft.replicas == 0
    assert decision.target.replicas == 1


def test_without_a_draft_pool_nothing_is_said_of_it():
    decision = Run(a_policy(draft=None))(seen(drafters=None, draft=None))
    assert decision.draft is None


def test_a_thousand_workers_are_decided_over_quickly():
    rng = random.Random(1)
    targets = [
        a_worker(f"t-{i}", num_sessions=rng.randrange(10), total_kv_blocks=100, free_kv_blocks=50)
        for i in range(600)
    ]
    drafters = [a_worker(f"d-{i}", WorkerRole.DRAFT) for i in range(400)]
    run = Run(a_policy(target=(1, 2000), draft=(0, 2000)))
    started = time.perf_counter()
    decision = run(seen(target=pool_load(targets), draft=pool_load(drafters)))
    elapsed = time.perf_counter() - started
    assert decision.target.replicas > 1
    assert elapsed < 1.0  # a stop against a quadratic loop; `treedraft simulate` prints the figure


def test_idle_targets_may_have_goals_of_their_own():
    policy = replace(a_policy(target=(0, 5)), target=TargetGoals(idle_seconds=0))
    assert Run(policy)(seen(target=load(1))).target.replicas == 0

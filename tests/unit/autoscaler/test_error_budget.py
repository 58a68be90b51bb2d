"""The room that is kept, by what is left of the errors that are allowed."""

import pytest
from tests.unit.autoscaler.support import Run, a_policy, load, seen, signals

from treedraft.autoscaler.error_budget import BudgetMemory, note, spent
from treedraft.autoscaler.need import target_need
from treedraft.autoscaler.settings import BudgetGoals, TargetGoals
from treedraft.autoscaler.signals import pool_load
from treedraft.core.worker import LoadSignals, WorkerRegistration, WorkerReport, WorkerRole

GOALS = BudgetGoals(
    objective=0.99,
    window_seconds=1e9,
    least_errors=10.0,
    whole_prompt_share=0.9,
    whole_spare_targets=0.0,
)


def served(seconds, *, due, missed, goals=GOALS, memory=None, start=0.0):
    """The account after so many seconds of the same traffic, looked at every five."""
    memory = memory or BudgetMemory()
    of = signals(first_tokens_due_per_second=due, first_tokens_missed_per_second=missed)
    for step in range(int(seconds / 5) + 1):
        memory = note(goals, memory, seen(start + 5.0 * step, target=load(4, 8, of=of)))
    return memory


def test_what_was_due_and_missed_is_counted_from_rates():
    memory = served(1000, due=10.0, missed=0.05)
    assert memory.num_due == pytest.approx(10_000)
    assert memory.num_missed == pytest.approx(50)
    assert spent(GOALS, memory) == pytest.approx(0.5)


def test_it_is_spent_at_most_whole():
    assert spent(GOALS, served(1000, due=10.0, missed=1.0)) == 1.0


def test_it_counts_as_spent_until_enough_is_known():
    assert spent(GOALS, BudgetMemory()) == 1.0
    assert spent(GOALS, served(50, due=10.0, missed=0.0)) == 1.0
    assert spent(GOALS, served(200, due=10.0, missed=0.0)) == 0.0


def test_what_is_long_past_is_forgotten():
    goals = GOALS.model_copy(update={"window_seconds": 1000.0})
    bad = served(3000, due=10.0, missed=1.0, goals=goals)
    good = served(10_000, due=10.0, missed=0.0, goals=goals, memory=bad, start=3005.0)
    assert spent(goals, bad) == 1.0
    assert spent(goals, good) < 0.01
    assert good.num_due == pytest.approx(10.0 * 1000.0, rel=0.01)


def test_a_gap_without_looks_does_not_count_as_served():
    memory = note(GOALS, BudgetMemory(at=0.0), seen(0.0))
    of = signals(first_tokens_due_per_second=10.0)
    assert note(GOALS, memory, seen(3600.0, target=load(4, 8, of=of))).num_due == 600


def test_a_whole_budget_keeps_less_room_and_a_spent_one_that_of_the_goals():
    goals = TargetGoals(budget=GOALS)
    pool = seen(target=load(10, 10, of=signals(prompt_share=0.9)))
    needs = [target_need(goals, pool, budget_spent=share).replicas for share in (0.0, 0.5, 1.0)]
    assert needs[0] == pytest.approx(10.0)  # 9 at 90 %, none to spare
    assert needs[0] < needs[1] < needs[2]
    assert needs[2] == target_need(goals, pool).replicas == pytest.approx(9 / 0.7 + 0.4 * 3)


def test_the_policy_shrinks_while_all_is_met_and_grows_after_misses():
    goals = TargetGoals(budget=GOALS)
    policy = a_policy(target=(1, 50))
    run = Run(type(policy)(policy.pool, goals, policy.draft, policy.pace))
    times = iter(range(0, 10_000_000, 5))

    def after(seconds, missed):
        decision = None
        for _ in range(int(seconds / 5)):
            of = signals(
                prompt_share=0.9,
                first_tokens_due_per_second=10.0,
                first_tokens_missed_per_second=missed,
            )
            decision = run(seen(float(next(times)), target=load(10, 10, of=of)))
        return decision

    met, missed = after(3600, 0.0), after(60, 9.0)
    assert met.budget_spent == 0.0
    assert met.target.replicas == 10
    assert missed.budget_spent == 1.0
    assert missed.target.replicas > 12


def test_where_no_first_token_is_due_the_room_is_that_of_the_goals():
    run = Run(a_policy(target=(1, 50)))
    decision = run(seen(target=load(10, 10, of=signals(prompt_share=0.9))))
    assert decision.budget_spent == 1.0


def test_what_targets_count_adds_up_over_the_pool():
    def worker(number, **values):
        name = f"t-{number}"
        registration = WorkerRegistration(name, "1", WorkerRole.TARGET, name, "m")
        return registration, WorkerReport(num_sessions=number, signals=LoadSignals(**values))

    pool = pool_load(
        [
            worker(1, first_tokens_due_per_second=3.0, first_tokens_missed_per_second=1.0),
            worker(9, first_tokens_due_per_second=2.0),
        ]
    )
    assert pool.signals.first_tokens_due_per_second == 5.0
    assert pool.signals.first_tokens_missed_per_second == 1.0

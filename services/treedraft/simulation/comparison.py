"""The same day under the policy and under what it is compared with."""

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from treedraft.simulation.oracle import SLOT_SECONDS, USES, cheapest, schedule_for
from treedraft.simulation.run import ClusterPlan, Objective, Outcome, Simulation, Strategy
from treedraft.simulation.service_times import ServiceTimes
from treedraft.simulation.strategies import (
    CpuStrategy,
    PolicyStrategy,
    ScheduleStrategy,
    StaticStrategy,
    UnitStrategy,
    policy_for,
)
from treedraft.simulation.traffic import Traffic

ATTAINMENT = 0.99


@dataclass(frozen=True, slots=True)
class Comparison:
    """All outcomes, and the cost of a drafter in targets.

    `decision_ms` is the median time of a decision of the policy.
    """

    outcomes: tuple[Outcome, ...]
    draft_cost: float
    decision_ms: float

    def cost(self, outcome: Outcome) -> float:
        """Return target hours, a drafter's counted at its cost."""
        return outcome.target_hours + self.draft_cost * outcome.drafter_hours

    def of(self, name: str) -> Outcome:
        """Return the outcome of a strategy."""
        return next(one for one in self.outcomes if one.strategy == name)


def compare(
    traffic: Traffic,
    times: ServiceTimes,
    *,
    plan: ClusterPlan | None = None,
    objective: Objective | None = None,
    draft_cost: float = 0.25,
    drafters_per_target: float = 1.0,
    progress: Callable[[str], None] = lambda _: None,
) -> Comparison:
    """Run every strategy on the same traffic.

    Args:
        traffic: who asks when.
        times: what passes cost.
        plan: of the pods.
        objective: what a request may expect.
        draft_cost: of a drafter, in targets.
        drafters_per_target: in the strategies that tie the two pools together.
        progress: is told what runs.
    """
    plan, objective = plan or ClusterPlan(), objective or Objective()

    def run(strategy: Strategy) -> Outcome:
        progress(strategy.name)
        simulation = Simulation(traffic, times, strategy, plan=plan, objective=objective)
        return simulation.run()

    policy = policy_for(objective, draft_cost=draft_cost)
    ours = PolicyStrategy(policy, (plan.initial_targets, plan.initial_drafters))
    outcomes = [
        run(ours),
        run(UnitStrategy(policy, plan.initial_targets, drafters_per_target)),
        run(CpuStrategy(plan.initial_targets, drafters_per_target)),
    ]
    outcomes.append(_named("static", [run(one) for one in _static(traffic, times)]))
    schedules = _schedules(traffic, times, plan)
    outcomes.append(_named("oracle", [run(one) for one in schedules]))
    return Comparison(tuple(outcomes), draft_cost, 1e3 * statistics.median(ours.seconds))


def _static(traffic: Traffic, times: ServiceTimes) -> Iterator[StaticStrategy]:
    """Yield sizes for the whole day, for the busiest hour at several uses."""
    for use in USES:
        schedule = schedule_for(traffic, times, use)
        minutes = round(3600.0 / SLOT_SECONDS)
        hours = [schedule[start : start + minutes] for start in range(0, len(schedule), minutes)]
        most = max(sum(one for one, _ in hour) / len(hour) for hour in hours)
        yield StaticStrategy(round(most), 0)


def _schedules(
    traffic: Traffic, times: ServiceTimes, plan: ClusterPlan
) -> Iterator[ScheduleStrategy]:
    for use in USES:
        schedule = schedule_for(traffic, times, use)
        yield ScheduleStrategy(schedule, SLOT_SECONDS, plan.startup_seconds)


def _named(name: str, outcomes: Sequence[Outcome]) -> Outcome:
    best = cheapest(outcomes, ATTAINMENT)
    best.strategy = name
    return best

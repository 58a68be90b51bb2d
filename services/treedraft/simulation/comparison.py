"""The same day under the policy and under what it is compared with.

The policy runs once, with its settings as they are. Each rival is given the best
of a family, chosen with hindsight on the very day: the cheapest member that
meets the attainment.
"""

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from treedraft.autoscaler.policy import Policy
from treedraft.simulation.oracle import (
    BURST_SHARES,
    SLOT_SECONDS,
    USES,
    OraclePlan,
    cheapest,
    densest,
    schedule_for,
    work_by_slot,
)
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
# Shares of prompts in passes at which the one pool is tried, the densest first.
_UNIT_GOALS = (0.95, 0.85, 0.75, 0.6)
# The policy's own goals along its curve.
_CURVE_GOALS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)
# How full static sizes are in the busiest hour.
_STATIC_USES = (1.2, 1.1, 1.0, 0.9, 0.75, 0.6, 0.45)
# CPU goals of the HPA, the densest first.
_CPU_GOALS = (0.9, 0.8, 0.7, 0.6)


@dataclass(frozen=True, slots=True)
class Comparison:
    """All outcomes, and the cost of a drafter in targets.

    `decision_ms` is the median time of a decision of the policy; `curve` has its
    outcomes at other goals for prompts in passes, if they were asked for.
    """

    outcomes: tuple[Outcome, ...]
    draft_cost: float
    decision_ms: float
    curve: tuple[tuple[float, Outcome], ...] = ()

    def cost(self, outcome: Outcome) -> float:
        """Return target hours, a drafter's counted at its cost."""
        return outcome.target_hours + self.draft_cost * outcome.drafter_hours

    def of(self, name: str) -> Outcome:
        """Return the outcome of a strategy."""
        return next(one for one in self.outcomes if one.strategy == name)


@dataclass(frozen=True, slots=True)
class _Day:
    """What all strategies are run on."""

    traffic: Traffic
    times: ServiceTimes
    plan: ClusterPlan
    objective: Objective
    progress: Callable[[str], None]

    def run(self, strategy: Strategy, detail: str = "") -> Outcome:
        self.progress(f"{strategy.name} {detail}".strip())
        simulation = Simulation(
            self.traffic, self.times, strategy, plan=self.plan, objective=self.objective
        )
        return simulation.run()


def compare(
    traffic: Traffic,
    times: ServiceTimes,
    *,
    plan: ClusterPlan | None = None,
    objective: Objective | None = None,
    draft_cost: float = 0.25,
    drafters_per_target: float = 1.0,
    with_curve: bool = False,
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
        with_curve: whether to run the policy at other goals too.
        progress: is told what runs.
    """
    day = _Day(traffic, times, plan or ClusterPlan(), objective or Objective(), progress)
    policy = policy_for(
        day.objective, times, draft_cost=draft_cost, startup_seconds=day.plan.startup_seconds
    )
    ours = PolicyStrategy(policy, (day.plan.initial_targets, day.plan.initial_drafters))
    outcome = day.run(ours)
    families = (
        list(_units(day, policy, drafters_per_target)),
        list(_on_cpu(day, drafters_per_target)),
        list(_static(day)),
        list(_oracles(day)),
    )
    comparison = Comparison((), draft_cost, 1e3 * statistics.median(ours.seconds))
    best = [cheapest(family, ATTAINMENT, comparison.cost) for family in families]
    curve = tuple(_curve(day, policy)) if with_curve else ()
    return replace(comparison, outcomes=(outcome, *best), curve=curve)


def _at_goal(policy: Policy, goal: float) -> Policy:
    budget = policy.target.budget.model_copy(update={"whole_prompt_share": goal})
    target = policy.target.model_copy(update={"goal_prompt_share": goal, "budget": budget})
    return replace(policy, target=target)


def _curve(day: _Day, policy: Policy) -> Iterator[tuple[float, Outcome]]:
    for goal in _CURVE_GOALS:
        initial = (day.plan.initial_targets, day.plan.initial_drafters)
        strategy = PolicyStrategy(_at_goal(policy, goal), initial)
        yield goal, day.run(strategy, f"at {goal:.0%} prompts")


def _units(day: _Day, policy: Policy, drafters_per_target: float) -> Iterator[Outcome]:
    def run(goal: float) -> Outcome:
        strategy = UnitStrategy(
            _at_goal(policy, goal), day.plan.initial_targets, drafters_per_target
        )
        return day.run(strategy, f"at {goal:.0%} prompts")

    return densest(run, ATTAINMENT, _UNIT_GOALS)


def _on_cpu(day: _Day, drafters_per_target: float) -> Iterator[Outcome]:
    def run(goal: float) -> Outcome:
        strategy = CpuStrategy(day.plan.initial_targets, drafters_per_target, goal)
        return day.run(strategy, f"at {goal:.0%}")

    return densest(run, ATTAINMENT, _CPU_GOALS)


def _static(day: _Day) -> Iterator[Outcome]:
    """Yield sizes for the whole day: so full in its busiest hour."""
    slots = round(3600.0 / SLOT_SECONDS)
    work = work_by_slot(day.traffic, day.times)
    hours = [work[start : start + slots] for start in range(0, len(work), slots)]
    most = max(float(hour.mean()) for hour in hours) / SLOT_SECONDS

    def run(use: float) -> Outcome:
        targets = max(1, round(most / use))
        return day.run(StaticStrategy(targets, 0), f"{targets}")

    return densest(run, ATTAINMENT, _STATIC_USES)


def _oracles(day: _Day) -> Iterator[Outcome]:
    for share in BURST_SHARES:

        def run(use: float, share: float = share) -> Outcome:
            schedule = schedule_for(day.traffic, day.times, OraclePlan(use, share))
            strategy = ScheduleStrategy(schedule, SLOT_SECONDS, day.plan.startup_seconds)
            return day.run(strategy, f"at {use:.0%}, {share:.0%} of bursts")

        yield from densest(run, ATTAINMENT, USES)

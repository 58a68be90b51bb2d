"""The policy: signals in, replicas out, with the reason in words.

`decide` is a pure function of settings, memory and observation, so that the
simulation, the tests and the controller run the very same code. Targets are
sized for load. Drafters are sized so that drafts come in time, for as long as
speculation pays; when it does not, they go, and come back to be tried again.
"""

from dataclasses import dataclass, field, replace

from treedraft.autoscaler.error_budget import BudgetMemory, note, spent
from treedraft.autoscaler.need import (
    Gain,
    Need,
    draft_need,
    may_pay,
    measure_gain,
    target_need,
)
from treedraft.autoscaler.pace import PaceMemory, follow, smoothed
from treedraft.autoscaler.settings import (
    DraftGoals,
    PaceSettings,
    PoolSettings,
    TargetGoals,
    WorkloadSettings,
)
from treedraft.autoscaler.signals import Observation

# Drafters that were sent away are tried again early if so much less runs.
_QUIETER = 0.5
_MAX_EARNED = 4.0


@dataclass(frozen=True, slots=True)
class Policy:
    """The settings that a decision on one pair of pools depends on."""

    pool: PoolSettings
    target: TargetGoals = field(default_factory=TargetGoals)
    draft: DraftGoals = field(default_factory=DraftGoals)
    pace: PaceSettings = field(default_factory=PaceSettings)


@dataclass(frozen=True, slots=True)
class Memory:
    """What decisions remember: needs of late, and since when things are as they are.

    `mean_per_cost` is what drafters earned of their cost of late, as known at `gain_at`.
    """

    target: PaceMemory = field(default_factory=PaceMemory)
    draft: PaceMemory = field(default_factory=PaceMemory)
    idle_since: float | None = None
    unpaid_since: float | None = None
    resting_since: float | None = None
    sessions_at_rest: int = 0
    budget: BudgetMemory = field(default_factory=BudgetMemory)
    gain_at: float = 0.0
    mean_per_cost: float | None = None


@dataclass(frozen=True, slots=True)
class PoolDecision:
    """Replicas that a pool should have, and why."""

    replicas: int
    reason: str


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do with a pair of pools; `draft` is None where there is no draft pool.

    `budget_spent` is the share of the errors that the objective allows.
    """

    target: PoolDecision
    draft: PoolDecision | None = None
    gain: Gain | None = None
    budget_spent: float = 1.0


def decide(policy: Policy, memory: Memory, seen: Observation) -> tuple[Decision, Memory]:
    """Return the sizes that the pools should have now, and what to remember for next time."""
    memory = _note_idleness(memory, seen)
    memory = replace(memory, budget=note(policy.target.budget, memory.budget, seen))
    target, memory = _decide_target(policy, memory, seen)
    budget_spent = spent(policy.target.budget, memory.budget)
    if policy.pool.draft is None or seen.draft_replicas is None:
        return Decision(target, budget_spent=budget_spent), memory
    gain = measure_gain(policy.draft, seen, policy.target)
    draft, memory = _decide_draft(policy, policy.pool.draft, memory, seen, gain)
    return Decision(target, draft, gain, budget_spent), memory


def _note_idleness(memory: Memory, seen: Observation) -> Memory:
    is_busy = seen.target.num_sessions or seen.target.num_waiting or seen.num_unserved
    if is_busy:
        return replace(memory, idle_since=None)
    return memory if memory.idle_since is not None else replace(memory, idle_since=seen.now)


def _is_idle(policy: Policy, memory: Memory, seen: Observation) -> bool:
    since = memory.idle_since
    return since is not None and seen.now - since >= policy.target.idle_seconds


def _decide_target(
    policy: Policy, memory: Memory, seen: Observation
) -> tuple[PoolDecision, Memory]:
    bounds, current = policy.pool.target, seen.target_replicas
    if (forced := _outside(bounds, current)) is not None:
        return forced, memory
    if current == 0:
        if memory.idle_since is None and bounds.max_replicas:
            return PoolDecision(1, "a request found no target"), memory
        return PoolDecision(0, "nothing to do"), memory
    if bounds.min_replicas == 0 and _is_idle(policy, memory, seen):
        seconds = policy.target.idle_seconds
        return PoolDecision(0, f"no session for {seconds:.0f} s"), memory
    if seen.target.num_ready == 0:
        return PoolDecision(current, "no target reports yet"), memory
    budget_spent = spent(policy.target.budget, memory.budget)
    need = _bounded(bounds, target_need(policy.target, seen, budget_spent=budget_spent))
    step = follow(policy.pace, memory.target, now=seen.now, current=current, need=need.replicas)
    reason = _in_words(need, step.held)
    return PoolDecision(step.replicas, reason), replace(memory, target=step.memory)


def _decide_draft(
    policy: Policy,
    bounds: WorkloadSettings,
    memory: Memory,
    seen: Observation,
    gain: Gain | None,
) -> tuple[PoolDecision, Memory]:
    current = seen.draft_replicas or 0
    if (forced := _outside(bounds, current)) is not None:
        return forced, memory
    if seen.target_replicas == 0 or _is_idle(policy, memory, seen):
        return PoolDecision(bounds.min_replicas, "nothing to draft for"), memory
    memory = _note_gain(policy, memory, seen, gain)
    if memory.resting_since is not None:
        return PoolDecision(bounds.min_replicas, _unpaid(policy.draft, gain)), memory
    if current == 0:
        replicas = min(1, bounds.max_replicas)
        return PoolDecision(replicas, "to see whether speculation pays"), memory
    if seen.draft.num_ready == 0:
        return PoolDecision(current, "no drafter reports yet"), memory
    need = _bounded(bounds, draft_need(policy.draft, seen))
    earned = memory.mean_per_cost
    if need.replicas > current and (earned is None or earned < 1.0):
        return PoolDecision(current, f"no more while it is not seen to pay; {need.reason}"), memory
    step = follow(policy.pace, memory.draft, now=seen.now, current=current, need=need.replicas)
    reason = _in_words(need, step.held)
    return PoolDecision(step.replicas, reason), replace(memory, draft=step.memory)


def _note_gain(policy: Policy, memory: Memory, seen: Observation, gain: Gain | None) -> Memory:
    """Keep account of whether speculation pays, and of when to try it again."""
    goals = policy.draft
    if memory.resting_since is not None:
        is_due = seen.now - memory.resting_since >= goals.probe_seconds
        is_quieter = seen.target.num_sessions < _QUIETER * memory.sessions_at_rest
        is_worth_it = may_pay(goals, seen, policy.target)
        if not is_worth_it or not (is_due or is_quieter):
            return memory
        return replace(
            memory, resting_since=None, unpaid_since=None, mean_per_cost=None, draft=PaceMemory()
        )
    if gain is None:
        return memory
    memory = _average_gain(policy.pace, memory, seen.now, gain)
    if memory.mean_per_cost is not None and memory.mean_per_cost >= 1.0:
        return replace(memory, unpaid_since=None)
    since = seen.now if memory.unpaid_since is None else memory.unpaid_since
    memory = replace(memory, unpaid_since=since)
    if seen.now - since < goals.rest_seconds:
        return memory
    return replace(memory, resting_since=seen.now, sessions_at_rest=seen.target.num_sessions)


def _average_gain(pace: PaceSettings, memory: Memory, now: float, gain: Gain) -> Memory:
    # What costs nothing earns endlessly much, which has no mean.
    earned = min(gain.per_cost, _MAX_EARNED) if gain.factor > 1.0 else 0.0
    mean = smoothed(memory.mean_per_cost, earned, now - memory.gain_at, pace.smoothing_seconds)
    return replace(memory, gain_at=now, mean_per_cost=mean)


def _outside(bounds: WorkloadSettings, current: int) -> PoolDecision | None:
    if current < bounds.min_replicas:
        return PoolDecision(bounds.min_replicas, f"at least {bounds.min_replicas} are wanted")
    if current > bounds.max_replicas:
        return PoolDecision(bounds.max_replicas, f"at most {bounds.max_replicas} are allowed")
    return None


def _bounded(bounds: WorkloadSettings, need: Need) -> Need:
    least, most = max(1, bounds.min_replicas), bounds.max_replicas
    if need.replicas < least:
        return Need(least, f"{least} at least")
    if need.replicas > most:
        return Need(most, f"{need.reason}; at most {most} are allowed")
    return need


def _in_words(need: Need, held: str) -> str:
    return f"{need.reason}; {held}" if held else need.reason


def _unpaid(goals: DraftGoals, gain: Gain | None) -> str:
    if gain is None:
        return "speculation did not pay when it was tried"
    tokens = f"speculation makes {gain.factor:.2f} times the tokens"
    if goals.pays_in == "targets":
        return f"{tokens}; a drafter saves {gain.per_cost:.2f} of its cost in targets"
    return (
        f"{tokens}; a drafter adds {gain.per_drafter:.3g} a second, "
        f"{gain.per_cost:.2f} of what its cost would in targets"
    )

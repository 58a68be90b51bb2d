"""How many replicas a pool needs now, and why: before any thought of pace.

Each signal names a need; the largest wins and gives the reason. Load (sessions,
pages) is absolute: so much of it needs so many replicas. Latency is relative and
lags behind: it scales the replicas that produced it, and never counts while
others that were ordered for it are still starting, nor while there is room.
"""

import math
from dataclasses import dataclass, replace

from treedraft.autoscaler.error_budget import between
from treedraft.autoscaler.settings import DraftGoals, TargetGoals
from treedraft.autoscaler.signals import Observation

# One bad reading must not double a pool again and again.
_MAX_LATENCY_FACTOR = 1.5
# More than trees of a good drafter make of a pass.
_BEST_FACTOR = 3.0
# Share of what the goals of load allow, above which latency is a matter of load.
_LOADED = 0.6


@dataclass(frozen=True, slots=True)
class Need:
    """Replicas that a signal asks for, as a fraction too, and the reason in words."""

    replicas: float
    reason: str


def target_need(goals: TargetGoals, seen: Observation, *, budget_spent: float = 1.0) -> Need:
    """Return what the targets' own load and latency ask for.

    Args:
        goals: how full and slow they may be.
        seen: how they are.
        budget_spent: share of the errors that are allowed; the less, the less room is kept.
    """
    load, signals = seen.target, seen.target.signals
    sessions = load.num_sessions + load.num_waiting
    per_target = goals.goal_sessions or _sessions_per_worker(goals, seen)
    needs = [
        Need(
            sessions / per_target,
            f"{sessions} sessions at {per_target:.3g} a target",
        ),
        Need(
            load.num_ready * load.kv_use / goals.goal_kv_use,
            f"{load.kv_use:.0%} of KV in use, {goals.goal_kv_use:.0%} wanted",
        ),
        _prompt_need(goals, seen, budget_spent),
    ]
    # Targets that are half empty are slow for other reasons: a long prompt, a slow
    # machine. More of them would be as slow.
    is_loaded = max(need.replicas for need in needs) > _LOADED * load.num_ready
    if is_loaded and load.num_ready >= seen.target_replicas:
        needs += [
            _latency_need(load.num_ready, measured, goal, what)
            for measured, goal, what in (
                (signals.queue_wait_seconds, goals.goal_queue_wait_seconds, "queue wait"),
                (
                    signals.time_to_first_token_seconds,
                    goals.goal_first_token_seconds,
                    "first token",
                ),
                (signals.inter_token_seconds, goals.goal_inter_token_seconds, "inter-token time"),
            )
        ]
    return max(needs, key=lambda need: need.replicas)


def draft_need(goals: DraftGoals, seen: Observation) -> Need:
    """Return the drafters that keep late drafts under their goal; whether they pay is not asked."""
    load, signals = seen.draft, seen.draft.signals
    sessions = seen.target.num_sessions
    per_drafter = goals.goal_sessions or load.max_sessions / max(1, load.num_ready) or sessions or 1
    needs = [
        Need(sessions / per_drafter, f"{sessions} sessions at {per_drafter:.3g} a drafter"),
        Need(
            load.num_ready * signals.utilisation / goals.goal_utilisation,
            f"drafters busy {signals.utilisation:.0%} of the time, "
            f"{goals.goal_utilisation:.0%} wanted",
        ),
    ]
    late = seen.target.signals.late_draft_share
    # Nodes come late for other reasons too (a tree that was guessed wrong); more
    # drafters help only where those there are have no time left.
    if late > goals.goal_late_share and signals.utilisation > 0.5 * goals.goal_utilisation:
        factor = min(_MAX_LATENCY_FACTOR, late / goals.goal_late_share)
        needs.append(
            Need(
                load.num_ready * factor,
                f"{late:.0%} of drafts in vain, at most {goals.goal_late_share:.0%} wanted",
            )
        )
    return max(needs, key=lambda need: need.replicas)


@dataclass(frozen=True, slots=True)
class Gain:
    """What speculation brings.

    Attributes:
        factor: tokens per second with it over those without; 0 if not measured.
        per_drafter: tokens per second that a drafter adds.
        per_cost: the same per cost of a drafter, over what a target makes for its own
            cost without speculation; or, where drafters must pay in targets, those that a
            drafter saves, per its cost. Infinite for drafters that cost nothing.
    """

    factor: float
    per_drafter: float
    per_cost: float

    @property
    def pays(self) -> bool:
        """Whether the drafters' money is well spent."""
        return self.factor > 1.0 and self.per_cost >= 1.0


def measure_gain(
    goals: DraftGoals, seen: Observation, targets: TargetGoals | None = None
) -> Gain | None:
    """Return what speculation brings now; None where there is nothing to judge by.

    Args:
        goals: of drafters.
        seen: how both pools are.
        targets: goals of the targets, which say how many would be needed without drafters.
    """
    target, num_drafters = seen.target, seen.draft.num_ready
    signals = target.signals
    if not num_drafters or not target.num_ready or signals.tokens_per_round <= 0:
        return None
    if not signals.tokens_per_second:
        return None
    # A round that brought nothing cost nothing either: its budget was zero.
    share = min(1.0, signals.tokens_per_round - 1.0)
    pass_cost = 1.0 + (goals.verification_cost - 1.0) * share
    factor = signals.tokens_per_round * (1.0 - signals.draft_wait_share) / pass_cost
    # In a pass that carries a prompt every row holds the prompt up: what drafts gain
    # there for some they take from others. Nor is time saved that nobody wants.
    decoding_alone = max(0.0, (signals.utilisation or 1.0) - signals.prompt_share)
    factor = 1.0 + (factor - 1.0) * decoding_alone
    plain = signals.tokens_per_second / factor if factor else signals.tokens_per_second
    per_drafter = (signals.tokens_per_second - plain) / num_drafters
    per_target = plain / target.num_ready
    if not goals.cost:
        return Gain(factor, per_drafter, math.inf if per_drafter > 0 else 0.0)
    if goals.pays_in == "targets":
        saved = _saved_targets(targets or TargetGoals(), seen, factor)
        return Gain(factor, per_drafter, saved / (goals.cost * num_drafters))
    return Gain(factor, per_drafter, per_drafter / goals.cost / per_target)


def may_pay(goals: DraftGoals, seen: Observation, targets: TargetGoals) -> bool:
    """Return whether drafters could pay at all, so that a trial is worth its cost.

    Where they must save targets, they could not if not even tokens that came so
    many times faster than now would save what one drafter costs.
    """
    if goals.pays_in == "tokens" or not goals.cost:
        return True
    return _saved_targets(targets, seen, _BEST_FACTOR) >= goals.cost


def _saved_targets(goals: TargetGoals, seen: Observation, factor: float) -> float:
    """Return how many more targets the goals would ask for if tokens came `factor` times slower.

    Sessions, and the pages that they hold, would stay that much longer. Prompts would
    be computed as they are.
    """
    load = seen.target
    if factor <= 1.0:
        return 0.0
    slower = replace(
        load,
        num_sessions=round(load.num_sessions * factor),
        kv_use=load.kv_use * factor,
        signals=replace(
            load.signals, inter_token_seconds=load.signals.inter_token_seconds * factor
        ),
    )
    with_drafters, without = (
        target_need(goals, replace(seen, target=one)).replicas for one in (load, slower)
    )
    return without - with_drafters


def _prompt_need(goals: TargetGoals, seen: Observation, budget_spent: float) -> Need:
    """Return what prompts ask for: their work at its goal, and some to spare for chance.

    Work that arrives at random swings by the square root of it, so a large pool
    needs less to spare for each target than a small one.
    """
    budget, share = goals.budget, seen.target.signals.prompt_share
    wanted = between(budget.whole_prompt_share, goals.goal_prompt_share, budget_spent)
    per_root = between(budget.whole_spare_targets, goals.spare_targets, budget_spent)
    work = seen.target.num_ready * share
    spare = per_root * math.sqrt(work)
    return Need(
        work / wanted + spare,
        f"prompts in passes {share:.0%} of the time, {wanted:.0%} wanted and {spare:.2g} to spare",
    )


def _sessions_per_worker(goals: TargetGoals, seen: Observation) -> float:
    load = seen.target
    held = load.max_sessions / load.num_ready if load.num_ready else 0.0
    # Nobody has said yet what a target holds: one replica will tell.
    return goals.goal_occupancy * held or math.inf


def _latency_need(num_ready: int, measured: float, goal: float, what: str) -> Need:
    if measured <= goal:
        return Need(0.0, "")
    factor = min(_MAX_LATENCY_FACTOR, measured / goal)
    return Need(num_ready * factor, f"{what} {measured:.3g} s, {goal:.3g} s wanted")

"""How much of the errors that an objective allows has been spent.

An objective of 99 % allows one first token in a hundred to be late. Room that
stands there for bursts is paid for at every hour, errors are free as long as they
are allowed: so the policy keeps little room while the budget is whole, and more
of it the more has been spent. Requests and misses are counted from what targets
report, and forgotten over the time for which the objective holds.
"""

import math
from dataclasses import dataclass, replace

from treedraft.autoscaler.settings import BudgetGoals
from treedraft.autoscaler.signals import Observation

# Between two looks that lie further apart nothing is known of what was served.
_LONGEST_GAP_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class BudgetMemory:
    """First tokens that were due, and those that were missed, as of `at`."""

    num_due: float = 0.0
    num_missed: float = 0.0
    at: float | None = None


def note(goals: BudgetGoals, memory: BudgetMemory, seen: Observation) -> BudgetMemory:
    """Return the account after one look more."""
    if memory.at is None:
        return replace(memory, at=seen.now)
    elapsed = max(0.0, seen.now - memory.at)
    kept = math.exp(-elapsed / goals.window_seconds)
    counted, signals = min(elapsed, _LONGEST_GAP_SECONDS), seen.target.signals
    return BudgetMemory(
        memory.num_due * kept + counted * signals.first_tokens_due_per_second,
        memory.num_missed * kept + counted * signals.first_tokens_missed_per_second,
        seen.now,
    )


def spent(goals: BudgetGoals, memory: BudgetMemory) -> float:
    """Return the share of the budget that is gone: 0 whole, 1 spent or nothing known.

    What is overspent asks for no more room than the goals: bursts are over before it
    stands there, and the next one is as likely as ever.
    """
    allowed = (1.0 - goals.objective) * memory.num_due
    if allowed < goals.least_errors:
        return 1.0
    return min(1.0, memory.num_missed / allowed)


def between(whole: float, gone: float, share: float) -> float:
    """Return what holds when `share` of the budget is spent, given both ends."""
    return whole + (gone - whole) * share

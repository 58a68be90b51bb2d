"""Whether drafting is worth it at one load: what it brought against what it cost, in plain steps.

A trial that failed may have met a hard text, or prices that were not learned yet. Where one
session is all there is, two texts of a hundred words would decide over the next hundred; so
there the next trial comes soon, and each one that fails too makes the pause twice as long.
"""

from dataclasses import dataclass
from typing import Self

from treedraft.target.settings import GateSettings

# Of the first deposit: what has to be there to try again.
_RETRIAL = 0.5
# Times the allowance, after a first trial that failed although the forecast says that drafts pay;
# the less the more texts there are and the longer the way is, with this power of a trial's length.
_EAGERNESS = 8.0
_EAGERNESS_POWER = 4


@dataclass(slots=True)
class Promise:
    """What was forecast last for a number of sessions, to be kept to for some steps."""

    load: int
    pays: bool
    steps_left: int


@dataclass(slots=True)
class LoadAccount:
    """What drafting at one load has left to lose, in plain steps."""

    trial: float
    max_gain: float
    balance: float
    eagerness: float = 1.0  # times the allowance, after a first trial
    is_open: bool = True
    is_tried: bool = False
    num_failed: int = 0  # trials since drafts paid last
    saved: float = 0.0  # for a first trial against the forecast
    promise: Promise | None = None

    @classmethod
    def of(cls, settings: GateSettings, share: float) -> Self:
        """Open an account with so much of the deposit of a single session whose drafter is near."""
        trial = settings.trial_steps * share
        max_gain = max(trial, settings.max_gain_steps * share)
        return cls(trial, max_gain, trial, _EAGERNESS * share**_EAGERNESS_POWER)

    def save(self, change: float) -> None:
        """Set something aside for a trial, the first one included."""
        if self.is_tried:
            self.enter(change)
            return
        self.saved += change
        if self.saved >= _RETRIAL * self.trial:
            self.balance, self.is_tried = self.saved, True

    def enter(self, change: float) -> None:
        """Enter what a step brought and cost."""
        limit = self.max_gain if self.is_open else _RETRIAL * self.trial
        self.balance = min(limit, self.balance + change)
        if self.balance <= 0.0:
            self.num_failed += self.is_open
            self.is_open = False
        elif self.balance >= _RETRIAL * self.trial:
            self.is_open = True
        if self.balance >= self.max_gain:
            self.num_failed = 0

    @property
    def haste(self) -> float:
        """How many times the allowance is set aside for the next trial."""
        return max(1.0, self.eagerness * 0.5 ** (self.num_failed - 1)) if self.num_failed else 1.0

"""Whether drafting is worth it at the present load: what it costs against what it brings.

Under load a row of a pass has its price, a drafter on the target's own cores
takes time from it, and steps that wait for drafts make all sessions wait. Each
of these can be estimated; what they come to is measured here, against the one
thing that counts: the time that plain steps would have taken for the same
tokens. Each load has an account in plain steps. Steps with drafts pay in what
they gained or lost; and a small share of all time is put in as an allowance, to
try again with. Drafting is open as long as there is something in the account,
so what it can lose is bounded: the first deposit, once, and that share.

Loads are told apart by the number of sessions in powers of two, since price and
cost grow with it: what does not pay at some load is not tried at a greater one
before its allowance has been saved up.
"""

from dataclasses import dataclass, field

from treedraft.target.settings import GateSettings
from treedraft.target.step_costs import StepCosts

_SMOOTHING = 0.1
_MAX_STEPS = 4.0


@dataclass(slots=True)
class _Account:
    """What drafting at one load has left to lose, in plain steps."""

    balance: float
    is_open: bool


@dataclass(slots=True)
class _Overhead:
    """What a step takes beside its pass where nobody drafts, in milliseconds."""

    mean_ms: float = 0.0
    num_seen: int = 0

    def observe(self, overhead_ms: float) -> None:
        self.num_seen += 1
        rate = max(_SMOOTHING, 1.0 / self.num_seen)
        self.mean_ms += rate * (max(0.0, overhead_ms) - self.mean_ms)


@dataclass(frozen=True, slots=True)
class FinishedStep:
    """A step without prompts: sessions in it, tokens out of it, and where its time went."""

    num_sessions: int
    num_tokens: int
    elapsed_ms: float
    pass_ms: float
    is_drafted: bool


@dataclass(slots=True)
class DraftGate:
    """Keeps the accounts; to be asked before each step and told after it."""

    settings: GateSettings
    costs: StepCosts
    _accounts: dict[int, _Account] = field(default_factory=dict)
    _overheads: dict[int, _Overhead] = field(default_factory=dict)

    def is_open(self, num_sessions: int) -> bool:
        """Return whether to draft while so many sessions run."""
        return not self.settings.enabled or self._account(num_sessions).is_open

    def step_finished(self, step: FinishedStep) -> None:
        """Enter a step into the books."""
        size = _size(step.num_sessions)
        overhead = self._overheads.setdefault(size, _Overhead())
        if not step.is_drafted:
            overhead.observe(step.elapsed_ms - step.pass_ms)
        plain_ms = self.costs.estimate(step.num_sessions) + overhead.mean_ms
        # One hiccup of the machine must not close it for long.
        num_steps = min(step.elapsed_ms / plain_ms, _MAX_STEPS)
        change = self.settings.allowance * num_steps
        if step.is_drafted:
            change += step.num_tokens / step.num_sessions - num_steps
        self._enter(self._account(step.num_sessions), change)

    def _enter(self, account: _Account, change: float) -> None:
        limit = self.settings.max_gain_steps if account.is_open else self.settings.trial_steps
        account.balance = min(limit, account.balance + change)
        if account.balance <= 0.0:
            account.is_open = False
        elif account.balance >= self.settings.trial_steps:
            account.is_open = True

    def _account(self, num_sessions: int) -> _Account:
        size = _size(num_sessions)
        if size not in self._accounts:
            below = [known for known in self._accounts if known < size]
            is_hopeless = bool(below) and not self._accounts[max(below)].is_open
            deposit = 0.0 if is_hopeless else self.settings.trial_steps
            self._accounts[size] = _Account(deposit, not is_hopeless)
        return self._accounts[size]


def _size(num_sessions: int) -> int:
    return max(0, num_sessions - 1).bit_length()

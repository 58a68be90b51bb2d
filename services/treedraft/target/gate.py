"""Whether drafting is worth it at the present load: what it costs against what it brings.

Under load a row of a pass has its price, a drafter on the target's own cores
takes time from it, and steps that wait for drafts make all sessions wait. Each
of these can be estimated; what they come to is measured here, against the one
thing that counts: the time that plain steps would have taken for the same
tokens. Each load has an account in plain steps. Steps with drafts pay in what
they gained or lost; and a small share of all time is put in as an allowance, to
try again with. Drafting is open as long as there is something in the account,
so what it can lose is bounded: the first deposit, once, and that share. A first trial may
have met a hard text, or prices that were not learned yet: where one session is all there is and
the forecast disagrees, the share is larger at first, half as large after each trial that failed.

Loads are told apart by the number of sessions in powers of two, since price and
cost grow with it. Until drafts were tried at one, it is open if they promise to pay
(`forecast`) and did so at the next smaller one. Steps of many sessions say more than
those of few, as a mean over more texts does, so the deposit shrinks with the root of
their number. Where the forecast is a loss, what is set aside for trials is a fraction:
they are a doubt about the forecast, not about the load.

Within a load that is open each session has an account of its own (`session_account`).

Prompts come in bursts, and until the last of one is done passes are as large as they
may be: drafts gain little in them, and what a drafter computes on the target's cores
holds up first tokens. So it begins with texts once no prompt waits, that of the first
of a burst included.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from treedraft.target.finished_step import DraftedRound, FinishedStep
from treedraft.target.forecast import Forecast
from treedraft.target.load_account import LoadAccount, Promise
from treedraft.target.session import TargetSession
from treedraft.target.session_account import is_worth_catching_up
from treedraft.target.settings import GateSettings
from treedraft.target.step_costs import StepCosts

_SMOOTHING = 0.1
_MAX_STEPS = 4.0
# Of the allowance, where the forecast says that trials will fail.
_DOUBT = 0.1
# What one text or two are like says nothing about many: that size of load on it does.
_LEAST_TELLING_SIZE = 2
# Tokens that drafts bring for each token of a text, where they are open; a forecast is
# believed between these.
_FAIR_GAINS = (0.1, 0.3)
# Of what a drafter may take to catch up with texts, what is left for the step after one.
_LEFT_GRANTED = 0.5
# Tokens of a text after which it is drafted for although others' prompts still wait: where
# there is always another, it does not wait for ever.
_PATIENT_TOKENS = 16
# A forecast holds for so many steps: to begin and leave off costs more than either.
_PROMISED_STEPS = 32


@dataclass(slots=True)
class _Overhead:
    """What a step takes beside its pass where nobody drafts, in milliseconds."""

    mean_ms: float = 0.0
    num_seen: int = 0

    def observe(self, overhead_ms: float) -> None:
        self.num_seen += 1
        rate = max(_SMOOTHING, 1.0 / self.num_seen)
        self.mean_ms += rate * (max(0.0, overhead_ms) - self.mean_ms)


@dataclass(slots=True)
class DraftGate:
    """Keeps the accounts; to be asked before each step and told after it."""

    settings: GateSettings
    costs: StepCosts
    forecast: Forecast
    # Asked for the round trip to the nearest drafter.
    travel_ms: Callable[[], float] = lambda: 0.0
    # Whether prompts are still to be computed.
    has_prompts: Callable[[], bool] = lambda: False
    _accounts: dict[int, LoadAccount] = field(default_factory=dict)
    _overheads: dict[int, _Overhead] = field(default_factory=dict)
    # What drafters were given leave to take to catch up with texts and have not taken yet.
    _granted_ms: float = 0.0
    # What drafts bring a token of a text, and what a missed one costs, at the load asked for.
    _prospect: tuple[float, float] = (_FAIR_GAINS[1], 0.0)
    # Whether drafts would hold up a first token, then.
    _someone_waits: bool = False

    def is_open(self, load: int) -> bool:
        """Return whether to draft while so many sessions run."""
        is_open = self._is_open(load)
        if is_open and self.settings.enabled:
            self._prospect = self._look_ahead(load)
            self._someone_waits = self.forecast.takes_turns and self.has_prompts()
        return is_open

    def wants(self, session: TargetSession, num_missed: int) -> bool:
        """Return whether to draft for a session, of whose text a drafter missed so many tokens.

        That is at the load for which `is_open` was asked last.
        """
        gain, cost = self._prospect
        tokens_left = session.stop_checker.tokens_left
        return not self.settings.enabled or (
            session.draft_account.is_open(session.num_tokens)
            and is_worth_catching_up(num_missed, tokens_left, gain=gain, cost=cost)
            and not self._is_in_the_way(session)
        )

    def _is_in_the_way(self, session: TargetSession) -> bool:
        """Return whether to draft for a text would hold up others' first tokens."""
        num_emitted = session.num_tokens - session.spec.prompt_length
        return self._someone_waits and num_emitted < _PATIENT_TOKENS

    def step_finished(self, step: FinishedStep) -> None:
        """Enter a step into the books."""
        if not step.num_sessions:
            return  # of prompts alone
        overhead = self._overhead(step.load)
        plain_ms = self.costs.estimate(step.num_sessions, step.num_sessions) + overhead.mean_ms
        # One hiccup of the machine must not close it for long.
        num_steps = min(step.elapsed_ms / plain_ms, _MAX_STEPS)
        if not step.drafted:
            if not step.num_prompt_rows:
                overhead.observe(step.elapsed_ms - step.pass_ms)
            self._save(step.load, num_steps)
            return
        added_ms = self._added_ms(step, overhead.mean_ms)
        granted_ms = self._take_granted(step.num_missed, added_ms)
        num_lost = min((added_ms - granted_ms) / plain_ms, _MAX_STEPS - 1.0)
        account = self._account(step.load)
        account.is_tried = True
        gained = (step.num_tokens - step.num_sessions) / step.num_sessions
        account.enter(self.settings.allowance * num_steps + gained - num_lost)
        self.forecast.observe(
            num_sessions=step.num_sessions,
            num_nodes=sum(one.num_nodes for one in step.drafted),
            num_accepted=sum(one.num_accepted for one in step.drafted),
            draft_ms=step.elapsed_ms - step.pass_ms - overhead.mean_ms,
            travel_ms=self.travel_ms(),
            num_missed=step.num_missed,
        )
        self._share_out(step.drafted, step.num_sessions * max(0.0, num_lost))

    def _added_ms(self, step: FinishedStep, overhead_ms: float) -> float:
        """Return what a step took longer than it would have without drafts.

        A pass with prompts in it has no like without drafts to compare it with: there it is the
        price of the nodes and what the step took beside the pass.
        """
        num_rows = step.num_sessions + step.num_prompt_rows
        pass_ms = self.costs.estimate(num_rows, step.num_passing)
        if step.num_prompt_rows:
            num_nodes = sum(one.num_nodes for one in step.drafted)
            nodes_ms = self.costs.estimate(num_rows + num_nodes, step.num_passing) - pass_ms
            pass_ms = step.pass_ms - nodes_ms
        return step.elapsed_ms - pass_ms - overhead_ms

    def _take_granted(self, num_missed: int, added_ms: float) -> float:
        """Return how much of what a step took longer was given leave for beforehand.

        To catch up with a text takes a drafter what it takes once, for the rest of the text.
        Whether that is worth it was weighed when it began (`wants`): only what it takes beyond
        that is held against drafting at this load.
        """
        if self.forecast.takes_turns:  # else a step is not held up by it
            self._granted_ms += num_missed * self.forecast.missed_token_ms
        taken_ms = min(max(0.0, added_ms), self._granted_ms)
        self._granted_ms = _LEFT_GRANTED * (self._granted_ms - taken_ms)
        return taken_ms

    def _share_out(self, drafted: Sequence[DraftedRound], num_lost: float) -> None:
        """Enter a step that took as long as `num_lost` tokens more into its sessions' accounts."""
        weight = sum(1 + one.num_nodes for one in drafted)
        for one in drafted:
            one.session.draft_account.enter(
                one.num_accepted - num_lost * (1 + one.num_nodes) / weight,
                one.session.num_tokens,
                trial_tokens=self.settings.session_trial_tokens,
            )

    def _save(self, load: int, num_steps: float) -> None:
        """Set aside for the next trial what a step without drafts allows."""
        if not self._is_open(load):
            account = self._account(load)
            share = account.haste if self._gain_steps(load) >= 0.0 else _DOUBT
            account.save(share * self.settings.allowance * num_steps)

    def _is_open(self, load: int) -> bool:
        if not self.settings.enabled:
            return True
        account = self._account(load)
        return account.is_open if account.is_tried else self._promises(load)

    def _promises(self, load: int) -> bool:
        """Return whether a load where drafts were not tried is one where they should pay."""
        account = self._account(load)
        promise = account.promise
        if promise is None or promise.load != load or not promise.steps_left:
            promise = account.promise = Promise(load, self._should_pay(load), _PROMISED_STEPS)
        promise.steps_left -= 1
        return promise.pays

    def _should_pay(self, load: int) -> bool:
        if not self.settings.forecast:
            return True
        size = _size(load)
        below = [
            known
            for known, account in self._accounts.items()
            if _LEAST_TELLING_SIZE <= known < size and account.is_tried
        ]
        is_hopeless = bool(below) and not self._accounts[max(below)].is_open
        return not is_hopeless and self._gain_steps(load) >= 0.0

    def _look_ahead(self, load: int) -> tuple[float, float]:
        """Return the prospect: a drafter that catches up keeps the cores from all sessions."""
        least, most = _FAIR_GAINS
        all_ms = self.costs.estimate(max(1, load), max(1, load))
        gain = min(most, max(least, self._gain_steps(load)))
        return gain, self.forecast.missed_token_ms * max(1, load) / all_ms

    def _gain_steps(self, load: int) -> float:
        overhead_ms = self._overhead(load).mean_ms
        return self.forecast.gain_steps(
            max(1, load), overhead_ms=overhead_ms, travel_ms=self.travel_ms()
        )

    def _overhead(self, load: int) -> _Overhead:
        return self._overheads.setdefault(_size(load), _Overhead())

    def _account(self, load: int) -> LoadAccount:
        size = _size(load)
        if size not in self._accounts:
            # Over a long way drafts can bring less: less is lost to finding that out.
            plain_ms = self.costs.estimate(max(1, load), max(1, load))
            share = plain_ms / (plain_ms + self.travel_ms()) / math.sqrt(2**size)
            self._accounts[size] = LoadAccount.of(self.settings, share)
        return self._accounts[size]


def _size(load: int) -> int:
    return max(0, load - 1).bit_length()

"""How long a step waits for drafts that are on their way: as long as that pays.

A pass costs nearly the same whether it checks one node or eight, so a moment
spent on a larger tree can be worth more than the same moment of plain decoding.
Where drafter and target share cores it nearly always is: the drafter hardly
gets on while the target computes. So before a step that has no prompt to
compute, the engine may wait for the next frame of a drafter.

The rule is that of optimal stopping with a reward per unit of time: go on as
long as the next frame is expected to add more tokens per millisecond than the
engine makes in the long run. What a frame adds is learned for each drafter as a
share of the survival that its tree has at its leaves, and when it comes as a
time after the commit or the frame before. Where drafters compute on the target's
own cores a pass beside them would take about as much longer as they take, so the
two take turns: only the way there and back counts as lost, the wait goes on
until the drafters rest, and these weigh what their steps bring (`draft/thrift`).
Speculative decoding as a stopping problem: SpecDec++ (arXiv 2405.19715), there
for the length of a chain.

Invariants: no step waits longer than a stated share of a pass; a frame that is
overdue ends the wait, and each wait that brought nothing doubles the number of
steps until the next one, so that a drafter that hangs costs next to nothing;
nobody waits for a drafter that has said it rests. Waiting changes when a step
starts and never what it says.
"""

import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

from treedraft.core.exchange import DraftFrame, Economics
from treedraft.target.budget import SurvivalCalibrator
from treedraft.target.link_pace import Asked, LinkPace
from treedraft.target.outlook import Goodput, Outlook
from treedraft.target.session import TargetSession
from treedraft.target.settings import PatienceSettings
from treedraft.target.step_costs import StepCosts

# Drafted nodes of a session over which the price of a row is taken.
_TYPICAL_NODES = 8
_MAX_SKIPPED_STEPS = 1023
# Round trips of up to this share of a plain pass are waited for.
_NEAR_SHARE = 0.5
# A drafter that answers not at all does not stop the baseline for ever.
_SYNCHRONOUS_LIMIT_NS = 10_000_000_000


def held_ms(frame: DraftFrame) -> float | None:
    """Return how long a drafter held this since the last commit; None if it does not say."""
    return max((growth.held_us / 1e3 for growth in frame.growths), default=None)


@dataclass(frozen=True, slots=True)
class DraftingSession:
    """A session of the next step and the drafter that works for it, if one does."""

    session: TargetSession
    endpoint: str | None


class Patience:
    """Decides before each step whether to wait for a frame, and until when."""

    def __init__(
        self,
        settings: PatienceSettings,
        costs: StepCosts,
        calibrator: SurvivalCalibrator,
        *,
        max_nodes: int,
        max_depth: int,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """Weigh by what passes cost and by what became of earlier nodes.

        Args:
            settings: whether to wait at all, and how long at most.
            costs: measured times of passes.
            calibrator: turns scores into survival.
            max_nodes: of one session in a pass; what a tree has beyond is worth nothing.
            max_depth: likewise.
            clock_ns: the clock that arrivals of frames are read from.
        """
        self.goodput = Goodput()
        self._settings = settings
        self._costs = costs
        self._calibrator = calibrator
        self._max_nodes = max_nodes
        self._max_depth = max_depth
        self._clock_ns = clock_ns
        self._links: dict[str, LinkPace] = {}
        self._outlooks: dict[DraftingSession, Outlook] = {}
        self._price = 0.0
        self._wait_since_ns: int | None = None
        self._waited_for: tuple[str, ...] = ()

    @property
    def takes_turns(self) -> bool:
        """Whether drafters compute on the cores or the accelerator of the target."""
        return self._settings.takes_turns

    @property
    def is_awaiting(self) -> bool:
        """Whether the step considered now could wait for a drafter at all."""
        return bool(self._outlooks)

    def economics(self) -> Economics:
        """Return what drafts are worth at present."""
        # A tree that is waited for is grown to its limits.
        token_us = 0 if self._settings.is_synchronous else self.goodput.token_us
        return Economics(token_us, int(self._price * token_us))

    def commits_announced(self, endpoints: Iterable[str], opened: Collection[str] = ()) -> None:
        """Expect an answer of these drafters from now on; at those `opened` a session begins."""
        for endpoint in endpoints:
            pace = self._links.setdefault(endpoint, LinkPace())
            pace.asked.append(Asked(self._clock_ns(), endpoint in opened))

    def link_measured(self, endpoint: str, round_trip_ms: float) -> None:
        """Note what the way to a drafter and back takes."""
        self._links.setdefault(endpoint, LinkPace()).measured(round_trip_ms)

    def shortest_travel_ms(self) -> float:
        """Return the round trip to the nearest drafter; 0 while none is known."""
        return min((pace.travel_ms for pace in self._links.values()), default=0.0)

    def link_down(self, endpoint: str) -> None:
        """Forget a drafter that is gone."""
        self._links.pop(endpoint, None)

    def frame_taken(
        self,
        endpoint: str,
        arrived_ns: int,
        *,
        held_ms: float | None = None,
        asked_ns: int | None = None,
    ) -> None:
        """Learn from a frame whose nodes are in the trees by now.

        Args:
            endpoint: the drafter.
            arrived_ns: when it came.
            held_ms: how long the drafter had the last commit before it sent the
                frame; None if it does not say.
            asked_ns: when it was told what the frame is about; None for all that it was told.
        """
        pace = self._links.setdefault(endpoint, LinkPace(since_ns=arrived_ns))
        pace.frame_arrived(arrived_ns, held_ms=held_ms, asked_ns=asked_ns)
        pace.num_fruitless = pace.num_to_skip = 0
        gained = promised = 0.0
        for drafting, before in self._outlooks.items():
            if drafting.endpoint == endpoint:
                after = self._outlooks[drafting] = self._look(drafting.session)
                gained += max(0.0, after.value - before.value)
                promised += before.promise
        if promised:
            pace.observe_yield(gained, promised)

    def begin_step(
        self, sessions: Sequence[DraftingSession], *, num_sessions: int | None = None
    ) -> None:
        """Consider the next step of these sessions, none of which has a prompt to compute.

        There may be more in it that nobody drafts for, `num_sessions` in all.
        """
        self._wait_since_ns = self._clock_ns()
        self._waited_for = ()
        count = len(sessions) if num_sessions is None else num_sessions
        if count:
            plain_ms = self._costs.estimate(count, count)
            self.goodput.begin(count, plain_ms)
            self._price = self._row_price(count)
        if not self._settings.enabled:
            return
        drafted = [s for s in sessions if s.endpoint is not None]
        endpoints = {s.endpoint for s in drafted}
        awaited = {endpoint for endpoint in endpoints if self._may_await(endpoint, count)}
        self._outlooks = {s: self._look(s.session) for s in drafted if s.endpoint in awaited}
        for endpoint in endpoints:
            pace = self._links.get(endpoint or "")
            if pace:
                pace.forget()
            if pace and pace.num_to_skip:
                pace.num_to_skip -= 1
                self._drop(endpoint)

    def wait_until_ns(self, num_sessions: int) -> int | None:
        """Return until when to wait for a frame; None to start the step now.

        To be asked again after each event that arrived, and when the time is up.
        """
        now_ns = self._clock_ns()
        assert self._wait_since_ns is not None
        if self._settings.is_synchronous:
            is_answered = not self._promises()
            return None if is_answered else self._wait_since_ns + _SYNCHRONOUS_LIMIT_NS
        waited_ms = (now_ns - self._wait_since_ns) / 1e6
        plain_ms = self._costs.estimate(num_sessions, num_sessions)
        left_ms = self._settings.max_pass_share * plain_ms - waited_ms
        worth = self.goodput.tokens_per_ms or num_sessions / plain_ms
        gain, until_ns, endpoints = 0.0, None, []
        for remaining_ms, endpoint, promise in self._expected(now_ns, plain_ms):
            if remaining_ms > left_ms:
                break
            pace = self._links[endpoint]
            gain += pace.yield_ * promise
            endpoints.append(endpoint)
            # What a drafter computes on our cores would hold the pass up just as long.
            lost_ms = (
                min(remaining_ms, pace.travel_ms) if self._settings.takes_turns else remaining_ms
            )
            if gain > worth * lost_ms:
                bound_ns = now_ns + int(left_ms * 1e6)
                until_ns = min(max(self._links[e].overdue_ns(now_ns) for e in endpoints), bound_ns)
                self._waited_for = tuple(endpoints)
        return until_ns

    def time_is_up(self) -> None:
        """Note that nothing came of the wait: those who did not come are not waited for at once."""
        for endpoint in self._waited_for:
            if pace := self._links.get(endpoint):
                pace.num_fruitless += 1
                pace.num_to_skip = min(2**pace.num_fruitless - 1, _MAX_SKIPPED_STEPS)

    def end_wait(self) -> None:
        """Learn no more from what arrives until the next step is considered."""
        self._outlooks = {}

    def _may_await(self, endpoint: str | None, num_sessions: int) -> bool:
        """Return whether a step of so many sessions could wait for a drafter."""
        pace = self._links.get(endpoint or "")
        if pace is None or self._settings.is_synchronous:
            return True
        return self._is_near(pace, self._costs.estimate(num_sessions, num_sessions))

    def _is_near(self, pace: LinkPace, plain_ms: float) -> bool:
        """Return whether waiting for a drafter can pay.

        What a far one with cores of its own has grown ahead is there without a wait, and
        what it has not is a whole way off.
        """
        return self._settings.takes_turns or pace.travel_ms <= _NEAR_SHARE * plain_ms

    def _expected(self, now_ns: int, plain_ms: float) -> list[tuple[float, str, float]]:
        """Return (time left in ms, drafter, promise of its leaves), the soonest first."""
        expected = []
        for endpoint, promise in self._promises().items():
            pace = self._links.get(endpoint)
            if pace and now_ns < pace.overdue_ns(now_ns) and self._is_near(pace, plain_ms):
                expected.append((pace.remaining_ms(now_ns), endpoint, promise))
        return sorted(expected)

    def _promises(self) -> dict[str, float]:
        """Return what the leaves of its trees promise, by drafter that does not rest."""
        promises: dict[str, float] = {}
        for drafting, outlook in self._outlooks.items():
            endpoint = drafting.endpoint
            if endpoint in self._links and not drafting.session.is_resting:
                promises[endpoint] = promises.get(endpoint, 0.0) + outlook.promise
        return promises

    def _look(self, session: TargetSession) -> Outlook:
        # What a pass could not hold, or the session not emit, is not waited for.
        options = session.spec.speculation
        max_nodes = self._max_nodes if options.max_nodes is None else options.max_nodes
        max_depth = self._max_depth if options.max_depth is None else options.max_depth
        return Outlook.of(
            session.tree,
            self._calibrator,
            max_nodes=min(max_nodes, self._max_nodes),
            max_depth=min(max_depth, self._max_depth, session.stop_checker.tokens_left - 1),
            price=self._price,
        )

    def _row_price(self, num_sessions: int) -> float:
        """Return what a drafted row adds to a pass, in tokens that its time is worth."""
        rows = num_sessions * _TYPICAL_NODES
        added_ms = self._costs.estimate(num_sessions + rows) - self._costs.estimate(num_sessions)
        return max(0.0, added_ms * self.goodput.tokens_per_ms / max(1, rows))

    def _drop(self, endpoint: str | None) -> None:
        self._outlooks = {s: o for s, o in self._outlooks.items() if s.endpoint != endpoint}

"""What the coordinators would report of the simulated workers."""

from collections import deque
from dataclasses import dataclass, field

from treedraft.autoscaler.signals import Observation, PoolLoad
from treedraft.core.worker import LoadSignals
from treedraft.simulation.fleet import Fleet, Pod
from treedraft.simulation.service_times import ServiceTimes
from treedraft.simulation.target_queue import Request

_WINDOW_SECONDS = 30.0
_QUANTILE = 0.95


@dataclass(frozen=True, slots=True)
class View:
    """What a strategy may see: an observation as the autoscaler gets it, and CPU use."""

    observation: Observation
    num_drafters: int
    cpu_use: float


@dataclass(slots=True)
class _Window:
    """Numbers of the last seconds."""

    entries: deque[tuple[float, float]] = field(default_factory=deque)

    def add(self, now: float, value: float) -> None:
        self.entries.append((now, value))

    def quantile(self, now: float) -> float:
        while self.entries and self.entries[0][0] < now - _WINDOW_SECONDS:
            self.entries.popleft()
        if not self.entries:
            return 0.0
        values = sorted(value for _, value in self.entries)
        return values[min(len(values) - 1, int(_QUANTILE * len(values)))]


class Gauges:
    """Measures a fleet."""

    def __init__(
        self, fleet: Fleet, times: ServiceTimes, kv_tokens: float, interval_seconds: float
    ) -> None:
        """Measure `fleet`, whose targets hold `kv_tokens` each, at every interval."""
        self._fleet, self._times, self._kv_tokens = fleet, times, kv_tokens
        self._interval_seconds = interval_seconds
        # Shares of each interval in which passes ran, and in which they carried prompts.
        self._shares: deque[tuple[float, float]] = deque(
            maxlen=max(1, round(_WINDOW_SECONDS / interval_seconds))
        )
        self._waits, self._first_tokens, self._inter_tokens = _Window(), _Window(), _Window()
        self._num_waiting = 0
        # First tokens that were due in the present interval, and those missed; the
        # same as rates over the last intervals.
        self._num_due, self._num_missed = 0, 0
        self._due: deque[tuple[int, int]] = deque(maxlen=self._shares.maxlen)

    def waiting(self, number: int) -> None:
        """Note how many requests wait for a place."""
        self._num_waiting = number

    def ended(self, now: float, request: Request) -> None:
        """Note a request that ended."""
        self._num_due += 1
        self._num_missed += request.first_token > request.latest
        first_token = request.first_token - request.arrival
        self._first_tokens.add(now, first_token)
        alone = self._fleet.table.seconds_alone(request.prompt)
        self._waits.add(now, max(0.0, first_token - alone))
        tokens = max(1.0, request.output - 1.0)
        self._inter_tokens.add(now, (request.finished - request.first_token) / tokens)

    def refused(self, number: int) -> None:
        """Note requests whose first token could not be in time."""
        self._num_due += number
        self._num_missed += number

    def cover(self, now: float) -> tuple[float, list[Pod]]:
        """Share the drafters out; return the share of sessions with drafts, and who feels it."""
        return self._fleet.cover(now, self._sessions_per_drafter(now))

    def view(self, now: float, coverage: float) -> View:
        """Return how everything is."""
        fleet = self._fleet
        ready = fleet.ready(now)
        num_sessions = sum(pod.queue.num_sessions for pod in fleet.pods)
        signals = self._target_signals(now, coverage)
        observation = Observation(
            now=now,
            target_replicas=fleet.num_wanted,
            draft_replicas=len(fleet.drafters),
            target=PoolLoad(
                num_ready=len(ready),
                num_sessions=num_sessions,
                num_waiting=self._num_waiting,
                max_sessions=fleet.max_sessions * len(ready),
                kv_use=self._kv_use(len(ready)),
                signals=signals,
            ),
            draft=self._draft_load(now, coverage),
        )
        return View(observation, len(fleet.drafters), signals.utilisation)

    def _kv_use(self, num_ready: int) -> float:
        held = sum(pod.queue.kv_tokens for pod in self._fleet.pods)
        return min(1.0, held / (self._kv_tokens * num_ready)) if num_ready else 0.0

    def _target_signals(self, now: float, coverage: float) -> LoadSignals:
        busy_share, prompt_share = self._busy_shares(now)
        due, missed = self._due_rates()
        tokens, weights, rate = 0.0, 0, 0.0
        for pod in self._fleet.ready(now):
            number = len(pod.queue.decoding)
            if not number:
                continue
            has_chunk = pod.queue.has_chunk
            best = pod.queue.table.best(number, has_chunk=has_chunk)
            tokens += number * (1.0 + coverage * (best.tokens - 1.0))
            weights += number
            each, _ = pod.queue.table.rates(number, coverage, has_chunk=has_chunk)
            rate += number * each
        return LoadSignals(
            utilisation=busy_share,
            queue_wait_seconds=self._waits.quantile(now),
            time_to_first_token_seconds=self._first_tokens.quantile(now),
            inter_token_seconds=self._inter_tokens.quantile(now),
            tokens_per_second=rate,
            tokens_per_round=tokens / weights if weights else 0.0,
            late_draft_share=1.0 - coverage,
            prompt_share=prompt_share,
            first_tokens_due_per_second=due,
            first_tokens_missed_per_second=missed,
        )

    def _busy_shares(self, now: float) -> tuple[float, float]:
        """Return the shares of the last seconds in which passes ran, and carried prompts."""
        ready = self._fleet.ready(now)
        available = self._interval_seconds * max(1, len(ready))
        busy = sum(pod.queue.busy_seconds for pod in ready) / available
        prompts = sum(pod.queue.prompt_seconds for pod in ready) / available
        for pod in ready:
            pod.queue.busy_seconds = pod.queue.prompt_seconds = 0.0
        self._shares.append((min(1.0, busy), min(1.0, prompts)))
        means = [sum(column) / len(self._shares) for column in zip(*self._shares, strict=True)]
        return means[0], means[1]

    def _due_rates(self) -> tuple[float, float]:
        """Return first tokens that were due in a second of late, and those that were missed."""
        self.refused(self._fleet.take_expired())
        self._due.append((self._num_due, self._num_missed))
        self._num_due = self._num_missed = 0
        seconds = len(self._due) * self._interval_seconds
        due, missed = (sum(column) for column in zip(*self._due, strict=True))
        return due / seconds, missed / seconds

    def _draft_load(self, now: float, coverage: float) -> PoolLoad:
        number = self._fleet.num_ready_drafters(now)
        per_drafter = self._sessions_per_drafter(now)
        sessions = self._drafted_sessions(now)
        supply = number * per_drafter
        use = min(1.0, sessions / supply) if supply else 0.0
        return PoolLoad(
            num_ready=number,
            num_sessions=round(coverage * sessions),
            max_sessions=max(1, int(per_drafter)) * number,
            signals=LoadSignals(utilisation=use),
        )

    def _drafted_sessions(self, now: float) -> int:
        """Return the sessions at whose targets any node pays."""
        total = 0
        for pod in self._fleet.ready(now):
            number = len(pod.queue.decoding)
            if number and pod.queue.table.best(number, has_chunk=pod.queue.has_chunk).nodes:
                total += number
        return total

    def _sessions_per_drafter(self, now: float) -> float:
        ready = self._fleet.ready(now)
        number = sum(len(pod.queue.decoding) for pod in ready)
        mean = max(1, round(number / len(ready))) if ready else 1
        return self._times.sessions_per_drafter(
            self._fleet.table.best(mean, has_chunk=False).seconds
        )

"""What a worker measured over its last seconds, read off its own metrics.

Whoever sizes a pool wants to know how its workers are now; counters and
histograms say how they were since the start. So their state is noted at each
reading, and the difference against the state of some seconds ago is what
counts. Nothing is measured twice, and nothing is added to a hot path.
"""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry

from treedraft.core.worker import LoadSignals
from treedraft.telemetry import names

WINDOW_SECONDS = 30.0
_QUANTILE = 0.95
_HISTOGRAMS = (
    names.METRIC_QUEUE_WAIT_SECONDS,
    names.METRIC_FIRST_TOKEN_SECONDS,
    names.METRIC_INTER_TOKEN_SECONDS,
    names.METRIC_FORWARD_SECONDS,
    names.METRIC_DRAFT_WAIT_SECONDS,
    names.METRIC_ACCEPTED_LENGTH,
)
_COUNTERS = (
    names.METRIC_TOKENS_EMITTED,
    names.METRIC_NODES_DRAFTED,
    names.METRIC_NODES_DROPPED,
    names.METRIC_ROUNDS,
    names.METRIC_PROMPT_PASS_SECONDS,
    names.METRIC_FIRST_TOKENS_DUE,
    names.METRIC_FIRST_TOKENS_MISSED,
)


@dataclass(slots=True)
class _State:
    """Sums and bucket counts of all series by metric; buckets by upper bound."""

    totals: dict[str, float] = field(default_factory=dict)
    buckets: dict[str, dict[float, float]] = field(default_factory=dict)

    def add(self, name: str, labels: Mapping[str, str], value: float) -> None:
        if name.endswith("_bucket"):
            bounds = self.buckets.setdefault(name.removesuffix("_bucket"), {})
            bound = float(labels["le"])
            bounds[bound] = bounds.get(bound, 0.0) + value
        else:
            self.totals[name] = self.totals.get(name, 0.0) + value


class LoadWindow:
    """Reads load signals off a registry of metrics."""

    def __init__(
        self,
        registry: CollectorRegistry,
        *,
        clock: Callable[[], float],
        window_seconds: float = WINDOW_SECONDS,
    ) -> None:
        """Note how things stand; a reading covers at most `window_seconds`.

        Args:
            registry: of the service's `Metrics`.
            clock: monotonic seconds.
            window_seconds: what is older no longer counts.
        """
        wanted = [*_HISTOGRAMS, *_COUNTERS]
        wanted += [name + suffix for name in _HISTOGRAMS for suffix in ("_bucket", "_sum")]
        self._registry = registry.restricted_registry(wanted)
        self._clock = clock
        self._window_seconds = window_seconds
        self._states: deque[tuple[float, _State]] = deque([(clock(), self._note())])

    def read(self) -> LoadSignals:
        """Return the signals of the last seconds; call it about as often as they are sent."""
        now, state = self._clock(), self._note()
        while len(self._states) > 1 and self._states[1][0] <= now - self._window_seconds:
            self._states.popleft()
        since, before = self._states[0]
        self._states.append((now, state))
        return _signals(_Growth(before, state), now - since)

    def _note(self) -> _State:
        state = _State()
        for metric in self._registry.collect():
            for sample in metric.samples:
                state.add(sample.name, sample.labels, sample.value)
        return state


@dataclass(frozen=True, slots=True)
class _Growth:
    """The difference of two states."""

    before: _State
    after: _State

    def of(self, name: str) -> float:
        return self.after.totals.get(name, 0.0) - self.before.totals.get(name, 0.0)

    def quantile(self, name: str) -> float:
        """Return the 95th percentile of a histogram, linear within its bucket."""
        old = self.before.buckets.get(name, {})
        counts = sorted(
            (bound, count - old.get(bound, 0.0))
            for bound, count in self.after.buckets.get(name, {}).items()
        )
        if not counts or counts[-1][1] <= 0:
            return 0.0
        rank = _QUANTILE * counts[-1][1]
        low_bound = low_count = 0.0
        for bound, count in counts:
            if count >= rank:
                if bound == float("inf"):
                    return low_bound
                return low_bound + (bound - low_bound) * (rank - low_count) / (count - low_count)
            low_bound, low_count = bound, count
        return low_bound


def _signals(growth: _Growth, seconds: float) -> LoadSignals:
    if seconds <= 0:
        return LoadSignals()
    emitted = growth.of(names.METRIC_TOKENS_EMITTED)
    rounds = growth.of(names.METRIC_ROUNDS)
    accepted = growth.of(names.METRIC_ACCEPTED_LENGTH + "_sum")
    drafted = growth.of(names.METRIC_NODES_DRAFTED)
    return LoadSignals(
        utilisation=_share(growth.of(names.METRIC_FORWARD_SECONDS + "_sum"), seconds),
        prompt_share=_share(growth.of(names.METRIC_PROMPT_PASS_SECONDS), seconds),
        queue_wait_seconds=growth.quantile(names.METRIC_QUEUE_WAIT_SECONDS),
        time_to_first_token_seconds=growth.quantile(names.METRIC_FIRST_TOKEN_SECONDS),
        inter_token_seconds=growth.quantile(names.METRIC_INTER_TOKEN_SECONDS),
        tokens_per_second=emitted / seconds,
        first_tokens_due_per_second=growth.of(names.METRIC_FIRST_TOKENS_DUE) / seconds,
        first_tokens_missed_per_second=growth.of(names.METRIC_FIRST_TOKENS_MISSED) / seconds,
        tokens_per_round=1.0 + accepted / rounds if rounds else 0.0,
        draft_wait_share=_share(growth.of(names.METRIC_DRAFT_WAIT_SECONDS + "_sum"), seconds),
        late_draft_share=_share(growth.of(names.METRIC_NODES_DROPPED), drafted),
    )


def _share(part: float, whole: float) -> float:
    return min(1.0, max(0.0, part / whole)) if whole > 0 else 0.0

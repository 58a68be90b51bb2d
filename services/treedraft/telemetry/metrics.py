"""Metrics: what is counted and measured whether or not a request is traced.

All observations go through methods named for what happened, so that callers
know no metric names and labels are bound once: an observation costs about a
microsecond and may be made on an engine thread, per session and round. Each
`Metrics` has a registry of its own, so several services live in one process
(in tests, say) without sharing a number. Thread-safe.
"""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from treedraft import __version__
from treedraft.core.growth import TokenSource
from treedraft.core.session import FinishReason, RoundTimes
from treedraft.core.worker import WorkerReport
from treedraft.telemetry import names
from treedraft.telemetry.metrics_endpoint import MetricsEndpoint

# From a cheap walk (10 µs) to a slow pass on CPU (10 s).
_SECONDS = (
    *(1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3),
    *(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
# What a person waits for.
_WAIT_SECONDS = (
    *(1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25),
    *(0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0),
)
_LENGTHS = (0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 10.0, 12.0, 16.0, 24.0, 32.0)
_SIZES = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0)


class Metrics:
    """The metrics of one service.

    A service uses the methods that concern it; what it never touches stays at
    zero, so that a dashboard finds every series from the start.
    """

    def __init__(self, service: str = "", registry: CollectorRegistry | None = None) -> None:
        """Register all metrics.

        Args:
            service: `draft`, `target` or `coordinator`, for the build info.
            registry: where to register; a new one by default.
        """
        self.registry = registry or CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._init_rounds()
        self._init_requests()
        build = Gauge(
            names.METRIC_BUILD,
            "Version of the running code; always 1.",
            (names.LABEL_SERVICE, names.LABEL_VERSION),
            registry=self.registry,
        )
        build.labels(service, __version__).set(1)

    def _init_rounds(self) -> None:
        parts = self._histogram(
            names.METRIC_ROUND_PART_SECONDS,
            "Where the time of a session's round went.",
            _SECONDS,
            (names.LABEL_PART,),
        )
        (
            self._draft_part,
            self._wire_part,
            self._queue_part,
            self._forward_part,
            self._walk_part,
            self._commit_part,
        ) = (parts.labels(part) for part in names.ROUND_PARTS)
        self._draft_wait = self._histogram(
            names.METRIC_DRAFT_WAIT_SECONDS, "Waits of a step for drafts to come.", _SECONDS
        )
        self._accepted_length = self._histogram(
            names.METRIC_ACCEPTED_LENGTH, "Drafted nodes accepted in a round.", _LENGTHS
        )
        self._tree_nodes = self._histogram(
            names.METRIC_TREE_NODES, "Drafted nodes admitted to a round.", _SIZES
        )
        rounds = self._counter(
            names.METRIC_ROUNDS,
            "Rounds by whether the tree foresaw all that was emitted; plain: nothing drafts.",
            (names.LABEL_OUTCOME,),
        )
        self._rounds = {
            True: rounds.labels("hit"),
            False: rounds.labels("miss"),
            None: rounds.labels("plain"),
        }
        self._drafted = self._by_source(names.METRIC_NODES_DRAFTED, "Nodes sent or received.")
        self._admitted = self._by_source(names.METRIC_NODES_ADMITTED, "Nodes put into a pass.")
        self._accepted = self._by_source(names.METRIC_NODES_ACCEPTED, "Nodes that were emitted.")
        self._dropped = self._counter(
            names.METRIC_NODES_DROPPED, "Nodes that came in vain.", (names.LABEL_REASON,)
        )
        self._refused = self._counter(
            names.METRIC_GROWTHS_REFUSED,
            "Frames of a drafter that no tree can be.",
            (names.LABEL_REASON,),
        )
        self._forward_seconds = self._histogram(
            names.METRIC_FORWARD_SECONDS, "Duration of a pass, all sessions in it.", _SECONDS
        )
        self._forward_rows = self._histogram(
            names.METRIC_FORWARD_ROWS, "Rows of a pass, all sessions in it.", _SIZES
        )
        self._emitted = self._counter(names.METRIC_TOKENS_EMITTED, "Tokens made final.")
        self._prefilled = self._counter(
            names.METRIC_TOKENS_PREFILLED, "Prompt tokens that went through the model."
        )
        self._cached = self._counter(
            names.METRIC_TOKENS_CACHED, "Prompt tokens whose KV was shared instead."
        )
        self._preemptions = self._counter(
            names.METRIC_PREEMPTIONS, "Sessions that lost their KV to others."
        )

    def _init_requests(self) -> None:
        self._queue_wait = self._histogram(
            names.METRIC_QUEUE_WAIT_SECONDS, "From arrival to the first work.", _WAIT_SECONDS
        )
        self._first_token = self._histogram(
            names.METRIC_FIRST_TOKEN_SECONDS, "From arrival to the first token.", _WAIT_SECONDS
        )
        self._inter_token = self._histogram(
            names.METRIC_INTER_TOKEN_SECONDS, "Time per token after the first.", _SECONDS
        )
        labels = (names.LABEL_REASON,)
        finished = self._counter(names.METRIC_SESSIONS_FINISHED, "Sessions that ended.", labels)
        self._finished = {reason: finished.labels(reason.value) for reason in FinishReason}
        self._failed = self._counter(names.METRIC_SESSIONS_FAILED, "Sessions that failed.", labels)
        self._failovers = self._counter(names.METRIC_FAILOVERS, "Sessions that moved.", labels)
        self._link_failures = self._counter(
            names.METRIC_LINK_FAILURES,
            "Streams to a peer that broke or were refused.",
            (names.LABEL_PEER, names.LABEL_REASON),
        )
        self._sessions = self._gauge(names.METRIC_SESSIONS, "Sessions held.")
        self._waiting = self._gauge(
            names.METRIC_SESSIONS_WAITING, "Sessions waiting for memory or their first pass."
        )
        self._free_blocks = self._gauge(names.METRIC_KV_BLOCKS_FREE, "Free pages of KV.")
        self._total_blocks = self._gauge(names.METRIC_KV_BLOCKS, "Pages of KV.")

    def _histogram(
        self, name: str, text: str, buckets: Iterable[float], labels: tuple[str, ...] = ()
    ) -> Histogram:
        return Histogram(name, text, labels, buckets=tuple(buckets), registry=self.registry)

    def _counter(self, name: str, text: str, labels: tuple[str, ...] = ()) -> Counter:
        return Counter(name, text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(name, text, registry=self.registry)

    def _by_source(self, name: str, text: str) -> dict[TokenSource, Counter]:
        counter = self._counter(name, text, (names.LABEL_SOURCE,))
        return {source: counter.labels(source.value) for source in TokenSource}

    # Rounds at a target.

    def round_finished(
        self,
        times: RoundTimes,
        *,
        admitted: Iterable[TokenSource],
        accepted: Iterable[TokenSource],
        is_hit: bool | None,
    ) -> None:
        """Count one round of one session.

        Args:
            times: where its time went, in milliseconds.
            admitted: source of each drafted node in the pass.
            accepted: source of each drafted node that was emitted.
            is_hit: whether the tree held all that was emitted, the bonus token
                included; None if nobody drafts for the session.
        """
        self._queue_part.observe(times.queue / 1e3)
        self._forward_part.observe(times.forward / 1e3)
        self._walk_part.observe(times.walk / 1e3)
        self._commit_part.observe(times.commit / 1e3)
        if is_hit is not None:
            self._draft_part.observe(times.draft / 1e3)
            self._wire_part.observe(times.wire / 1e3)
        self._rounds[is_hit].inc()
        self._tree_nodes.observe(_count(self._admitted, admitted))
        self._accepted_length.observe(_count(self._accepted, accepted))

    def nodes_drafted(self, sources: Iterable[TokenSource]) -> None:
        """Count nodes that a drafter sent or a target received."""
        _count(self._drafted, sources)

    def nodes_dropped(self, reason: str, num_nodes: int) -> None:
        """Count nodes that came in vain, by an UPPER_SNAKE_CASE reason."""
        self._dropped.labels(reason).inc(num_nodes)

    def growth_refused(self, reason: str) -> None:
        """Count a frame that no tree can be, by the reason of its error."""
        self._refused.labels(reason).inc()

    def drafts_awaited(self, seconds: float) -> None:
        """Observe how long a step waited for drafts before it started."""
        self._draft_wait.observe(seconds)

    def pass_finished(self, seconds: float, *, num_rows: int) -> None:
        """Count one forward pass of a model over all its sessions."""
        self._forward_seconds.observe(seconds)
        self._forward_rows.observe(num_rows)

    def prompt_prefilled(self, *, num_computed: int, num_cached: int) -> None:
        """Count prompt tokens computed, and those whose KV was there already."""
        self._prefilled.inc(num_computed)
        self._cached.inc(num_cached)

    def session_preempted(self) -> None:
        """Count a session that lost its KV to others."""
        self._preemptions.inc()

    # What a request feels.

    def session_started(self, wait_seconds: float) -> None:
        """Observe the time between the arrival of a session and its first work."""
        self._queue_wait.observe(wait_seconds)

    def first_token(self, seconds: float) -> None:
        """Observe the time between the arrival of a session and its first token."""
        self._first_token.observe(seconds)

    def tokens_emitted(self, num_tokens: int, seconds: float | None = None) -> None:
        """Count tokens made final together.

        Args:
            num_tokens: at least 1.
            seconds: time since the tokens before; None for a session's first.
        """
        self._emitted.inc(num_tokens)
        if seconds is not None:
            for _ in range(num_tokens):
                self._inter_token.observe(seconds / num_tokens)

    def session_finished(self, reason: FinishReason) -> None:
        """Count a session that came to its end."""
        self._finished[reason].inc()

    def session_failed(self, reason: str) -> None:
        """Count a session that could not go on, by the reason of its error."""
        self._failed.labels(reason).inc()

    def session_moved(self, cause: str) -> None:
        """Count a session that goes on at another target, by why it left the last one."""
        self._failovers.labels(cause).inc()

    # How the process is.

    def link_failed(self, peer: str, reason: str) -> None:
        """Count a stream that broke or was refused.

        Args:
            peer: the role at the other end (`draft`, `target`, `coordinator`);
                never an address, which would be a series per peer.
            reason: reason of the error.
        """
        self._link_failures.labels(peer, reason).inc()

    def load_reported(self, report: WorkerReport) -> None:
        """Set the gauges to how the worker is now."""
        self._sessions.set(report.num_sessions)
        self._waiting.set(report.num_waiting)
        self._free_blocks.set(report.free_kv_blocks)
        self._total_blocks.set(report.total_kv_blocks)


def _count(counters: dict[TokenSource, Counter], sources: Iterable[TokenSource]) -> int:
    numbers: dict[TokenSource, int] = {}
    for source in sources:
        numbers[source] = numbers.get(source, 0) + 1
    for source, number in numbers.items():
        counters[source].inc(number)
    return sum(numbers.values())


def serve_metrics(
    metrics: Metrics, *, port: int, host: str = "127.0.0.1"
) -> MetricsEndpoint | None:
    """Serve metrics on the port that the settings name; 0 is off and gives None.

    Raises:
        OSError: the port is taken.
    """
    return MetricsEndpoint(metrics.registry, port=port, host=host) if port else None

"""Metrics: what is counted and measured whether or not a request is traced.

All observations go through methods named for what happened, so that callers
know no metric names and labels are bound once: an observation costs about a
microsecond and may be made on an engine thread, per session and round. Each
`Metrics` has a registry of its own, so several services live in one process
(in tests, say) without sharing a number. What a service does not export (see
`catalogue`) may be observed all the same and is not shown. Thread-safe.
"""

from collections.abc import Callable, Iterable, Sequence

from prometheus_client import CollectorRegistry, ProcessCollector

from treedraft import __version__
from treedraft.core.growth import TokenSource
from treedraft.core.session import FinishReason
from treedraft.core.worker import WorkerReport, WorkerRole
from treedraft.telemetry import names
from treedraft.telemetry.exposition import Exposition
from treedraft.telemetry.instruments import Instruments
from treedraft.telemetry.metrics_endpoint import MetricsEndpoint
from treedraft.telemetry.round_metrics import (
    FinishedRound,
    RoundMetrics,
    count_sources,
    gaps_between_tokens,
)


class Metrics:
    """The metrics of one service.

    A service uses the methods that concern it; what never happened stays at
    zero, so that a dashboard finds every series from the start.
    """

    def __init__(self, role: str) -> None:
        """Register all metrics of `draft`, `target` or `coordinator`."""
        # Observations are made in `observed`; `registry` adds, at a scrape, the role.
        self.observed = CollectorRegistry()
        self._exposition = Exposition(self.observed, role)
        self.registry = CollectorRegistry()
        self.registry.register(self._exposition)
        ProcessCollector(registry=self.observed)
        make = Instruments(role, self.observed)
        self._init_rounds(make)
        self._init_passes(make)
        self._init_requests(make)
        self._init_state(make)

    def _init_rounds(self, make: Instruments) -> None:
        self._round_metrics = RoundMetrics(
            parts=make.histogram(names.METRIC_ROUND_PART_SECONDS),
            rounds=make.counter(names.METRIC_ROUNDS),
            tree_nodes=make.histogram(names.METRIC_TREE_NODES),
            accepted_length=make.histogram(names.METRIC_ACCEPTED_LENGTH),
            admitted=make.by_source(names.METRIC_NODES_ADMITTED),
            accepted=make.by_source(names.METRIC_NODES_ACCEPTED),
        )
        self._draft_wait = make.histogram(names.METRIC_DRAFT_WAIT_SECONDS)
        self._lateness = make.histogram(names.METRIC_DRAFT_LATENESS)
        self._drafted = make.by_source(names.METRIC_NODES_DRAFTED)
        self._dropped = make.counter(names.METRIC_NODES_DROPPED)
        self._refused = make.counter(names.METRIC_GROWTHS_REFUSED)

    def _init_passes(self, make: Instruments) -> None:
        self._forward_seconds = make.histogram(names.METRIC_FORWARD_SECONDS)
        self._forward_rows = make.histogram(names.METRIC_FORWARD_ROWS)
        self._busy = make.counter(names.METRIC_BUSY_SECONDS)
        self._prompt_passes = make.counter(names.METRIC_PROMPT_PASS_SECONDS)
        self._emitted = make.counter(names.METRIC_TOKENS_EMITTED)
        self._prefilled = make.counter(names.METRIC_TOKENS_PREFILLED)
        self._cached = make.counter(names.METRIC_TOKENS_CACHED)
        self._preemptions = make.counter(names.METRIC_PREEMPTIONS)

    def _init_requests(self, make: Instruments) -> None:
        self._queue_wait = make.histogram(names.METRIC_QUEUE_WAIT_SECONDS)
        self._first_token = make.histogram(names.METRIC_FIRST_TOKEN_SECONDS)
        self._first_due = make.counter(names.METRIC_FIRST_TOKENS_DUE)
        self._first_missed = make.counter(names.METRIC_FIRST_TOKENS_MISSED)
        self._inter_token = make.histogram(names.METRIC_INTER_TOKEN_SECONDS)
        self._session_seconds = make.histogram(names.METRIC_SESSION_SECONDS)
        finished = make.counter(names.METRIC_SESSIONS_FINISHED)
        self._finished = {reason: finished.labels(reason.value) for reason in FinishReason}
        self._failed = make.counter(names.METRIC_SESSIONS_FAILED)
        self._failovers = make.counter(names.METRIC_FAILOVERS)
        self._link_failures = make.counter(names.METRIC_LINK_FAILURES)
        self._tool_answers = make.counter(names.METRIC_TOOL_ANSWERS)
        self._tool_calls = make.counter(names.METRIC_TOOL_CALLS)
        self._malformed_calls = make.counter(names.METRIC_TOOL_CALLS_MALFORMED)

    def _init_state(self, make: Instruments) -> None:
        self._sessions = make.gauge(names.METRIC_SESSIONS)
        self._waiting = make.gauge(names.METRIC_SESSIONS_WAITING)
        self._free_blocks = make.gauge(names.METRIC_KV_BLOCKS_FREE)
        self._total_blocks = make.gauge(names.METRIC_KV_BLOCKS)
        self._kv_use = make.histogram(names.METRIC_KV_USE)
        workers = make.gauge(names.METRIC_WORKERS)
        self._workers = {
            (role, is_draining): workers.labels(role.value, "draining" if is_draining else "ready")
            for role in WorkerRole
            for is_draining in (False, True)
        }
        self._upkeep_failures = make.counter(names.METRIC_UPKEEP_FAILURES)
        make.gauge(names.METRIC_BUILD).labels(__version__).set(1)

    def serves(self, model_name: str) -> None:
        """Name the model that a target serves."""
        self._exposition.model_name = model_name

    # Rounds at a target.

    def rounds_finished(self, rounds: Sequence[FinishedRound]) -> None:
        """Count the rounds that a step ended, of all its sessions."""
        self._round_metrics.finished(rounds)

    def nodes_drafted(self, sources: Iterable[TokenSource]) -> None:
        """Count nodes that a drafter sent or a target received."""
        count_sources(self._drafted, sources)

    def drafts_arrived(self, *num_tokens_late: int) -> None:
        """Observe how far texts had gone on when drafts for them came; 0 is in time."""
        self._lateness.observe_all(num_tokens_late)

    def nodes_dropped(self, reason: str, num_nodes: int) -> None:
        """Count nodes that came in vain, by an UPPER_SNAKE_CASE reason."""
        self._dropped.labels(reason).inc(num_nodes)

    def growth_refused(self, reason: str) -> None:
        """Count a frame that no tree can be, by the reason of its error."""
        self._refused.labels(reason).inc()

    def drafts_awaited(self, seconds: float) -> None:
        """Observe how long a step waited for drafts before it started."""
        self._draft_wait.observe(seconds)

    def pass_finished(self, seconds: float, *, num_rows: int, has_prompt: bool = False) -> None:
        """Count one forward pass of a model over all its sessions.

        Args:
            seconds: that it took.
            num_rows: in it, of all sessions.
            has_prompt: whether some of them are tokens of prompts.
        """
        self._forward_seconds.observe(seconds)
        if has_prompt:
            self._prompt_passes.inc(seconds)
        self._busy.inc(seconds)
        self._forward_rows.observe(num_rows)

    def looked_up(self, seconds: float) -> None:
        """Count the time that a drafter spent on lookup."""
        self._busy.inc(seconds)

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

    def first_token_due(self, *, is_missed: bool) -> None:
        """Count a first token that was due at an instant: it came, or was refused."""
        self._first_due.inc()
        self._first_missed.inc(is_missed)

    def tokens_emitted(self, num_tokens: int, seconds: float | None = None) -> None:
        """Count tokens made final together.

        Args:
            num_tokens: at least 1.
            seconds: time since the tokens before; None for a session's first.
        """
        self._emitted.inc(num_tokens)
        if seconds is not None:
            self._inter_token.observe_all(gaps_between_tokens([(num_tokens, seconds)]))

    def later_tokens_emitted(self, emitted: Sequence[tuple[int, float]]) -> None:
        """Count what a step made final, as (tokens, time since those before) by session."""
        self._emitted.inc(sum(num_tokens for num_tokens, _ in emitted))
        self._inter_token.observe_all(gaps_between_tokens(emitted))

    def session_finished(self, reason: FinishReason, seconds: float) -> None:
        """Count a session that came to its end.

        Args:
            reason: why it ended.
            seconds: since it arrived.
        """
        self._finished[reason].inc()
        if reason is not FinishReason.CANCELLED:
            self._session_seconds.observe(seconds)

    def session_failed(self, reason: str) -> None:
        """Count a session that could not go on, by the reason of its error."""
        self._failed.labels(reason).inc()

    def session_moved(self, cause: str) -> None:
        """Count a session that goes on at another target, by why it left the last one."""
        self._failovers.labels(cause).inc()

    def tools_offered(self) -> None:
        """Count an answer that may call tools."""
        self._tool_answers.inc()

    def calls_read(self, num_calls: int, num_malformed: int) -> None:
        """Count the tool calls of an answer that came to its end."""
        self._tool_calls.inc(num_calls)
        self._malformed_calls.inc(num_malformed)

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
        if report.total_kv_blocks:
            self._kv_use.observe(1.0 - report.free_kv_blocks / report.total_kv_blocks)

    def load_watched(self, report: Callable[[], WorkerReport]) -> None:
        """Ask how the worker is at each scrape, where nobody reports it."""
        self._sessions.set_function(lambda: report().num_sessions)
        self._free_blocks.set_function(lambda: report().free_kv_blocks)
        self._total_blocks.set_function(lambda: report().total_kv_blocks)

    def workers_known(self, workers: Iterable[tuple[WorkerRole, bool]]) -> None:
        """Set the number of workers, each given by its role and whether it drains."""
        counts = dict.fromkeys(self._workers, 0)
        for worker in workers:
            counts[worker] += 1
        for worker, number in counts.items():
            self._workers[worker].set(number)

    def upkeep_failed(self) -> None:
        """Count a time that a part of the upkeep failed."""
        self._upkeep_failures.inc()


def serve_metrics(
    metrics: Metrics, *, port: int, host: str = "127.0.0.1"
) -> MetricsEndpoint | None:
    """Serve metrics on the port that the settings name; 0 is off and gives None.

    Raises:
        OSError: the port is taken.
    """
    return MetricsEndpoint(metrics.registry, port=port, host=host) if port else None

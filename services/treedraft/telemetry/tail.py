"""Slow and failed requests are traced although they were not sampled.

Whether a request is worth a trace is known at its end. So what would be its spans
is held back, in each service its own part, until the span ends under which they
are; then they are exported or forgotten. A round that is held back costs a closure;
spans are made of it only if it is kept.

Memory is bounded: of a request the first and the last spans are held, of all
requests together so many, and of requests that come when there is no room nothing
is held: the older ones are more likely to be the slow ones. How many traces are
kept in a second is bounded, too, so that a storm of failures stays cheap.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor
from opentelemetry.trace import SpanContext, StatusCode, TraceFlags

from treedraft.telemetry import names

PROVISIONAL: Final = 0x80
"""The bit of the trace flags that says: held back, not sampled. It stays among our services."""

MAX_SPANS_OF_TRACE: Final = 1_000
MAX_SPANS: Final = 20_000
MAX_KEPT_PER_SECOND: Final = 10.0
_ABANDONED = "CANCELLED"

Emit = Callable[[], None]
"""Exports one span that was held back."""


@dataclass(slots=True)
class _Held:
    """What is held of one request: the first spans, and the last."""

    first: list[Emit] = field(default_factory=list)
    last: deque[Emit] = field(default_factory=lambda: deque(maxlen=MAX_SPANS_OF_TRACE // 2))
    num_dropped: int = 0

    def add(self, emit: Emit) -> int:
        """Hold a span; return by how many more are held now."""
        if len(self.first) < MAX_SPANS_OF_TRACE // 2:
            self.first.append(emit)
            return 1
        is_full = len(self.last) == self.last.maxlen
        self.last.append(emit)
        self.num_dropped += is_full
        return 0 if is_full else 1

    def __iter__(self) -> Iterator[Emit]:
        """Yield what is held, in order."""
        yield from self.first
        yield from self.last

    def __len__(self) -> int:
        """Return how many spans are held."""
        return len(self.first) + len(self.last)


class TailBuffer(SpanProcessor):
    """Holds back the spans of requests that were not sampled; thread-safe.

    As a processor it hears of the spans that OpenTelemetry makes; those that are
    over when they are told come through `hold`. A span belongs to the request whose
    span in this service is its parent.
    """

    def __init__(
        self,
        export: Callable[[ReadableSpan], None],
        *,
        slow_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Give what is worth it to `export`.

        Args:
            export: takes spans that are sampled.
            slow_seconds: a request that took longer is kept.
            clock: monotonic seconds, for the rate of what is kept.
        """
        self._export = export
        self._slow_ns = slow_seconds * 1e9
        self._clock = clock
        self._lock = threading.Lock()
        self._held: dict[int, _Held] = {}  # by the id of the request's span here
        self._num_spans = 0
        # Hundreds of spans at once are made here and not on an engine's thread.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tail")
        self._allowance = MAX_KEPT_PER_SECOND
        self._allowance_at = clock()

    @property
    def num_spans(self) -> int:
        """Spans held back now."""
        return self._num_spans

    def hold(self, parent_id: int, emit: Emit) -> None:
        """Hold back a span under a request's span; without such a request it is forgotten."""
        with self._lock:
            held = self._held.get(parent_id)
            if held is not None and self._num_spans < MAX_SPANS:
                self._num_spans += held.add(emit)

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Begin to hold back what comes under a span that is the first of its request here."""
        context = span.get_span_context()
        if context is None or context.trace_flags.sampled:
            return
        with self._lock:
            is_below = span.parent is not None and span.parent.span_id in self._held
            if not is_below and self._num_spans < MAX_SPANS:
                self._held[context.span_id] = _Held()

    def on_end(self, span: ReadableSpan) -> None:
        """Hold a span back or, if it is its request's own, decide about all of them."""
        context = span.get_span_context()
        if context is None or context.trace_flags.sampled:
            return
        with self._lock:
            held = self._held.pop(context.span_id, None)
            if held is not None:
                self._num_spans -= len(held)
        if held is None:
            if span.parent is not None:
                self.hold(span.parent.span_id, lambda: self._export(_sampled(span)))
        elif self._is_worth_it(span):
            with suppress(RuntimeError):  # shut down meanwhile
                self._thread.submit(self._keep, held, span)

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Wait until all that is worth it has been exported."""
        with suppress(RuntimeError):
            self._thread.submit(int).result(timeout_millis / 1000)
        return True

    def shutdown(self) -> None:
        """Export what is worth it; what is held back and has not ended is forgotten."""
        self._thread.shutdown(wait=True)

    def _keep(self, held: _Held, span: ReadableSpan) -> None:
        for emit in held:
            emit()
        self._export(_sampled(span, num_dropped=held.num_dropped))

    def _is_worth_it(self, span: ReadableSpan) -> bool:
        is_failure = (
            span.status.status_code is StatusCode.ERROR
            and (span.attributes or {}).get(names.ATTR_ERROR_TYPE) != _ABANDONED
        )
        is_slow = (span.end_time or 0) - (span.start_time or 0) > self._slow_ns
        return (is_failure or is_slow) and self._may_keep_another()

    def _may_keep_another(self) -> bool:
        with self._lock:
            now = self._clock()
            earned = (now - self._allowance_at) * MAX_KEPT_PER_SECOND
            self._allowance = min(MAX_KEPT_PER_SECOND, self._allowance + earned)
            self._allowance_at = now
            if self._allowance < 1.0:
                return False
            self._allowance -= 1.0
            return True


def _sampled(span: ReadableSpan, *, num_dropped: int = 0) -> ReadableSpan:
    """Return the span as if it had been sampled, which exporters ask for."""
    attributes = dict(span.attributes or {})
    if num_dropped:
        attributes[names.ATTR_DROPPED_SPANS] = num_dropped
    context = span.get_span_context()
    assert context is not None
    return ReadableSpan(
        span.name,
        as_sampled(context),
        parent=span.parent,
        resource=span.resource,
        attributes=attributes,
        events=span.events,
        status=span.status,
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=span.instrumentation_scope,
    )


def as_sampled(context: SpanContext) -> SpanContext:
    """Return a span's context with the flag that says that it is sampled."""
    return SpanContext(
        context.trace_id, context.span_id, is_remote=False, trace_flags=TraceFlags(1)
    )

"""Traces: one per request, over all three services.

Two ways to make a span, for two kinds of places:

- `Tracing.start` for what lives long and is seen from outside (a request, a
  session). It returns a `RequestSpan`, whose `traceparent` travels in messages
  to the next service, since one multiplexed stream carries many requests.
- `Tracing.record` for what is over when it is told (a round, a step of
  growth), with its parts as children. It is made for engine threads: for a
  request that is not sampled it costs the look at one character, for a sampled
  one a few microseconds a span. The OpenTelemetry tracer would take thirty.

The service at which a request begins draws whether it is sampled; the others
follow. One that is not is held back until its end and kept if it was slow or failed
(see `tail`). Nothing global is set, so several services may live in one process.
Times are nanoseconds of `time.time_ns()`. Spans leave within
`EXPORT_DELAY_SECONDS`, to a collector or to the local store; whatever happens
there never reaches the request.
"""

import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    TraceFlags,
    set_span_in_context,
)

from treedraft import __version__
from treedraft.settings import TelemetrySettings
from treedraft.telemetry import names
from treedraft.telemetry.exporters import EXPORT_TIMEOUT_SECONDS, make_exporter
from treedraft.telemetry.sampling import (
    LotThenTail,
    is_held_back,
    is_sampled,
    span_id_of,
)
from treedraft.telemetry.spans import (
    NO_ATTRIBUTES,
    Attributes,
    ChildSpan,
    RequestSpan,
    parse_traceparent,
)
from treedraft.telemetry.tail import TailBuffer

EXPORT_DELAY_SECONDS: Final = 0.2
_MAX_QUEUED_SPANS = 32768
_MAX_EXPORTED_SPANS = 1024


class Tracing:
    """Makes and exports the spans of one service."""

    def __init__(
        self,
        service_name: str,
        settings: TelemetrySettings,
        incarnation: str = "",
        *,
        exporter: SpanExporter | None = None,
    ) -> None:
        """Start the export thread; `shutdown` ends it.

        Args:
            service_name: `draft`, `target` or `coordinator`.
            settings: where spans go and how many requests are sampled.
            incarnation: tells this process from others of the service.
            exporter: instead of the one that the settings name.
        """
        attributes = {names.ATTR_SERVICE_NAME: service_name}
        attributes[names.ATTR_SERVICE_VERSION] = __version__
        if incarnation:
            attributes[names.ATTR_SERVICE_INSTANCE] = incarnation
        self._resource = Resource.create(attributes)
        self._scope = InstrumentationScope("treedraft", __version__)
        self._ids = RandomIdGenerator()
        self._exporter = exporter or make_exporter(settings)
        self._processor = BatchSpanProcessor(
            self._exporter,
            max_queue_size=_MAX_QUEUED_SPANS,
            schedule_delay_millis=EXPORT_DELAY_SECONDS * 1000,
            max_export_batch_size=_MAX_EXPORTED_SPANS,
        )
        provider = TracerProvider(
            sampler=LotThenTail(settings.sample_ratio, holds_back=settings.slow_seconds > 0),
            resource=self._resource,
            shutdown_on_exit=False,
            id_generator=self._ids,
        )
        provider.add_span_processor(self._processor)
        self._tail = TailBuffer(self._processor.on_end, slow_seconds=settings.slow_seconds)
        if settings.slow_seconds > 0:
            provider.add_span_processor(self._tail)
        self._tracer = provider.get_tracer("treedraft", __version__)

    def start(
        self,
        name: str,
        traceparent: str = "",
        attributes: Attributes = NO_ATTRIBUTES,
        *,
        start_ns: int | None = None,
    ) -> RequestSpan:
        """Start a span under a trace context, or a new trace without one.

        A context that cannot be read counts as none, as W3C demands.

        Args:
            name: one of `telemetry.names.SPAN_*`.
            traceparent: W3C trace context of the span above.
            attributes: what is known from the start.
            start_ns: when it began; now by default.
        """
        parent = parse_traceparent(traceparent)
        # An empty context, not None: None would look up what is current on
        # this thread.
        context = set_span_in_context(NonRecordingSpan(parent), Context()) if parent else Context()
        span = self._tracer.start_span(name, context, attributes=attributes, start_time=start_ns)
        return RequestSpan(span)

    def is_recorded(self, traceparent: str) -> bool:
        """Return whether `record` may keep a span: ask before building its attributes."""
        return is_sampled(traceparent) or is_held_back(traceparent)

    def record(
        self,
        name: str,
        traceparent: str,
        start_ns: int,
        end_ns: int,
        attributes: Attributes = NO_ATTRIBUTES,
        children: Sequence[ChildSpan] = (),
    ) -> None:
        """Keep a span that is already over, if its trace is sampled or turns out slow.

        Args:
            name: one of `telemetry.names.SPAN_*`.
            traceparent: W3C trace context of the span above.
            start_ns: when it began.
            end_ns: when it ended.
            attributes: taken over, not copied: not to be changed afterwards.
            children: its parts.
        """
        if self.is_recorded(traceparent):
            span = ChildSpan(name, start_ns, end_ns, attributes, children)
            self.record_lazily(traceparent, lambda: span)

    def record_lazily(self, traceparent: str, make: Callable[[], ChildSpan]) -> None:
        """As `record`, with a span that is made when it is sure to be kept.

        For what happens in every round of every session: of a request that is held
        back it costs a microsecond or two. `make` may be called much later, on
        another thread, so it should hold numbers and no sessions.
        """
        if is_sampled(traceparent):
            self._emit_under(traceparent, make)
        elif is_held_back(traceparent):
            held = partial(self._emit_under, traceparent, make)
            self._tail.hold(span_id_of(traceparent), held)

    def _emit_under(self, traceparent: str, make: Callable[[], ChildSpan]) -> None:
        parent = parse_traceparent(traceparent)
        if parent is not None:
            self._emit(make(), parent)

    def _emit(self, span: ChildSpan, parent: SpanContext) -> None:
        context = SpanContext(
            parent.trace_id,
            self._ids.generate_span_id(),
            is_remote=False,
            trace_flags=TraceFlags(TraceFlags.SAMPLED),
        )
        for child in span.children:
            self._emit(child, context)
        self._processor.on_end(
            ReadableSpan(
                span.name,
                context,
                parent=parent,
                resource=self._resource,
                attributes=span.attributes,
                start_time=span.start_ns,
                end_time=span.end_ns,
                instrumentation_scope=self._scope,
            )
        )

    def flush(self) -> None:
        """Export what has ended so far; blocks meanwhile."""
        self._tail.force_flush()
        self._processor.force_flush()

    def shutdown(self, timeout_seconds: float = EXPORT_TIMEOUT_SECONDS + 2.0) -> None:
        """Export what is left and stop; spans that end later are lost.

        Args:
            timeout_seconds: after which a collector that does not answer is
                given up.
        """
        worker = threading.Thread(target=self._end, daemon=True)
        worker.start()
        worker.join(timeout_seconds)
        if worker.is_alive():
            self._exporter.shutdown()

    def _end(self) -> None:
        self._tail.shutdown()
        self._processor.shutdown()  # type: ignore[no-untyped-call]

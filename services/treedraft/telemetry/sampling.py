"""Which requests are traced: some by lot, and those that turn out slow.

Where a request begins it is drawn by lot whether it is sampled. One that is not is
held back (see `tail`), if slow ones are wanted. All others follow what the trace
context says.
"""

from collections.abc import Sequence

from opentelemetry.context import Context
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult, TraceIdRatioBased
from opentelemetry.trace import Link, SpanKind, TraceState, get_current_span
from opentelemetry.util.types import Attributes

from treedraft.telemetry.tail import PROVISIONAL

_FLAGS_PLACE = -2
_SPAN_ID_PLACE = slice(36, 52)
_TRACEPARENT_LENGTH = 55
_ODD_DIGITS = frozenset("13579bdf")
_HIGH_DIGITS = frozenset("89abcdef")


def is_sampled(traceparent: str) -> bool:
    """Return whether spans under this trace context are kept; cheap."""
    return len(traceparent) == _TRACEPARENT_LENGTH and traceparent[-1] in _ODD_DIGITS


def is_held_back(traceparent: str) -> bool:
    """Return whether spans under this trace context may be kept in the end; cheap."""
    return (
        len(traceparent) == _TRACEPARENT_LENGTH
        and traceparent[_FLAGS_PLACE] in _HIGH_DIGITS
        and traceparent[-1] not in _ODD_DIGITS
    )


def span_id_of(traceparent: str) -> int:
    """Return the id of the span that a trace context names; 0, which no span has, for none."""
    try:
        return int(traceparent[_SPAN_ID_PLACE], 16)
    except ValueError:
        return 0


class LotThenTail(Sampler):
    """Samples by lot, and records what may turn out slow."""

    def __init__(self, sample_ratio: float, *, holds_back: bool) -> None:
        """Sample this share of the requests that begin here."""
        self._lot = TraceIdRatioBased(sample_ratio)
        self._holds_back = holds_back

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        """Follow the parent; without one, draw."""
        parent = get_current_span(parent_context).get_span_context()
        if parent.is_valid:
            is_kept = parent.trace_flags.sampled
            may_be_kept = bool(parent.trace_flags & PROVISIONAL)
        else:
            drawn = self._lot.should_sample(parent_context, trace_id, name)
            is_kept, may_be_kept = drawn.decision is Decision.RECORD_AND_SAMPLE, True
        if is_kept:
            return SamplingResult(Decision.RECORD_AND_SAMPLE, attributes)
        holds_back = self._holds_back and may_be_kept
        return SamplingResult(Decision.RECORD_ONLY if holds_back else Decision.DROP, attributes)

    def get_description(self) -> str:
        """Return what OpenTelemetry shows."""
        return f"LotThenTail{{{self._lot.rate}}}"

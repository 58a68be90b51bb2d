"""What a span is told: one under way, and the parts of one that is over.

`tracing` makes and exports them. The trace context of a span travels to the next
service as W3C has it, in a field of our messages.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self

from opentelemetry.trace import Span, SpanContext, Status, StatusCode, TraceFlags

from treedraft.core.errors import TreedraftError
from treedraft.telemetry import names
from treedraft.telemetry.tail import PROVISIONAL

AttributeValue = str | bool | int | float | Sequence[str]
Attributes = Mapping[str, AttributeValue]

NO_ATTRIBUTES: Final[Attributes] = {}

# W3C trace context, version 00: 00-<trace id>-<parent id>-<flags>. The last
# bit of the flags says "sampled".
_TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")


@dataclass(frozen=True, slots=True)
class ChildSpan:
    """A part of a recorded span; parts may have parts."""

    name: str
    start_ns: int
    end_ns: int
    attributes: Attributes = field(default_factory=dict)
    children: Sequence["ChildSpan"] = ()


class RequestSpan:
    """A span under way. Usable as a context manager; safe from any thread.

    `is_recorded` says whether what is told of it may be kept: because it is sampled,
    or because it is held back until it is known to be slow or not.
    """

    def __init__(self, span: Span) -> None:
        """Wrap a started span of OpenTelemetry."""
        context = span.get_span_context()
        self._span = span
        self.is_sampled: bool = context.trace_flags.sampled
        self.is_recorded: bool = span.is_recording()
        flags = int(context.trace_flags)
        if self.is_recorded and not self.is_sampled:
            flags |= PROVISIONAL
        self.traceparent: str = (
            f"00-{context.trace_id:032x}-{context.span_id:016x}-{flags:02x}"
            if context.is_valid
            else ""
        )
        self.trace_id: str = f"{context.trace_id:032x}" if self.is_sampled else ""
        self.span_id: str = f"{context.span_id:016x}" if context.is_valid else ""

    def set(self, attributes: Attributes = NO_ATTRIBUTES, /, **more: AttributeValue) -> None:
        """Set attributes, by names of `telemetry.names`."""
        if self.is_recorded:
            self._span.set_attributes({**attributes, **more})

    def event(
        self, name: str, attributes: Attributes = NO_ATTRIBUTES, /, **more: AttributeValue
    ) -> None:
        """Note that something happened now."""
        if self.is_recorded:
            self._span.add_event(name, {**attributes, **more})

    def end(self, error: BaseException | str | None = None) -> None:
        """End the span; only the first call counts.

        Args:
            error: what went wrong, if anything: an exception, or a stable reason.
        """
        if not self._span.is_recording():
            return
        if error is not None:
            reason, message = _describe(error)
            self._span.set_attribute(names.ATTR_ERROR_TYPE, reason)
            self._span.set_status(Status(StatusCode.ERROR, message))
        self._span.end()

    def __enter__(self) -> Self:
        """Return the span."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the span, with the error that leaves the block if one does."""
        self.end(error)


def parse_traceparent(traceparent: str) -> SpanContext | None:
    """Return a trace context that travelled in a message; None if it cannot be read."""
    match = _TRACEPARENT.fullmatch(traceparent)
    if match is None:
        return None
    trace_id, span_id, flags = (int(group, 16) for group in match.groups())
    context = SpanContext(trace_id, span_id, is_remote=True, trace_flags=TraceFlags(flags))
    return context if context.is_valid else None


def _describe(error: BaseException | str) -> tuple[str, str]:
    if isinstance(error, str):
        return error, error
    if isinstance(error, TreedraftError):
        return error.reason, error.message
    return type(error).__name__, str(error)

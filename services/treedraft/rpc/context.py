"""What a handler may want to know of its call."""

from typing import Any

import grpc

TRACEPARENT = "traceparent"
"""Metadata key of the W3C trace context."""


def traceparent_of(context: grpc.aio.ServicerContext[Any, Any]) -> str:
    """Return the caller's W3C trace context, empty if it sent none."""
    for key, value in context.invocation_metadata() or ():
        if key == TRACEPARENT:
            return value if isinstance(value, str) else ""
    return ""


def seconds_left(context: grpc.aio.ServicerContext[Any, Any]) -> float | None:
    """Return the time until the caller's deadline, None if it has none."""
    return context.time_remaining()

"""What a handler may want to know of its call."""

from typing import Any

import grpc

TRACEPARENT = "traceparent"
"""Metadata key of the W3C trace context."""
AUTHORIZATION = "authorization"
"""Metadata key of the caller's credentials, `Bearer` and an API key."""

_BEARER = "bearer "


def traceparent_of(context: grpc.aio.ServicerContext[Any, Any]) -> str:
    """Return the caller's W3C trace context, empty if it sent none."""
    return _metadata_of(context, TRACEPARENT)


def bearer_metadata(api_key: str) -> tuple[tuple[str, str], ...]:
    """Return the metadata that says an API key; none for an empty one."""
    return ((AUTHORIZATION, f"Bearer {api_key}"),) if api_key else ()


def api_key_of(context: grpc.aio.ServicerContext[Any, Any]) -> str:
    """Return the API key that the caller sent, empty if it sent none."""
    value = _metadata_of(context, AUTHORIZATION)
    return value[len(_BEARER) :].strip() if value.lower().startswith(_BEARER) else ""


def _metadata_of(context: grpc.aio.ServicerContext[Any, Any], wanted: str) -> str:
    for key, value in context.invocation_metadata() or ():
        if key == wanted:
            return value if isinstance(value, str) else ""
    return ""


def seconds_left(context: grpc.aio.ServicerContext[Any, Any]) -> float | None:
    """Return the time until the caller's deadline, None if it has none."""
    return context.time_remaining()

"""Durations, and enums that the wire leaves open."""

import math
from collections.abc import Mapping
from enum import Enum
from typing import TypeVar

from google.protobuf.duration_pb2 import Duration

from treedraft.core.errors import InvalidRequestError

_NANOS = 1_000_000_000
# The largest Duration that its specification allows, about 10,000 years.
_MAX_SECONDS = 315_576_000_000

WireEnum = TypeVar("WireEnum", bound=int)
CoreEnum = TypeVar("CoreEnum", bound=Enum)


def duration_to_proto(seconds: float) -> Duration:
    """Return a non-negative number of seconds, rounded to whole nanoseconds."""
    if not (math.isfinite(seconds) and 0.0 <= seconds <= _MAX_SECONDS):
        raise InvalidRequestError(f"{seconds} s is no duration", reason="INVALID_DURATION")
    whole = math.floor(seconds)
    nanos = round((seconds - whole) * _NANOS)
    return Duration(seconds=whole + nanos // _NANOS, nanos=nanos % _NANOS)


def duration_from_proto(message: Duration) -> float:
    """Return a duration in seconds; negative and malformed ones are refused."""
    if not (0 <= message.seconds <= _MAX_SECONDS and 0 <= message.nanos < _NANOS):
        raise InvalidRequestError("a duration is negative or malformed", reason="INVALID_DURATION")
    return message.seconds + message.nanos / _NANOS


def enum_from_proto(number: WireEnum, table: Mapping[WireEnum, CoreEnum], field: str) -> CoreEnum:
    """Return the domain's value for a wire enum.

    proto3 enums are open: any number may arrive. Unspecified and unknown
    numbers raise InvalidRequestError.
    """
    value = table.get(number)
    if value is None:
        raise InvalidRequestError(f"{field} has the unknown value {number}", field=field)
    return value

"""Errors of the domain in OpenAI's shape.

    {"error": {"message", "type", "param", "code", "reason"}}

`code` is what OpenAI's own API says where it has a word for it, and otherwise
the reason in lower case; `reason` is that of the gRPC door. Both are stable.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from treedraft.core.errors import (
    CancelledError,
    InvalidRequestError,
    OverloadedError,
    PermissionDeniedError,
    SessionConflictError,
    SessionNotFoundError,
    TokensMismatchError,
    TreedraftError,
    UnauthenticatedError,
    UnavailableError,
    UnknownModelError,
    UnsupportedModelError,
)

UNKNOWN_PARAMETER = "UNKNOWN_PARAMETER"
UNSUPPORTED_PARAMETER = "UNSUPPORTED_PARAMETER"
INVALID_JSON = "INVALID_JSON"
INVALID_VALUE = "INVALID_VALUE"
MISSING_PARAMETER = "MISSING_PARAMETER"
BODY_TOO_LARGE = "BODY_TOO_LARGE"
HEAD_TOO_LARGE = "HEAD_TOO_LARGE"

_INVALID = "invalid_request_error"
_UNAVAILABLE_SECONDS = 1
# The nearest class in an error's ancestry counts.
_KINDS: dict[type[TreedraftError], tuple[int, str]] = {
    TreedraftError: (500, "server_error"),
    InvalidRequestError: (400, _INVALID),
    UnknownModelError: (404, _INVALID),
    UnsupportedModelError: (400, _INVALID),
    SessionNotFoundError: (404, _INVALID),
    SessionConflictError: (409, "conflict_error"),
    TokensMismatchError: (409, "conflict_error"),
    UnauthenticatedError: (401, "authentication_error"),
    PermissionDeniedError: (403, "permission_error"),
    OverloadedError: (429, "rate_limit_error"),
    UnavailableError: (503, "service_unavailable_error"),
    CancelledError: (499, "cancelled_error"),
}
_STATUS_OF_REASON = {BODY_TOO_LARGE: 413, HEAD_TOO_LARGE: 431, "DEADLINE_EXCEEDED": 504}
_OPENAI_CODES = {
    "UNKNOWN_MODEL": "model_not_found",
    "PROMPT_TOO_LONG": "context_length_exceeded",
    "API_KEY_INVALID": "invalid_api_key",
    "INVALID_REQUEST": "invalid_value",
}
# Fields of the domain by the names that this door has for them.
_PARAMS = {
    "stop_strings": "stop",
    "num_logprobs": "logprobs",
    "idempotency_key": "idempotency-key",
    "max_nodes": "speculation.max_nodes",
    "max_depth": "speculation.max_depth",
}
_INPUTS = ("input", "conversation", "text", "token_ids")


@dataclass(frozen=True, slots=True)
class HttpError:
    """An answer that says what went wrong."""

    status: int
    body: dict[str, Any]
    headers: dict[str, str] = field(default_factory=dict)


def to_http(error: TreedraftError, input_name: str = "") -> HttpError:
    """Return how the door says an error.

    Args:
        error: what happened.
        input_name: parameter that carries the prompt, `messages` or `prompt`.
    """
    status, kind = next(_KINDS[cls] for cls in type(error).__mro__ if cls in _KINDS)
    param = None
    if isinstance(error, InvalidRequestError) and error.field:
        param = input_name if error.field in _INPUTS else _PARAMS.get(error.field, error.field)
    body = {
        "message": error.message,
        "type": kind,
        "param": param or None,
        "code": _OPENAI_CODES.get(error.reason, error.reason.lower()),
        "reason": error.reason,
    }
    return HttpError(_STATUS_OF_REASON.get(error.reason, status), {"error": body}, _headers(error))


def _headers(error: TreedraftError) -> dict[str, str]:
    if isinstance(error, OverloadedError):
        seconds = max(1, math.ceil(error.retry_after_ms / 1000))
        return {"retry-after": str(seconds), "retry-after-ms": str(error.retry_after_ms)}
    if isinstance(error, UnavailableError):
        return {"retry-after": str(_UNAVAILABLE_SECONDS)}
    if isinstance(error, UnauthenticatedError):
        return {"www-authenticate": "Bearer"}
    return {}


def from_validation(
    problems: Sequence[Mapping[str, Any]], unsupported: Mapping[str, Any]
) -> InvalidRequestError:
    """Return the error for a body that is not what it should be; the first problem counts.

    Args:
        problems: pydantic's list.
        unsupported: names that are known and not served.
    """
    problem = problems[0]
    place = [part for part in problem["loc"] if part != "body"]
    kind = problem["type"]
    if kind == "json_invalid":
        return InvalidRequestError("the body is no JSON", reason=INVALID_JSON)
    name = _path(place)
    if kind == "extra_forbidden":
        if name in unsupported:
            return InvalidRequestError(
                f"{name} is not served here", field=name, reason=UNSUPPORTED_PARAMETER
            )
        return InvalidRequestError(
            f"there is no parameter {name}", field=name, reason=UNKNOWN_PARAMETER
        )
    if kind == "missing":
        words = f"{name} is missing" if name else "a body of JSON is missing"
        return InvalidRequestError(words, field=name, reason=MISSING_PARAMETER)
    return InvalidRequestError(
        f"{name or 'the body'}: {problem['msg']}", field=name, reason=INVALID_VALUE
    )


def _path(place: Sequence[str | int]) -> str:
    """Return `messages[0].content` for its parts; names of union members are left out."""
    path = ""
    for part in place:
        if isinstance(part, int):
            path += f"[{part}]"
        elif part.isidentifier() and part not in ("str", "int"):
            path += f".{part}" if path else part
    return path

"""Errors of the domain as gRPC statuses, and back.

A status carries `google.rpc` details: ErrorInfo with the stable reason and the
kind of the error, RetryInfo where waiting helps, BadRequest where a field is to
blame. The kind is the class's own reason, so that a client raises the very
class that the server raised, whatever more precise reason it had.

No code of gRPC appears in the domain and no AioRpcError leaves this package.
"""

import re
from typing import NoReturn, Protocol
from urllib.parse import unquote

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]
from grpc_status import rpc_status  # type: ignore[import-untyped]

from treedraft.core.errors import (
    CancelledError,
    IncompatiblePeerError,
    InvalidGrowthError,
    InvalidRequestError,
    OverloadedError,
    PermissionDeniedError,
    PromptTooLongError,
    SessionConflictError,
    SessionNotFoundError,
    TokensMismatchError,
    TreedraftError,
    UnauthenticatedError,
    UnavailableError,
    UnknownFieldError,
    UnknownModelError,
    UnsupportedModelError,
)

DOMAIN = "treedraft"
DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
MESSAGE_TOO_LARGE = "MESSAGE_TOO_LARGE"
CALL_DROPPED = "CALL_DROPPED"

# Trailing metadata beyond 8 KiB may be refused on the way. These keep the
# longest status below that, the worst encoding of each character included.
_MAX_MESSAGE_BYTES = 768
_MAX_VALUE_BYTES = 128
_MAX_METADATA = 8
_KIND = "kind"

_CODES: dict[type[TreedraftError], grpc.StatusCode] = {
    TreedraftError: grpc.StatusCode.INTERNAL,
    InvalidRequestError: grpc.StatusCode.INVALID_ARGUMENT,
    UnknownFieldError: grpc.StatusCode.INVALID_ARGUMENT,
    PromptTooLongError: grpc.StatusCode.INVALID_ARGUMENT,
    UnknownModelError: grpc.StatusCode.NOT_FOUND,
    UnsupportedModelError: grpc.StatusCode.FAILED_PRECONDITION,
    IncompatiblePeerError: grpc.StatusCode.FAILED_PRECONDITION,
    InvalidGrowthError: grpc.StatusCode.INVALID_ARGUMENT,
    SessionConflictError: grpc.StatusCode.ABORTED,
    SessionNotFoundError: grpc.StatusCode.NOT_FOUND,
    TokensMismatchError: grpc.StatusCode.FAILED_PRECONDITION,
    UnauthenticatedError: grpc.StatusCode.UNAUTHENTICATED,
    PermissionDeniedError: grpc.StatusCode.PERMISSION_DENIED,
    OverloadedError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    UnavailableError: grpc.StatusCode.UNAVAILABLE,
    CancelledError: grpc.StatusCode.CANCELLED,
}
_CLASS_OF_KIND = {error_class.reason: error_class for error_class in _CODES}
# For statuses without our details: what gRPC itself or a proxy has to say.
_CLASS_OF_CODE: dict[grpc.StatusCode, type[TreedraftError]] = {
    grpc.StatusCode.DEADLINE_EXCEEDED: CancelledError,
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequestError,
    grpc.StatusCode.OUT_OF_RANGE: InvalidRequestError,
    grpc.StatusCode.NOT_FOUND: SessionNotFoundError,
    grpc.StatusCode.ABORTED: SessionConflictError,
    grpc.StatusCode.FAILED_PRECONDITION: IncompatiblePeerError,
    grpc.StatusCode.UNIMPLEMENTED: IncompatiblePeerError,
    grpc.StatusCode.UNAUTHENTICATED: UnauthenticatedError,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDeniedError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: OverloadedError,
    grpc.StatusCode.UNAVAILABLE: UnavailableError,
}
# What a connection that breaks under a stream may be called instead of UNAVAILABLE.
_BROKEN_STREAM = ("RST_STREAM", "Stream removed", "Connection reset")
# What gRPC says of a connection that TLS did not let come about, in our words.
TLS_HANDSHAKE_FAILED = "TLS_HANDSHAKE_FAILED"
_NOT_CONNECTED = ("failed to connect", "connections to all backends failing")
_HANDSHAKE_SIGNS = {
    "WRONG_VERSION_NUMBER": "the peer does not speak TLS",
    "CERTIFICATE_VERIFY_FAILED": "the peer's certificate is not vouched for by our authority",
    "Hostname Verification Check failed": "the peer's certificate is for another name",
    "Tls handshake failed": "the TLS handshake failed",
    "Socket closed": "the peer hung up before a word was said: it expects TLS, or a certificate",
}


# What gRPC says of a peer that cannot be reached, in our words.
_UNREACHABLE = (
    ("Connection refused", "nobody listens at {peer}"),
    ("No route to host", "there is no way to {peer}"),
    ("Network is unreachable", "there is no way to {peer}"),
    ("timed out", "{peer} does not answer"),
    ("Timeout occurred", "{peer} does not answer"),
    ("DNS resolution failed", "no machine is called {host}"),
    ("Domain name not found", "no machine is called {host}"),
)
_PEER = re.compile(r"ipv[46]:(\S+:\d+): ")
_NAME = re.compile(r"(?:resolving|failed for) ([^\s;]+?)(?::\d+)?[:;\s]")


class _Aborting(Protocol):
    async def abort(
        self,
        code: grpc.StatusCode,
        details: str = "",
        trailing_metadata: tuple[tuple[str, str | bytes], ...] = (),
    ) -> NoReturn: ...


def status_code(error: TreedraftError) -> grpc.StatusCode:
    """Return the gRPC code of an error; that of the nearest class in the table."""
    if error.reason == DEADLINE_EXCEEDED:
        return grpc.StatusCode.DEADLINE_EXCEEDED
    return _CODES[_listed_class(error)]


def _listed_class(error: TreedraftError) -> type[TreedraftError]:
    return next(cls for cls in type(error).__mro__ if cls in _CODES)


async def abort(context: _Aborting, error: TreedraftError) -> NoReturn:
    """End the RPC with the status of an error.

    `abort_with_status` would bypass OpenTelemetry's wrapped context, which
    then records success; hence the three parts one by one.
    """
    status = rpc_status.to_status(_to_rich_status(error))
    await context.abort(status.code, status.details, status.trailing_metadata)


def _to_rich_status(error: TreedraftError) -> status_pb2.Status:
    message = _clip(error.message, _MAX_MESSAGE_BYTES)
    metadata = {key: _clip(value, _MAX_VALUE_BYTES) for key, value in error.metadata.items()}
    details: list[Message] = [
        error_details_pb2.ErrorInfo(
            reason=error.reason[:63],
            domain=DOMAIN,
            metadata=dict(list(metadata.items())[:_MAX_METADATA])
            | {_KIND: _listed_class(error).reason},
        )
    ]
    if isinstance(error, OverloadedError):
        delay = Duration()
        delay.FromMilliseconds(error.retry_after_ms)
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    if isinstance(error, InvalidRequestError) and error.field:
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=metadata["field"], description=message
        )
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    code: int = status_code(error).value[0]
    return status_pb2.Status(code=code, message=message, details=[_pack(item) for item in details])


def _pack(message: Message) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(message)
    return packed


def _clip(text: str, max_bytes: int) -> str:
    encoded = text.encode(errors="replace")
    if len(encoded) <= max_bytes:
        return encoded.decode()
    return encoded[: max_bytes - 3].decode(errors="ignore") + "…"


def from_rpc_error(error: grpc.aio.AioRpcError) -> TreedraftError:
    """Return the domain's error for a failed RPC.

    With our own details it is what the server raised; without them, what the
    code and the text of gRPC allow to say.
    """
    status = _rich_status_of(error)
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    for detail in status.details if status else ():
        for message in (info, retry):
            if detail.Is(message.DESCRIPTOR):
                detail.Unpack(message)
    if info.domain != DOMAIN:
        return _from_bare_status(error)
    error_class = _CLASS_OF_KIND.get(info.metadata[_KIND]) or _class_of_code(error)
    metadata = {key: value for key, value in info.metadata.items() if key != _KIND}
    text = error.details() or info.reason
    return _build(error_class, text, info.reason, metadata, retry.retry_delay.ToMilliseconds())


def _rich_status_of(error: grpc.aio.AioRpcError) -> status_pb2.Status | None:
    try:
        status: status_pb2.Status | None = rpc_status.from_call(error)
    except (ValueError, DecodeError):
        return None  # details that do not belong to the status are no details
    return status


def _build(
    error_class: type[TreedraftError],
    message: str,
    reason: str,
    metadata: dict[str, str],
    retry_after_ms: int,
) -> TreedraftError:
    if issubclass(error_class, InvalidRequestError):
        return error_class(message, field=metadata.get("field", ""), reason=reason)
    if issubclass(error_class, OverloadedError):
        return error_class(message, reason=reason, retry_after_ms=retry_after_ms)
    return error_class(message, reason=reason, metadata=metadata)


def _class_of_code(error: grpc.aio.AioRpcError) -> type[TreedraftError]:
    return _CLASS_OF_CODE.get(error.code(), TreedraftError)


def _unreachable(text: str) -> str:
    """Return why nobody answers; what gRPC says where that is nothing known."""
    peer, name = _PEER.search(unquote(text)), _NAME.search(text)
    for sign, words in _UNREACHABLE:
        if sign in text:
            host = name.group(1) if name else "that"
            return words.format(peer=peer.group(1) if peer else "that address", host=host)
    return text


def _from_bare_status(error: grpc.aio.AioRpcError) -> TreedraftError:
    code, text = error.code(), error.details() or error.code().name
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in text:
        return InvalidRequestError(text, reason=MESSAGE_TOO_LARGE)
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return CancelledError("the deadline passed", reason=DEADLINE_EXCEEDED)
    if code is grpc.StatusCode.CANCELLED:
        # Whoever cancels a call of its own is told so by asyncio, never by a status. A server
        # that shuts down says this of calls that it had not taken up yet (grpc/grpc#41785), and
        # so does a proxy that resets a stream: the peer went away, nobody wanted to stop.
        return UnavailableError(f"the peer dropped the call ({text})", reason=CALL_DROPPED)
    if any(sign in text for sign in _BROKEN_STREAM):
        return UnavailableError(text)
    if code is grpc.StatusCode.UNAVAILABLE and text.startswith(_NOT_CONNECTED):
        for sign, words in _HANDSHAKE_SIGNS.items():
            if sign in text:
                return UnavailableError(f"{words} ({text})", reason=TLS_HANDSHAKE_FAILED)
    if code is grpc.StatusCode.UNAVAILABLE:
        return UnavailableError(_unreachable(text))
    error_class = _class_of_code(error)
    reason = "UNIMPLEMENTED" if code is grpc.StatusCode.UNIMPLEMENTED else error_class.reason
    return error_class(text, reason=reason)

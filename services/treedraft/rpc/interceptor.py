"""The server's safety net: every error of a handler becomes a clear status.

A TreedraftError is told to the caller as it is. Anything else is a bug: the
caller learns that there was one, and the log holds the rest, since a traceback
may contain what no other tenant should read.

A handler that ends in a cancellation which its caller did not ask for, since
something that it waited for was cancelled, has failed as well. gRPC would send no
status for it, and leave the caller waiting for as long as the server lives.
"""

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypeAlias

import grpc
import structlog
from google.protobuf.message import DecodeError

from treedraft.core.errors import InvalidRequestError, TreedraftError, UnavailableError
from treedraft.rpc.errors import CALL_DROPPED, abort

_log = structlog.get_logger(__name__)

# Messages are of any type here; gRPC itself checks them by (de)serialising.
_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"  # generic in the stubs alone
_Behaviour = Callable[[Any, Any], Any]
_Check = Callable[[str, Any], None]


class ErrorInterceptor(grpc.aio.ServerInterceptor):
    """Maps what handlers raise to statuses, for all four kinds of RPC.

    Streaming handlers must be async generators; others (the standard health
    service has one) are passed on untouched.
    """

    def __init__(self, check: _Check = lambda method, context: None) -> None:
        """Call `check` with method and context of each call; what it raises ends the call."""
        self._check = check

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable["_Handler | None"]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "_Handler | None":
        """Wrap the handler of a call."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None  # no such method
        method = handler_call_details.method
        behaviour: Any
        if handler.response_streaming:
            behaviour = handler.stream_stream if handler.request_streaming else handler.unary_stream
            if not inspect.isasyncgenfunction(behaviour):
                return handler
            wrapped: _Behaviour = _wrap_stream(behaviour, method, self._check)
        else:
            behaviour = handler.stream_unary if handler.request_streaming else handler.unary_unary
            wrapped = _wrap_unary(behaviour, method, self._check)
        make = _FACTORIES[handler.request_streaming, handler.response_streaming]
        parse = handler.request_deserializer
        if parse and not handler.request_streaming:
            parse = _tolerant(parse)
        return make(wrapped, parse, handler.response_serializer)


_FACTORIES: dict[tuple[bool, bool], Callable[..., _Handler]] = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}


@dataclass(frozen=True, slots=True)
class _Malformed:
    """Stands for a request that could not be parsed until a handler can say so."""


def _tolerant(parse: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    # gRPC parses a single request before it calls the handler, and answers
    # UNKNOWN if that fails. In a stream the handler itself meets the error.
    def parse_or_mark(data: bytes) -> Any:
        try:
            return parse(data)
        except DecodeError:
            return _Malformed()

    return parse_or_mark


def _checked(request: Any) -> Any:
    if isinstance(request, _Malformed):
        raise _malformed()
    return request


def _malformed() -> InvalidRequestError:
    return InvalidRequestError("a message is malformed", reason="MALFORMED_MESSAGE")


def _wrap_unary(behaviour: _Behaviour, method: str, check: _Check) -> _Behaviour:
    async def handle(request: Any, context: Any) -> Any:
        try:
            check(method, context)
            return await behaviour(_checked(request), context)
        except grpc.aio.AbortError:
            raise
        except asyncio.CancelledError as error:
            await abort(context, _dropped(error, method))
        except Exception as error:
            await abort(context, _to_domain(error, method))

    return handle


def _wrap_stream(behaviour: _Behaviour, method: str, check: _Check) -> _Behaviour:
    async def handle(request: Any, context: Any) -> AsyncIterator[Any]:
        try:
            check(method, context)
            # Without this a client that leaves would strand the inner
            # generator, and what its `finally` frees, until garbage collection.
            async with aclosing(behaviour(_checked(request), context)) as responses:
                async for response in responses:
                    yield response
        except grpc.aio.AbortError:
            raise
        except asyncio.CancelledError as error:
            await abort(context, _dropped(error, method))
        except Exception as error:
            await abort(context, _to_domain(error, method))

    return handle


def _dropped(error: asyncio.CancelledError, method: str) -> TreedraftError:
    """Return what to tell a caller that still waits; raise if it is the caller who left."""
    task = asyncio.current_task()
    if task is None or task.cancelling():
        raise error
    _log.error("handler was cancelled from within", method=method, exc_info=error)
    return UnavailableError("the call was dropped", reason=CALL_DROPPED)


def _to_domain(error: Exception, method: str) -> TreedraftError:
    if isinstance(error, DecodeError):
        return _malformed()
    if isinstance(error, TreedraftError):
        return error
    _log.error("handler failed", method=method, exc_info=error)
    return TreedraftError("internal error; the server's log says more")

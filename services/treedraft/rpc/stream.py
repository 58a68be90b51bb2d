"""A bidirectional stream of messages, seen from the side that dialled.

gRPC has four ways of saying that a stream is over, depending on who ended it
and when one looks. Here there are two: `read` returns None when the stream
ended well, and everything else is a TreedraftError.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, Generic, TypeVar, cast

import grpc
from google.protobuf.message import Message

from treedraft.core.errors import TreedraftError, UnavailableError
from treedraft.rpc.errors import from_rpc_error
from treedraft.rpc.framing import split_frame

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)
Result = TypeVar("Result")

STREAM_ENDED = "STREAM_ENDED"

_MAKESHIFT_DETAILS = "Internal error from Core"


class MessageStream(Generic[Request, Response]):
    """Messages both ways over one call.

    One task may write while another reads. Cancelling either of them in the
    middle of it ends the whole stream: gRPC cannot take a message back.
    """

    def __init__(
        self, call: grpc.aio.StreamStreamCall[Request, Response], *, max_message_bytes: int
    ) -> None:
        """Wrap a call that nobody else reads from or writes to."""
        self._call = call
        self._max_message_bytes = max_message_bytes
        self._is_closed = False
        self._status: grpc.aio.AioRpcError | None = None
        call.add_done_callback(self._remember_status)

    async def write(self, message: Request) -> None:
        """Send a message, in parts if it is too large for one.

        Raises:
            TreedraftError: why the stream is over; InvalidRequestError with
                reason MESSAGE_TOO_LARGE leaves it as it was.
        """
        for part in split_frame(message, self._max_message_bytes):
            try:
                await self._call.write(part)
            except (grpc.aio.AioRpcError, grpc.aio.UsageError, asyncio.InvalidStateError):
                raise self._ending() from None
            except asyncio.CancelledError:
                if self._was_closed_meanwhile():
                    raise self._ending() from None
                raise

    async def read(self) -> Response | None:
        """Return the next message, None if the stream ended well or was closed here.

        Raises:
            TreedraftError: why the stream broke.
        """
        try:
            message = await self._call.read()
        except (grpc.aio.AioRpcError, grpc.aio.UsageError):
            if self._is_closed or self._ended_well():
                return None
            raise self._ending() from None
        except asyncio.CancelledError:
            if self._was_closed_meanwhile():
                return None
            raise
        return None if message is grpc.aio.EOF else cast("Response", message)

    def close(self) -> None:
        """End the stream at once; the peer sees a cancelled call. Idempotent."""
        self._is_closed = True
        self._call.cancel()

    def _was_closed_meanwhile(self) -> bool:
        # gRPC reports a stream closed here as a cancellation of the task that
        # reads it, which would pass for a cancellation from outside.
        task = asyncio.current_task()
        return self._is_closed and not (task and task.cancelling())

    def _remember_status(self, call: grpc.aio.StreamStreamCall[Request, Response]) -> None:
        # Called in the moment the status arrives. A write that fails a moment
        # later replaces it with an INTERNAL of gRPC's own (grpc/grpc#36066),
        # and the peer's reason would be lost.
        self._status = grpc.aio.AioRpcError(
            _result_of(call.code()),
            grpc.aio.Metadata(),
            _result_of(call.trailing_metadata()),
            details=_result_of(call.details()),
        )

    def _ended_well(self) -> bool:
        return self._status is not None and self._status.code() is grpc.StatusCode.OK

    def _ending(self) -> TreedraftError:
        if self._is_closed:
            return UnavailableError("the stream was closed", reason=STREAM_ENDED)
        if self._ended_well():
            return UnavailableError("the peer ended the stream", reason=STREAM_ENDED)
        if self._status is None or self._status.details() == _MAKESHIFT_DETAILS:
            return UnavailableError("the stream broke", reason=STREAM_ENDED)
        return from_rpc_error(self._status)


def _result_of(coroutine: Coroutine[Any, Any, Result]) -> Result:
    # Of a call that is over, code, details and metadata are there at once; gRPC
    # has no other way to ask for them than through coroutines.
    try:
        coroutine.send(None)
    except StopIteration as done:
        result: Result = done.value
        return result
    coroutine.close()
    raise RuntimeError("the call is not over")

"""A bidirectional stream of messages, seen from the side that dialled.

gRPC has four ways of saying that a stream is over, depending on who ended it
and when one looks. Here there are two: `read` returns None when the stream
ended well, and everything else is a TreedraftError.
"""

import asyncio
from typing import Generic, TypeVar, cast

import grpc
from google.protobuf.message import Message

from treedraft.core.errors import TreedraftError, UnavailableError
from treedraft.rpc.errors import from_rpc_error
from treedraft.rpc.framing import split_frame

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)


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

    async def write(self, message: Request) -> None:
        """Send a message, in parts if it is too large for one.

        Raises:
            TreedraftError: why the stream is over; InvalidRequestError with
                reason MESSAGE_TOO_LARGE leaves it as it was.
        """
        for part in split_frame(message, self._max_message_bytes):
            try:
                await self._call.write(part)
            except grpc.aio.AioRpcError as error:
                raise from_rpc_error(error) from error
            except (asyncio.InvalidStateError, grpc.aio.UsageError):
                raise await self._ending() from None
            except asyncio.CancelledError:
                if self._was_closed_meanwhile():
                    raise await self._ending() from None
                raise

    async def read(self) -> Response | None:
        """Return the next message, None if the stream ended well or was closed here.

        Raises:
            TreedraftError: why the stream broke.
        """
        try:
            message = await self._call.read()
        except grpc.aio.AioRpcError as error:
            if self._is_closed:
                return None
            raise from_rpc_error(error) from error
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

    async def _ending(self) -> TreedraftError:
        if self._is_closed:
            return UnavailableError("the stream was closed", reason="STREAM_ENDED")
        code = await self._call.code()
        if code is grpc.StatusCode.OK:
            return UnavailableError("the peer ended the stream", reason="STREAM_ENDED")
        return from_rpc_error(
            grpc.aio.AioRpcError(
                code,
                await self._call.initial_metadata(),
                await self._call.trailing_metadata(),
                details=await self._call.details(),
            )
        )

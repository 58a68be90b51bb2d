"""The coordinator's side of its talk with a target."""

import grpc

from treedraft.core.errors import InvalidRequestError
from treedraft.core.exchange import CoordinatorFrame
from treedraft.core.model_description import ModelDescription
from treedraft.core.session import SessionOutput
from treedraft.rpc.channel import MEBIBYTE, open_channel
from treedraft.rpc.convert import (
    coordinator_frame_to_proto,
    model_description_from_proto,
)
from treedraft.rpc.errors import from_rpc_error
from treedraft.rpc.numbered_sessions import StartedSessions
from treedraft.rpc.stream import MessageStream
from treedraft.settings import TlsSettings
from treedraft.v1 import target_service_pb2, target_service_pb2_grpc

# A description carries the whole tokenizer, 3 to 20 MB as JSON.
_MAX_DESCRIPTION_MB = 64

_Stream = MessageStream[
    target_service_pb2.RunSessionsRequest, target_service_pb2.RunSessionsResponse
]


class SessionStream:
    """All sessions of one coordinator at one target.

    One task may send while another receives. Cancelling either in the middle
    ends the stream, and with it the sessions.
    """

    def __init__(self, stream: _Stream) -> None:
        """Take over a stream; `TargetClient.run_sessions` is the way to get one."""
        self._stream = stream
        self._sessions = StartedSessions()

    async def send(self, frame: CoordinatorFrame) -> None:
        """Send a frame; returns once gRPC has taken it.

        Raises:
            TreedraftError: why the stream is over; InvalidRequestError with
                reason MESSAGE_TOO_LARGE leaves it as it was.
        """
        try:
            await self._stream.write(self._sessions.frame_to_proto(frame))
        except InvalidRequestError:
            self._sessions.forget(spec.session_id for spec in frame.starts)
            raise

    async def receive(self) -> tuple[SessionOutput, ...] | None:
        """Return what came out next, None when the stream ended well or was closed here.

        Raises:
            TreedraftError: why the stream broke.
        """
        message = await self._stream.read()
        return None if message is None else self._sessions.outputs_from_proto(message)

    async def close(self) -> None:
        """End the stream; the target cancels the sessions on it. Idempotent."""
        self._stream.close()


class TargetClient:
    """A target, over one channel. Construct it on the event loop that uses it."""

    def __init__(
        self, endpoint: str, *, tls: TlsSettings | None = None, max_message_mb: int = 4
    ) -> None:
        """Prepare to dial `host:port`; the first call connects."""
        self._max_message_bytes = max_message_mb * MEBIBYTE
        self._channel: grpc.aio.Channel = open_channel(
            endpoint,
            tls=tls,
            max_message_mb=max_message_mb,
            max_receive_mb=max(max_message_mb, _MAX_DESCRIPTION_MB),
        )
        self._stub = target_service_pb2_grpc.TargetServiceStub(self._channel)

    async def describe_model(self, timeout_seconds: float) -> ModelDescription:
        """Return what the target serves.

        Raises:
            TreedraftError: UnavailableError if it cannot be reached,
                CancelledError with reason DEADLINE_EXCEEDED if it is too slow.
        """
        request = target_service_pb2.DescribeModelRequest()
        try:
            response = await self._stub.DescribeModel(request, timeout=timeout_seconds)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from error
        return model_description_from_proto(response)

    async def run_sessions(self, coordinator_id: str) -> SessionStream:
        """Open the stream for a coordinator's sessions and say whose it is.

        Raises:
            TreedraftError: UnavailableError if the target cannot be reached.
        """
        stream: _Stream = MessageStream(
            self._stub.RunSessions(), max_message_bytes=self._max_message_bytes
        )
        try:
            hello = CoordinatorFrame(coordinator_id=coordinator_id)
            await stream.write(coordinator_frame_to_proto(hello))
        except BaseException:
            stream.close()
            raise
        return SessionStream(stream)

    async def close(self) -> None:
        """Close the channel, and with it every stream on it."""
        await self._channel.close()

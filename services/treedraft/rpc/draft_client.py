"""The target's side of the exchange with a drafter."""

import asyncio
from typing import Self

import grpc

from treedraft.core.errors import IncompatiblePeerError, UnavailableError
from treedraft.core.exchange import DraftFrame, Hello, TargetFrame
from treedraft.rpc.channel import MEBIBYTE, open_channel
from treedraft.rpc.convert import draft_frame_from_proto, target_frame_to_proto
from treedraft.rpc.round_trip import measure_round_trip
from treedraft.rpc.stream import MessageStream
from treedraft.settings import TlsSettings
from treedraft.v1 import draft_service_pb2, draft_service_pb2_grpc

_Stream = MessageStream[
    draft_service_pb2.ExchangeTreesRequest, draft_service_pb2.ExchangeTreesResponse
]


class TreeExchange:
    """An open exchange with a drafter that fits; `peer` is who it said it is.

    One task may send while another receives. Cancelling either in the middle
    ends the exchange.
    """

    def __init__(self, channel: grpc.aio.Channel, stream: _Stream, peer: Hello) -> None:
        """Take over a stream after the handshake; `dial` is the way to get one."""
        self.peer = peer
        self._channel = channel
        self._stream = stream

    @classmethod
    async def dial(
        cls,
        endpoint: str,
        hello: Hello,
        *,
        timeout_seconds: float,
        tls: TlsSettings | None = None,
        max_message_mb: int = 4,
    ) -> Self:
        """Connect to a drafter and shake hands.

        Args:
            endpoint: `host:port` of the drafter.
            hello: who is dialling.
            timeout_seconds: time for connecting and shaking hands together.
            tls: certificates; None speaks plaintext.
            max_message_mb: largest message in either direction, in MiB.

        Raises:
            UnavailableError: it cannot be reached or does not answer in time.
            IncompatiblePeerError: it speaks another protocol or tokenizer.
            TreedraftError: whatever else the drafter ended the stream with.
        """
        channel = open_channel(endpoint, tls=tls, max_message_mb=max_message_mb)
        stub = draft_service_pb2_grpc.DraftServiceStub(channel)
        stream: _Stream = MessageStream(
            stub.ExchangeTrees(), max_message_bytes=max_message_mb * MEBIBYTE
        )
        try:
            async with asyncio.timeout(timeout_seconds):
                peer = await _shake_hands(stream, hello, endpoint)
        except BaseException as error:
            stream.close()
            await channel.close()
            if isinstance(error, TimeoutError):
                message = f"{endpoint} did not answer within {timeout_seconds:g} s"
                raise UnavailableError(message, reason="DIAL_TIMEOUT") from None
            raise
        return cls(channel, stream, peer)

    async def send(self, frame: TargetFrame) -> None:
        """Send a frame; returns once gRPC has taken it.

        Raises:
            TreedraftError: why the exchange is over; InvalidRequestError with
                reason MESSAGE_TOO_LARGE leaves it as it was.
        """
        await self._stream.write(target_frame_to_proto(frame))

    async def receive(self) -> DraftFrame | None:
        """Return the next frame, None when the exchange ended well or was closed here.

        Raises:
            InvalidGrowthError: the frame cannot be read.
            TreedraftError: why the exchange broke.
        """
        message = await self._stream.read()
        return None if message is None else draft_frame_from_proto(message)

    async def round_trip_ms(self) -> float:
        """Return what the way to the drafter and back takes; 0 if that cannot be told."""
        return await measure_round_trip(self._channel)

    async def close(self) -> None:
        """End the exchange; the drafter forgets its sessions. Idempotent."""
        self._stream.close()
        await self._channel.close()


async def _shake_hands(stream: _Stream, hello: Hello, endpoint: str) -> Hello:
    await stream.write(target_frame_to_proto(TargetFrame(hello=hello)))
    message = await stream.read()
    if message is None:
        raise UnavailableError(f"{endpoint} ended the stream without a hello")
    peer = draft_frame_from_proto(message).hello
    if peer is None:
        raise IncompatiblePeerError(
            f"{endpoint} did not begin with a hello", reason="PROTOCOL_MISMATCH"
        )
    hello.check_peer(peer)
    return peer

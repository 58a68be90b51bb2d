"""The gRPC skin of the drafter: streams of targets in, events to the drafter.

Handlers never compute. Each target has one stream; what the drafter sends in a
step reaches it as one frame.
"""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import grpc

from treedraft.core.errors import IncompatiblePeerError, InvalidRequestError, UnavailableError
from treedraft.core.exchange import DraftFrame, Hello
from treedraft.draft.drafter import Drafter
from treedraft.draft.links import FrameArrived, LinkClosed, LinkOpened
from treedraft.rpc import convert
from treedraft.v1 import draft_service_pb2 as pb
from treedraft.v1 import draft_service_pb2_grpc as pb_grpc

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["DraftService"].full_name

_HELLO_TIMEOUT_SECONDS = 10.0
_MAX_FRAME_SESSIONS = 4096

_Context = grpc.aio.ServicerContext[Any, Any]


class DraftServicer(pb_grpc.DraftServiceServicer):
    """Grows trees for targets."""

    def __init__(self) -> None:
        """Refuse all streams until a drafter is attached."""
        self._backend: tuple[Hello, Drafter] | None = None
        self._link_ids = itertools.count(1)
        self._streams: set[asyncio.Queue[DraftFrame | None]] = set()

    def add_to(self, server: grpc.aio.Server) -> None:
        """Serve on this server; to be called before it starts."""
        pb_grpc.add_DraftServiceServicer_to_server(self, server)

    def attach(self, hello: Hello, drafter: Drafter) -> None:
        """Say `hello` to targets from now on and hand their frames to `drafter`."""
        self._backend = hello, drafter

    def end_streams(self) -> None:
        """Take leave of all targets; they see their streams end well."""
        self._backend = None
        for frames in self._streams:
            frames.put_nowait(None)

    async def ExchangeTrees(  # noqa: N802 - the name is the RPC's
        self, request_iterator: AsyncIterator[pb.ExchangeTreesRequest], context: _Context
    ) -> AsyncIterator[pb.ExchangeTreesResponse]:
        """Exchange trees with one target until its stream ends."""
        if self._backend is None:
            raise UnavailableError("the drafter is not ready", reason="NOT_READY")
        hello, drafter = self._backend
        peer = await _shake_hands(hello, request_iterator)
        frames: asyncio.Queue[DraftFrame | None] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def send(frame: DraftFrame) -> None:
            loop.call_soon_threadsafe(frames.put_nowait, frame)

        link_id = next(self._link_ids)
        drafter.post(LinkOpened(link_id, peer.vocab_size, send))
        self._streams.add(frames)
        reader = asyncio.create_task(_read(link_id, request_iterator, drafter, frames))
        try:
            yield convert.draft_frame_to_proto(DraftFrame(hello=hello))
            while (frame := await frames.get()) is not None:
                yield convert.draft_frame_to_proto(frame, protocol_version=peer.protocol_version)
            if reader.done():
                reader.result()  # raises what ended the reading
        finally:
            reader.cancel()
            self._streams.discard(frames)
            drafter.post(LinkClosed(link_id))


async def _shake_hands(hello: Hello, requests: AsyncIterator[pb.ExchangeTreesRequest]) -> Hello:
    first = None
    with suppress(TimeoutError, StopAsyncIteration):
        async with asyncio.timeout(_HELLO_TIMEOUT_SECONDS):
            first = convert.target_frame_from_proto(await anext(requests))
    if first is None or first.hello is None:
        raise IncompatiblePeerError(
            "the first frame must carry a hello", reason="PROTOCOL_MISMATCH"
        )
    hello.check_peer(first.hello)
    return first.hello


async def _read(
    link_id: int,
    requests: AsyncIterator[pb.ExchangeTreesRequest],
    drafter: Drafter,
    frames: asyncio.Queue[DraftFrame | None],
) -> None:
    try:
        async for request in requests:
            arrived_ns = time.monotonic_ns()
            _check_size(request)
            frame = convert.target_frame_from_proto(request)
            drafter.post(FrameArrived(link_id, frame, arrived_ns))
    finally:
        frames.put_nowait(None)


def _check_size(request: pb.ExchangeTreesRequest) -> None:
    num_sessions = max(len(request.opens), len(request.commits), len(request.closes))
    if num_sessions > _MAX_FRAME_SESSIONS:
        raise InvalidRequestError(
            f"a frame speaks of {num_sessions} sessions, more than {_MAX_FRAME_SESSIONS}",
            reason="FRAME_TOO_LARGE",
        )

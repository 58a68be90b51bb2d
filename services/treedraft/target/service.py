"""The gRPC skin of the target: streams of coordinators in, events to the engine.

Handlers never run the model. Each coordinator has one stream; what the engine
publishes in a step reaches it as one frame. When there is nothing to say for a
while an empty frame goes out, so that silence means a target that is frozen.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import structlog

from treedraft.core.errors import UnavailableError
from treedraft.core.model_description import ModelDescription
from treedraft.core.session import SessionOutput, SessionSpec
from treedraft.rpc import convert
from treedraft.rpc.numbered_sessions import ServedSessions
from treedraft.target.draft_links import DraftLinks
from treedraft.target.engine import Engine
from treedraft.target.events import (
    AcknowledgeLog,
    CancelSession,
    EngineNews,
    StartSession,
    StreamEnded,
)
from treedraft.v1 import target_service_pb2 as pb
from treedraft.v1 import target_service_pb2_grpc as pb_grpc

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["TargetService"].full_name

_log = structlog.get_logger(__name__)

_Context = grpc.aio.ServicerContext[Any, Any]
_Frames = asyncio.Queue[Sequence[SessionOutput] | None]


@dataclass(frozen=True, slots=True)
class TargetBackend:
    """What serves requests once the model is loaded.

    `prepare` does for a session that has a grammar what would hold up the engine.
    """

    description: ModelDescription
    engine: Engine
    links: DraftLinks
    prepare: Callable[[SessionSpec], None] = lambda spec: None


class TargetServicer(pb_grpc.TargetServiceServicer):
    """Runs sessions for coordinators."""

    def __init__(self, *, heartbeat_seconds: float = 1.0) -> None:
        """Start without a model; calls are refused until `attach`.

        No stream is silent for longer than `heartbeat_seconds`.
        """
        self._heartbeat_seconds = heartbeat_seconds
        self._backend: TargetBackend | None = None
        self._stream_ids = itertools.count(1)
        self._streams: dict[int, _Frames] = {}
        self._specs: dict[tuple[int, str], SessionSpec] = {}
        # Sessions that the engine has not heard of yet.
        self._preparing: dict[tuple[int, str], asyncio.Task[None]] = {}

    def add_to(self, server: grpc.aio.Server) -> None:
        """Register the service at a server."""
        pb_grpc.add_TargetServiceServicer_to_server(self, server)

    def attach(self, backend: TargetBackend) -> None:
        """Serve from now on."""
        self._backend = backend

    def end_streams(self) -> None:
        """End all streams, so that the server need not wait for them."""
        for frames in self._streams.values():
            frames.put_nowait(None)

    def _ready(self) -> TargetBackend:
        if self._backend is None:
            raise UnavailableError("the model is still loading", reason="NOT_READY")
        return self._backend

    async def DescribeModel(  # noqa: N802 - the name is the RPC's
        self, request: pb.DescribeModelRequest, context: _Context
    ) -> pb.DescribeModelResponse:
        """Say what model is served."""
        return convert.model_description_to_proto(self._ready().description)

    async def RunSessions(  # noqa: N802 - the name is the RPC's
        self, request_iterator: AsyncIterator[pb.RunSessionsRequest], context: _Context
    ) -> AsyncIterator[pb.RunSessionsResponse]:
        """Run the sessions of one coordinator until its stream ends."""
        backend = self._ready()
        stream_id = next(self._stream_ids)
        frames: _Frames = asyncio.Queue()
        self._streams[stream_id] = frames
        sessions = ServedSessions()
        reader = asyncio.create_task(self._read(backend, stream_id, sessions, request_iterator))
        try:
            while (outputs := await self._next(frames)) is not None:
                yield sessions.outputs_to_proto(outputs)
            if reader.done():
                await reader  # raises what ended the reading
        finally:
            reader.cancel()
            del self._streams[stream_id]
            backend.engine.post(StreamEnded(stream_id))
            for key in [key for key in self._specs if key[0] == stream_id]:
                self._drop_preparing(key)
                backend.links.release(self._specs.pop(key).drafters)

    async def _next(self, frames: _Frames) -> Sequence[SessionOutput] | None:
        """Return what is to be said next: nothing as a sign of life, None at the end.

        Steps that ended while the last frame was on its way are told together.
        """
        if frames.empty():
            loop = asyncio.get_running_loop()
            beat = loop.call_later(self._heartbeat_seconds, frames.put_nowait, ())
            try:
                return await frames.get()
            finally:
                beat.cancel()
        outputs = frames.get_nowait()
        while outputs is not None and not frames.empty():
            if (more := frames.get_nowait()) is None:
                frames.put_nowait(None)
                break
            outputs = [*outputs, *more]
        return outputs

    async def _read(
        self,
        backend: TargetBackend,
        stream_id: int,
        sessions: ServedSessions,
        requests: AsyncIterator[pb.RunSessionsRequest],
    ) -> None:
        try:
            async for request in requests:
                frame = sessions.frame_from_proto(request)
                for spec in frame.starts:
                    self._start(backend, stream_id, spec)
                for session_id in frame.cancels:
                    self._cancel(backend, stream_id, session_id)
                if frame.acknowledgements:
                    backend.engine.post(AcknowledgeLog(frame.acknowledgements))
        finally:
            frames = self._streams.get(stream_id)
            if frames:
                frames.put_nowait(None)

    def _start(self, backend: TargetBackend, stream_id: int, spec: SessionSpec) -> None:
        before = self._specs.get((stream_id, spec.session_id))
        if before:
            backend.links.release(before.drafters)
        self._specs[stream_id, spec.session_id] = spec
        backend.links.acquire(spec.drafters)
        key = stream_id, spec.session_id
        self._drop_preparing(key)
        if spec.sampling.grammar is None:
            backend.engine.post(StartSession(stream_id, spec))
        else:
            self._preparing[key] = asyncio.create_task(self._prepare(backend, key, spec))

    async def _prepare(
        self, backend: TargetBackend, key: tuple[int, str], spec: SessionSpec
    ) -> None:
        try:
            await asyncio.to_thread(backend.prepare, spec)
        except Exception:  # then the engine meets it, and says so
            _log.exception("a session was not prepared")
        del self._preparing[key]
        backend.engine.post(StartSession(key[0], spec))

    def _drop_preparing(self, key: tuple[int, str]) -> bool:
        """Start a session no more that was to be started; return whether it was."""
        task = self._preparing.pop(key, None)
        return task is not None and task.cancel()

    def _cancel(self, backend: TargetBackend, stream_id: int, session_id: str) -> None:
        key = stream_id, session_id
        if self._drop_preparing(key) and (spec := self._specs.pop(key, None)):
            backend.links.release(spec.drafters)  # the engine will not say that it ended
        backend.engine.post(CancelSession(stream_id, session_id))

    def _release(self, backend: TargetBackend, stream_id: int, output: SessionOutput) -> None:
        """Let the drafters of a session go that ended; a newer start of it keeps its own."""
        spec = self._specs.get((stream_id, output.session_id))
        if spec and spec.epoch == output.epoch:
            del self._specs[stream_id, output.session_id]
            backend.links.release(spec.drafters)

    def pass_on(self, news: EngineNews) -> None:
        """Hand what the engine published to the streams it is meant for."""
        backend = self._ready()
        backend.links.send(news.frames)
        for endpoint, reason in news.refused_links.items():
            backend.links.refuse(endpoint, reason)
        for stream_id, outputs in news.outputs.items():
            for output in outputs:
                if output.finish or output.failure:
                    self._release(backend, stream_id, output)
            frames = self._streams.get(stream_id)
            if frames:
                frames.put_nowait(outputs)

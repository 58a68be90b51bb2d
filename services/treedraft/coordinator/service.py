"""The coordinator's gRPC skin: convert, call the use-case, convert back."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import grpc

from treedraft.coordinator.registry import WorkerRegistry
from treedraft.coordinator.use_cases import Caller, UseCases
from treedraft.core.errors import InvalidRequestError, UnavailableError
from treedraft.core.worker import WorkerRegistration, WorkerReport
from treedraft.rpc.context import api_key_of, seconds_left, traceparent_of
from treedraft.rpc.convert import (
    announcement_from_proto,
    cluster_to_proto,
    duration_to_proto,
    generate_event_to_proto,
    generate_query_from_proto,
    resume_query_from_proto,
    rollout_to_proto,
    served_models_to_proto,
    weights_from_proto,
)
from treedraft.rpc.heartbeats import with_heartbeats
from treedraft.rpc.unknown_fields import reject_unknown_fields
from treedraft.v1 import coordinator_service_pb2 as pb2
from treedraft.v1.coordinator_service_pb2_grpc import (
    CoordinatorServiceServicer,
    add_CoordinatorServiceServicer_to_server,
)

SERVICE_NAME = pb2.DESCRIPTOR.services_by_name["CoordinatorService"].full_name

_Context = grpc.aio.ServicerContext[Any, Any]


class CoordinatorServicer(CoordinatorServiceServicer):
    """Serves `treedraft.v1.CoordinatorService`; errors are mapped by the server."""

    def __init__(
        self, use_cases: UseCases, registry: WorkerRegistry, *, heartbeat_seconds: float = 1.0
    ) -> None:
        """Serve clients by these use-cases, and workers by this register.

        No answer is silent for longer than `heartbeat_seconds`.
        """
        self._heartbeat_seconds = heartbeat_seconds
        self._use_cases = use_cases
        self._registry = registry
        self._is_stopping = asyncio.Event()

    def add_to(self, server: grpc.aio.Server) -> None:
        """Serve on this server."""
        add_CoordinatorServiceServicer_to_server(self, server)

    def stop(self) -> None:
        """End the announce streams; the workers turn to another coordinator."""
        self._is_stopping.set()

    async def Generate(  # noqa: N802
        self, request: pb2.GenerateRequest, context: _Context
    ) -> AsyncIterator[pb2.GenerateResponse]:
        """Generate text; refuses fields that this version does not know."""
        reject_unknown_fields(request)
        events = self._use_cases.generate(generate_query_from_proto(request), _caller(context))
        async with aclosing(with_heartbeats(events, self._heartbeat_seconds)) as parts:
            async for part in parts:
                yield generate_event_to_proto(part) if part else pb2.GenerateResponse()

    async def Resume(  # noqa: N802
        self, request: pb2.ResumeRequest, context: _Context
    ) -> AsyncIterator[pb2.ResumeResponse]:
        """Go on with an answer; refuses fields that this version does not know."""
        reject_unknown_fields(request)
        events = self._use_cases.resume(resume_query_from_proto(request), _caller(context))
        async with aclosing(with_heartbeats(events, self._heartbeat_seconds)) as parts:
            async for part in parts:
                yield pb2.ResumeResponse(part=generate_event_to_proto(part) if part else None)

    async def Cancel(  # noqa: N802
        self, request: pb2.CancelRequest, context: _Context
    ) -> pb2.CancelResponse:
        """End a session; refuses fields that this version does not know."""
        reject_unknown_fields(request)
        await self._use_cases.cancel(request.session_id, _caller(context))
        return pb2.CancelResponse()

    async def ListModels(  # noqa: N802
        self, request: pb2.ListModelsRequest, context: _Context
    ) -> pb2.ListModelsResponse:
        """List the models that can be asked for."""
        reject_unknown_fields(request)
        return served_models_to_proto(await self._use_cases.list_models(_caller(context)))

    async def DescribeCluster(  # noqa: N802
        self, request: pb2.DescribeClusterRequest, context: _Context
    ) -> pb2.DescribeClusterResponse:
        """Describe the workers."""
        reject_unknown_fields(request)
        return cluster_to_proto(await self._use_cases.describe_cluster(_caller(context)))

    async def DescribeRollout(  # noqa: N802
        self, request: pb2.DescribeRolloutRequest, context: _Context
    ) -> pb2.DescribeRolloutResponse:
        """Describe pools and what came of their sessions."""
        reject_unknown_fields(request)
        return rollout_to_proto(await self._use_cases.describe_rollout(_caller(context)))

    async def SetPoolWeights(  # noqa: N802
        self, request: pb2.SetPoolWeightsRequest, context: _Context
    ) -> pb2.SetPoolWeightsResponse:
        """Change the shares of pools."""
        reject_unknown_fields(request)
        await self._use_cases.set_pool_weights(weights_from_proto(request), _caller(context))
        return pb2.SetPoolWeightsResponse()

    async def AnnounceWorker(  # noqa: N802
        self, request_iterator: AsyncIterator[pb2.AnnounceWorkerRequest], context: _Context
    ) -> AsyncIterator[pb2.AnnounceWorkerResponse]:
        """Keep a worker registered for as long as it goes on reporting."""
        answer = pb2.AnnounceWorkerResponse(
            time_to_live=duration_to_proto(self._registry.ttl_seconds)
        )
        first = await self._next(request_iterator)
        if first is None:
            return
        registration, report = _first_announcement(first)
        try:
            await self._registry.register(registration, report)
            yield answer
            while (message := await self._next(request_iterator)) is not None:
                _, report = announcement_from_proto(message)
                if not await self._registry.report(registration, report):
                    raise UnavailableError(
                        f"another start of {registration.worker_id} has taken its place",
                        reason="WORKER_REPLACED",
                    )
                yield answer
        finally:
            if not self._is_stopping.is_set():
                await self._registry.leave(registration)

    async def _next(
        self, messages: AsyncIterator[pb2.AnnounceWorkerRequest]
    ) -> pb2.AnnounceWorkerRequest | None:
        """Return the next message; None at the end of the stream or of this service."""
        reading = asyncio.ensure_future(anext(messages, None))
        stopping = asyncio.create_task(self._is_stopping.wait())
        try:
            await asyncio.wait(
                (reading, stopping),
                timeout=self._registry.ttl_seconds,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if reading.done():
                return reading.result()
            if stopping.done():
                return None
            raise UnavailableError("the worker fell silent", reason="WORKER_SILENT")
        finally:
            reading.cancel()
            stopping.cancel()


def _caller(context: _Context) -> Caller:
    return Caller(api_key_of(context), traceparent_of(context), seconds_left(context))


def _first_announcement(
    message: pb2.AnnounceWorkerRequest,
) -> tuple[WorkerRegistration, WorkerReport]:
    registration, report = announcement_from_proto(message)
    if registration is None or not registration.worker_id or not registration.endpoint:
        raise InvalidRequestError(
            "the first message must carry a registration with id and endpoint",
            field="registration",
            reason="REGISTRATION_REQUIRED",
        )
    return registration, report

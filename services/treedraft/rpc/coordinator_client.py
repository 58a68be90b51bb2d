"""A client of the coordinator: what the command line and programs use."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any, TypeVar, cast

import grpc
from google.protobuf.message import Message

from treedraft.core.errors import UnavailableError
from treedraft.core.generation import GenerateEvent, GenerateQuery, ResumeQuery, ServedModel
from treedraft.core.rollout import RolloutDescription, WeightChange
from treedraft.core.worker import ClusterDescription
from treedraft.rpc.channel import open_channel
from treedraft.rpc.context import TRACEPARENT, bearer_metadata
from treedraft.rpc.convert import (
    cluster_from_proto,
    generate_event_from_proto,
    generate_query_to_proto,
    resume_query_to_proto,
    rollout_from_proto,
    served_models_from_proto,
    weights_to_proto,
)
from treedraft.rpc.errors import from_rpc_error
from treedraft.settings import TlsSettings
from treedraft.v1 import coordinator_service_pb2, coordinator_service_pb2_grpc

COORDINATOR_SILENT = "COORDINATOR_SILENT"

Response = TypeVar("Response", bound=Message)


class CoordinatorClient:
    """A coordinator, over one channel. Construct it on the event loop that uses it."""

    def __init__(
        self,
        endpoint: str,
        *,
        tls: TlsSettings | None = None,
        api_key: str = "",
        max_message_mb: int = 4,
        silence_seconds: float | None = None,
    ) -> None:
        """Prepare to dial `host:port`; the first call connects.

        Args:
            endpoint: of the coordinator.
            tls: certificates; None speaks plaintext.
            api_key: says for which tenant the client asks; empty says nothing.
            max_message_mb: largest message in either direction, in MiB.
            silence_seconds: an answer that brings nothing for so long, not even a
                sign of life, is given up; None waits for what gRPC notices.

        Raises:
            UnavailableError: the files of `tls` cannot be used.
        """
        self._silence_seconds = silence_seconds
        self._channel: grpc.aio.Channel = open_channel(
            endpoint, tls=tls, max_message_mb=max_message_mb, is_balanced=True
        )
        self._metadata = bearer_metadata(api_key)
        self._stub = coordinator_service_pb2_grpc.CoordinatorServiceStub(self._channel)

    async def generate(
        self,
        query: GenerateQuery,
        *,
        timeout_seconds: float | None = None,
        traceparent: str = "",
    ) -> AsyncGenerator[GenerateEvent, None]:
        """Ask for text and yield the events of the answer.

        The generator must be run to its end or closed (`contextlib.aclosing`);
        closing it leaves the session, which ends after the coordinator's grace
        time unless it is resumed; `cancel` ends it at once.

        Args:
            query: what to continue, and how.
            timeout_seconds: time for the whole answer; None sets no limit.
            traceparent: W3C trace context that the request is part of.

        Raises:
            TreedraftError: what the coordinator refused the request or ended
                the answer with, or that it cannot be reached.
        """
        call = self._stub.Generate(
            generate_query_to_proto(query),
            timeout=timeout_seconds,
            metadata=self._with_trace(traceparent),
        )
        async with aclosing(self._read(call)) as responses:
            async for response in responses:
                event = generate_event_from_proto(response)
                if event is not None:
                    yield event

    async def resume(
        self,
        query: ResumeQuery,
        *,
        timeout_seconds: float | None = None,
        traceparent: str = "",
    ) -> AsyncGenerator[GenerateEvent, None]:
        """Ask for the rest of an answer whose stream broke; otherwise as `generate`.

        Raises:
            TreedraftError: SessionNotFoundError if no coordinator knows the session,
                TokensMismatchError if its text is not the one that the caller holds.
        """
        call = self._stub.Resume(
            resume_query_to_proto(query),
            timeout=timeout_seconds,
            metadata=self._with_trace(traceparent),
        )
        async with aclosing(self._read(call)) as responses:
            async for response in responses:
                event = generate_event_from_proto(response.part)
                if event is not None:
                    yield event

    async def cancel(self, session_id: str, *, timeout_seconds: float = 10.0) -> None:
        """End a session whose answer nobody wants any more; repeatable.

        Raises:
            TreedraftError: as `list_models`.
        """
        request = coordinator_service_pb2.CancelRequest(session_id=session_id)
        try:
            await self._stub.Cancel(request, timeout=timeout_seconds, metadata=self._metadata)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from error

    def _with_trace(self, traceparent: str) -> tuple[tuple[str, str], ...]:
        trace = ((TRACEPARENT, traceparent),) if traceparent else ()
        return (*self._metadata, *trace)

    async def _read(
        self, call: grpc.aio.UnaryStreamCall[Any, Response]
    ) -> AsyncGenerator[Response, None]:
        """Yield the messages of an answer; closing it ends the call."""
        try:
            while True:
                async with asyncio.timeout(self._silence_seconds):
                    message = await call.read()
                if message is grpc.aio.EOF:
                    return
                yield cast("Response", message)
        except TimeoutError as error:
            raise UnavailableError(
                f"no sign of life for {self._silence_seconds:g} s", reason=COORDINATOR_SILENT
            ) from error
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from error
        finally:
            call.cancel()

    async def list_models(self, *, timeout_seconds: float = 10.0) -> list[ServedModel]:
        """Return the models that can be asked for.

        Raises:
            TreedraftError: UnavailableError if it cannot be reached,
                CancelledError with reason DEADLINE_EXCEEDED if it is too slow.
        """
        request = coordinator_service_pb2.ListModelsRequest()
        try:
            response = await self._stub.ListModels(
                request, timeout=timeout_seconds, metadata=self._metadata
            )
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from error
        return served_models_from_proto(response)

    async def describe_cluster(self, *, timeout_seconds: float = 10.0) -> ClusterDescription:
        """Return the workers that the coordinator knows.

        Raises:
            TreedraftError: as `list_models`.
        """
        request = coordinator_service_pb2.DescribeClusterRequest()
        try:
            response = await self._stub.DescribeCluster(
                request, timeout=timeout_seconds, metadata=self._metadata
            )
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from error
        return cluster_from_proto(response)

    async def describe_rollout(self, *, timeout_seconds: float = 10.0) -> RolloutDescription:
        """Return the pools that share new sessions, and what came of those.

        Raises:
            TreedraftError: as `list_models`.
        """
        request = coordinator_service_pb2.DescribeRolloutRequest()
        try:
            response = await self._stub.DescribeRollout(
                request, timeout=timeout_seconds, metadata=self._metadata
            )
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from error
        return rollout_from_proto(response)

    async def set_pool_weights(
        self, changes: Sequence[WeightChange], *, timeout_seconds: float = 10.0
    ) -> None:
        """Change shares of new sessions, for all coordinators that share the store.

        Raises:
            TreedraftError: as `list_models`; PermissionDeniedError with reason
                NOT_AN_OPERATOR for a tenant that is none.
        """
        try:
            await self._stub.SetPoolWeights(
                weights_to_proto(changes), timeout=timeout_seconds, metadata=self._metadata
            )
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from error

    async def close(self) -> None:
        """Close the channel, and with it every answer that still runs."""
        await self._channel.close()

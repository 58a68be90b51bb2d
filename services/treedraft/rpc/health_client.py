"""Asks a service for its health: what a supervisor without gRPC probes runs."""

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]

from treedraft.rpc.channel import open_channel
from treedraft.rpc.errors import from_rpc_error
from treedraft.settings import TlsSettings


async def ask_health(
    endpoint: str,
    service: str = "",
    *,
    tls: TlsSettings | None = None,
    timeout_seconds: float = 5.0,
) -> bool:
    """Return whether a service says SERVING; an unknown service's name is no.

    Raises:
        TreedraftError: UnavailableError if it cannot be reached, CancelledError
            with reason DEADLINE_EXCEEDED if it is too slow.
    """
    async with open_channel(endpoint, tls=tls) as channel:
        try:
            answer = await health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(service=service), timeout=timeout_seconds
            )
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return False
            raise from_rpc_error(error) from error
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

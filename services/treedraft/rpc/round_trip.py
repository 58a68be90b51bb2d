"""How long a message takes to a service and back, asked of its health.

Every service answers health checks, also one of an older version, and does nothing for
them. What a machine that is busy adds differs from check to check, and the way does not:
so what the checks differ by is taken off. Unknown is told as none.
"""

import asyncio
import time

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]

_CHECKS = 5
_PAUSE_SECONDS = 0.002
_TIMEOUT_SECONDS = 2.0


async def measure_round_trip(channel: grpc.aio.Channel) -> float:
    """Return the round trip in milliseconds, 0 if nothing can be said of it."""
    stub = health_pb2_grpc.HealthStub(channel)

    async def check(index: int) -> float:
        await asyncio.sleep(index * _PAUSE_SECONDS)
        started = time.perf_counter()
        await stub.Check(health_pb2.HealthCheckRequest(), timeout=_TIMEOUT_SECONDS)
        return (time.perf_counter() - started) * 1e3

    try:
        return common_part(await asyncio.gather(*(check(index) for index in range(_CHECKS))))
    except grpc.aio.AioRpcError:
        return 0.0


def common_part(times_ms: list[float]) -> float:
    """Return what times have in common: the shortest, less what it differs by from the middle."""
    ordered = sorted(times_ms)
    shortest, middle = ordered[0], ordered[len(ordered) // 2]
    return max(0.0, 2.0 * shortest - middle)

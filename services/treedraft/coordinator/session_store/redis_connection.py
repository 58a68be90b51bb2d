"""How coordinators reach Redis, and what they say when it is away.

The session store, the ledger of tenants and the shares of a rollout use one client.
"""

from collections.abc import Awaitable
from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import RedisError

from treedraft.coordinator.session_store import protocol
from treedraft.core.errors import UnavailableError

_MAX_CONNECTIONS = 64


def connect(url: str, *, timeout_seconds: float = 2.0) -> Redis:
    """Return a client for `redis://…`, `rediss://…` or `unix://…`; connects when first used.

    A burst of requests waits for a connection; it is no outage of the store.
    """
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=_MAX_CONNECTIONS,
        timeout=timeout_seconds,
        socket_timeout=timeout_seconds,
        socket_connect_timeout=timeout_seconds,
        retry=Retry(ExponentialBackoff(cap=0.2, base=0.02), 2),
        health_check_interval=30,
    )
    return Redis.from_pool(pool)


async def guarded(call: Awaitable[Any]) -> Any:
    """Return what Redis answers.

    Raises:
        UnavailableError: STORE_UNAVAILABLE.
    """
    try:
        return await call
    except (RedisError, OSError) as error:
        raise UnavailableError(
            f"the session store is away: {error}", reason=protocol.STORE_UNAVAILABLE
        ) from error

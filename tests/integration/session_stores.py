"""Both session stores, on clocks that a test moves."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass

import pytest
from redis.asyncio import Redis
from tests.unit.coordinator.redis_server import redis_server

from treedraft.coordinator.session_store.embedded import EmbeddedSessionStore
from treedraft.coordinator.session_store.protocol import SessionStore
from treedraft.coordinator.session_store.records import SessionRequest
from treedraft.coordinator.session_store.redis_connection import connect
from treedraft.coordinator.session_store.redis_store import RedisSessionStore
from treedraft.core.errors import SessionConflictError
from treedraft.core.sampling import (
    SamplingParameters,
    SpeculationOptions,
    StoppingCriteria,
    Verification,
)
from treedraft.core.worker import WorkerRegistration, WorkerRole

SESSION_TTL, LEASE, WORKER_TTL = 600.0, 10.0, 5.0
MAX_HASH = 2**64 - 1


@dataclass
class Harness:
    """A store, and a way to let time pass in it."""

    store: SessionStore
    advance: Callable[[float], Awaitable[None]]


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory) -> Iterator[str]:
    with redis_server(tmp_path_factory.mktemp("redis")) as url:
        yield url


async def shift_expiries(redis: Redis, seconds: float) -> None:
    """Let time pass: what would have run out is removed, the rest runs out sooner."""
    async for key in redis.scan_iter():
        left_ms = await redis.pttl(key)
        if left_ms >= 0:
            await redis.pexpire(key, max(0, left_ms - round(seconds * 1000)))


def redis_store(client: Redis) -> RedisSessionStore:
    return RedisSessionStore(
        client, session_ttl_seconds=SESSION_TTL, lease_seconds=LEASE, worker_ttl_seconds=WORKER_TTL
    )


@pytest.fixture(params=["embedded", "redis"])
async def harness(request) -> AsyncIterator[Harness]:
    if request.param == "embedded":
        now = [100.0]

        async def advance(seconds: float) -> None:
            now[0] += seconds

        yield Harness(
            EmbeddedSessionStore(
                session_ttl_seconds=SESSION_TTL,
                lease_seconds=LEASE,
                worker_ttl_seconds=WORKER_TTL,
                clock=lambda: now[0],
            ),
            advance,
        )
        return
    client = connect(request.getfixturevalue("redis_url"))
    await client.flushall()
    store = redis_store(client)
    yield Harness(store, lambda seconds: shift_expiries(client, seconds))
    await store.close()


def a_request(session_id: str = "s1", prompt: tuple[int, ...] = (1, 70_000, 3)) -> SessionRequest:
    return SessionRequest(
        session_id=session_id,
        model="smol",
        fingerprint="f" * 64,
        prompt_token_ids=prompt,
        sampling=SamplingParameters(
            temperature=0.6,
            top_k=40,
            logit_bias=((7, -1.5),),
            seed=MAX_HASH,
            verification=Verification.REJECTION,
        ),
        stopping=StoppingCriteria(
            max_tokens=9, stop_strings=("é\n",), stop_token_ids=frozenset({4, 5})
        ),
        speculation=SpeculationOptions(max_nodes=0),
        choice=2,
        tenant="acme",
    )


def a_worker(worker_id: str = "t1", incarnation: str = "a") -> WorkerRegistration:
    return WorkerRegistration(
        worker_id=worker_id,
        incarnation=incarnation,
        role=WorkerRole.TARGET,
        endpoint="127.0.0.1:1",
        model="smol",
        fingerprint="f",
        tokenizer_hash="h",
        max_sessions=8,
    )


async def conflict_of(call: Awaitable[object]) -> str:
    with pytest.raises(SessionConflictError) as caught:
        await call
    return caught.value.reason

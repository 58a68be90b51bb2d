"""Runs the coordinator: `python -m treedraft.coordinator`.

Order at the end: unhealthy and closed to new requests first, then the running
ones get their time, then streams, store and spans.
"""

import asyncio
import contextlib
import secrets
import socket
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from treedraft.coordinator.accounts import Accounts
from treedraft.coordinator.api_keys import TenantRoll
from treedraft.coordinator.audit import AuditLog
from treedraft.coordinator.catalog import ModelCatalog
from treedraft.coordinator.console.console import Console
from treedraft.coordinator.generation import Coordinator
from treedraft.coordinator.http.door import HttpDoor
from treedraft.coordinator.registry import WorkerRegistry
from treedraft.coordinator.request_book import RequestBook
from treedraft.coordinator.rollout import Rollout
from treedraft.coordinator.service import SERVICE_NAME, CoordinatorServicer
from treedraft.coordinator.session_store.embedded import EmbeddedSessionStore
from treedraft.coordinator.session_store.protocol import SessionStore
from treedraft.coordinator.session_store.redis_connection import connect
from treedraft.coordinator.session_store.redis_ledger import RedisTenantLedger
from treedraft.coordinator.session_store.redis_store import RedisSessionStore
from treedraft.coordinator.session_store.rollout_store import (
    EmbeddedRolloutStore,
    RedisRolloutStore,
    RolloutStore,
)
from treedraft.coordinator.session_store.tenant_ledger import EmbeddedTenantLedger, TenantLedger
from treedraft.coordinator.settings import CoordinatorSettings
from treedraft.coordinator.target_links import TargetLinks
from treedraft.coordinator.use_cases import UseCases
from treedraft.core.lasting_heap import keep_heap
from treedraft.core.model_description import ModelDescription
from treedraft.rpc.process import run_service, service_telemetry
from treedraft.rpc.server import RpcServer, wait_for_signal
from treedraft.rpc.target_client import TargetClient
from treedraft.telemetry.metrics import Metrics
from treedraft.telemetry.tracing import Tracing

_ROLE = "coordinator"


def make_stores(
    settings: CoordinatorSettings,
) -> tuple[SessionStore, TenantLedger, RolloutStore]:
    """Return the session store that the settings name, and what is kept beside it."""
    kept = settings.store
    if not settings.redis:
        store = EmbeddedSessionStore(
            session_ttl_seconds=kept.session_ttl_seconds,
            lease_seconds=kept.lease_seconds,
            worker_ttl_seconds=kept.worker_ttl_seconds,
        )
        ledger = EmbeddedTenantLedger(lease_seconds=kept.lease_seconds)
        return store, ledger, EmbeddedRolloutStore()
    redis = connect(settings.redis, timeout_seconds=kept.redis_timeout_seconds)
    shared = RedisSessionStore(
        redis,
        session_ttl_seconds=kept.session_ttl_seconds,
        lease_seconds=kept.lease_seconds,
        worker_ttl_seconds=kept.worker_ttl_seconds,
    )
    shared_ledger = RedisTenantLedger(redis, lease_seconds=kept.lease_seconds)
    return shared, shared_ledger, RedisRolloutStore(redis)


def build(
    settings: CoordinatorSettings,
    tracing: Tracing,
    metrics: Metrics,
    book: RequestBook | None = None,
) -> tuple[Coordinator, WorkerRegistry]:
    """Return a coordinator and its register of workers; nothing runs yet.

    Requests are noted in `book`, if there is one.
    """
    coordinator_id = settings.coordinator_id or _draw_id()
    store, ledger, rollout_store = make_stores(settings)
    audit_file = settings.door.audit_file

    def dial(endpoint: str) -> TargetClient:
        return TargetClient(endpoint, tls=settings.tls, max_message_mb=settings.grpc.max_message_mb)

    async def describe(endpoint: str) -> ModelDescription:
        client = dial(endpoint)
        try:
            return await client.describe_model(settings.describe_timeout_seconds)
        finally:
            await client.close()

    registry = WorkerRegistry(
        store,
        ModelCatalog(describe),
        ttl_seconds=settings.store.worker_ttl_seconds,
        clock=time.monotonic,
    )
    links = TargetLinks(
        dial,
        coordinator_id,
        silence_seconds=settings.failover.silence_seconds,
        on_failure=lambda reason: metrics.link_failed("target", reason),
    )
    coordinator = Coordinator(
        settings,
        coordinator_id=coordinator_id,
        store=store,
        registry=registry,
        links=links,
        tracing=tracing,
        metrics=metrics,
        accounts=Accounts(ledger, AuditLog(Path(audit_file)) if audit_file else None, book),
        rollout=Rollout(rollout_store, registry),
    )
    return coordinator, registry


def open_door(settings: CoordinatorSettings) -> TenantRoll:
    """Return the tenants that the settings name; warn if their keys can be overheard.

    Raises:
        InvalidRequestError: keys or secret cannot be used.
    """
    tenants = TenantRoll(settings.door.keys_file, settings.door.tenant_secret_file)
    if not tenants.is_open and not settings.tls.is_spoken:
        structlog.get_logger("treedraft.coordinator").warning(
            "API keys travel in plaintext; set tls.ca, tls.certificate and tls.key"
        )
    return tenants


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where a coordinator is found: `host:port`, and `http://host:port` or nothing."""

    grpc: str
    http: str


@contextlib.asynccontextmanager
async def running(
    settings: CoordinatorSettings, tracing: Tracing, metrics: Metrics
) -> AsyncIterator[Addresses]:
    """Run a coordinator for the time of the context and say where it is."""
    tenants = open_door(settings)
    book = RequestBook()
    coordinator, registry = build(settings, tracing, metrics, book)
    use_cases = UseCases(coordinator, registry, tenants)
    servicer = CoordinatorServicer(
        use_cases, registry, heartbeat_seconds=settings.heartbeat_seconds
    )
    server = RpcServer(settings.grpc, [SERVICE_NAME], settings.tls)
    servicer.add_to(server.grpc)
    console = Console(settings, use_cases, coordinator, registry, tenants, book)
    http = HttpDoor(settings, use_cases, metrics.registry, console)
    upkeep = [asyncio.create_task(coordinator.run()), asyncio.create_task(console.run())]
    try:
        addresses = Addresses(await server.start(), await http.start())
        await server.set_serving(True)
        yield addresses
    finally:
        http.is_serving = False
        await server.set_serving(False)
        await coordinator.drain()
        servicer.stop()
        await asyncio.gather(http.stop(), server.stop())
        for task in upkeep:
            await end_task(task)
        await coordinator.close()


async def end_task(task: asyncio.Task[Any]) -> None:
    """Cancel a task until it has ended: a timeout that it is in may swallow the first time."""
    while not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=1.0)
    if not task.cancelled() and (error := task.exception()):
        structlog.get_logger("treedraft.coordinator").error("upkeep had ended", exc_info=error)


async def serve(settings: CoordinatorSettings) -> None:
    """Run the coordinator until SIGTERM or SIGINT."""
    async with (
        service_telemetry(_ROLE, settings.telemetry, settings.grpc) as telemetry,
        running(settings, telemetry.tracing, telemetry.metrics),
    ):
        keep_heap()
        await wait_for_signal()
        structlog.get_logger("treedraft.coordinator").info("stopping")


def main(settings: CoordinatorSettings | None = None) -> None:
    """Serve until SIGTERM or SIGINT; settings come from the environment unless given."""
    run_service(_ROLE, CoordinatorSettings, settings, serve)


def _draw_id() -> str:
    return f"{socket.gethostname()}-coordinator-{secrets.token_hex(4)}"


if __name__ == "__main__":
    main()

"""Runs the target service: `python -m treedraft.target`."""

import asyncio
import secrets
import sys
import threading
from dataclasses import replace

import structlog
import torch

from treedraft.core.errors import UnavailableError
from treedraft.core.exchange import Hello
from treedraft.core.lasting_heap import keep_heap
from treedraft.core.model_description import ModelDescription
from treedraft.core.watchdog import stuck_error, until_stuck
from treedraft.core.worker import WorkerRegistration, WorkerRole
from treedraft.inference.models import load_model
from treedraft.rpc.process import (
    ServiceTelemetry,
    announcing,
    leave,
    on_passing_thread,
    run_service,
    service_telemetry,
)
from treedraft.rpc.server import RpcServer, wait_for_signal
from treedraft.target.assembly import TargetParts, assemble
from treedraft.target.draft_links import DraftLinks
from treedraft.target.engine import Engine
from treedraft.target.events import EngineNews, Stop
from treedraft.target.service import SERVICE_NAME, TargetBackend, TargetServicer
from treedraft.target.settings import TargetSettings
from treedraft.telemetry.metrics import Metrics

_ROLE = "target"
# Two threads share the interpreter; the default of 5 ms would let the engine
# keep the event loop from a frame for longer than a frame takes.
_SWITCH_INTERVAL_SECONDS = 0.0005

_log = structlog.get_logger(__name__)


def main(settings: TargetSettings | None = None) -> None:
    """Serve until SIGTERM or SIGINT; settings come from the environment unless given."""
    sys.setswitchinterval(_SWITCH_INTERVAL_SECONDS)
    run_service(_ROLE, TargetSettings, settings, serve)


async def serve(settings: TargetSettings) -> None:
    """Listen, load the model, serve, drain.

    Raises:
        UnavailableError: the address cannot be had, or the engine broke down.
        UnsupportedModelError: the model cannot be verified by a tree.
    """
    if settings.num_threads:
        torch.set_num_threads(settings.num_threads)
    worker_id, incarnation = settings.worker.resolve_id(_ROLE), secrets.token_hex(8)
    async with service_telemetry(
        _ROLE, settings.telemetry, settings.grpc, incarnation
    ) as telemetry:
        server = RpcServer(settings.grpc, [SERVICE_NAME], settings.tls)
        servicer = TargetServicer(heartbeat_seconds=settings.heartbeat_seconds)
        servicer.add_to(server.grpc)
        endpoint = await server.start()
        _log.info("listening", endpoint=endpoint, worker_id=worker_id)
        try:
            backend = await _load(settings, telemetry, servicer, worker_id, incarnation)
            registration = _registration(
                settings, backend.description, worker_id, incarnation, endpoint
            )
            await _serve(settings, server, backend, registration, telemetry.metrics)
        finally:
            servicer.end_streams()
            await server.stop()


async def _serve(
    settings: TargetSettings,
    server: RpcServer,
    backend: TargetBackend,
    registration: WorkerRegistration,
    metrics: Metrics,
) -> None:
    """Run sessions until told to stop, then let the running ones end."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    has_ended = threading.Event()

    def on_end() -> None:
        has_ended.set()
        loop.call_soon_threadsafe(stop.set)

    engine = backend.engine
    engine.start(on_end)
    stuck = asyncio.create_task(until_stuck(engine.clock, settings.watchdog_seconds))
    stuck.add_done_callback(lambda _: stop.set())
    await server.set_serving(True)
    try:
        async with announcing(
            settings.worker,
            registration,
            lambda: replace(engine.report, is_draining=stop.is_set()),
            metrics,
            settings.tls,
        ):
            await wait_for_signal(stop)
            if has_ended.is_set():
                raise UnavailableError("the engine broke down", reason="ENGINE_FAILED")
            await server.set_serving(False)
            if stuck.done():
                raise stuck_error("engine", settings.watchdog_seconds)
            await _drain(engine, settings.drain_seconds)
    finally:
        stuck.cancel()
        await server.set_serving(False)
        await backend.links.close()


async def _load(
    settings: TargetSettings,
    telemetry: ServiceTelemetry,
    servicer: TargetServicer,
    worker_id: str,
    incarnation: str,
) -> TargetBackend:
    """Load and warm the model off the event loop."""
    loop = asyncio.get_running_loop()

    def publish(news: EngineNews) -> None:
        loop.call_soon_threadsafe(servicer.pass_on, news)

    def load() -> TargetParts:
        model = load_model(
            settings.model,
            name=settings.model_name,
            dtype=settings.dtype,
            device=settings.device,
            weights=settings.weights,
            progress=_log.info,
        )
        return assemble(
            model, settings, tracing=telemetry.tracing, metrics=telemetry.metrics, publish=publish
        )

    parts = await on_passing_thread(load)
    description = parts.description
    telemetry.metrics.serves(description.model)
    hello = Hello(
        worker_id=worker_id,
        incarnation=incarnation,
        tokenizer_hash=description.tokenizer_hash,
        vocab_size=description.vocab_size,
        model=description.model,
    )
    links = DraftLinks(
        hello,
        settings.drafting,
        post=parts.engine.post,
        metrics=telemetry.metrics,
        tls=settings.tls,
        max_message_mb=settings.grpc.max_message_mb,
    )
    backend = TargetBackend(description, parts.engine, links, parts.prepare)
    servicer.attach(backend)
    keep_heap()
    _log.info("ready", model=description.model, device=settings.device, dtype=settings.dtype)
    return backend


async def _drain(engine: Engine, seconds: float) -> None:
    """Let running sessions end, for a while."""
    engine.post(Stop(drain=True))
    if not await asyncio.to_thread(engine.join, seconds):
        _log.warning("sessions cut off", num_sessions=engine.report.num_sessions)
        engine.post(Stop(drain=False))
        await asyncio.to_thread(engine.join, seconds)


def _registration(
    settings: TargetSettings,
    description: ModelDescription,
    worker_id: str,
    incarnation: str,
    endpoint: str,
) -> WorkerRegistration:
    return WorkerRegistration(
        worker_id=worker_id,
        incarnation=incarnation,
        role=WorkerRole.TARGET,
        endpoint=endpoint,
        model=description.model,
        fingerprint=description.fingerprint,
        tokenizer_hash=description.tokenizer_hash,
        max_sessions=settings.max_sessions,
        pool=settings.worker.pool,
        weight=settings.worker.weight,
    )


if __name__ == "__main__":
    main()
    leave()

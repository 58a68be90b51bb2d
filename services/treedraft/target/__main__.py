"""Runs the target service: `python -m treedraft.target`."""

import asyncio
import os
import secrets
import sys

import structlog
import torch

from treedraft.core.exchange import Hello
from treedraft.core.model_description import ModelDescription
from treedraft.core.worker import WorkerRegistration, WorkerRole
from treedraft.inference.models import load_model
from treedraft.rpc.announcer import Announcer
from treedraft.rpc.server import RpcServer, wait_for_signal
from treedraft.settings import check_environment
from treedraft.target.assembly import assemble
from treedraft.target.draft_links import DraftLinks
from treedraft.target.engine import Engine
from treedraft.target.events import EngineNews, Stop
from treedraft.target.service import SERVICE_NAME, TargetBackend, TargetServicer
from treedraft.target.settings import TargetSettings
from treedraft.telemetry.logging import configure_logging
from treedraft.telemetry.metrics import Metrics, serve_metrics
from treedraft.telemetry.tracing import Tracing

_ROLE = "target"
# Two threads share the interpreter; the default of 5 ms would let the engine
# keep the event loop from a frame for longer than a frame takes.
_SWITCH_INTERVAL_SECONDS = 0.0005

_log = structlog.get_logger(__name__)


def main(settings: TargetSettings | None = None) -> None:
    """Serve until SIGTERM or SIGINT; settings come from the environment unless given."""
    if settings is None:
        check_environment(os.environ, TargetSettings)
        settings = TargetSettings()
    if settings.num_threads:
        torch.set_num_threads(settings.num_threads)
    sys.setswitchinterval(_SWITCH_INTERVAL_SECONDS)
    asyncio.run(serve(settings))


async def serve(settings: TargetSettings) -> None:
    """Listen, load the model, serve, drain."""
    worker_id, incarnation = settings.worker.resolve_id(_ROLE), secrets.token_hex(8)
    configure_logging(_ROLE, settings.telemetry, incarnation)
    metrics = Metrics(_ROLE)
    tracing = Tracing(_ROLE, settings.telemetry, incarnation)
    metrics_endpoint = serve_metrics(
        metrics, port=settings.telemetry.metrics_port, host=settings.grpc.host
    )
    server, servicer = RpcServer(settings.grpc, [SERVICE_NAME]), TargetServicer()
    servicer.add_to(server.grpc)
    endpoint = await server.start()
    _log.info("listening", endpoint=endpoint, worker_id=worker_id)
    try:
        backend = await _load(settings, tracing, metrics, servicer, worker_id, incarnation)
        await server.set_serving(True)
        registration = _registration(
            settings, backend.description, worker_id, incarnation, endpoint
        )
        announcers = [
            asyncio.create_task(
                Announcer(
                    coordinator,
                    registration,
                    lambda: backend.engine.report,
                    settings.worker.report_interval_seconds,
                ).run()
            )
            for coordinator in settings.worker.coordinators
        ]
        await wait_for_signal()
        await server.set_serving(False)
        await _drain(backend.engine, settings.drain_seconds)
        for task in announcers:
            task.cancel()
        await asyncio.gather(*announcers, return_exceptions=True)
        await backend.links.close()
    finally:
        await server.stop()
        await asyncio.to_thread(tracing.shutdown)
        if metrics_endpoint:
            metrics_endpoint.close()


async def _load(
    settings: TargetSettings,
    tracing: Tracing,
    metrics: Metrics,
    servicer: TargetServicer,
    worker_id: str,
    incarnation: str,
) -> TargetBackend:
    """Load and warm the model off the event loop, and start the engine."""
    loop = asyncio.get_running_loop()

    def publish(news: EngineNews) -> None:
        loop.call_soon_threadsafe(servicer.pass_on, news)

    model = await asyncio.to_thread(
        load_model,
        settings.model,
        name=settings.model_name,
        dtype=settings.dtype,
        device=settings.device,
    )
    parts = await asyncio.to_thread(
        assemble, model, settings, tracing=tracing, metrics=metrics, publish=publish
    )
    description = parts.description
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
        metrics=metrics,
        max_message_mb=settings.grpc.max_message_mb,
    )
    backend = TargetBackend(description, parts.engine, links)
    servicer.attach(backend)
    parts.engine.start()
    _log.info("ready", model=description.model, device=str(model.device), dtype=str(model.dtype))
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
    )


if __name__ == "__main__":
    main()

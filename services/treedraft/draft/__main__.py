"""Runs the draft service: `python -m treedraft.draft`."""

import asyncio
import os
import secrets
import sys
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from treedraft.core.errors import InvalidRequestError, UnavailableError
from treedraft.core.exchange import Hello
from treedraft.core.worker import WorkerRegistration, WorkerRole
from treedraft.draft.drafter import Drafter
from treedraft.draft.links import Stop
from treedraft.draft.service import SERVICE_NAME, DraftServicer
from treedraft.draft.settings import DraftSettings
from treedraft.rpc.announcer import Announcer
from treedraft.rpc.server import RpcServer, wait_for_signal
from treedraft.settings import check_environment
from treedraft.telemetry.logging import configure_logging
from treedraft.telemetry.metrics import Metrics, serve_metrics
from treedraft.telemetry.tracing import Tracing

if TYPE_CHECKING:
    from treedraft.draft.assembly import DraftModel

_ROLE = WorkerRole.DRAFT.value
_LOOKUP_NAME = "lookup"
_JOIN_SECONDS = 10.0
# Two threads share the interpreter; the default of 5 ms would let a step keep
# the event loop from a frame for longer than a frame takes.
_SWITCH_INTERVAL_SECONDS = 0.0005

_log = structlog.get_logger(__name__)


def main(settings: DraftSettings | None = None) -> None:
    """Serve until SIGTERM or SIGINT; read the environment unless given settings."""
    if settings is None:
        check_environment(os.environ, DraftSettings)
        settings = DraftSettings()
    sys.setswitchinterval(_SWITCH_INTERVAL_SECONDS)
    asyncio.run(serve(settings))


@dataclass(frozen=True, slots=True)
class _Worker:
    """Who this process is."""

    worker_id: str
    incarnation: str


async def serve(settings: DraftSettings, stop: asyncio.Event | None = None) -> None:
    """Listen, load the model, serve, stop.

    Args:
        settings: of the service.
        stop: ends the service like a signal does.

    Raises:
        InvalidRequestError: neither a model nor lookup is wanted.
        UnavailableError: the address cannot be had, or the drafter broke down.
    """
    if not settings.model and not settings.lookup.enabled:
        raise InvalidRequestError(
            "a drafter needs a model, lookup or both", field="model", reason="NOTHING_TO_DRAFT_WITH"
        )
    worker = _Worker(settings.worker.resolve_id(_ROLE), secrets.token_hex(8))
    configure_logging(_ROLE, settings.telemetry, worker.incarnation)
    metrics, tracing = Metrics(_ROLE), Tracing(_ROLE, settings.telemetry, worker.incarnation)
    metrics_endpoint = serve_metrics(
        metrics, port=settings.telemetry.metrics_port, host=settings.grpc.host
    )
    server, servicer = RpcServer(settings.grpc, [SERVICE_NAME]), DraftServicer()
    servicer.add_to(server.grpc)
    endpoint = await server.start()
    try:
        model = await _load(settings) if settings.model else None
        grower = model.grower if model else None
        drafter = Drafter(settings, grower, tracing=tracing, metrics=metrics)
        servicer.attach(_hello(settings, worker, model), drafter)
        registration = _registration(settings, worker, model, endpoint)
        await _serve(settings, server, servicer, drafter, registration, stop or asyncio.Event())
    finally:
        await server.stop()
        await asyncio.to_thread(tracing.shutdown)
        if metrics_endpoint:
            metrics_endpoint.close()


async def _load(settings: DraftSettings) -> "DraftModel":
    # Here, because a drafter that only looks up needs no torch.
    from treedraft.draft.assembly import load_draft_model

    return await asyncio.to_thread(load_draft_model, settings)


async def _serve(
    settings: DraftSettings,
    server: RpcServer,
    servicer: DraftServicer,
    drafter: Drafter,
    registration: WorkerRegistration,
    stop: asyncio.Event,
) -> None:
    """Draft and announce until told to stop, then take leave of everyone."""
    loop = asyncio.get_running_loop()
    has_ended = threading.Event()

    def on_end() -> None:
        has_ended.set()
        loop.call_soon_threadsafe(stop.set)

    drafter.start(on_end)
    await server.set_serving(True)
    _log.info("ready", model=registration.model, endpoint=registration.endpoint)
    announcers = [
        Announcer(
            address, registration, lambda: drafter.report, settings.worker.report_interval_seconds
        )
        for address in settings.worker.coordinators
    ]
    tasks = [asyncio.create_task(announcer.run()) for announcer in announcers]
    try:
        await wait_for_signal(stop)
        if has_ended.is_set():
            raise UnavailableError("the drafter broke down", reason="DRAFTER_FAILED")
    finally:
        drafter.drain()
        await server.set_serving(False)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        servicer.end_streams()
        drafter.post(Stop())
        await asyncio.to_thread(drafter.join, _JOIN_SECONDS)


def _hello(settings: DraftSettings, worker: _Worker, model: "DraftModel | None") -> Hello:
    # Copied ids are right under every tokenizer: without a model none is named.
    return Hello(
        worker_id=worker.worker_id,
        incarnation=worker.incarnation,
        tokenizer_hash=model.tokenizer_hash if model else "",
        vocab_size=model.vocab_size if model else 0,
        model=model.name if model else settings.model_name or _LOOKUP_NAME,
    )


def _registration(
    settings: DraftSettings, worker: _Worker, model: "DraftModel | None", endpoint: str
) -> WorkerRegistration:
    return WorkerRegistration(
        worker_id=worker.worker_id,
        incarnation=worker.incarnation,
        role=WorkerRole.DRAFT,
        endpoint=endpoint,
        model=model.name if model else settings.model_name or _LOOKUP_NAME,
        fingerprint=model.fingerprint if model else "",
        tokenizer_hash=model.tokenizer_hash if model else "",
        max_sessions=settings.max_sessions,
    )


if __name__ == "__main__":
    main()

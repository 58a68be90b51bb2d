"""Runs the draft service: `python -m treedraft.draft`."""

import asyncio
import secrets
import sys
import threading
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from treedraft.core.errors import InvalidRequestError, UnavailableError
from treedraft.core.exchange import Hello
from treedraft.core.lasting_heap import keep_heap
from treedraft.core.watchdog import stuck_error, until_stuck
from treedraft.core.worker import WorkerRegistration, WorkerRole
from treedraft.draft.drafter import Drafter
from treedraft.draft.links import Stop
from treedraft.draft.service import SERVICE_NAME, DraftServicer
from treedraft.draft.settings import DraftSettings
from treedraft.inference.drafters import DEFAULT_TARGET, choose_drafter
from treedraft.rpc.process import (
    announcing,
    leave,
    on_passing_thread,
    run_service,
    service_telemetry,
)
from treedraft.rpc.server import RpcServer, wait_for_signal

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
    """Serve until SIGTERM or SIGINT; settings come from the environment unless given."""
    sys.setswitchinterval(_SWITCH_INTERVAL_SECONDS)
    run_service(_ROLE, DraftSettings, settings, serve)


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
    settings = settings.model_copy(update={"model": choose_drafter(settings.model, DEFAULT_TARGET)})
    if not settings.model and not settings.lookup.enabled:
        raise InvalidRequestError(
            "a drafter needs a model, lookup or both", field="model", reason="NOTHING_TO_DRAFT_WITH"
        )
    worker = _Worker(settings.worker.resolve_id(_ROLE), secrets.token_hex(8))
    async with service_telemetry(
        _ROLE, settings.telemetry, settings.grpc, worker.incarnation
    ) as telemetry:
        server, servicer = RpcServer(settings.grpc, [SERVICE_NAME], settings.tls), DraftServicer()
        servicer.add_to(server.grpc)
        endpoint = await server.start()
        try:
            model = await _load(settings) if settings.model else None
            if model:
                settings = settings.model_copy(update={"growth": model.growth})
            drafter = Drafter(
                settings,
                model.grower if model else None,
                tracing=telemetry.tracing,
                metrics=telemetry.metrics,
            )
            telemetry.metrics.load_watched(lambda: drafter.report)
            servicer.attach(_hello(settings, worker, model), drafter)
            registration = _registration(settings, worker, model, endpoint)
            _log.info("loaded", model=registration.model, endpoint=registration.endpoint)
            announced = announcing(
                settings.worker,
                registration,
                lambda: drafter.report,
                telemetry.metrics,
                settings.tls,
            )
            await _serve(
                server,
                servicer,
                drafter,
                announced,
                stop or asyncio.Event(),
                watchdog_seconds=settings.watchdog_seconds,
            )
        finally:
            await server.stop()


async def _load(settings: DraftSettings) -> "DraftModel":
    # Here, because a drafter that only looks up needs no torch.
    from treedraft.draft.assembly import load_draft_model

    return await on_passing_thread(lambda: load_draft_model(settings))


async def _serve(
    server: RpcServer,
    servicer: DraftServicer,
    drafter: Drafter,
    announced: AbstractAsyncContextManager[None],
    stop: asyncio.Event,
    *,
    watchdog_seconds: float,
) -> None:
    """Draft and announce until told to stop, then take leave of everyone."""
    loop = asyncio.get_running_loop()
    has_ended = threading.Event()

    def on_end() -> None:
        has_ended.set()
        loop.call_soon_threadsafe(stop.set)

    drafter.start(on_end)
    keep_heap()
    stuck = asyncio.create_task(until_stuck(drafter.clock, watchdog_seconds))
    stuck.add_done_callback(lambda _: stop.set())
    await server.set_serving(True)
    try:
        async with announced:
            await wait_for_signal(stop)
            if has_ended.is_set():
                raise UnavailableError("the drafter broke down", reason="DRAFTER_FAILED")
            if stuck.done():
                await server.set_serving(False)
                raise stuck_error("drafter", watchdog_seconds)
            drafter.drain()
    finally:
        is_stuck = stuck.done()
        stuck.cancel()
        await server.set_serving(False)
        servicer.end_streams()
        drafter.post(Stop())
        if not is_stuck:
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
        pool=settings.worker.pool,
        weight=settings.worker.weight,
    )


if __name__ == "__main__":
    main()
    leave()

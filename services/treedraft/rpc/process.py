"""What every service process does around its own work.

Read the settings, refuse what cannot be run with one clear line, keep
telemetry for as long as the service lives.
"""

import asyncio
import atexit
import contextlib
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, NoReturn, TypeVar

from pydantic import ValidationError

from treedraft.core.errors import TreedraftError, UnavailableError
from treedraft.core.worker import WorkerRegistration, WorkerReport
from treedraft.environment import check_environment
from treedraft.rpc.announcer import Announcer
from treedraft.settings import (
    GrpcSettings,
    ServiceSettings,
    TelemetrySettings,
    TlsSettings,
    WorkerSettings,
)
from treedraft.telemetry.load_signals import LoadWindow
from treedraft.telemetry.logging import configure_logging
from treedraft.telemetry.metrics import Metrics, serve_metrics
from treedraft.telemetry.tracing import Tracing

Result = TypeVar("Result")
Settings = TypeVar("Settings", bound=ServiceSettings)


def run_service(
    role: str,
    settings_class: type[Settings],
    settings: Settings | None,
    serve: Callable[[Settings], Coroutine[Any, Any, None]],
) -> None:
    """Run a service to its end, with settings from the environment unless given.

    Raises:
        SystemExit: it cannot run like that; says why in one line.
    """
    try:
        if settings is None:
            check_environment(os.environ, settings_class)
            settings = settings_class()
        asyncio.run(serve(settings))
    except TreedraftError as error:
        raise SystemExit(f"{role}: {error.reason}: {error.message}") from error
    except ValidationError as error:
        raise SystemExit(f"{role}: INVALID_SETTING: {error}") from error


def leave() -> NoReturn:
    """End the process, whose work is done, with status 0.

    The interpreter would take all modules apart before it ends, object by object. With
    torch's among them that is a second or more for which whoever restarts workers, or
    scales them down, waits.
    """
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


@dataclass(frozen=True, slots=True)
class ServiceTelemetry:
    """Where a service writes its spans and counts."""

    tracing: Tracing
    metrics: Metrics


@contextlib.asynccontextmanager
async def service_telemetry(
    role: str, telemetry: TelemetrySettings, grpc: GrpcSettings, incarnation: str = ""
) -> AsyncIterator[ServiceTelemetry]:
    """Keep logs, metrics and traces for the time of the context, and flush them at its end."""
    configure_logging(role, telemetry, incarnation)
    metrics, tracing = Metrics(role), Tracing(role, telemetry, incarnation)
    host = telemetry.metrics_host or grpc.host
    try:
        endpoint = serve_metrics(metrics, port=telemetry.metrics_port, host=host)
    except OSError as error:
        raise UnavailableError(
            f"cannot serve metrics on {host}:{telemetry.metrics_port}: {error.strerror or error}; "
            "choose another telemetry.metrics_port",
            reason="BIND_FAILED",
        ) from error
    try:
        yield ServiceTelemetry(tracing, metrics)
    finally:
        await asyncio.to_thread(tracing.shutdown)
        if endpoint:
            endpoint.close()


async def on_passing_thread(work: Callable[[], Result]) -> Result:
    """Do blocking work on a thread that ends with it.

    For loading models: OpenMP keeps a pool of workers for every thread that has
    ever computed, and with more of them than cores it lets them sleep between
    any two steps, which costs a third of a pass. Only the engine's may stay.
    """
    with ThreadPoolExecutor(max_workers=1) as pool:
        return await asyncio.get_running_loop().run_in_executor(pool, work)


@contextlib.asynccontextmanager
async def announcing(
    settings: WorkerSettings,
    registration: WorkerRegistration,
    report: Callable[[], WorkerReport],
    metrics: Metrics,
    tls: TlsSettings | None = None,
) -> AsyncIterator[None]:
    """Announce a worker to all its coordinators for the time of the context.

    What its `metrics` say of the last seconds goes into each report.
    """

    def announce(address: str) -> asyncio.Task[None]:
        window = LoadWindow(metrics.observed, clock=time.monotonic)
        announcer = Announcer(
            address,
            registration,
            lambda: replace(report(), signals=window.read()),
            settings.report_interval_seconds,
            tls=tls,
        )
        return asyncio.create_task(announcer.run())

    tasks = [announce(address) for address in settings.coordinators]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

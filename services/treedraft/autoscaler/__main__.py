"""Runs the autoscaler: `python -m treedraft.autoscaler`.

It serves gRPC health alone: healthy while coordinators answer, whether it leads
or waits for its turn.
"""

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import structlog

from treedraft.autoscaler.controller import Controller
from treedraft.autoscaler.kubernetes import (
    KubernetesLeases,
    KubernetesWorkloads,
    load_client,
    own_namespace,
)
from treedraft.autoscaler.leader import LeaderElection
from treedraft.autoscaler.observation import ClusterObserver
from treedraft.autoscaler.policy import Policy
from treedraft.autoscaler.report import DecisionReport
from treedraft.autoscaler.settings import AutoscalerSettings
from treedraft.core.errors import InvalidRequestError
from treedraft.rpc.coordinator_client import CoordinatorClient
from treedraft.rpc.process import ServiceTelemetry, run_service, service_telemetry
from treedraft.rpc.server import RpcServer, wait_for_signal

_ROLE = "autoscaler"

_log = structlog.get_logger("treedraft.autoscaler")


def main(settings: AutoscalerSettings | None = None) -> None:
    """Serve until SIGTERM or SIGINT; settings come from the environment unless given."""
    run_service(_ROLE, AutoscalerSettings, settings, serve)


async def serve(settings: AutoscalerSettings, stop: asyncio.Event | None = None) -> None:
    """Size the pools until told to stop.

    Raises:
        InvalidRequestError: nothing to size (NO_POOLS), nobody to ask (NO_COORDINATORS),
            or no cluster to act on (NO_KUBERNETES).
    """
    _check(settings)
    async with service_telemetry(_ROLE, settings.telemetry, settings.grpc) as telemetry:
        server = RpcServer(settings.grpc, (), settings.tls)
        endpoint = await server.start()
        try:
            async with _controlling(settings, telemetry) as controller:
                _log.info("sizing", endpoint=endpoint, num_pools=len(settings.pools))
                health = asyncio.create_task(_keep_health(server, controller))
                try:
                    await wait_for_signal(stop)
                finally:
                    health.cancel()
        finally:
            await server.stop()


@contextlib.asynccontextmanager
async def _controlling(
    settings: AutoscalerSettings, telemetry: ServiceTelemetry
) -> AsyncIterator[Controller]:
    """Run a controller and its election for the time of the context."""
    api, namespace = load_client(), own_namespace(settings.namespace)
    workloads = KubernetesWorkloads(api, namespace, resync_seconds=settings.resync_seconds)
    observer = _observer(settings)
    controller = Controller(
        [Policy(pool, settings.target, settings.draft, settings.pace) for pool in settings.pools],
        observer=observer,
        workloads=workloads,
        election=LeaderElection(
            KubernetesLeases(api, namespace, settings.leader.lease_name),
            socket.gethostname(),
            lease_seconds=settings.leader.lease_seconds,
            clock=time.monotonic,
            stamp=lambda: datetime.now(UTC).isoformat(),
        ),
        report=DecisionReport(telemetry.metrics.observed, telemetry.tracing),
        interval_seconds=settings.interval_seconds,
        blind_seconds=settings.blind_seconds,
        dry_run=settings.dry_run,
    )
    tasks = [
        asyncio.create_task(controller.lead(settings.leader.renew_seconds), name="lead"),
        asyncio.create_task(controller.run(), name="control"),
    ]
    try:
        yield controller
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        workloads.close()
        await observer.close()


def _observer(settings: AutoscalerSettings) -> ClusterObserver:
    api_key = ""
    if settings.api_key_file:
        try:
            api_key = Path(settings.api_key_file).read_text().strip()
        except OSError as error:
            raise InvalidRequestError(
                f"cannot read {settings.api_key_file}: {error.strerror}",
                field="api_key_file",
                reason="KEY_FILE_UNREADABLE",
            ) from error
    return ClusterObserver(
        settings.coordinators,
        lambda endpoint: CoordinatorClient(endpoint, tls=settings.tls, api_key=api_key),
    )


async def _keep_health(server: RpcServer, controller: Controller) -> None:
    while True:
        await server.set_serving(not controller.is_blind)
        await asyncio.sleep(1.0)


def _check(settings: AutoscalerSettings) -> None:
    if not settings.pools:
        raise InvalidRequestError(
            "no pools are named: set TREEDRAFT_AUTOSCALER__POOLS", field="pools", reason="NO_POOLS"
        )
    if not settings.coordinators:
        raise InvalidRequestError(
            "no coordinator is named: set TREEDRAFT_AUTOSCALER__COORDINATORS",
            field="coordinators",
            reason="NO_COORDINATORS",
        )


if __name__ == "__main__":
    main()

"""The server half of every service: bind, health, reflection, graceful stop.

A service is healthy when it can do its work, not when its process runs: health
says NOT_SERVING from the start until `set_serving`, and again before anything
is torn down, so that nobody is sent here in vain. Beside that stands liveness:
SERVING for as long as the event loop answers, whatever the service waits for,
so that a supervisor never restarts a process because of its peers.

A supervisor's probe cannot show a certificate. For it there is a listener of its
own, in plaintext, that knows health and nothing else.
"""

import asyncio
import os
import signal
import socket
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc  # type: ignore[import-untyped]
from grpc_reflection.v1alpha import reflection  # type: ignore[import-untyped]

from treedraft.core.errors import UnavailableError
from treedraft.rpc.channel import KEEPALIVE_TIME_MS, KEEPALIVE_TIMEOUT_MS, MEBIBYTE
from treedraft.rpc.interceptor import ErrorInterceptor
from treedraft.rpc.tls import check_caller, server_credentials
from treedraft.settings import GrpcSettings, TlsSettings

_WILDCARDS = ("0.0.0.0", "::", "[::]")
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
LIVENESS = "treedraft.liveness"
"""The name under which health says that the process is alive."""

_log = structlog.get_logger(__name__)


class RpcServer:
    """A gRPC server to which a service adds its servicer through `grpc`.

    Construct it on the event loop that will run it.
    """

    def __init__(
        self,
        settings: GrpcSettings,
        service_names: Sequence[str],
        tls: TlsSettings | None = None,
    ) -> None:
        """Prepare a server for services of these full names, not yet listening."""
        self._settings = settings
        self._tls = tls if tls is not None and tls.is_spoken else None
        self._names = ("", *service_names)
        callers = self._tls.service_names if self._tls else ()
        errors = ErrorInterceptor(partial(check_caller, service_names=callers))
        self.grpc = grpc.aio.server(interceptors=[errors], options=_options(settings))
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self.grpc)
        self._health_server = self._make_health_server()
        if settings.reflection:
            names = (*service_names, health.SERVICE_NAME, reflection.SERVICE_NAME)
            reflection.enable_server_reflection(names, self.grpc)

    async def start(self) -> str:
        """Listen, write the endpoint file, and return the endpoint that others dial.

        Raises:
            UnavailableError: reason BIND_FAILED, the address cannot be had.
            InvalidRequestError: the certificates cannot be used; see `rpc.tls`.
        """
        # The standard servicer says SERVING from birth.
        await self.set_serving(False)
        await self._health.set(LIVENESS, health_pb2.HealthCheckResponse.SERVING)
        host = self._settings.host
        host = f"[{host}]" if ":" in host and not host.startswith("[") else host
        if self._health_server is not None:
            _bind(self._health_server.add_insecure_port, f"{host}:{self._settings.health_port}")
            await self._health_server.start()
        port = _bind(self._listen, f"{host}:{self._settings.port}")
        await self.grpc.start()
        endpoint = advertised_endpoint(self._settings, port)
        if self._settings.endpoint_file:
            write_atomically(Path(self._settings.endpoint_file), endpoint)
        _log.debug("bound", address=f"{host}:{port}", endpoint=endpoint)
        return endpoint

    def _make_health_server(self) -> grpc.aio.Server | None:
        if not self._settings.health_port:
            return None
        server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        return server

    def _listen(self, address: str) -> int:
        if self._tls is None:
            return self.grpc.add_insecure_port(address)
        return self.grpc.add_secure_port(address, server_credentials(self._tls))

    async def set_serving(self, is_serving: bool) -> None:
        """Say whether the service can do its work."""
        statuses = health_pb2.HealthCheckResponse
        status = statuses.SERVING if is_serving else statuses.NOT_SERVING
        for name in self._names:
            await self._health.set(name, status)

    async def stop(self, grace: float | None = None) -> None:
        """Turn unhealthy, refuse new calls, and let running ones end.

        Args:
            grace: seconds until what still runs is cancelled; None takes it
                from the settings.
        """
        await self._health.enter_graceful_shutdown()
        await self.grpc.stop(self._settings.grace_seconds if grace is None else grace)
        if self._health_server is not None:
            await self._health_server.stop(0)


def _bind(listen: Callable[[str], int], address: str) -> int:
    try:
        return listen(address)
    except RuntimeError as error:
        raise UnavailableError(f"cannot listen on {address}", reason="BIND_FAILED") from error


def _options(settings: GrpcSettings) -> list[tuple[str, int]]:
    return [
        # Only what comes in is bounded; a service trusts its own answers.
        ("grpc.max_receive_message_length", settings.max_message_mb * MEBIBYTE),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_concurrent_streams", settings.max_concurrent_streams),
        ("grpc.keepalive_time_ms", KEEPALIVE_TIME_MS),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        # Below the clients' interval: pings that come faster get GOAWAY.
        ("grpc.http2.min_ping_interval_without_data_ms", KEEPALIVE_TIME_MS // 2),
        # Two servers on one port would share its calls; better an error.
        ("grpc.so_reuseport", 0),
    ]


def advertised_endpoint(settings: GrpcSettings, port: int) -> str:
    """Return the `host:port` that others dial, for a server bound to `port`."""
    host = settings.advertise or settings.host
    if host in _WILDCARDS:
        host = socket.gethostname()
    if host.startswith("["):
        has_port = not host.endswith("]")
    elif host.count(":") > 1:
        host, has_port = f"[{host}]", False
    else:
        has_port = ":" in host
    return host if has_port else f"{host}:{port}"


def write_atomically(path: Path, text: str) -> None:
    """Write a small file so that a reader sees all of it or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w") as file:
            file.write(text)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


async def wait_for_signal(stop: asyncio.Event | None = None) -> None:
    """Return at the first SIGTERM or SIGINT, or once `stop` is set by other means.

    The first signal also gives the signals back their default meaning, so that
    a second one ends a process whose graceful stop takes too long.
    """
    loop = asyncio.get_running_loop()
    stopped = stop or asyncio.Event()

    def restore() -> None:
        for number in _STOP_SIGNALS:
            loop.remove_signal_handler(number)

    def handle() -> None:
        restore()
        stopped.set()

    for number in _STOP_SIGNALS:
        loop.add_signal_handler(number, handle)
    try:
        await stopped.wait()
    finally:
        restore()

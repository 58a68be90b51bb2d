"""Runs the HTTP door beside the gRPC door, on the same event loop."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import structlog
import uvicorn
from starlette.types import ASGIApp

from treedraft.coordinator.settings import HttpSettings
from treedraft.core.errors import UnavailableError
from treedraft.rpc.server import advertised_endpoint, write_atomically
from treedraft.rpc.tls import server_context
from treedraft.settings import GrpcSettings, TlsSettings

_BACKLOG = 1024
_KIBIBYTE = 1024
_TICK_SECONDS = 1.0

_log = structlog.get_logger(__name__)


class _Uvicorn(uvicorn.Server):
    """A server that leaves signals to the process it is part of, and ends when it is told."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._is_stopping = asyncio.Event()

    def stop(self) -> None:
        """End `serve` soon."""
        self.should_exit = True
        self._is_stopping.set()

    async def main_loop(self) -> None:
        """Do once a second what uvicorn does then, until told to stop."""
        while not await self.on_tick(0):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_TICK_SECONDS):
                    await self._is_stopping.wait()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


class HttpServer:
    """An HTTP server. Construct it on the event loop that will run it."""

    def __init__(
        self, settings: HttpSettings, app: ASGIApp, tls: TlsSettings, *, grace_seconds: float
    ) -> None:
        """Prepare to serve an application, not yet listening.

        Running requests get `grace_seconds` to end when the server stops.
        """
        self._settings = settings
        self._tls = tls if tls.is_spoken else None
        self._app = app
        self._grace_seconds = grace_seconds
        self._server: _Uvicorn | None = None
        self._running: asyncio.Task[None] | None = None

    async def start(self) -> str:
        """Listen, write the address file, and return the address, `http://host:port`.

        Raises:
            UnavailableError: reason BIND_FAILED, the address cannot be had.
            InvalidRequestError: the certificates cannot be used; see `rpc.tls`.
        """
        context = server_context(self._tls) if self._tls else None
        listening = _listen(self._settings.host, self._settings.port)
        self._server = _Uvicorn(self._config(context))
        self._running = asyncio.create_task(self._server.serve([listening]), name="http")
        while not self._server.started:
            if self._running.done():
                self._running.result()
                raise UnavailableError("the HTTP server ended at once", reason="BIND_FAILED")
            await asyncio.sleep(0)
        address = self._address(listening.getsockname()[1])
        if self._settings.address_file:
            write_atomically(Path(self._settings.address_file), address)
        _log.info("HTTP door open", address=address)
        return address

    async def stop(self) -> None:
        """Listen no more, and let running requests end, bounded."""
        if self._server is not None and self._running is not None:
            self._server.stop()
            await self._running

    def _config(self, context: ssl.SSLContext | None) -> uvicorn.Config:
        return uvicorn.Config(
            self._app,
            loop="none",
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            backlog=_BACKLOG,
            timeout_keep_alive=self._settings.keep_alive_seconds,
            timeout_graceful_shutdown=max(1, round(self._grace_seconds)),
            h11_max_incomplete_event_size=self._settings.max_header_kb * _KIBIBYTE,
            ssl_context_factory=None if context is None else lambda _config, _default: context,
        )

    def _address(self, port: int) -> str:
        scheme = "https" if self._tls else "http"
        place = GrpcSettings(host=self._settings.host, advertise=self._settings.advertise)
        return f"{scheme}://{advertised_endpoint(place, port)}"


def _listen(host: str, port: int) -> socket.socket:
    bare = host.strip("[]")
    family = socket.AF_INET6 if ":" in bare else socket.AF_INET
    # With the protocol named: asyncio turns off Nagle's algorithm for no other sockets, and a
    # stream's first piece then waits 40 ms for the client to acknowledge its head.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((bare, port))
        listening.setblocking(False)
    except OSError as error:
        listening.close()
        raise UnavailableError(f"cannot listen on {host}:{port}", reason="BIND_FAILED") from error
    return listening

"""The HTTP door as the coordinator's process sees it: something to open and to close."""

from typing import Protocol

from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from treedraft.coordinator.http.app import make_app
from treedraft.coordinator.http.hosts import hosts_of
from treedraft.coordinator.http.server import HttpServer
from treedraft.coordinator.settings import CoordinatorSettings
from treedraft.coordinator.use_cases import UseCases


class AppPart(Protocol):
    """Something else that the door serves."""

    def attach(self, app: FastAPI) -> None:
        """Add its routes to the application."""


class HttpDoor:
    """The door; `is_serving` is what `/health` says."""

    def __init__(
        self,
        settings: CoordinatorSettings,
        use_cases: UseCases,
        registry: CollectorRegistry,
        console: AppPart,
    ) -> None:
        """Prepare the door that the settings want, if they want one, with the console behind it."""
        self.is_serving = True
        self._server: HttpServer | None = None
        if settings.http.enabled:
            app = make_app(
                settings.http,
                use_cases,
                registry,
                lambda: self.is_serving,
                hosts=hosts_of(
                    settings.http.allowed_hosts,
                    bound_to=settings.http.host,
                    advertised=settings.http.advertise,
                    is_guarded=bool(settings.door.keys_file) or settings.tls.is_spoken,
                ),
            )
            if settings.http.console:
                console.attach(app)
            self._server = HttpServer(
                settings.http, app, settings.tls, grace_seconds=settings.grpc.grace_seconds
            )

    async def start(self) -> str:
        """Listen and return the address; empty if there is no door.

        Raises:
            TreedraftError: the address cannot be had, or the certificates cannot be used.
        """
        return await self._server.start() if self._server else ""

    async def stop(self) -> None:
        """Listen no more, and let running requests end, bounded."""
        if self._server:
            await self._server.stop()

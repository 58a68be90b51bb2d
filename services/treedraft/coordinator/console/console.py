"""The console put together: what it asks, the routes that ask, the files of the page."""

from fastapi import FastAPI

from treedraft.coordinator.api_keys import TenantRoll
from treedraft.coordinator.console.cases import ConsoleCases
from treedraft.coordinator.console.files import ConsoleFiles
from treedraft.coordinator.console.history import ClusterHistory
from treedraft.coordinator.console.routes import console_routes
from treedraft.coordinator.generation import Coordinator
from treedraft.coordinator.registry import WorkerRegistry
from treedraft.coordinator.request_book import RequestBook
from treedraft.coordinator.settings import CoordinatorSettings
from treedraft.coordinator.use_cases import UseCases
from treedraft.telemetry.local_store import store_path


class Console:
    """The console of one coordinator."""

    def __init__(
        self,
        settings: CoordinatorSettings,
        use_cases: UseCases,
        coordinator: Coordinator,
        registry: WorkerRegistry,
        tenants: TenantRoll,
        book: RequestBook,
    ) -> None:
        """Show this coordinator."""
        self._history = ClusterHistory(coordinator.describe_cluster)
        self._cases = ConsoleCases(
            use_cases,
            coordinator,
            registry,
            tenants,
            book,
            self._history,
            store_path(settings.telemetry),
        )

    def attach(self, app: FastAPI) -> None:
        """Serve at `/console` of an application."""
        app.include_router(console_routes(self._cases))
        app.mount("/console", ConsoleFiles())

    async def run(self) -> None:
        """Note how the cluster is until cancelled."""
        await self._history.run()

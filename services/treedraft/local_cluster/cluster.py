"""A coordinator, its targets and its drafters on this machine.

    async with LocalCluster(ClusterPlan(target="default")) as cluster:
        client = cluster.connect()

Entering waits until the coordinator lists every worker of the plan, so a
request made then is served at once and by all of them. A process that dies
meanwhile ends the wait with the last lines of its log. Leaving stops the
coordinator first, then targets, then drafters, so that nobody waits for a peer
that is gone.
"""

import asyncio
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from treedraft.core.errors import IncompatiblePeerError, UnavailableError
from treedraft.core.worker import WorkerRole
from treedraft.local_cluster.plan import (
    COORDINATOR,
    DRAFT,
    TARGET,
    ClusterPlan,
    ServicePlan,
    num_usable_cores,
    plan_coordinator,
    plan_workers,
    worker_id,
)
from treedraft.local_cluster.service_process import POLL_SECONDS, ServiceProcess
from treedraft.rpc.coordinator_client import CoordinatorClient

Progress = Callable[[str], None]

# Long, for weights that come over a slow line; what dies is noticed at once.
START_SECONDS = 7200.0
STOP_SECONDS = 15.0
# A process that ends by itself more often than this within the window has a reason to.
_MAX_RESTARTS = 5
_RESTART_WINDOW_SECONDS = 300.0


def _ignore(_text: str) -> None:
    """Show nothing."""


class LocalCluster:
    """Processes of one plan; an async context manager."""

    def __init__(
        self,
        plan: ClusterPlan,
        *,
        progress: Progress = _ignore,
        start_seconds: float = START_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Remember the plan; entering starts the processes.

        Args:
            plan: what to start.
            progress: told in words what is waited for.
            start_seconds: time for all of them to be ready, weights included.
            clock: monotonic time in seconds.
        """
        self.plan = plan
        self._progress = progress
        self._start_seconds = start_seconds
        self._clock = clock
        self._folder = Path()
        self._processes: dict[str, ServiceProcess] = {}
        self._client: CoordinatorClient | None = None
        self._present: dict[str, int] = {}

    @property
    def endpoint(self) -> str:
        """The coordinator's `host:port`."""
        return self._processes[COORDINATOR].endpoint

    @property
    def address(self) -> str:
        """The coordinator's `http://host:port`; empty if it serves no HTTP."""
        path = plan_coordinator(self.plan, self._folder).address_file(self._folder)
        return path.read_text().strip() if path.exists() else ""

    def connect(self) -> CoordinatorClient:
        """Return a client of the coordinator; whoever takes it closes it."""
        return CoordinatorClient(self.endpoint, tls=self.plan.tls, api_key=self.plan.api_key)

    @property
    def log_folder(self) -> Path:
        """Where the processes write their logs while the cluster lives."""
        return self._folder

    @property
    def processes(self) -> Mapping[str, ServiceProcess]:
        """The processes by name: `coordinator`, `target-0`, `draft-0`…"""
        return self._processes

    async def __aenter__(self) -> Self:
        """Start everything and wait until it is ready.

        Raises:
            UnavailableError: reason SERVICE_DIED or START_TIMEOUT.
            IncompatiblePeerError: the drafter has another tokenizer.
        """
        self._folder = Path(tempfile.mkdtemp(prefix="treedraft-"))
        try:
            async with asyncio.timeout(self._start_seconds):
                await self._start()
        except TimeoutError:
            waited_for = "; ".join(self._describe_missing())
            await self.stop()
            raise UnavailableError(
                f"not ready after {self._start_seconds:.0f} s: {waited_for}",
                reason="START_TIMEOUT",
            ) from None
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop everything."""
        await self.stop()

    async def stop(self, *, keeps_logs: bool = False) -> None:
        """Stop all processes in order and remove their files, but for the logs if told so."""
        if self._client is not None:
            await self._client.close()
            self._client = None
        for role in (COORDINATOR, TARGET, DRAFT):
            ends = [
                process.stop(STOP_SECONDS)
                for process in self._processes.values()
                if process.role == role
            ]
            await asyncio.gather(*ends)
        self._processes.clear()
        if self._folder != Path() and not keeps_logs:
            shutil.rmtree(self._folder, ignore_errors=True)

    async def kill(self, name: str) -> None:
        """End one process at once, as a crash would."""
        self._processes[name].send(signal.SIGKILL)
        await self._processes[name].wait()

    async def keep_up(self) -> None:
        """Start processes again that end by themselves, for as long as that helps.

        Raises:
            UnavailableError: reason SERVICE_DIED, one of them ends again and again.
        """
        ends: dict[str, list[float]] = {name: [] for name in self._processes}
        while True:
            for name, process in list(self._processes.items()):
                if process.has_failed:
                    now = self._clock()
                    recent = [end for end in ends[name] if now - end < _RESTART_WINDOW_SECONDS]
                    if len(recent) >= _MAX_RESTARTS:
                        process.check()
                    ends[name] = [*recent, now]
                    self._progress(f"{name} ended by itself; it is started again")
                    await self._launch(process.plan_again())
            await asyncio.sleep(POLL_SECONDS)

    def check(self) -> None:
        """Raise UnavailableError, reason SERVICE_DIED, if a process has ended by itself."""
        for process in self._processes.values():
            process.check()

    async def _start(self) -> None:
        self._progress("starting the coordinator")
        coordinator = await self._launch(plan_coordinator(self.plan, self._folder))
        endpoint = await coordinator.wait_for_endpoint()
        workers = plan_workers(self.plan, endpoint, self._folder, num_cores=num_usable_cores())
        for worker in workers:
            await self._launch(worker)
        self._client = self.connect()
        await self._wait_until_ready(self._client)

    async def _launch(self, plan: ServicePlan) -> ServiceProcess:
        process = await ServiceProcess.start(plan, self._folder)
        self._processes[plan.name] = process
        return process

    async def _wait_until_ready(self, client: CoordinatorClient) -> None:
        started = self._clock()
        while True:
            self.check()
            self._present = await self._count_workers(client)
            missing = self._describe_missing()
            if not missing:
                break
            waited = self._clock() - started
            self._progress(f"waiting {waited:.0f} s for {'; '.join(missing)}")
            await asyncio.sleep(POLL_SECONDS)
        fitting = max((model.num_drafters for model in await client.list_models()), default=0)
        if fitting < self.plan.num_drafters:
            raise IncompatiblePeerError(
                f"the tokenizer of {self.plan.draft} is not that of {self.plan.target}",
                reason="TOKENIZER_MISMATCH",
            )

    async def _count_workers(self, client: CoordinatorClient) -> dict[str, int]:
        """Return how many targets of this cluster can be asked and how many drafters are there.

        A store may know workers of others, or of a cluster that just ended.
        """
        own = {worker_id(name, self._folder) for name in self._processes}
        workers = (await client.describe_cluster()).workers
        roles = [worker.role for worker, _ in workers if worker.worker_id in own]
        num_served = sum(model.num_targets for model in await client.list_models())
        return {
            TARGET: min(roles.count(WorkerRole.TARGET), num_served),
            DRAFT: roles.count(WorkerRole.DRAFT),
        }

    def _describe_missing(self) -> list[str]:
        wanted = ((TARGET, self.plan.num_targets), (DRAFT, self.plan.num_drafters))
        return [
            f"{role} ({self._last_word(role)})"
            for role, number in wanted
            if self._present.get(role, 0) < number
        ]

    def _last_word(self, role: str) -> str:
        words = [p.last_event() for p in self._processes.values() if p.role == role]
        return next((word for word in words if word), "starting")

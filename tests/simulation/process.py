"""What every process of a run has: an actor, threads on virtual time, announcements."""

import asyncio
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from tests.simulation.actor import Actor
from tests.simulation.network import Network, spawn
from tests.simulation.store import StoreServer
from tests.simulation.virtual_time import VirtualInbox, VirtualLoop, VirtualThread

from treedraft.core.errors import TreedraftError
from treedraft.core.worker import WorkerRegistration, WorkerReport
from treedraft.rpc import convert
from treedraft.settings import TelemetrySettings
from treedraft.telemetry.metrics import Metrics
from treedraft.telemetry.tracing import Tracing

HEARTBEAT_SECONDS = 0.3
ANNOUNCE_SECONDS = 0.3
# A pass: slow, so that faults fall into sessions and not between them.
TARGET_PASS = 0.035, 0.002  # seconds, and for each row
DRAFT_PASS = 0.008, 0.0005


@dataclass
class Surroundings:
    """What every process of a run is given."""

    loop: VirtualLoop
    rng: random.Random
    network: Network
    on_bug: Callable[[str], None]
    store: StoreServer
    coordinators: list[str]
    incarnations: Any = field(default_factory=lambda: itertools.count(1))
    # Metrics and spans are of no interest here and costly to make.
    metrics: dict[str, Metrics] = field(default_factory=dict)
    tracing: Tracing = field(
        default_factory=lambda: Tracing("simulation", TelemetrySettings(sample_ratio=0.0))
    )

    def metrics_of(self, role: str) -> Metrics:
        if role not in self.metrics:
            self.metrics[role] = Metrics(role)
        return self.metrics[role]


class Process:
    """One start of one process."""

    pass_seconds = TARGET_PASS

    def __init__(self, name: str, around: Surroundings) -> None:
        self.around = around
        self.actor = Actor(name)
        self.name = name
        self.incarnation = f"i{next(around.incarnations)}"
        self.endpoint = name
        self._threads: list[VirtualThread] = []
        self.actor.at_death(lambda: [thread.kill() for thread in self._threads])

    def run_thread(self, owner: Any, run: Callable[[], None]) -> VirtualThread:
        """Run the loop of an engine in virtual time; its inbox becomes a virtual one."""
        inbox = VirtualInbox(self.around.loop)
        thread = VirtualThread(self.around.loop, run, self.name)
        owner._inbox, inbox.thread = inbox, thread
        self._threads.append(thread)
        return thread

    def spend(self, num_rows: int) -> None:
        """Let the time of a pass go by; on the engine's thread, or before it runs."""
        base, each = self.pass_seconds
        self._threads[0].sleep(self.around.rng.uniform(0.5, 1.5) * (base + num_rows * each))

    def announce(
        self, registration: WorkerRegistration, report: Callable[[], WorkerReport]
    ) -> None:
        for endpoint in self.around.coordinators:
            loop = self.around.loop
            spawn(loop, self.actor, self._announce(endpoint, registration, report))

    async def _announce(
        self, endpoint: str, registration: WorkerRegistration, report: Callable[[], WorkerReport]
    ) -> None:
        while True:
            try:
                call = await self.around.network.dial(endpoint, "AnnounceWorker")
                await self._report_on(call, registration, report)
            except TreedraftError:
                pass
            await asyncio.sleep(self.around.rng.uniform(0.05, 0.2))

    @staticmethod
    async def _report_on(call: Any, registration: Any, report: Callable[[], WorkerReport]) -> None:
        said, sent = registration, frozenset()
        try:
            while True:
                now = report()
                held = frozenset(now.added_prefixes)
                delta = replace(
                    now,
                    added_prefixes=tuple(sorted(held - sent)),
                    removed_prefixes=tuple(sorted(sent - held)),
                )
                await call.write(convert.announcement_to_proto(said, delta))
                said, sent = None, held
                if await call.read() is None:
                    return
                await asyncio.sleep(ANNOUNCE_SECONDS)
        finally:
            call.close()

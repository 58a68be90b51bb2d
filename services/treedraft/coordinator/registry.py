"""The workers: those that announce themselves here, and those known to the store.

What comes over our own announce streams is kept here and counts at once; the
store carries it to the other coordinators and brings theirs, a moment later.
The store may be away: then the workers seen here go on serving, and everything
is registered anew when it is back.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import structlog

from treedraft.coordinator.catalog import KnownModel, ModelCatalog
from treedraft.coordinator.session_store.protocol import SessionStore
from treedraft.coordinator.session_store.records import (
    WorkerRecord,
    count_leading,
    without_prefixes,
)
from treedraft.core.errors import TreedraftError, UnavailableError
from treedraft.core.worker import WorkerRegistration, WorkerReport, WorkerRole


@dataclass(slots=True)
class _Announced:
    """A worker whose announce stream ends here."""

    registration: WorkerRegistration
    report: WorkerReport
    last_seen: float
    prefixes: set[int] = field(default_factory=set)
    is_stored: bool = False

    def full_report(self) -> WorkerReport:
        """Return the report with the complete set of prefixes."""
        return replace(self.report, added_prefixes=tuple(self.prefixes))


class WorkerRegistry:
    """Knows the workers of all coordinators that share the store."""

    def __init__(
        self,
        store: SessionStore,
        catalog: ModelCatalog,
        *,
        ttl_seconds: float,
        clock: Callable[[], float],
    ) -> None:
        """Start without workers; one that is silent for `ttl_seconds` is forgotten."""
        self._store = store
        self._catalog = catalog
        self._ttl_seconds = ttl_seconds
        self._clock = clock
        self._announced: dict[str, _Announced] = {}
        self._remote: dict[str, WorkerRecord] = {}
        self._assigned: Counter[str] = Counter()
        self._assigned_pages: Counter[str] = Counter()
        self._doubted: dict[tuple[str, str], float] = {}
        self._changed = asyncio.Event()
        self._is_store_away = False
        self._log = structlog.get_logger("treedraft.coordinator.registry")

    @property
    def ttl_seconds(self) -> float:
        """Silence after which a worker is forgotten."""
        return self._ttl_seconds

    async def register(self, registration: WorkerRegistration, report: WorkerReport) -> None:
        """Take in a worker, in place of any earlier start of it.

        `report.added_prefixes` is the complete set that it holds.
        """
        worker = _Announced(
            registration,
            without_prefixes(report),
            self._clock(),
            prefixes=set(report.added_prefixes),
        )
        self._announced[registration.worker_id] = worker
        self._remote.pop(registration.worker_id, None)
        self._forget_assigned(registration.worker_id)
        self._log.info(
            "worker registered",
            worker_id=registration.worker_id,
            role=registration.role.value,
            endpoint=registration.endpoint,
            model=registration.model,
        )
        self._doubted.pop((registration.worker_id, registration.incarnation), None)
        await self._learn(registration)
        self._tell_change()
        await self._keep(worker, None)

    async def report(self, registration: WorkerRegistration, report: WorkerReport) -> bool:
        """Take over a report; False if this start of the worker is not the known one."""
        worker = self._find(registration)
        if worker is None:
            return False
        worker.report = without_prefixes(report)
        worker.last_seen = self._clock()
        worker.prefixes.difference_update(report.removed_prefixes)
        worker.prefixes.update(report.added_prefixes)
        self._forget_assigned(registration.worker_id)
        self._doubted.pop((registration.worker_id, registration.incarnation), None)
        await self._learn(registration)
        self._tell_change()
        await self._keep(worker, report)
        return True

    async def leave(self, registration: WorkerRegistration) -> None:
        """Sign off a worker, unless a later start of it has taken its place."""
        if self._find(registration) is None:
            return
        del self._announced[registration.worker_id]
        self._log.info("worker left", worker_id=registration.worker_id)
        try:
            await self._store.remove_worker(registration)
        except UnavailableError as error:
            self._note_store(error)  # there the worker stays until its time is up

    async def refresh(self) -> None:
        """Read the other coordinators' workers and forget those that fell silent."""
        now = self._clock()
        for worker in list(self._announced.values()):
            if now - worker.last_seen > self._ttl_seconds:
                await self.leave(worker.registration)
        try:
            await self._store.remove_expired()
            stored = await self._store.list_workers()
        except UnavailableError as error:
            self._note_store(error)
            return
        self._note_store(None)
        self._remote = {
            worker.registration.worker_id: worker
            for worker in stored
            if worker.registration.worker_id not in self._announced
        }
        for worker_id in self._remote:
            self._forget_assigned(worker_id)
        self._catalog.retain(worker.registration for worker in self.workers())
        async with asyncio.TaskGroup() as group:
            for record in self.workers():
                group.create_task(self._learn(record.registration))
        self._tell_change()

    async def change(self) -> None:
        """Return when something about the workers may have changed."""
        await self._changed.wait()

    def doubt(self, worker_id: str, incarnation: str) -> None:
        """Note that a worker may be gone though it is known: until it reports, or for its TTL."""
        self._doubted[worker_id, incarnation] = self._clock() + self._ttl_seconds

    def is_doubted(self, worker: WorkerRegistration) -> bool:
        """Return whether the worker may be gone."""
        return self._doubted.get((worker.worker_id, worker.incarnation), 0.0) > self._clock()

    def workers(self) -> list[WorkerRecord]:
        """Return all workers, ordered by id; what was announced here counts more."""
        known = dict(self._remote)
        for worker_id, worker in self._announced.items():
            known[worker_id] = WorkerRecord(worker.registration, worker.report)
        return [known[worker_id] for worker_id in sorted(known)]

    def targets(self) -> list[tuple[WorkerRecord, KnownModel]]:
        """Return the targets that have said what they serve."""
        found = []
        for worker in self.workers():
            known = self._catalog.get(worker.registration)
            if worker.registration.role is WorkerRole.TARGET and known is not None:
                found.append((worker, known))
        return found

    def drafters(self) -> list[WorkerRecord]:
        """Return the drafters."""
        return [worker for worker in self.workers() if worker.registration.role is WorkerRole.DRAFT]

    def assign(self, worker_id: str, *, num_pages: int = 0) -> None:
        """Count a session that was placed and is in no report yet, and pages to compute for it."""
        self._assigned[worker_id] += 1
        self._assigned_pages[worker_id] += num_pages

    def num_assigned(self, worker_id: str) -> int:
        """Return the sessions placed on a worker since its last report."""
        return self._assigned[worker_id]

    def num_assigned_pages(self, worker_id: str) -> int:
        """Return the pages of prompts placed on a worker since its last report."""
        return self._assigned_pages[worker_id]

    async def held_pages(
        self, worker_ids: Sequence[str], prefixes: Sequence[int]
    ) -> Mapping[str, int]:
        """Return how many of a prompt's leading pages each target holds the KV of, if any.

        Those that announce themselves here are looked up in memory, all others in
        one question to the store.
        """
        held: dict[str, int] = {}
        elsewhere = []
        for worker_id in worker_ids:
            worker = self._announced.get(worker_id)
            if worker is None:
                elsewhere.append(worker_id)
            else:
                known = worker.prefixes
                held[worker_id] = count_leading(prefix in known for prefix in prefixes)
        if elsewhere:
            with contextlib.suppress(UnavailableError):
                held |= await self._store.prefix_holders(elsewhere, prefixes)
        return held

    def _forget_assigned(self, worker_id: str) -> None:
        self._assigned.pop(worker_id, None)
        self._assigned_pages.pop(worker_id, None)

    def _find(self, registration: WorkerRegistration) -> _Announced | None:
        worker = self._announced.get(registration.worker_id)
        if worker is None or worker.registration.incarnation != registration.incarnation:
            return None
        return worker

    def _tell_change(self) -> None:
        now = self._clock()
        self._doubted = {key: ends for key, ends in self._doubted.items() if ends > now}
        self._changed.set()
        self._changed = asyncio.Event()

    async def _learn(self, registration: WorkerRegistration) -> None:
        if registration.role is not WorkerRole.TARGET or self._catalog.get(registration):
            return
        try:
            await self._catalog.learn(registration)
        except TreedraftError as error:
            # Asked again at its next report; until then nothing is placed there.
            self._log.warning(
                "target does not say what it serves",
                worker_id=registration.worker_id,
                error=error.message,
            )

    async def _keep(self, worker: _Announced, report: WorkerReport | None) -> None:
        """Bring a worker into the store: the delta if that suffices, else all of it."""
        try:
            if worker.is_stored and report is not None:
                worker.is_stored = await self._store.report_worker(worker.registration, report)
            if not worker.is_stored:
                await self._store.register_worker(worker.registration, worker.full_report())
                worker.is_stored = True
        except UnavailableError as error:
            worker.is_stored = False
            self._note_store(error)

    def _note_store(self, error: UnavailableError | None) -> None:
        # Once per outage, not once per report of every worker.
        if error is not None and not self._is_store_away:
            self._log.warning("the store is away", error=error.message)
        if error is None and self._is_store_away:
            self._log.info("the store is back")
        self._is_store_away = error is not None

"""The loop that joins what is seen, what is decided, and what is done.

See, decide, write, again and again; one of several autoscalers does, the others
wait for its lease to run out. Whatever fails is left for the next turn, and a
size that cannot be judged stays as it is.
"""

import asyncio
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import structlog

from treedraft.autoscaler.draining import deletion_costs
from treedraft.autoscaler.leader import LeaderElection
from treedraft.autoscaler.observation import ClusterObserver, ClusterView
from treedraft.autoscaler.policy import Decision, Memory, Policy, decide
from treedraft.autoscaler.report import Change, DecisionReport
from treedraft.autoscaler.settings import PoolSettings, WorkloadSettings
from treedraft.autoscaler.signals import Observation, Worker, pool_load
from treedraft.autoscaler.workloads import Scale, Workloads, WriteConflictError
from treedraft.core.errors import TreedraftError

# How pods are named after what runs them.
_POD_SUFFIXES = {"StatefulSet": r"\d+", "Deployment": r"[a-z0-9]+-[a-z0-9]+"}
_CONFLICT = "WRITE_CONFLICT"
_BLIND = "NO_COORDINATOR_ANSWERS"


@dataclass(slots=True)
class _Pair:
    """A pair of pools and what is remembered of it."""

    policy: Policy
    memory: Memory = field(default_factory=Memory)


class Controller:
    """Sizes pools until told to stop."""

    def __init__(
        self,
        policies: Sequence[Policy],
        *,
        observer: ClusterObserver,
        workloads: Workloads,
        election: LeaderElection,
        report: DecisionReport,
        interval_seconds: float = 5.0,
        blind_seconds: float = 60.0,
        dry_run: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare; `run` works, `step` is one turn."""
        self._pairs = [_Pair(policy) for policy in policies]
        self._observer = observer
        self._workloads = workloads
        self._election = election
        self._report = report
        self._interval_seconds = interval_seconds
        self._blind_seconds = blind_seconds
        self._dry_run = dry_run
        self._clock = clock
        self._last_seen = clock()
        self._wake = asyncio.Event()
        self._log = structlog.get_logger(__name__)

    @property
    def is_blind(self) -> bool:
        """Whether no coordinator has answered for longer than is healthy."""
        return self._clock() - self._last_seen > self._blind_seconds

    async def run(self) -> None:
        """Take turns until cancelled; a workload changed by somebody else brings one early."""
        loop = asyncio.get_running_loop()

        def on_change() -> None:
            loop.call_soon_threadsafe(self._wake.set)

        for pair in self._pairs:
            for workload in _workloads(pair.policy.pool):
                self._workloads.watch(workload, on_change)
        while True:
            try:
                await self.step()
            except Exception:
                self._report.failed("UNEXPECTED")
                self._log.exception("a turn failed; the next one comes")
            await self._pause()

    async def lead(self, renew_seconds: float) -> None:
        """Keep the lease, or try to get it, until cancelled; then let it go."""
        step: asyncio.Future[bool] | None = None
        try:
            while True:
                try:
                    step = asyncio.ensure_future(asyncio.to_thread(self._election.step))
                    self._report.led(is_leader=await asyncio.shield(step))
                except Exception:
                    self._report.failed("UNEXPECTED")
                    self._log.exception("the lease was not renewed; it is tried again")
                await asyncio.sleep(renew_seconds)
        finally:
            await asyncio.shield(asyncio.ensure_future(self._resign_after(step)))

    async def _resign_after(self, step: asyncio.Future[bool] | None) -> None:
        """Let go of the lease once a renewal under way is over: it would take it again."""
        if step is not None:
            await asyncio.gather(step, return_exceptions=True)
        await asyncio.to_thread(self._election.resign)

    async def step(self) -> None:
        """See, decide and act once, if it is ours to act."""
        view = await self._observer.observe()
        if view is None:
            self._report.failed(_BLIND)
            return
        self._last_seen = self._clock()
        if not self._election.is_leader:
            # What a new leader remembers begins with what it sees itself.
            for pair in self._pairs:
                pair.memory = Memory()
            return
        for pair in self._pairs:
            try:
                await self._size(pair, view)
            except WriteConflictError:
                self._report.failed(_CONFLICT)
                self._wake.set()
            except TreedraftError as error:
                self._report.failed(error.reason)
                self._log.warning("a pool was not sized", why=error.message)

    async def _pause(self) -> None:
        try:
            async with asyncio.timeout(self._interval_seconds):
                await self._wake.wait()
        except TimeoutError:
            pass
        self._wake.clear()

    async def _size(self, pair: _Pair, view: ClusterView) -> None:
        pool = pair.policy.pool
        target_scale = await asyncio.to_thread(self._workloads.read_scale, pool.target)
        draft_scale = (
            await asyncio.to_thread(self._workloads.read_scale, pool.draft) if pool.draft else None
        )
        seen = self._see(pool, view, target_scale, draft_scale)
        start_ns = time.time_ns()
        decision, pair.memory = decide(pair.policy, pair.memory, seen)
        self._report.decided(
            pool.target, pool.draft, seen, decision, start_ns=start_ns, end_ns=time.time_ns()
        )
        await self._mark(pool, view)
        for workload, scale, change in _changes(pool, decision, target_scale, draft_scale):
            await self._act(workload, scale, change)

    def _see(
        self, pool: PoolSettings, view: ClusterView, target: Scale, draft: Scale | None
    ) -> Observation:
        return Observation(
            now=self._clock(),
            target_replicas=target.replicas,
            draft_replicas=draft.replicas if draft else None,
            target=pool_load(members(pool.target, view.workers)),
            draft=pool_load(members(pool.draft, view.workers) if pool.draft else ()),
            num_unserved=_num_unserved(pool, view),
        )

    async def _mark(self, pool: PoolSettings, view: ClusterView) -> None:
        if self._dry_run:
            return
        for workload in _workloads(pool):
            costs = deletion_costs(members(workload, view.workers))
            try:
                await asyncio.to_thread(self._workloads.mark_costs, workload, costs)
            except (TreedraftError, WriteConflictError) as error:
                # Which pod goes first is a courtesy; how many there are is not.
                self._log.warning("pods were not marked", workload=workload.name, why=str(error))

    async def _act(self, workload: WorkloadSettings, scale: Scale, change: Change) -> None:
        if not self._dry_run:
            # Somebody may have acted for us while this turn was under way.
            if not self._election.is_leader:
                return
            wanted = Scale(change.after, scale.version)
            await asyncio.to_thread(self._workloads.write_scale, workload, wanted)
        self._report.changed(change, is_dry=self._dry_run)
        if not self._dry_run:
            await asyncio.to_thread(self._workloads.tell, workload, change.event, change.message)


def members(workload: WorkloadSettings, workers: Sequence[Worker]) -> list[Worker]:
    """Return the workers that are pods of a workload, as their ids say."""
    is_pod = re.compile(rf"{re.escape(workload.name)}-{_POD_SUFFIXES[workload.kind]}").fullmatch
    return [worker for worker in workers if is_pod(worker[0].worker_id)]


def _workloads(pool: PoolSettings) -> list[WorkloadSettings]:
    return [pool.target, *([pool.draft] if pool.draft else [])]


def _num_unserved(pool: PoolSettings, view: ClusterView) -> int:
    if not pool.model:
        return sum(view.unserved.values())
    # A request that names no model means the only one.
    return view.unserved.get(pool.model, 0) + view.unserved.get("", 0)


def _changes(
    pool: PoolSettings, decision: Decision, target: Scale, draft: Scale | None
) -> list[tuple[WorkloadSettings, Scale, Change]]:
    pairs = [(pool.target, target, decision.target)]
    if pool.draft is not None and draft is not None and decision.draft is not None:
        pairs.append((pool.draft, draft, decision.draft))
    return [
        (workload, scale, Change(workload, scale.replicas, wanted.replicas, wanted.reason))
        for workload, scale, wanted in pairs
        if wanted.replicas != scale.replicas
    ]

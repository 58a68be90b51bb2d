"""Shares of new sessions among pools, and what came of the sessions.

The store carries both to all coordinators. Shares are read as often as workers
are; counts gather here and are added to the store's then. While the store is
away, the shares last seen stay in force and counts wait.
"""

import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing

import structlog

from treedraft.coordinator.placement import Placement
from treedraft.coordinator.registry import WorkerRegistry
from treedraft.coordinator.session_store.records import WorkerRecord
from treedraft.coordinator.session_store.rollout_store import Counts, RolloutStore
from treedraft.core.errors import TreedraftError, UnavailableError
from treedraft.core.generation import Finished, GenerateEvent
from treedraft.core.rollout import (
    Pairing,
    PairingCounts,
    Pool,
    PoolStatus,
    RolloutDescription,
    WeightChange,
    Weights,
)
from treedraft.core.session import SessionStatistics

_log = structlog.get_logger("treedraft.coordinator.rollout")


class Rollout:
    """Knows the shares, and counts."""

    def __init__(
        self,
        store: RolloutStore,
        registry: WorkerRegistry,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Keep both in the store; `clock` returns seconds of the Unix epoch."""
        self._store = store
        self._registry = registry
        self._clock = clock
        self._weights: Weights = {}
        self._uncounted: Counts = {}

    def weights(self) -> Weights:
        """Return the shares that somebody has set."""
        return self._weights

    async def refresh(self) -> None:
        """Add what was counted to the store, and see which shares are set there."""
        counts, self._uncounted = self._uncounted, {}
        try:
            if counts:
                await self._store.add(counts)
            counts = {}
            self._weights = (await self._store.read()).weights
        except UnavailableError as error:
            for pairing, missed in counts.items():
                self._add(pairing, missed)
            _log.debug("shares not read", error=error.message)

    async def change(self, changes: Sequence[WeightChange]) -> None:
        """Set or take back shares, for all coordinators.

        Raises:
            UnavailableError: the store is away; nothing has changed.
        """
        await self._store.change(changes, self._clock())
        self._uncounted = {}
        self._weights = (await self._store.read()).weights
        _log.info("weights changed", changes={str(one.pool): one.weight for one in changes})

    async def describe(self) -> RolloutDescription:
        """Return all pools, and what came of the sessions of all coordinators.

        Raises:
            UnavailableError: the store is away.
        """
        await self.refresh()
        state = await self._store.read()
        members: dict[Pool, list[WorkerRecord]] = {}
        for worker in self._registry.workers():
            members.setdefault(pool_of(worker), []).append(worker)
        pools = sorted({*members, *state.weights})
        return RolloutDescription(
            tuple(_status(pool, members.get(pool, []), state.weights) for pool in pools),
            tuple(sorted(state.counts.items())),
            state.since,
        )

    async def counted(
        self, placement: Placement | None, events: AsyncGenerator[GenerateEvent, None]
    ) -> AsyncGenerator[GenerateEvent, None]:
        """Pass the events of a session that was placed on, and count how it ends."""
        assert placement is not None
        target = placement.target
        pairing = Pairing(target.model, target.pool, placement.draft_pools)
        try:
            async with aclosing(events):
                async for event in events:
                    if isinstance(event, Finished):
                        self._add(pairing, _counts(event.statistics))
                    yield event
        except TreedraftError:
            self._add(pairing, PairingCounts(failures=1))
            raise

    def _add(self, pairing: Pairing, counts: PairingCounts) -> None:
        self._uncounted[pairing] = self._uncounted.get(pairing, PairingCounts()) + counts


def pool_of(worker: WorkerRecord) -> Pool:
    """Return the pool that a worker says it is of."""
    return Pool(worker.registration.role.value, worker.registration.pool)


def _status(pool: Pool, workers: Sequence[WorkerRecord], weights: Weights) -> PoolStatus:
    announced = max((worker.registration.weight for worker in workers), default=0.0)
    return PoolStatus(
        pool,
        weight=weights.get(pool, announced),
        announced_weight=announced,
        models=tuple(sorted({worker.registration.model for worker in workers})),
        num_workers=len(workers),
        num_draining=sum(worker.report.is_draining for worker in workers),
        num_sessions=sum(worker.report.num_sessions for worker in workers),
    )


def _counts(statistics: SessionStatistics) -> PairingCounts:
    return PairingCounts(
        sessions=1,
        rounds=statistics.rounds,
        emitted_tokens=statistics.emitted_tokens,
        drafted_nodes=statistics.drafted_nodes,
        admitted_nodes=statistics.admitted_nodes,
        accepted_nodes=statistics.accepted_nodes,
    )

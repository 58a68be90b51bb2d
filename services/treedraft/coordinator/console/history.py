"""How the cluster was over the last minutes: a point a second, in columns.

Made of what workers report anyway. Bounded, and only of numbers that everybody
who may ask for the cluster sees.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from treedraft.core.worker import ClusterDescription, WorkerReport, WorkerRole

_INTERVAL_SECONDS = 1.0
_MAX_POINTS = 900


@dataclass(frozen=True, slots=True)
class ClusterPoint:
    """The cluster at one moment; shares and rates are 0 where nothing is measured.

    `tokens_per_second` and `tokens_per_round` are over the workers' own window
    of some seconds, `kv_share` is the part of all pages that is in use.
    """

    time: float
    sessions: int
    waiting: int
    kv_share: float
    tokens_per_second: float
    tokens_per_round: float
    late_draft_share: float


def point_of(cluster: ClusterDescription, now: float) -> ClusterPoint:
    """Return the sums and means over the workers."""
    reports = {
        role: [report for worker, report in cluster.workers if worker.role is role]
        for role in WorkerRole
    }
    targets = reports[WorkerRole.TARGET]
    total = sum(report.total_kv_blocks for report in targets)
    free = sum(report.free_kv_blocks for report in targets)
    return ClusterPoint(
        time=now,
        sessions=cluster.num_sessions,
        waiting=sum(report.num_waiting for report in targets),
        kv_share=1.0 - free / total if total else 0.0,
        tokens_per_second=sum(report.signals.tokens_per_second for report in targets),
        tokens_per_round=_mean([r.signals.tokens_per_round for r in targets], targets),
        late_draft_share=_mean([r.signals.late_draft_share for r in targets], targets),
    )


def _mean(values: list[float], reports: list[WorkerReport]) -> float:
    """Return the mean, each worker counted by the tokens that it makes."""
    weights = [report.signals.tokens_per_second for report in reports]
    if not sum(weights):
        return 0.0
    return sum(v * w for v, w in zip(values, weights, strict=True)) / sum(weights)


class ClusterHistory:
    """Collects points while it runs."""

    def __init__(
        self,
        describe: Callable[[], Awaitable[ClusterDescription]],
        *,
        now: Callable[[], float] = time.time,
        max_points: int = _MAX_POINTS,
    ) -> None:
        """Ask `describe` how the cluster is; keep the last `max_points` answers."""
        self._describe = describe
        self._now = now
        self._points: deque[ClusterPoint] = deque(maxlen=max_points)

    async def sample(self) -> None:
        """Add a point."""
        self._points.append(point_of(await self._describe(), self._now()))

    async def run(self) -> None:
        """Add a point a second until cancelled."""
        while True:
            await self.sample()
            await asyncio.sleep(_INTERVAL_SECONDS)

    def columns(self, since: float = 0.0) -> dict[str, list[float]]:
        """Return each quantity after a time as a list, oldest first."""
        names, points = ClusterPoint.__slots__, [p for p in self._points if p.time > since]
        return {name: [round(getattr(p, name), 4) for p in points] for name in names}

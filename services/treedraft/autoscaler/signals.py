"""What the policy sees: one pool's load, summed over its workers."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from treedraft.core.worker import LoadSignals, WorkerRegistration, WorkerReport

# What adds up over workers; the rest is a mean.
_RATES = (
    "tokens_per_second",
    "first_tokens_due_per_second",
    "first_tokens_missed_per_second",
)

Worker = tuple[WorkerRegistration, WorkerReport]


@dataclass(frozen=True, slots=True)
class PoolLoad:
    """How a pool is, as its workers report.

    Counts and rates are sums over the workers that take sessions; shares and
    durations are means weighted by sessions, since a latency counts for as many
    as feel it.
    """

    num_ready: int = 0
    num_sessions: int = 0
    num_waiting: int = 0
    max_sessions: int = 0
    kv_use: float = 0.0
    signals: LoadSignals = field(default_factory=LoadSignals)


@dataclass(frozen=True, slots=True)
class Observation:
    """All that a decision on one pair of pools depends on, besides its memory.

    Attributes:
        now: monotonic seconds.
        target_replicas: wanted at present, as the workload says.
        draft_replicas: likewise; None if there is no draft pool.
        target: load of the targets.
        draft: load of the drafters.
        num_unserved: requests since the last observation that found no target.
    """

    now: float
    target_replicas: int
    draft_replicas: int | None
    target: PoolLoad
    draft: PoolLoad = field(default_factory=PoolLoad)
    num_unserved: int = 0


def pool_load(workers: Iterable[Worker]) -> PoolLoad:
    """Return the load of a pool; workers that drain count for their sessions alone."""
    everyone = list(workers)
    ready = [worker for worker in everyone if not worker[1].is_draining]
    total_kv = sum(report.total_kv_blocks for _, report in ready)
    free_kv = sum(report.free_kv_blocks for _, report in ready)
    return PoolLoad(
        num_ready=len(ready),
        num_sessions=sum(report.num_sessions for _, report in everyone),
        num_waiting=sum(report.num_waiting for _, report in everyone),
        max_sessions=sum(registration.max_sessions for registration, _ in ready),
        kv_use=1.0 - free_kv / total_kv if total_kv else 0.0,
        signals=_combined([report for _, report in ready]),
    )


def _combined(reports: Sequence[WorkerReport]) -> LoadSignals:
    weights = [float(report.num_sessions + report.num_waiting) for report in reports]
    if not sum(weights):
        weights = [1.0] * len(reports)

    def mean(name: str) -> float:
        weighed = zip(weights, reports, strict=True)
        parts = (weight * float(getattr(report.signals, name)) for weight, report in weighed)
        return sum(parts) / (sum(weights) or 1.0)

    values = {name: mean(name) for name in LoadSignals.__dataclass_fields__}
    count = len(reports) or 1
    for name in _RATES:
        values[name] = sum(float(getattr(report.signals, name)) for report in reports)
    values["utilisation"] = sum(report.signals.utilisation for report in reports) / count
    return LoadSignals(**values)

"""Decisions made visible: metrics, a span each, and a line of log for each change."""

from dataclasses import dataclass

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from treedraft.autoscaler.policy import Decision
from treedraft.autoscaler.settings import WorkloadSettings
from treedraft.autoscaler.signals import Observation
from treedraft.telemetry import names
from treedraft.telemetry.tracing import Tracing

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)


@dataclass(frozen=True, slots=True)
class Change:
    """A workload that gets another size."""

    workload: WorkloadSettings
    before: int
    after: int
    reason: str

    @property
    def event(self) -> str:
        """The word for an event at the workload."""
        return "ScaledUp" if self.after > self.before else "ScaledDown"

    @property
    def message(self) -> str:
        """The change in a sentence."""
        return f"from {self.before} to {self.after}: {self.reason}"


class DecisionReport:
    """Counts and traces what the autoscaler does."""

    def __init__(self, registry: CollectorRegistry, tracing: Tracing) -> None:
        """Register the autoscaler's metrics."""
        by_workload = (names.LABEL_WORKLOAD,)
        self._tracing = tracing
        self._wanted = Gauge(
            names.SCALING_WANTED, "Replicas decided on.", by_workload, registry=registry
        )
        self._present = Gauge(
            names.SCALING_PRESENT,
            "Replicas that the workload wants.",
            by_workload,
            registry=registry,
        )
        self._ready = Gauge(
            names.SCALING_READY, "Workers that report.", by_workload, registry=registry
        )
        self._gain = Gauge(
            names.SCALING_GAIN,
            "Tokens per second with speculation over those without, by target workload.",
            by_workload,
            registry=registry,
        )
        self._budget = Gauge(
            names.SCALING_BUDGET,
            "Share of the late first tokens that the objective allows which is spent, by target "
            "workload; 1 where none are due.",
            by_workload,
            registry=registry,
        )
        self._changes = Counter(
            names.SCALING_CHANGES,
            "Sizes changed.",
            (*by_workload, names.LABEL_DIRECTION),
            registry=registry,
        )
        self._failures = Counter(
            names.SCALING_FAILURES,
            "Decisions that could not be made or carried out.",
            (names.LABEL_REASON,),
            registry=registry,
        )
        self._leader = Gauge(names.SCALING_LEADER, "1 at the one that acts.", registry=registry)
        self._seconds = Histogram(
            names.SCALING_DECISION_SECONDS,
            "Time of a decision.",
            buckets=_SECONDS,
            registry=registry,
        )
        self._log = structlog.get_logger(__name__)

    def led(self, *, is_leader: bool) -> None:
        """Note whether this autoscaler acts."""
        self._leader.set(is_leader)

    def failed(self, reason: str) -> None:
        """Count what went wrong, by reason."""
        self._failures.labels(reason).inc()

    def decided(
        self,
        target: WorkloadSettings,
        draft: WorkloadSettings | None,
        seen: Observation,
        decision: Decision,
        *,
        start_ns: int,
        end_ns: int,
    ) -> None:
        """Note one decision on a pair of pools, made between two wall-clock instants."""
        self._seconds.observe((end_ns - start_ns) / 1e9)
        self._size(target, seen.target_replicas, seen.target.num_ready, decision.target.replicas)
        attributes: dict[str, str | int | float] = {
            names.ATTR_SCALE_TARGET_NOW: seen.target_replicas,
            names.ATTR_SCALE_TARGET_WANTED: decision.target.replicas,
            names.ATTR_SCALE_TARGET_REASON: decision.target.reason,
        }
        if draft is not None and decision.draft is not None:
            now = seen.draft_replicas or 0
            self._size(draft, now, seen.draft.num_ready, decision.draft.replicas)
            attributes |= {
                names.ATTR_SCALE_DRAFT_NOW: now,
                names.ATTR_SCALE_DRAFT_WANTED: decision.draft.replicas,
                names.ATTR_SCALE_DRAFT_REASON: decision.draft.reason,
            }
        self._budget.labels(target.name).set(decision.budget_spent)
        if decision.gain is not None:
            self._gain.labels(target.name).set(decision.gain.factor)
            attributes[names.ATTR_SCALE_GAIN] = decision.gain.factor
        span = self._tracing.start(names.SPAN_DECIDE, "", attributes, start_ns=start_ns)
        span.end()

    def changed(self, change: Change, *, is_dry: bool) -> None:
        """Note a change of size, or one that would have been made."""
        direction = "up" if change.after > change.before else "down"
        self._log.info(
            "would scale" if is_dry else "scaled",
            workload=change.workload.name,
            before=change.before,
            after=change.after,
            why=change.reason,
        )
        if not is_dry:
            self._changes.labels(change.workload.name, direction).inc()

    def _size(self, workload: WorkloadSettings, now: int, ready: int, wanted: int) -> None:
        self._present.labels(workload.name).set(now)
        self._ready.labels(workload.name).set(ready)
        self._wanted.labels(workload.name).set(wanted)

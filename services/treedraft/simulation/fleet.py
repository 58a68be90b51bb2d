"""The pods: ordered, starting, serving, draining, gone, and what they cost."""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, field

from treedraft.coordinator.placement import TargetCandidate
from treedraft.core.worker import WorkerRegistration, WorkerReport, WorkerRole
from treedraft.simulation.target_queue import Request, RoundTable, TargetQueue

_PAGE = 16  # tokens
_TYPICAL_PAGES = 50


@dataclass(slots=True, eq=False)
class Pod:
    """A target's pod, and what the coordinator knows of it."""

    ordered: float
    ready_at: float
    queue: TargetQueue
    registration: WorkerRegistration
    report: WorkerReport = field(default_factory=WorkerReport)
    num_assigned: int = 0
    num_assigned_pages: int = 0
    cost: float = 0.0
    reported: tuple[int, int] = (-1, 0)
    is_draining: bool = False
    is_gone: bool = False

    def as_candidate(self) -> TargetCandidate:
        """Return what placement compares."""
        return TargetCandidate(
            self.registration,
            self.report,
            _TYPICAL_PAGES,
            num_assigned=self.num_assigned,
            num_assigned_pages=self.num_assigned_pages,
        )


@dataclass(slots=True)
class Fleet:
    """Target pods one by one; drafter pods as the instants at which they are ready.

    `pod_seconds` and `drafter_seconds` count from the order of a pod to its end.
    """

    table: RoundTable
    startup_seconds: float
    max_sessions: int
    kv_tokens: float
    rng: random.Random
    pods: list[Pod] = field(default_factory=list)
    drafters: list[float] = field(default_factory=list)
    pod_seconds: float = 0.0
    drafter_seconds: float = 0.0
    num_expired: int = 0
    num_ordered: int = 0

    def ready(self, now: float) -> list[Pod]:
        """Return the pods that take sessions."""
        return [pod for pod in self.pods if pod.ready_at <= now and not pod.is_draining]

    @property
    def num_wanted(self) -> int:
        """Pods ordered and not on their way out."""
        return sum(not pod.is_draining for pod in self.pods)

    def num_ready_drafters(self, now: float) -> int:
        """Return the drafters that draft."""
        return sum(ready_at <= now for ready_at in self.drafters)

    def set_targets(self, wanted: int, now: float, *, is_instant: bool = False) -> None:
        """Order or give up pods.

        What has not started yet goes first, then the emptiest, which drains.
        """
        extra = self.num_wanted - wanted
        for pod in self._first_to_go(now)[: max(0, extra)]:
            pod.is_draining = True
            if not pod.queue.num_sessions:
                self.remove(pod, now)
        delay = 0.0 if is_instant else self.startup_seconds
        for _ in range(-extra):
            self.num_ordered += 1
            registration = self._registration(self.num_ordered)
            queue = TargetQueue(self.table, now + delay, self.max_sessions)
            self.pods.append(Pod(now, now + delay, queue, registration))

    def set_drafters(self, wanted: int, now: float, *, is_instant: bool = False) -> None:
        """Order or give up drafters; they hold nothing that would be lost."""
        while len(self.drafters) > wanted:
            latest = max(self.drafters)
            self.drafters.remove(latest)
        delay = 0.0 if is_instant else self.startup_seconds
        self.drafters.extend([now + delay] * (wanted - len(self.drafters)))

    def remove(self, pod: Pod, now: float) -> None:
        """Let a pod end."""
        pod.is_gone = True
        pod.queue.version += 1
        self.pods.remove(pod)
        self.num_expired += pod.queue.num_expired
        self.pod_seconds += now - pod.ordered

    def lose(self, now: float) -> list[Request]:
        """Let a ready pod's node fail, and order another; return what it held."""
        ready = self.ready(now)
        if not ready:
            return []
        pod = self.rng.choice(ready)
        pod.queue.advance(now)
        moved = pod.queue.empty()
        self.remove(pod, now)
        self.set_targets(self.num_wanted + 1, now)
        return moved

    def place(self, request: Request, now: float) -> Pod | None:
        """Return the pod that a coordinator would choose; None if there is none.

        No prompt shares a prefix with another here, so its own pages cost the same
        everywhere: what is compared is worked out for a typical one.
        """
        pod = min(self.ready(now), key=lambda one: one.cost, default=None)
        if pod is not None:
            pod.num_assigned += 1
            pod.num_assigned_pages += math.ceil(request.prompt / _PAGE)
            pod.cost = pod.as_candidate().cost
        return pod

    def report(self, now: float) -> None:
        """Let every pod tell how it is."""
        for pod in self.ready(now):
            queue = pod.queue
            if pod.reported == (queue.version, pod.num_assigned) and not queue.line:
                continue  # nothing has changed
            queue.advance(now)
            running = min(queue.num_sessions, self.max_sessions)
            pod.report = WorkerReport(
                num_sessions=running,
                num_waiting=queue.num_sessions - running,
                num_pending_pages=math.ceil(queue.prompt_tokens / _PAGE),
                free_kv_blocks=max(0, math.floor((self.kv_tokens - queue.kv_tokens) / _PAGE)),
                total_kv_blocks=math.floor(self.kv_tokens / _PAGE),
            )
            pod.num_assigned = pod.num_assigned_pages = 0
            pod.reported = (queue.version, 0)
            pod.cost = pod.as_candidate().cost

    def cover(self, now: float, sessions_per_drafter: float) -> float:
        """Share the drafters out over all sessions; return the share of these with drafts."""
        pods = list(self._serving(now))
        sessions = sum(len(pod.queue.decoding) for pod in pods)
        supply = self.num_ready_drafters(now) * sessions_per_drafter
        coverage = min(1.0, supply / sessions) if sessions else 1.0
        for pod in pods:
            pod.queue.advance(now)
            pod.queue.coverage = coverage
        return coverage

    def charge_drafters(self, seconds: float) -> None:
        """Count the drafters' time."""
        self.drafter_seconds += seconds * len(self.drafters)

    def close(self, now: float) -> None:
        """Count what still runs."""
        self.num_expired += sum(pod.queue.num_expired for pod in self.pods)
        self.pod_seconds += sum(now - pod.ordered for pod in self.pods)

    def _registration(self, number: int) -> WorkerRegistration:
        name = f"target-{number}"
        return WorkerRegistration(
            name, "1", WorkerRole.TARGET, name, "simulated", max_sessions=self.max_sessions
        )

    def _serving(self, now: float) -> Iterator[Pod]:
        return (pod for pod in self.pods if pod.ready_at <= now)

    def _first_to_go(self, now: float) -> list[Pod]:
        staying = [pod for pod in self.pods if not pod.is_draining]
        return sorted(
            staying, key=lambda pod: (pod.ready_at <= now, pod.queue.num_sessions, -pod.ordered)
        )

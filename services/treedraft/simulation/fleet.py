"""The pods: ordered, starting, serving, draining, gone, and what they cost."""

import math
import random
from dataclasses import dataclass, field
from operator import attrgetter

from treedraft.coordinator.placement import cost_in_pages
from treedraft.simulation.target_queue import Request, RoundTable, TargetQueue

_PAGE = 16  # tokens
_TYPICAL_PAGES = 50
# Above any prompt: a full target is chosen only if all are full.
_FULL = 1e9
_COST = attrgetter("cost")


@dataclass(slots=True, eq=False)
class Pod:
    """A target's pod, and what the coordinator knows of it: its last report, and what came since.

    `cost` is what the coordinator compares.
    """

    ordered: float
    ready_at: float
    queue: TargetQueue
    num_running: int = 0
    num_waiting: int = 0
    num_pending_pages: int = 0
    num_free_pages: int = 0
    num_assigned: int = 0
    num_assigned_pages: int = 0
    cost: float = 0.0
    reported: tuple[int, int] = (-1, 0)
    is_draining: bool = False
    is_gone: bool = False

    def weigh(self, max_sessions: int) -> None:
        """Work out the cost of one more session, as the coordinator does."""
        num_sessions = self.num_running + self.num_assigned
        self.cost = cost_in_pages(
            _TYPICAL_PAGES,
            self.num_pending_pages + self.num_assigned_pages,
            num_sessions,
            self.num_waiting,
            self.num_free_pages,
        )
        if num_sessions >= max_sessions > 0:
            self.cost += _FULL


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
    _num_taken: int = 0
    # The pods that take sessions, and until when these are all, unless some are ordered or go.
    _ready: list[Pod] = field(default_factory=list)
    _ready_until: float = -math.inf

    def ready(self, now: float) -> list[Pod]:
        """Return the pods that take sessions; `now` never goes back."""
        if now >= self._ready_until:
            self._ready = [pod for pod in self.pods if pod.ready_at <= now and not pod.is_draining]
            starting = [pod.ready_at for pod in self.pods if pod.ready_at > now]
            self._ready_until = min(starting, default=math.inf)
        return self._ready

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
        if not extra:
            return
        self._ready_until = -math.inf
        for pod in self._first_to_go(now)[: max(0, extra)]:
            pod.is_draining = True
            if not pod.queue.num_sessions:
                self.remove(pod, now)
        delay = 0.0 if is_instant else self.startup_seconds
        for _ in range(-extra):
            queue = TargetQueue(self.table, now + delay, self.max_sessions)
            self.pods.append(Pod(now, now + delay, queue))

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
        self._ready_until = -math.inf
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
        pod = min(self.ready(now), key=_COST, default=None)
        if pod is not None:
            pod.num_assigned += 1
            pod.num_assigned_pages += math.ceil(request.prompt / _PAGE)
            pod.weigh(self.max_sessions)
        return pod

    def report(self, now: float) -> None:
        """Let every pod tell how it is."""
        for pod in self.ready(now):
            queue = pod.queue
            if not queue.line and pod.reported == (queue.version, pod.num_assigned):
                continue  # nothing has changed
            queue.advance(now)
            num_sessions = queue.num_sessions
            pod.num_running = min(num_sessions, self.max_sessions)
            pod.num_waiting = num_sessions - pod.num_running
            pod.num_pending_pages = math.ceil(queue.prompt_tokens / _PAGE)
            free = math.floor((self.kv_tokens - queue.kv_tokens) / _PAGE)
            pod.num_free_pages = max(0, free)
            pod.num_assigned = pod.num_assigned_pages = 0
            pod.reported = (queue.version, 0)
            pod.weigh(self.max_sessions)

    def cover(self, now: float, sessions_per_drafter: float) -> tuple[float, list[Pod]]:
        """Share the drafters out over all sessions.

        Returns:
            The share of the sessions with drafts, and the pods that go at another pace for it.
        """
        pods = [pod for pod in self.pods if pod.ready_at <= now]
        sessions = sum([len(pod.queue.decoding) for pod in pods])
        supply = self.num_ready_drafters(now) * sessions_per_drafter
        coverage = min(1.0, supply / sessions) if sessions else 1.0
        changed = []
        for pod in pods:
            pod.queue.advance(now)
            if pod.queue.cover(coverage):
                changed.append(pod)
        return coverage, changed

    def take_expired(self) -> int:
        """Return how many requests were refused since the last time."""
        total = self.num_expired + sum([pod.queue.num_expired for pod in self.pods])
        number, self._num_taken = total - self._num_taken, total
        return number

    def charge_drafters(self, seconds: float) -> None:
        """Count the drafters' time."""
        self.drafter_seconds += seconds * len(self.drafters)

    def close(self, now: float) -> None:
        """Count what still runs."""
        self.num_expired += sum(pod.queue.num_expired for pod in self.pods)
        self.pod_seconds += sum(now - pod.ordered for pod in self.pods)

    def _first_to_go(self, now: float) -> list[Pod]:
        staying = [pod for pod in self.pods if not pod.is_draining]
        return sorted(
            staying, key=lambda pod: (pod.ready_at <= now, pod.queue.num_sessions, -pod.ordered)
        )

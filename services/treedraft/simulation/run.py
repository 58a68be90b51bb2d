"""The event loop: one day of traffic under one strategy."""

import heapq
import itertools
import math
import random
from collections import deque
from dataclasses import dataclass, field
from typing import Protocol

from treedraft.simulation.fleet import Fleet, Pod
from treedraft.simulation.gauges import Gauges, View
from treedraft.simulation.service_times import ServiceTimes
from treedraft.simulation.target_queue import ChunkRule, Request, RoundTable
from treedraft.simulation.traffic import Traffic


@dataclass(frozen=True, slots=True)
class Objective:
    """What a request may expect; it holds if both do.

    The first token may take as long as `first_token_seconds`, or `prefill_factor`
    times what its prompt takes alone on an empty target, whichever is more.
    """

    first_token_seconds: float = 15.0
    prefill_factor: float = 3.0
    inter_token_seconds: float = 0.75

    def first_token_limit(self, prompt: float, seconds_per_token: float) -> float:
        """Return the time that a prompt's first token may take."""
        return max(self.first_token_seconds, self.prefill_factor * prompt * seconds_per_token)

    def is_met(self, request: Request) -> bool:
        """Return whether a finished request got what it may expect."""
        if request.first_token > request.latest:
            return False
        tokens = max(1.0, request.output - 1.0)
        return (request.finished - request.first_token) / tokens <= self.inter_token_seconds


_PATIENT_CHUNKS = ChunkRule(max_stall_steps=8.0)


@dataclass(frozen=True, slots=True)
class ClusterPlan:
    """What the pods are like: as a target is by default, with passes that may be longer.

    What waits for its next token may wait longer than by default, since the objective
    lets it: prompts get on faster for it when many come at once.
    """

    max_sessions: int = 256
    kv_tokens: float = 65_536.0
    chunks: ChunkRule = field(default=_PATIENT_CHUNKS)
    startup_seconds: float = 120.0
    control_seconds: float = 5.0
    report_seconds: float = 1.0
    initial_targets: int = 8
    initial_drafters: int = 4


class Strategy(Protocol):
    """Decides on sizes."""

    @property
    def name(self) -> str:
        """How it is called in tables."""
        ...

    def start(self) -> tuple[int, int]:
        """Return the targets and drafters that stand ready at the beginning."""
        ...

    def decide(self, view: View) -> tuple[int, int]:
        """Return the targets and drafters to have."""
        ...


@dataclass(slots=True)
class Outcome:
    """What a strategy did to the requests, and what it cost."""

    strategy: str
    num_requests: int = 0
    num_met: int = 0
    num_refused: int = 0
    target_hours: float = 0.0
    drafter_hours: float = 0.0
    history: list[tuple[float, float, int, int]] = field(default_factory=list)

    @property
    def attainment(self) -> float:
        """Share of the requests that got what they may expect."""
        return self.num_met / self.num_requests if self.num_requests else 1.0

    @property
    def pod_hours(self) -> float:
        """Hours of pods, each of which holds one device: GPU-hours, whatever a device costs."""
        return self.target_hours + self.drafter_hours


class Simulation:
    """One run."""

    def __init__(
        self,
        traffic: Traffic,
        times: ServiceTimes,
        strategy: Strategy,
        *,
        plan: ClusterPlan | None = None,
        objective: Objective | None = None,
        seed: int = 0,
    ) -> None:
        """Prepare; `run` runs it to the end of the traffic."""
        self._traffic, self._times, self._strategy = traffic, times, strategy
        self._plan, self._objective = plan or ClusterPlan(), objective or Objective()
        table = RoundTable(times, self._plan.chunks)
        self._fleet = Fleet(
            table,
            self._plan.startup_seconds,
            self._plan.max_sessions,
            self._plan.kv_tokens,
            random.Random(seed),
        )
        self._gauges = Gauges(self._fleet, times, self._plan.kv_tokens, self._plan.control_seconds)
        self._line: deque[Request] = deque()
        self._events: list[tuple[float, int, Pod, int]] = []
        self._order = itertools.count()
        self._outcome = Outcome(strategy.name)

    def run(self) -> Outcome:
        """Return what became of the traffic."""
        targets, drafters = self._strategy.start()
        self._fleet.set_targets(targets, 0.0, is_instant=True)
        self._fleet.set_drafters(drafters, 0.0, is_instant=True)
        arrivals = iter(self._requests())
        arriving = next(arrivals, None)
        losses = deque(self._traffic.losses)
        next_control, next_report, end = 0.0, 0.0, self._traffic.seconds
        while True:
            arrival = arriving.arrival if arriving else math.inf
            loss = losses[0] if losses else math.inf
            event = self._events[0][0] if self._events else math.inf
            now = min(arrival, loss, event, next_control, next_report)
            if now > end:
                break
            if now == event:
                _, _, pod, version = heapq.heappop(self._events)
                self._settle(pod, version, now)
            elif now == arrival and arriving is not None:
                self._accept(arriving, now)
                arriving = next(arrivals, None)
            elif now == loss:
                losses.popleft()
                self._lose(now)
            elif now == next_report:
                self._fleet.report(now)
                next_report = now + self._plan.report_seconds
            else:
                self._control(now)
                next_control = now + self._plan.control_seconds
        return self._finish(end)

    def _requests(self) -> list[Request]:
        traffic = self._traffic
        columns = (traffic.arrivals.tolist(), traffic.prompts.tolist(), traffic.outputs.tolist())
        requests = [Request(number, *row) for number, row in enumerate(zip(*columns, strict=True))]
        for request in requests:
            request.latest = request.arrival + self._limit(request)
        return requests

    def _accept(self, request: Request, now: float) -> None:
        self._outcome.num_requests += 1
        pod = None if self._line else self._fleet.place(request, now)
        if pod is None:
            self._line.append(request)
            self._gauges.waiting(len(self._line))
            return
        self._hand(pod, request, now)

    def _hand(self, pod: Pod, request: Request, now: float) -> None:
        pod.queue.add(request, now)
        self._schedule(pod)

    def _schedule(self, pod: Pod) -> None:
        pod.queue.version += 1
        when = pod.queue.next_event()
        if when < math.inf:
            heapq.heappush(self._events, (when, next(self._order), pod, pod.queue.version))

    def _settle(self, pod: Pod, version: int, now: float) -> None:
        if pod.is_gone or version != pod.queue.version:
            return
        for request in pod.queue.settle(now):
            self._note(request, now)
        if pod.is_draining and not pod.queue.num_sessions:
            self._fleet.remove(pod, now)
            return
        self._schedule(pod)
        self._serve_line(now)

    def _serve_line(self, now: float) -> None:
        while self._line:
            request = self._line[0]
            if now > request.latest and request.first_token < 0:
                # Its time is over before it began: refused, not drowned in.
                self._line.popleft()
                self._outcome.num_refused += 1
                self._gauges.refused(1)
                continue
            pod = self._fleet.place(request, now)
            if pod is None:
                break
            self._line.popleft()
            self._hand(pod, request, now)
        self._gauges.waiting(len(self._line))

    def _lose(self, now: float) -> None:
        self._line.extendleft(reversed(self._fleet.lose(now)))
        self._serve_line(now)

    def _control(self, now: float) -> None:
        coverage, changed = self._gauges.cover(now)
        for pod in changed:
            self._schedule(pod)
        view = self._gauges.view(now, coverage)
        targets, drafters = self._strategy.decide(view)
        self._fleet.set_targets(targets, now)
        self._fleet.set_drafters(drafters, now)
        self._fleet.charge_drafters(self._plan.control_seconds)
        self._serve_line(now)
        if int(now) % 60 == 0:
            ready = len(self._fleet.ready(now))
            self._outcome.history.append(
                (now, float(view.observation.target.num_sessions), ready, view.num_drafters)
            )

    def _limit(self, request: Request) -> float:
        return self._objective.first_token_limit(request.prompt, self._times.seconds_per_row)

    def _note(self, request: Request, now: float) -> None:
        self._gauges.ended(now, request)
        self._outcome.num_met += self._objective.is_met(request)

    def _finish(self, end: float) -> Outcome:
        # What still runs at the end is not judged.
        running = sum(pod.queue.num_sessions for pod in self._fleet.pods) + len(self._line)
        self._outcome.num_requests -= running
        self._fleet.close(end)
        self._outcome.num_refused += self._fleet.num_expired
        self._outcome.target_hours = self._fleet.pod_seconds / 3600.0
        self._outcome.drafter_hours = self._fleet.drafter_seconds / 3600.0
        return self._outcome

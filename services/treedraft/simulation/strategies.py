"""Who decides on sizes: the autoscaler's policy, and what it is compared with."""

import math
import time
from collections import deque
from dataclasses import dataclass, field

from treedraft.autoscaler.policy import Memory, Policy, decide
from treedraft.autoscaler.settings import (
    BudgetGoals,
    DraftGoals,
    PaceSettings,
    PoolSettings,
    TargetGoals,
    WorkloadSettings,
)
from treedraft.simulation.gauges import View
from treedraft.simulation.run import Objective
from treedraft.simulation.service_times import ServiceTimes

_MAX_REPLICAS = 5000


# More of the errors are kept than the objective asks for: a burst may come at the end of the day.
_OBJECTIVE = 0.992
_START_UP_SECONDS = 120.0


def policy_for(
    objective: Objective,
    times: ServiceTimes | None = None,
    *,
    draft_cost: float = 0.25,
    startup_seconds: float = _START_UP_SECONDS,
) -> Policy:
    """Return the policy set up for the objective and for pods that take so long to start.

    What a pass over a tree costs is set as it is on the machine of the service times.
    Nothing is missed but in bursts, which are over before a pod has started: so needs
    are averaged over about as long, no target is kept for chance, and drafters must
    save targets, since the objective pays for no speed beyond its own.
    """
    verification_cost = times.verification_cost if times else 1.2
    return Policy(
        PoolSettings(
            target=WorkloadSettings(name="target", max_replicas=_MAX_REPLICAS),
            draft=WorkloadSettings(name="draft", min_replicas=0, max_replicas=_MAX_REPLICAS),
        ),
        TargetGoals(
            goal_first_token_seconds=2.0 * objective.first_token_seconds,
            goal_inter_token_seconds=objective.inter_token_seconds,
            goal_queue_wait_seconds=objective.first_token_seconds,
            goal_prompt_share=0.66,
            spare_targets=0.0,
            budget=BudgetGoals(
                objective=_OBJECTIVE, whole_prompt_share=0.72, whole_spare_targets=0.0
            ),
        ),
        DraftGoals(cost=draft_cost, verification_cost=verification_cost, pays_in="targets"),
        PaceSettings(
            smoothing_seconds=1.5 * startup_seconds,
            up_seconds=0.75 * startup_seconds,
            down_seconds=startup_seconds,
        ),
    )


@dataclass(slots=True)
class PolicyStrategy:
    """The autoscaler itself: both pools, each by its own signals."""

    policy: Policy
    initial: tuple[int, int]
    name: str = "treedraft"
    memory: Memory = field(default_factory=Memory)
    seconds: list[float] = field(default_factory=list)

    def start(self) -> tuple[int, int]:
        """Return the sizes at the beginning."""
        return self.initial

    def decide(self, view: View) -> tuple[int, int]:
        """Ask the policy; note how long it took."""
        started = time.perf_counter()
        decision, self.memory = decide(self.policy, self.memory, view.observation)
        self.seconds.append(time.perf_counter() - started)
        return decision.target.replicas, decision.draft.replicas if decision.draft else 0


@dataclass(slots=True)
class UnitStrategy:
    """One pool of pairs: the same policy for targets, and so many drafters with each of them."""

    policy: Policy
    initial: int
    drafters_per_target: float
    name: str = "one pool"
    memory: Memory = field(default_factory=Memory)

    def start(self) -> tuple[int, int]:
        """Return the sizes at the beginning."""
        return self._unit(self.initial)

    def decide(self, view: View) -> tuple[int, int]:
        """Ask the policy for targets, and take drafters along."""
        decision, self.memory = decide(self.policy, self.memory, view.observation)
        return self._unit(decision.target.replicas)

    def _unit(self, targets: int) -> tuple[int, int]:
        return targets, math.ceil(targets * self.drafters_per_target)


@dataclass(frozen=True, slots=True)
class StaticStrategy:
    """The same sizes all day."""

    targets: int
    drafters: int
    name: str = "static"

    def start(self) -> tuple[int, int]:
        """Return the sizes."""
        return self.targets, self.drafters

    def decide(self, view: View) -> tuple[int, int]:
        """Return the same sizes whatever is seen."""
        return self.targets, self.drafters


@dataclass(slots=True)
class CpuStrategy:
    """Kubernetes' HorizontalPodAutoscaler on CPU at 70 %, with its defaults, drafters in a ratio.

    Its rule: ceil(replicas * use / goal) outside a tolerance of 10 %; the least
    of what was wanted in five minutes is never undercut.
    """

    initial: int
    drafters_per_target: float
    goal: float = 0.7
    name: str = "HPA on CPU"
    wanted: deque[tuple[float, int]] = field(default_factory=deque)

    def start(self) -> tuple[int, int]:
        """Return the sizes at the beginning."""
        return self.initial, math.ceil(self.initial * self.drafters_per_target)

    def decide(self, view: View) -> tuple[int, int]:
        """Apply the rule."""
        now, current = view.observation.now, view.observation.target_replicas
        ratio = view.cpu_use / self.goal
        ready = view.observation.target.num_ready
        wanted = current if abs(ratio - 1.0) <= 0.1 else max(1, math.ceil(ready * ratio))
        # Pods that start count as idle when growing.
        wanted = max(current, wanted) if ratio > 1.0 else wanted
        self.wanted.append((now, wanted))
        while self.wanted[0][0] < now - 300.0:
            self.wanted.popleft()
        targets = wanted if wanted > current else min(current, max(one for _, one in self.wanted))
        return targets, math.ceil(targets * self.drafters_per_target)


@dataclass(frozen=True, slots=True)
class ScheduleStrategy:
    """Sizes known beforehand for every minute; ordered early enough to be ready in time."""

    schedule: tuple[tuple[int, int], ...]
    slot_seconds: float
    lead_seconds: float
    name: str = "oracle"

    def start(self) -> tuple[int, int]:
        """Return the sizes of the first minutes."""
        return self._at(0.0)

    def decide(self, view: View) -> tuple[int, int]:
        """Return the sizes that are wanted once what is ordered now is ready, or until then."""
        return self._at(view.observation.now)

    def _at(self, now: float) -> tuple[int, int]:
        first = int(now / self.slot_seconds)
        last = int((now + self.lead_seconds) / self.slot_seconds) + 1
        ahead = self.schedule[first : last + 1] or self.schedule[-1:]
        return max(one for one, _ in ahead), max(one for _, one in ahead)

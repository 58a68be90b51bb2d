"""Plays a Deployment's controller and its kubelet for processes that are there already.

When fewer replicas are wanted than there are, the cheapest pods go, as the ReplicaSet
controller chooses among pods that are equal otherwise: by the cost that somebody wrote on
them. A pod that goes gets SIGTERM and its grace time, and only then SIGKILL.
"""

import asyncio
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.chaos.fleet import Service
from tests.kube_api import KubeApi

from treedraft.autoscaler.kubernetes import DELETION_COST


@dataclass(frozen=True, slots=True)
class Removal:
    """A pod that went."""

    name: str
    cost: int
    seconds: float
    exit_status: int | None
    was_killed: bool


def first_to_go(costs: Mapping[str, int], count: int) -> list[str]:
    """Return the names of the cheapest pods."""
    return sorted(costs, key=lambda name: (costs[name], name))[:count]


@dataclass(slots=True)
class ReplicaSet:
    """The pods of one Deployment of an API server."""

    kube: KubeApi
    deployment: str
    services: Mapping[str, Service]
    grace_seconds: float = 60.0
    removals: list[Removal] = field(default_factory=list)
    # What the pods cost when the last of them were chosen.
    costs: dict[str, int] = field(default_factory=dict)
    _present: set[str] = field(default_factory=set)

    def create(self) -> None:
        """Tell the API server of the workload and of its pods."""
        spec = {"replicas": len(self.services), "selector": {}, "template": {}}
        self.kube.add("deployments", self.deployment, spec=spec)
        for name in self.services:
            self.kube.add("pods", name)
        self._present = set(self.services)

    async def follow(self) -> None:
        """End pods as the API server says, until cancelled."""
        async with asyncio.TaskGroup() as ends:
            while True:
                for name in self._choose():
                    ends.create_task(self._end(name, self.services[name]))
                await asyncio.sleep(0.05)

    def _choose(self) -> list[str]:
        with self.kube.changed:
            surplus = len(self._present) - self.kube.replicas("deployments", self.deployment)
            if surplus <= 0:
                return []
            self.costs = {name: self._cost(name) for name in self._present}
            chosen = first_to_go(self.costs, surplus)
            self._present -= set(chosen)
        return chosen

    def _cost(self, name: str) -> int:
        notes = self.kube.objects["pods", name]["metadata"].get("annotations", {})
        return int(notes.get(DELETION_COST, 0))

    async def _end(self, name: str, service: Service) -> None:
        began, was_killed = time.monotonic(), False
        cost = self.costs[name]
        service.send(signal.SIGTERM)
        try:
            async with asyncio.timeout(self.grace_seconds):
                status = await service.wait()
        except TimeoutError:
            was_killed = True
            service.send(signal.SIGKILL)
            status = await service.wait()
        self.kube.remove("pods", name)
        seconds = time.monotonic() - began
        self.removals.append(Removal(name, cost, seconds, status, was_killed))

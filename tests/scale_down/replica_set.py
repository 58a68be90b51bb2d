"""Plays an API server with a Deployment's controller and a kubelet, for processes that run already.

When fewer replicas are wanted than there are, the cheapest pods go, as the ReplicaSet
controller chooses among pods that are equal otherwise: by the cost that somebody wrote on
them. A pod that goes gets SIGTERM and its grace time, and only then SIGKILL.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos.fleet import Service
from tests.kube_api import KubeApi
from tests.scale_down.autoscaler_process import write_kubeconfig
from tests.scale_down.cluster import Removal, end

from treedraft.autoscaler.kubernetes import DELETION_COST


def first_to_go(costs: Mapping[str, int], count: int) -> list[str]:
    """Return the names of the cheapest pods."""
    return sorted(costs, key=lambda name: (costs[name], name))[:count]


@dataclass(slots=True)
class ReplicaSet:
    """The pods of one Deployment of a stateful API server (a `Cluster`)."""

    kube: KubeApi
    grace_seconds: float = 60.0
    removals: list[Removal] = field(default_factory=list)
    # What each pod cost when it was last to be chosen or spared.
    costs: dict[str, int] = field(default_factory=dict)
    kind: str = "Deployment"
    workload: str = "target"
    # A Deployment's pods carry the hash of their template in their names.
    pool: str = "target-5f6d8c"
    namespace: str = "ns"
    _present: dict[str, Service] = field(default_factory=dict)

    def kubeconfig(self, folder: Path) -> Path:
        server = f"http://127.0.0.1:{self.kube.server.server_port}"
        return write_kubeconfig(folder / "kubeconfig", server)

    async def create(self, pods: Mapping[str, Service]) -> None:
        spec = {"replicas": len(pods), "selector": {}, "template": {}}
        self.kube.add("deployments", self.workload, spec=spec)
        for name in pods:
            self.kube.add("pods", name)
        self._present = dict(pods)

    async def follow(self) -> None:
        async with asyncio.TaskGroup() as ends:
            while True:
                for name in self._choose():
                    ends.create_task(self._end(name, self._present.pop(name)))
                await asyncio.sleep(0.05)

    def reasons(self) -> tuple[str, ...]:
        with self.kube.changed:
            objects = self.kube.objects.items()
            return tuple(found["message"] for (plural, _), found in objects if plural == "events")

    def _choose(self) -> list[str]:
        with self.kube.changed:
            surplus = len(self._present) - self.kube.replicas("deployments", self.workload)
            if surplus <= 0:
                return []
            costs = {name: self._cost(name) for name in self._present}
        self.costs.update(costs)
        return first_to_go(costs, surplus)

    def _cost(self, name: str) -> int:
        notes = self.kube.objects["pods", name]["metadata"].get("annotations", {})
        return int(notes.get(DELETION_COST, 0))

    async def _end(self, name: str, service: Service) -> None:
        self.removals.append(await end(name, service, self.grace_seconds))
        self.kube.remove("pods", name)

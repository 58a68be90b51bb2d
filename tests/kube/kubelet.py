"""Plays scheduler and kubelet on a real API server, for processes that run already.

The server's own controllers make pods and mark those that have to go; each pod stands for a
process of the same name. A pod that goes gets what its spec promises: the pause of `preStop`,
SIGTERM, its grace time, and only then SIGKILL.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kubernetes import client
from tests.chaos.fleet import Service
from tests.kube.server import KubeServer
from tests.scale_down.cluster import Removal, end

_NODE = "here"
_SECONDS = 60.0


@dataclass(slots=True)
class StatefulSetPods:
    """The pods of the release's targets (a `Cluster` of the scale-down drill)."""

    kube: KubeServer
    namespace: str
    token: str
    kind: str = "StatefulSet"
    workload: str = "demo-treedraft-target-main"
    pool: str = "demo-treedraft-target-main"
    removals: list[Removal] = field(default_factory=list)
    costs: dict[str, int] = field(default_factory=dict)
    _services: dict[str, Service] = field(default_factory=dict)
    _ending: set[str] = field(default_factory=set)

    def kubeconfig(self, folder: Path) -> Path:
        return self.kube.kubeconfig(folder / "kubeconfig", self.token)

    async def create(self, pods: Mapping[str, Service]) -> None:
        self._services = dict(pods)
        apps = client.AppsV1Api(self.kube.client())
        size = {"spec": {"replicas": len(pods)}}
        await asyncio.to_thread(
            apps.patch_namespaced_stateful_set_scale, self.workload, self.namespace, size
        )
        async with asyncio.timeout(_SECONDS):
            while {pod.metadata.name for pod in await self._pods()} != set(pods):  # noqa: ASYNC110
                await asyncio.sleep(0.1)
            for name in pods:
                await asyncio.to_thread(self._run, name)

    async def follow(self) -> None:
        async with asyncio.TaskGroup() as ends:
            while True:
                for pod in await self._pods():
                    name = pod.metadata.name
                    if pod.metadata.deletion_timestamp and name not in self._ending:
                        self._ending.add(name)
                        ends.create_task(self._end(pod))
                await asyncio.sleep(0.1)

    def reasons(self) -> tuple[str, ...]:
        events = client.CoreV1Api(self.kube.client()).list_namespaced_event(self.namespace)
        ours = [one for one in events.items if one.reason in ("ScaledUp", "ScaledDown")]
        return tuple(one.message for one in ours)

    async def _pods(self) -> list[Any]:
        core = client.CoreV1Api(self.kube.client())
        found = await asyncio.to_thread(core.list_namespaced_pod, self.namespace)
        return [pod for pod in found.items if pod.metadata.name.startswith(f"{self.pool}-")]

    def _run(self, name: str) -> None:
        core = client.CoreV1Api(self.kube.client())
        place = {"metadata": {"name": name}, "target": {"kind": "Node", "name": _NODE}}
        # Its answer is a Status, which the client would take for a Binding.
        core.create_namespaced_pod_binding(name, self.namespace, place, _preload_content=False)
        ready = {"type": "Ready", "status": "True"}
        body = {"status": {"phase": "Running", "conditions": [ready]}}
        core.patch_namespaced_pod_status(name, self.namespace, body)

    async def _end(self, pod: Any) -> None:
        name, (container,) = pod.metadata.name, pod.spec.containers
        command, pause = container.lifecycle.pre_stop._exec.command
        assert command == "sleep"
        await asyncio.sleep(float(pause))
        grace_seconds = pod.metadata.deletion_grace_period_seconds - float(pause)
        self.removals.append(await end(name, self._services[name], grace_seconds))
        core = client.CoreV1Api(self.kube.client())
        await asyncio.to_thread(
            core.delete_namespaced_pod, name, self.namespace, grace_period_seconds=0
        )

"""What the drill wants of a cluster: a workload whose pods are processes that run already."""

import asyncio
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tests.chaos.fleet import Service


@dataclass(frozen=True, slots=True)
class Removal:
    """A pod that went."""

    name: str
    seconds: float
    exit_status: int | None
    was_killed: bool


class Cluster(Protocol):
    """An API server, what controls a workload there, and the kubelet of its pods.

    Attributes:
        kind: of the workload.
        workload: its name.
        pool: what the names of its pods begin with; a number follows.
        namespace: of all that.
        removals: the pods that went, in the order of their ends.
        costs: what the end of each pod would have cost when it was last chosen or spared, if that
            mattered.
    """

    kind: str
    workload: str
    pool: str
    namespace: str
    removals: list[Removal]
    costs: dict[str, int]

    def kubeconfig(self, folder: Path) -> Path:
        """Write a kubeconfig for the autoscaler."""
        ...

    async def create(self, pods: Mapping[str, Service]) -> None:
        """Have the workload with these pods."""
        ...

    async def follow(self) -> None:
        """End pods as the workload's size says, until cancelled."""
        ...

    def reasons(self) -> tuple[str, ...]:
        """Return what the autoscaler's events say."""
        ...


async def end(name: str, service: Service, grace_seconds: float) -> Removal:
    """End a pod as a kubelet does: SIGTERM, its grace time, and only then SIGKILL."""
    began, was_killed = time.monotonic(), False
    service.send(signal.SIGTERM)
    try:
        async with asyncio.timeout(grace_seconds):
            status = await service.wait()
    except TimeoutError:
        was_killed = True
        service.send(signal.SIGKILL)
        status = await service.wait()
    return Removal(name, round(time.monotonic() - began, 3), status, was_killed)

"""What the controller wants of a cluster's manager; `kubernetes` is the one that there is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from treedraft.autoscaler.settings import WorkloadSettings


class WriteConflictError(Exception):
    """Somebody else has written meanwhile: read again, and decide again."""


@dataclass(frozen=True, slots=True)
class Scale:
    """The replicas that a workload should have, and the version that says so."""

    replicas: int
    version: str


@dataclass(frozen=True, slots=True)
class LeaseRecord:
    """A Lease as one candidate read it.

    Attributes:
        holder: identity of the leader; empty if it stepped down.
        lease_seconds: for how long its last word counts.
        renewals: changes whenever the holder renews.
        transitions: how often the holder has changed.
        version: of the object; a write under an older one is refused.
    """

    holder: str
    lease_seconds: float
    renewals: str = ""
    transitions: int = 0
    version: str = ""


class Leases(Protocol):
    """Where candidates for leadership meet."""

    def read(self) -> LeaseRecord | None:
        """Return the lease, None if there is none yet."""
        ...

    def create(self, record: LeaseRecord) -> LeaseRecord:
        """Create the lease; raises WriteConflictError if there is one by now."""
        ...

    def replace(self, record: LeaseRecord) -> LeaseRecord:
        """Write over `record.version`; raises WriteConflictError if it is no longer the one."""
        ...


class Workloads(Protocol):
    """Reads and writes the sizes of pools. Blocking: called off the event loop."""

    def watch(self, workload: WorkloadSettings, on_change: Callable[[], None]) -> None:
        """Call back, from any thread, whenever somebody changes the workload."""
        ...

    def read_scale(self, workload: WorkloadSettings) -> Scale:
        """Return the wanted replicas. Raises UnavailableError."""
        ...

    def write_scale(self, workload: WorkloadSettings, scale: Scale) -> None:
        """Want that many, if `scale.version` still holds; else raises WriteConflictError."""
        ...

    def mark_costs(self, workload: WorkloadSettings, costs: Mapping[str, int]) -> None:
        """Say of each pod what its end would cost, for the choice of the next to go."""
        ...

    def tell(self, workload: WorkloadSettings, reason: str, message: str) -> None:
        """Leave an event at the workload, for people."""
        ...

    def close(self) -> None:
        """Stop watching."""
        ...

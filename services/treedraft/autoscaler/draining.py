"""Which pods should go first when a pool shrinks: the emptiest.

Kubernetes removes the pods of a Deployment in order of a cost that anyone may
write on them (`controller.kubernetes.io/pod-deletion-cost`). A StatefulSet
always loses its last pod; its sessions move by fail-over as those of any other.
"""

from collections.abc import Iterable, Mapping

from treedraft.autoscaler.signals import Worker
from treedraft.core.worker import WorkerReport

# What draining pods cost: less than any other, so that a second removal takes
# no fresh pod while one is on its way out.
_DRAINING = -1


def deletion_costs(workers: Iterable[Worker]) -> Mapping[str, int]:
    """Return by worker id what its end would cost: the sessions that would have to move."""
    return {registration.worker_id: _cost(report) for registration, report in workers}


def _cost(report: WorkerReport) -> int:
    if report.is_draining:
        return _DRAINING
    return report.num_sessions + report.num_waiting

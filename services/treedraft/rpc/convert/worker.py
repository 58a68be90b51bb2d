"""What workers say of themselves, and what a coordinator says of them."""

import math
from dataclasses import asdict

from treedraft.core.worker import (
    ClusterDescription,
    LoadSignals,
    WorkerRegistration,
    WorkerReport,
    WorkerRole,
)
from treedraft.rpc.convert.numbers import enum_from_proto
from treedraft.v1 import coordinator_service_pb2

ROLE_TO_PROTO = {
    WorkerRole.TARGET: coordinator_service_pb2.WORKER_ROLE_TARGET,
    WorkerRole.DRAFT: coordinator_service_pb2.WORKER_ROLE_DRAFT,
}
ROLE_FROM_PROTO = {number: role for role, number in ROLE_TO_PROTO.items()}


def registration_to_proto(
    registration: WorkerRegistration,
) -> coordinator_service_pb2.WorkerRegistration:
    """Return the wire form of who a worker is."""
    return coordinator_service_pb2.WorkerRegistration(
        worker_id=registration.worker_id,
        incarnation=registration.incarnation,
        role=ROLE_TO_PROTO[registration.role],
        endpoint=registration.endpoint,
        model=registration.model,
        fingerprint=registration.fingerprint,
        tokenizer_hash=registration.tokenizer_hash,
        max_sessions=registration.max_sessions,
        pool=registration.pool,
        weight=registration.weight,
    )


def registration_from_proto(
    message: coordinator_service_pb2.WorkerRegistration,
) -> WorkerRegistration:
    """Return who a worker is; an unknown role raises InvalidRequestError."""
    return WorkerRegistration(
        worker_id=message.worker_id,
        incarnation=message.incarnation,
        role=enum_from_proto(message.role, ROLE_FROM_PROTO, "role"),
        endpoint=message.endpoint,
        model=message.model,
        fingerprint=message.fingerprint,
        tokenizer_hash=message.tokenizer_hash,
        max_sessions=message.max_sessions,
        pool=message.pool,
        weight=_weight(message),
    )


def _weight(message: coordinator_service_pb2.WorkerRegistration) -> float:
    # A worker of the version before says nothing; what is no share counts as none.
    if not message.HasField("weight"):
        return 1.0
    return message.weight if math.isfinite(message.weight) and message.weight > 0 else 0.0


def report_to_proto(report: WorkerReport) -> coordinator_service_pb2.WorkerReport:
    """Return the wire form of how a worker is."""
    return coordinator_service_pb2.WorkerReport(
        num_sessions=report.num_sessions,
        num_waiting=report.num_waiting,
        free_kv_blocks=report.free_kv_blocks,
        total_kv_blocks=report.total_kv_blocks,
        is_draining=report.is_draining,
        added_prefixes=report.added_prefixes,
        removed_prefixes=report.removed_prefixes,
        num_pending_pages=report.num_pending_pages,
        signals=coordinator_service_pb2.LoadSignals(**asdict(report.signals)),
    )


def report_from_proto(message: coordinator_service_pb2.WorkerReport) -> WorkerReport:
    """Return how a worker is."""
    return WorkerReport(
        num_sessions=message.num_sessions,
        num_waiting=message.num_waiting,
        free_kv_blocks=message.free_kv_blocks,
        total_kv_blocks=message.total_kv_blocks,
        is_draining=message.is_draining,
        added_prefixes=tuple(message.added_prefixes),
        removed_prefixes=tuple(message.removed_prefixes),
        num_pending_pages=message.num_pending_pages,
        signals=signals_from_proto(message.signals),
    )


def signals_from_proto(message: coordinator_service_pb2.LoadSignals) -> LoadSignals:
    """Return what a worker measured; what is no amount (negative, NaN, endless) is nothing."""
    values = {name: getattr(message, name) for name in LoadSignals.__dataclass_fields__}
    return LoadSignals(
        **{name: value if 0 < value < math.inf else 0.0 for name, value in values.items()}
    )


def announcement_to_proto(
    registration: WorkerRegistration | None, report: WorkerReport
) -> coordinator_service_pb2.AnnounceWorkerRequest:
    """Return one message of a worker; the first of a stream has the registration."""
    return coordinator_service_pb2.AnnounceWorkerRequest(
        registration=registration_to_proto(registration) if registration else None,
        report=report_to_proto(report),
    )


def announcement_from_proto(
    message: coordinator_service_pb2.AnnounceWorkerRequest,
) -> tuple[WorkerRegistration | None, WorkerReport]:
    """Return the registration, if there is one, and the report of a message.

    Raises:
        InvalidRequestError: an unknown role.
    """
    has_registration = message.HasField("registration")
    registration = registration_from_proto(message.registration) if has_registration else None
    return registration, report_from_proto(message.report)


def cluster_to_proto(
    cluster: ClusterDescription,
) -> coordinator_service_pb2.DescribeClusterResponse:
    """Return the wire form of a cluster's description."""
    return coordinator_service_pb2.DescribeClusterResponse(
        workers=[
            coordinator_service_pb2.WorkerStatus(
                registration=registration_to_proto(registration), report=report_to_proto(report)
            )
            for registration, report in cluster.workers
        ],
        num_sessions=cluster.num_sessions,
        num_waiting=cluster.num_waiting,
        unserved=[
            coordinator_service_pb2.UnservedModel(model=model, num_requests=number)
            for model, number in cluster.num_unserved
        ],
    )


def cluster_from_proto(
    message: coordinator_service_pb2.DescribeClusterResponse,
) -> ClusterDescription:
    """Return a cluster's description; an unknown role raises InvalidRequestError."""
    return ClusterDescription(
        workers=tuple(
            (registration_from_proto(status.registration), report_from_proto(status.report))
            for status in message.workers
        ),
        num_sessions=message.num_sessions,
        num_waiting=message.num_waiting,
        num_unserved=tuple((one.model, one.num_requests) for one in message.unserved),
    )

"""Pools, their shares of new sessions, and what came of those."""

from collections.abc import Sequence
from dataclasses import asdict

from treedraft.core.rollout import (
    Pairing,
    PairingCounts,
    Pool,
    PoolStatus,
    RolloutDescription,
    WeightChange,
)
from treedraft.core.worker import WorkerRole
from treedraft.rpc.convert.numbers import enum_from_proto
from treedraft.rpc.convert.worker import ROLE_FROM_PROTO, ROLE_TO_PROTO
from treedraft.v1 import coordinator_service_pb2 as pb2


def rollout_to_proto(rollout: RolloutDescription) -> pb2.DescribeRolloutResponse:
    """Return the wire form of how sessions are shared out."""
    return pb2.DescribeRolloutResponse(
        pools=[_pool_to_proto(status) for status in rollout.pools],
        pairings=[_pairing_to_proto(pairing, counts) for pairing, counts in rollout.pairings],
        since=rollout.since,
    )


def rollout_from_proto(message: pb2.DescribeRolloutResponse) -> RolloutDescription:
    """Return how sessions are shared out; an unknown role raises InvalidRequestError."""
    return RolloutDescription(
        pools=tuple(_pool_from_proto(status) for status in message.pools),
        pairings=tuple(_pairing_from_proto(status) for status in message.pairings),
        since=message.since,
    )


def weights_to_proto(changes: Sequence[WeightChange]) -> pb2.SetPoolWeightsRequest:
    """Return the wire form of changes."""
    return pb2.SetPoolWeightsRequest(
        changes=[
            pb2.PoolWeight(
                role=ROLE_TO_PROTO[WorkerRole(change.pool.role)],
                pool=change.pool.name,
                weight=change.weight,
            )
            for change in changes
        ]
    )


def weights_from_proto(message: pb2.SetPoolWeightsRequest) -> tuple[WeightChange, ...]:
    """Return changes.

    Raises:
        InvalidRequestError: an unknown role, or what is no share (INVALID_WEIGHT).
    """
    return tuple(
        WeightChange(
            Pool(enum_from_proto(change.role, ROLE_FROM_PROTO, "role").value, change.pool),
            change.weight if change.HasField("weight") else None,
        )
        for change in message.changes
    )


def _pool_to_proto(status: PoolStatus) -> pb2.PoolStatus:
    return pb2.PoolStatus(
        role=ROLE_TO_PROTO[WorkerRole(status.pool.role)],
        pool=status.pool.name,
        weight=status.weight,
        announced_weight=status.announced_weight,
        models=status.models,
        num_workers=status.num_workers,
        num_draining=status.num_draining,
        num_sessions=status.num_sessions,
    )


def _pool_from_proto(message: pb2.PoolStatus) -> PoolStatus:
    return PoolStatus(
        pool=Pool(enum_from_proto(message.role, ROLE_FROM_PROTO, "role").value, message.pool),
        weight=message.weight,
        announced_weight=message.announced_weight,
        models=tuple(message.models),
        num_workers=message.num_workers,
        num_draining=message.num_draining,
        num_sessions=message.num_sessions,
    )


def _pairing_to_proto(pairing: Pairing, counts: PairingCounts) -> pb2.PairingStatus:
    return pb2.PairingStatus(
        model=pairing.model,
        target_pool=pairing.target,
        draft_pools=pairing.drafters,
        **asdict(counts),
    )


def _pairing_from_proto(message: pb2.PairingStatus) -> tuple[Pairing, PairingCounts]:
    counts = {name: getattr(message, name) for name in PairingCounts.__dataclass_fields__}
    pairing = Pairing(message.model, message.target_pool, tuple(message.draft_pools))
    return pairing, PairingCounts(**counts)

"""Roll-outs: pools beside each other, shares of new sessions, and what came of them.

A *pool* is the workers of one role that were set up alike: one revision of a
model, or one drafter. Two pools that serve the same model name share its new
sessions by their weights; a session stays where it began.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from treedraft.core.errors import InvalidRequestError
from treedraft.core.worker import WorkerRole

INVALID_POOL = "INVALID_POOL"
INVALID_WEIGHT = "INVALID_WEIGHT"


@dataclass(frozen=True, slots=True, order=True)
class Pool:
    """Workers of one role that were set up alike; `str` gives `target/main`."""

    role: str
    name: str

    def __str__(self) -> str:
        """Return role and name as people write them."""
        return f"{self.role}/{self.name}"

    @classmethod
    def parse(cls, text: str) -> "Pool":
        """Return the pool that people wrote.

        Raises:
            InvalidRequestError: INVALID_POOL.
        """
        role, slash, name = text.partition("/")
        if not slash or role not in {known.value for known in WorkerRole}:
            raise InvalidRequestError(
                f"{text!r} is no pool: write target/NAME or draft/NAME",
                field="pool",
                reason=INVALID_POOL,
            )
        return cls(role, name)


Weights = Mapping[Pool, float]
"""Shares that somebody has set, in place of those that workers announce."""

NO_WEIGHTS: Weights = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class WeightChange:
    """A new share of a pool; None goes back to what its workers announce."""

    pool: Pool
    weight: float | None

    def __post_init__(self) -> None:
        """Refuse what is no share.

        Raises:
            InvalidRequestError: INVALID_WEIGHT.
        """
        weight = self.weight
        if weight is not None and not (math.isfinite(weight) and weight >= 0):
            raise InvalidRequestError(
                f"{self.pool}: a weight is a number from 0 on, unlike {weight}",
                field="weight",
                reason=INVALID_WEIGHT,
            )


@dataclass(frozen=True, slots=True)
class PoolStatus:
    """A pool as it is now."""

    pool: Pool
    weight: float
    announced_weight: float
    models: tuple[str, ...] = ()
    num_workers: int = 0
    num_draining: int = 0
    num_sessions: int = 0


@dataclass(frozen=True, slots=True, order=True)
class Pairing:
    """Where a session began: its model, the pool of its target, the pools of its drafters."""

    model: str
    target: str
    drafters: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PairingCounts:
    """What came of the sessions of one pairing."""

    sessions: int = 0
    failures: int = 0
    rounds: int = 0
    emitted_tokens: int = 0
    drafted_nodes: int = 0
    admitted_nodes: int = 0
    accepted_nodes: int = 0

    def __add__(self, other: "PairingCounts") -> "PairingCounts":
        """Return the counts of both."""
        return replace(
            self,
            **{
                name: getattr(self, name) + getattr(other, name)
                for name in self.__dataclass_fields__
            },
        )

    @property
    def acceptance(self) -> float:
        """Share of the nodes in passes that were kept; 0 without any."""
        return self.accepted_nodes / self.admitted_nodes if self.admitted_nodes else 0.0

    @property
    def tokens_per_round(self) -> float:
        """τ: mean tokens emitted per target pass, bonus included."""
        return self.emitted_tokens / self.rounds if self.rounds else 0.0


@dataclass(frozen=True, slots=True)
class RolloutDescription:
    """All pools, and what came of sessions since the weights were last changed.

    `since` is in seconds of the Unix epoch; 0 if nothing was ever changed.
    """

    pools: tuple[PoolStatus, ...] = ()
    pairings: tuple[tuple[Pairing, PairingCounts], ...] = ()
    since: float = 0.0

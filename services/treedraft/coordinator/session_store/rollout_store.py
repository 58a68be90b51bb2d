"""Shares of pools and counts of pairings: one truth for all coordinators of a store.

With a change of shares counting begins anew, so what is compared was always
measured side by side.
"""

import json
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

from redis.asyncio import Redis

from treedraft.coordinator.session_store.redis_connection import guarded
from treedraft.core.rollout import Pairing, PairingCounts, Pool, WeightChange

Counts = dict[Pairing, PairingCounts]


@dataclass(frozen=True, slots=True)
class RolloutState:
    """What is kept."""

    weights: dict[Pool, float] = field(default_factory=dict)
    counts: Counts = field(default_factory=dict)
    since: float = 0.0


class RolloutStore(Protocol):
    """Keeps shares and counts. Every method raises UnavailableError if the store is away."""

    async def read(self) -> RolloutState:
        """Return all that is kept."""
        ...

    async def change(self, changes: Sequence[WeightChange], now: float) -> None:
        """Set or take back shares, all at once, and forget the counts."""
        ...

    async def add(self, counts: Mapping[Pairing, PairingCounts]) -> None:
        """Add to the counts."""
        ...


class EmbeddedRolloutStore:
    """In this process."""

    def __init__(self) -> None:
        """Start with nothing set."""
        self._state = RolloutState()

    async def read(self) -> RolloutState:
        """Return all that is kept."""
        state = self._state
        return RolloutState(dict(state.weights), dict(state.counts), state.since)

    async def change(self, changes: Sequence[WeightChange], now: float) -> None:
        """Set or take back shares, and forget the counts."""
        weights = dict(self._state.weights)
        for change in changes:
            if change.weight is None:
                weights.pop(change.pool, None)
            else:
                weights[change.pool] = change.weight
        self._state = RolloutState(weights, {}, now)

    async def add(self, counts: Mapping[Pairing, PairingCounts]) -> None:
        """Add to the counts."""
        for pairing, more in counts.items():
            self._state.counts[pairing] = self._state.counts.get(pairing, PairingCounts()) + more


class RedisRolloutStore:
    """In Redis 6.2 or later: a hash of shares, one of counts, and a time."""

    def __init__(self, redis: Redis, *, prefix: str = "treedraft") -> None:
        """Use a client that somebody else closes and that does not decode answers."""
        self._redis = redis
        tag = f"{prefix}:{{rollout}}"
        self._weights, self._counts, self._since = (
            f"{tag}:{name}" for name in ("weights", "counts", "since")
        )

    async def read(self) -> RolloutState:
        """Return all that is kept."""
        pipeline = self._redis.pipeline(transaction=True)
        pipeline.hgetall(self._weights)
        pipeline.hgetall(self._counts)
        pipeline.get(self._since)
        weights, counts, since = await guarded(cast(Awaitable[Any], pipeline.execute()))
        return RolloutState(
            {_pool(name): float(weight) for name, weight in weights.items()},
            _decode_counts(counts),
            float(since or 0.0),
        )

    async def change(self, changes: Sequence[WeightChange], now: float) -> None:
        """Set or take back shares, all at once, and forget the counts."""
        pipeline = self._redis.pipeline(transaction=True)
        for change in changes:
            if change.weight is None:
                pipeline.hdel(self._weights, str(change.pool))
            else:
                pipeline.hset(self._weights, str(change.pool), repr(change.weight))
        pipeline.delete(self._counts)
        pipeline.set(self._since, repr(now))
        await guarded(cast(Awaitable[Any], pipeline.execute()))

    async def add(self, counts: Mapping[Pairing, PairingCounts]) -> None:
        """Add to the counts."""
        pipeline = self._redis.pipeline(transaction=True)
        for pairing, more in counts.items():
            for name in PairingCounts.__dataclass_fields__:
                if amount := getattr(more, name):
                    pipeline.hincrby(self._counts, _encode_key(pairing, name), amount)
        await guarded(cast(Awaitable[Any], pipeline.execute()))


def _pool(name: bytes) -> Pool:
    return Pool.parse(name.decode())


def _encode_key(pairing: Pairing, count: str) -> str:
    return json.dumps([pairing.model, pairing.target, list(pairing.drafters), count])


def _decode_counts(found: Mapping[bytes, bytes]) -> Counts:
    amounts: dict[Pairing, dict[str, int]] = {}
    for key, amount in found.items():
        model, target, drafters, name = json.loads(key)
        if name in PairingCounts.__dataclass_fields__:
            amounts.setdefault(Pairing(model, target, tuple(drafters)), {})[name] = int(amount)
    return {pairing: PairingCounts(**counts) for pairing, counts in amounts.items()}

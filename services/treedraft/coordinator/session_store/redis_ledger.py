"""What tenants have used, in Redis: one count for all coordinators.

Per tenant a hash of levels, the leases of its requests and what each of them
was charged; all three share a hash tag. The time is that of Redis, so clocks
of coordinators need not agree.
"""

from collections.abc import Awaitable, Callable, Sequence
from importlib import resources
from typing import Any, cast

from redis.asyncio import Redis

from treedraft.coordinator.session_store.redis_connection import guarded
from treedraft.coordinator.session_store.tenant_ledger import Charge, Refusal
from treedraft.coordinator.tenant import TenantLimits

# Beyond a day, after which nothing that was counted matters any more.
_KEEP_MS = 2 * 86_400_000
_HERE = 0


class RedisTenantLedger:
    """Counts in Redis 6.2 or later; see `tenant_ledger.TenantLedger`."""

    def __init__(
        self,
        redis: Redis,
        *,
        lease_seconds: float,
        prefix: str = "treedraft",
        clock: Callable[[], float] | None = None,
    ) -> None:
        """Use a client that somebody else closes; `clock` is for tests."""
        self._lease_ms = round(lease_seconds * 1000)
        self._prefix = prefix
        self._clock = clock
        folder = resources.files("treedraft.coordinator.session_store") / "lua"
        self._admit, self._charge = (
            redis.register_script((folder / f"{name}.lua").read_text())
            for name in ("tenant_admit", "tenant_charge")
        )

    async def admit(self, tenant: str, limits: TenantLimits, request_id: str) -> Refusal | None:
        """Let a request of a tenant in and hold its place, or say why not."""
        call = self._admit(
            keys=self._keys(tenant),
            args=[
                self._now(),
                request_id,
                self._lease_ms,
                _KEEP_MS,
                limits.requests_at_once,
                limits.requests_per_minute,
                limits.tokens_per_minute,
                limits.tokens_per_day,
            ],
        )
        status, *rest = await guarded(cast(Awaitable[Any], call))
        return Refusal(status.decode(), int(rest[0])) if rest else None

    async def charge(self, tenant: str, limits: TenantLimits, charges: Sequence[Charge]) -> None:
        """Count tokens, renew the places of running requests, free those of final ones."""
        arguments: list[str | int] = [
            self._now(),
            self._lease_ms,
            _KEEP_MS,
            limits.tokens_per_minute,
        ]
        for charge in charges:
            numbers = (charge.acknowledged, charge.total, int(charge.is_final))
            arguments.extend((charge.request_id, *numbers))
        call = self._charge(keys=self._keys(tenant), args=arguments)
        await guarded(cast(Awaitable[Any], call))

    def _keys(self, tenant: str) -> list[str]:
        key = f"{self._prefix}:tenant:{{{tenant}}}"
        return [key, f"{key}:leases", f"{key}:charged"]

    def _now(self) -> int:
        return _HERE if self._clock is None else round(self._clock() * 1000)

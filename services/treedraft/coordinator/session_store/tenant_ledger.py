"""What tenants have used, kept where all coordinators see it, and its embedded form.

Two token buckets, for requests and for tokens, fill up within a minute; a
third count begins anew with each day of UTC. How long an answer gets is known
when it ends, so tokens are charged as they come and a bucket may go below
zero: whoever overdrew waits longer. Requests at once are held by leases, which
the coordinator renews: what a dead one held is free again when they run out.

Both methods are atomic and safe to repeat, since a charge names the total of a
request and not what is new. Both raise UnavailableError with reason
STORE_UNAVAILABLE when the store is away: then nobody with limits is let in.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from treedraft.coordinator.tenant import TenantLimits

REQUESTS_AT_ONCE = "TENANT_REQUESTS_AT_ONCE"
REQUESTS_PER_MINUTE = "TENANT_REQUESTS_PER_MINUTE"
TOKENS_PER_MINUTE = "TENANT_TOKENS_PER_MINUTE"
TOKENS_PER_DAY = "TENANT_TOKENS_PER_DAY"

_MINUTE_MS = 60_000
_DAY_MS = 86_400_000
# Nobody knows when a request of one's own will end.
_RETRY_AT_ONCE_MS = 1000


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a tenant must wait, and for how long."""

    reason: str
    retry_after_ms: int


@dataclass(frozen=True, slots=True)
class Charge:
    """What a request has used by now, in tokens, and how much of that was known before."""

    request_id: str
    acknowledged: int
    total: int
    is_final: bool = False


class TenantLedger(Protocol):
    """Counts what tenants use."""

    async def admit(self, tenant: str, limits: TenantLimits, request_id: str) -> Refusal | None:
        """Let a request of a tenant in and hold its place, or say why not."""
        ...

    async def charge(self, tenant: str, limits: TenantLimits, charges: Sequence[Charge]) -> None:
        """Count tokens, renew the places of running requests, free those of final ones.

        A request whose place ran out takes it again. A final charge of an
        unknown request counts nothing, since it may be a repeated one.
        """
        ...


@dataclass(slots=True)
class _Bucket:
    """A bucket that a minute fills; `level` is None until it is first used."""

    level: float | None = None
    filled_at: int = 0

    def fill(self, capacity: int, now: int) -> float:
        gained = max(0, now - self.filled_at) * capacity / _MINUTE_MS
        self.level = capacity if self.level is None else min(capacity, self.level + gained)
        self.filled_at = now
        return self.level


@dataclass(slots=True)
class _Account:
    requests: _Bucket = field(default_factory=_Bucket)
    tokens: _Bucket = field(default_factory=_Bucket)
    day: int = -1
    day_tokens: int = 0
    lease_ends: dict[str, int] = field(default_factory=dict)
    charged: dict[str, int] = field(default_factory=dict)


class EmbeddedTenantLedger:
    """Counts in memory; no method awaits, so each is atomic."""

    def __init__(self, *, lease_seconds: float, clock: Callable[[], float] = time.time) -> None:
        """Start with nothing used; `clock` returns seconds since 1970 in UTC."""
        self._lease_ms = round(lease_seconds * 1000)
        self._clock = clock
        self._accounts: dict[str, _Account] = {}

    async def admit(self, tenant: str, limits: TenantLimits, request_id: str) -> Refusal | None:
        """Let a request of a tenant in and hold its place, or say why not."""
        account, now = self._account(tenant), self._now()
        for held, ends in list(account.lease_ends.items()):
            if ends <= now:
                del account.lease_ends[held], account.charged[held]
        if request_id in account.lease_ends:
            return None
        refusal = _check(account, limits, now)
        if refusal is not None:
            return refusal
        if account.requests.level is not None:
            account.requests.level -= 1
        account.lease_ends[request_id] = now + self._lease_ms
        account.charged[request_id] = 0
        return None

    async def charge(self, tenant: str, limits: TenantLimits, charges: Sequence[Charge]) -> None:
        """Count tokens, renew the places of running requests, free those of final ones."""
        account, now, spent = self._account(tenant), self._now(), 0
        for charge in charges:
            unknown = charge.total if charge.is_final else charge.acknowledged
            known = account.charged.pop(charge.request_id, unknown)
            account.lease_ends.pop(charge.request_id, None)
            spent += max(0, charge.total - known)
            if not charge.is_final:
                account.charged[charge.request_id] = max(known, charge.total)
                account.lease_ends[charge.request_id] = now + self._lease_ms
        if limits.tokens_per_minute:
            account.tokens.level = account.tokens.fill(limits.tokens_per_minute, now) - spent
        day = now // _DAY_MS
        account.day_tokens = spent + (account.day_tokens if account.day == day else 0)
        account.day = day

    def _account(self, tenant: str) -> _Account:
        return self._accounts.setdefault(tenant, _Account())

    def _now(self) -> int:
        return round(self._clock() * 1000)


def _check(account: _Account, limits: TenantLimits, now: int) -> Refusal | None:
    if limits.requests_at_once and len(account.lease_ends) >= limits.requests_at_once:
        return Refusal(REQUESTS_AT_ONCE, _RETRY_AT_ONCE_MS)
    if capacity := limits.requests_per_minute:
        level = account.requests.fill(capacity, now)
        if level < 1:
            return Refusal(REQUESTS_PER_MINUTE, math.ceil((1 - level) * _MINUTE_MS / capacity))
    if capacity := limits.tokens_per_minute:
        level = account.tokens.fill(capacity, now)
        if level < 1:
            return Refusal(TOKENS_PER_MINUTE, math.ceil((1 - level) * _MINUTE_MS / capacity))
    day = now // _DAY_MS
    used = account.day_tokens if account.day == day else 0
    if limits.tokens_per_day and used >= limits.tokens_per_day:
        return Refusal(TOKENS_PER_DAY, (day + 1) * _DAY_MS - now)
    return None

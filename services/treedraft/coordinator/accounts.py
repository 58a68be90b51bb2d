"""What each request of a tenant costs: let in within limits, charged as it runs, written down.

A request holds its place in the ledger by a lease that `renew` keeps up and
that carries what it has used so far. Its prompt is charged as soon as its session
runs, so that many requests at once cannot all find the same tokens unused; the last
charge comes when it ends. While the store
is away charges gather here and are brought in later.
"""

import asyncio
import itertools
import secrets
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass

import structlog

from treedraft.coordinator.audit import AuditLog
from treedraft.coordinator.request import GenerationRequest
from treedraft.coordinator.request_book import RequestBook
from treedraft.coordinator.session_store import tenant_ledger
from treedraft.coordinator.session_store.tenant_ledger import Charge, TenantLedger
from treedraft.coordinator.tenant import Tenant
from treedraft.core.errors import OverloadedError, TreedraftError

_log = structlog.get_logger(__name__)

_WORDS = {
    tenant_ledger.REQUESTS_AT_ONCE: "has as many requests at once as it may have",
    tenant_ledger.REQUESTS_PER_MINUTE: "has made its requests of this minute",
    tenant_ledger.TOKENS_PER_MINUTE: "has used its tokens of this minute",
    tenant_ledger.TOKENS_PER_DAY: "has used its tokens of this day",
}


@dataclass(slots=True, eq=False)
class _Place:
    """A request that counts against a tenant."""

    request_id: str
    tenant: Tenant
    request: GenerationRequest
    acknowledged: int = 0
    is_final: bool = False

    def charge(self) -> Charge:
        """Return what is to be charged by now."""
        return Charge(self.request_id, self.acknowledged, self.request.num_tokens, self.is_final)


class Accounts:
    """The requests of all tenants at this coordinator."""

    def __init__(
        self,
        ledger: TenantLedger,
        audit: AuditLog | None = None,
        book: RequestBook | None = None,
        *,
        new_id: Callable[[], str] = lambda: secrets.token_urlsafe(12),
    ) -> None:
        """Count in a ledger, note who runs in a book and write what ended to a log."""
        self._ledger = ledger
        self._audit = audit
        self._book = book or RequestBook()
        self._new_id = new_id
        self._running: dict[GenerationRequest, _Place] = {}
        self._ended: list[_Place] = []
        self._turn = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    async def enter(self, request: GenerationRequest) -> None:
        """Let a request in if its tenant has not used up what it may.

        Raises:
            OverloadedError: the limit that is reached, and when to come back.
            UnavailableError: STORE_UNAVAILABLE.
        """
        tenant = request.tenant
        self._book.enter(request)
        if tenant.limits.is_unlimited:
            return
        place = _Place(self._new_id(), tenant, request)
        try:
            refusal = await self._ledger.admit(tenant.name, tenant.limits, place.request_id)
        except BaseException:
            self._end(place)  # it may have been let in all the same
            raise
        if refusal is not None:
            raise OverloadedError(
                f"tenant {tenant.name} {_WORDS[refusal.reason]}",
                reason=refusal.reason,
                retry_after_ms=refusal.retry_after_ms,
            )
        self._running[request] = place

    def begin(self, request: GenerationRequest) -> None:
        """Charge the prompt of a request whose session runs, for the next request to meet."""
        if request in self._running:
            self._soon(
                self._charge_now(lambda: [place] if (place := self._running.get(request)) else [])
            )

    def leave(self, request: GenerationRequest) -> None:
        """Charge the rest of a request, free its place and write it down."""
        place = self._running.pop(request, None)
        if place is not None:
            self._end(place)
        self._book.leave(request)
        if self._audit is not None:
            self._audit.write(request.summary())

    def settle(self, request: GenerationRequest, num_charged: int) -> None:
        """Charge what came of a session after its request had left; the client may resume it."""
        if request.num_tokens > num_charged and not request.tenant.limits.is_unlimited:
            self._soon(self._charge_late(request, num_charged))

    async def renew(self) -> None:
        """Charge what was used since the last time and keep the places of running requests.

        Raises:
            UnavailableError: STORE_UNAVAILABLE.
        """
        await self._charge_all(lambda: [*self._running.values(), *self._ended])

    async def close(self) -> None:
        """Bring in the last charges, if the store takes them."""
        while self._tasks:
            await asyncio.gather(*self._tasks)

    def _end(self, place: _Place) -> None:
        place.is_final = True
        self._ended.append(place)
        self._soon(self._charge_now(lambda: self._ended))

    def _soon(self, charge: Coroutine[None, None, None]) -> None:
        # On a task of its own: the request's may be cancelled, and should not wait.
        task = asyncio.create_task(charge)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _charge_now(self, due: Callable[[], Sequence[_Place]]) -> None:
        try:
            await self._charge_all(due)
        except TreedraftError as error:
            _log.warning("charged later", num_requests=len(due()), why=error.message)

    async def _charge_late(self, request: GenerationRequest, num_charged: int) -> None:
        tenant, request_id, total = request.tenant, self._new_id(), request.num_tokens
        charges = (
            Charge(request_id, num_charged, total),
            Charge(request_id, total, total, is_final=True),
        )
        try:
            await self._ledger.charge(tenant.name, tenant.limits, charges)
        except TreedraftError as error:
            _log.warning("not charged", num_tokens=total - num_charged, why=error.message)

    async def _charge_all(self, due: Callable[[], Sequence[_Place]]) -> None:
        async with self._turn:
            places = sorted(due(), key=lambda place: place.tenant.name)
            for _, group in itertools.groupby(places, key=lambda place: place.tenant.name):
                await self._charge(list(group))

    async def _charge(self, places: list[_Place]) -> None:
        tenant = places[-1].tenant
        charges = [place.charge() for place in places]
        await self._ledger.charge(tenant.name, tenant.limits, charges)
        for place, charge in zip(places, charges, strict=True):
            place.acknowledged = charge.total
            if charge.is_final:
                self._ended.remove(place)

import asyncio
from types import SimpleNamespace

import pytest
from tests.unit.coordinator.support import until

from treedraft.coordinator.accounts import Accounts
from treedraft.coordinator.audit import RequestSummary
from treedraft.coordinator.session_store.tenant_ledger import Charge, Refusal
from treedraft.coordinator.tenant import ANONYMOUS, Tenant, TenantLimits
from treedraft.core.errors import OverloadedError, UnavailableError
from treedraft.core.session import SessionStatistics

LIMITED = Tenant("acme", b"salt", TenantLimits(requests_at_once=1))


class ScriptedLedger:
    """Notes what it is told, and is away when the test says so."""

    def __init__(self):
        self.admitted, self.charges = [], []
        self.refusal, self.is_away = None, False
        self.answers = asyncio.Event()
        self.answers.set()

    async def admit(self, tenant, limits, request_id):
        self.admitted.append((tenant, request_id))
        await self._answer()
        return self.refusal

    async def charge(self, tenant, limits, charges):
        await self._answer()
        self.charges.append(tuple(charges))

    async def _answer(self):
        await self.answers.wait()
        if self.is_away:
            raise UnavailableError("away", reason="STORE_UNAVAILABLE")


class Request(SimpleNamespace):
    """A request that has used some tokens."""

    session = None
    counts = SessionStatistics()
    span = SimpleNamespace(span_id="")
    __hash__ = object.__hash__

    def summary(self):
        return RequestSummary(
            tenant=self.tenant.name,
            session_id="",
            trace_id="",
            model="toy",
            drafters=(),
            outcome="stop",
            prompt_tokens=0,
            output_tokens=self.num_tokens,
            drafted_tokens=None,
            accepted_tokens=None,
            rejected_tokens=None,
            seconds=0.0,
        )


@pytest.fixture
def ledger():
    return ScriptedLedger()


@pytest.fixture
def accounts(ledger):
    ids = iter("abc")
    return Accounts(ledger, new_id=lambda: next(ids))


async def test_a_tenant_without_limits_costs_no_call(ledger, accounts):
    request = Request(tenant=ANONYMOUS, num_tokens=3)
    await accounts.enter(request)
    await accounts.renew()
    accounts.leave(request)
    await accounts.close()
    assert (ledger.admitted, ledger.charges) == ([], [])


async def test_a_refusal_says_who_why_and_when(ledger, accounts):
    ledger.refusal = Refusal("TENANT_TOKENS_PER_DAY", 77)
    request = Request(tenant=LIMITED, num_tokens=0)
    with pytest.raises(OverloadedError, match="acme") as caught:
        await accounts.enter(request)
    assert (caught.value.reason, caught.value.retry_after_ms) == ("TENANT_TOKENS_PER_DAY", 77)
    accounts.leave(request)
    await accounts.close()
    assert ledger.charges == []  # what was not let in gives nothing back


async def test_what_could_not_be_charged_is_charged_later_and_once(ledger, accounts):
    request = Request(tenant=LIMITED, num_tokens=3)
    await accounts.enter(request)
    await accounts.renew()
    request.num_tokens = 8
    ledger.is_away = True
    with pytest.raises(UnavailableError):
        await accounts.renew()
    accounts.leave(request)
    await accounts.close()
    ledger.is_away = False
    await accounts.renew()
    await accounts.renew()
    assert ledger.charges == [(Charge("a", 0, 3),), (Charge("a", 3, 8, is_final=True),)]


async def test_whose_client_leaves_before_the_answer_gives_the_place_back(ledger, accounts):
    ledger.answers.clear()
    entering = asyncio.create_task(accounts.enter(Request(tenant=LIMITED, num_tokens=0)))
    await asyncio.sleep(0)
    entering.cancel()
    await asyncio.gather(entering, return_exceptions=True)
    ledger.answers.set()
    await accounts.close()
    assert ledger.charges == [(Charge("a", 0, 0, is_final=True),)]


async def test_what_a_session_says_after_its_client_left_is_charged_in_the_end(ledger, accounts):
    request = Request(tenant=LIMITED, num_tokens=3)
    await accounts.enter(request)
    accounts.leave(request)
    await until(lambda: len(ledger.charges) == 1)
    request.num_tokens = 8
    accounts.settle(request, 3)
    accounts.settle(request, 8)  # nothing came
    await accounts.close()
    assert ledger.charges[1:] == [(Charge("b", 3, 8), Charge("b", 8, 8, is_final=True))]

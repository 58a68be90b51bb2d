"""One contract, two ledgers: the embedded one, and Redis in a real redis-server."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field

import pytest
from tests.unit.coordinator.redis_server import redis_server

from treedraft.coordinator.session_store.redis_connection import connect
from treedraft.coordinator.session_store.redis_ledger import RedisTenantLedger
from treedraft.coordinator.session_store.tenant_ledger import (
    Charge,
    EmbeddedTenantLedger,
    Refusal,
    TenantLedger,
)
from treedraft.coordinator.tenant import TenantLimits
from treedraft.core.errors import UnavailableError

LEASE = 10.0
DAY = 86_400.0
NOON = 1_800_000_000 // 86_400 * 86_400 + 43_200.0


@dataclass
class Harness:
    """A ledger and its clock; `other` is what a second coordinator sees."""

    ledger: TenantLedger
    other: TenantLedger
    now: list[float] = field(default_factory=lambda: [NOON])

    async def admit(self, request_id, tenant="acme", **limits) -> Refusal | None:
        return await self.ledger.admit(tenant, TenantLimits(**limits), request_id)

    async def reason(self, request_id, tenant="acme", **limits) -> str:
        refusal = await self.admit(request_id, tenant, **limits)
        return refusal.reason if refusal else ""

    async def charge(self, *charges: Charge, tenant="acme", **limits) -> None:
        await self.ledger.charge(tenant, TenantLimits(**limits), charges)

    def advance(self, seconds: float) -> None:
        self.now[0] += seconds


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory) -> Iterator[str]:
    with redis_server(tmp_path_factory.mktemp("redis")) as url:
        yield url


@pytest.fixture(params=["embedded", "redis"])
async def harness(request) -> AsyncIterator[Harness]:
    now = [NOON]
    if request.param == "embedded":
        ledger = EmbeddedTenantLedger(lease_seconds=LEASE, clock=lambda: now[0])
        yield Harness(ledger, ledger, now)
        return
    client = connect(request.getfixturevalue("redis_url"))
    await client.flushall()
    first, second = (
        RedisTenantLedger(client, lease_seconds=LEASE, clock=lambda: now[0]) for _ in range(2)
    )
    yield Harness(first, second, now)
    await client.aclose()


async def test_requests_at_once_are_held_until_they_end(harness):
    assert await harness.reason("a", requests_at_once=2) == ""
    assert await harness.reason("b", requests_at_once=2) == ""
    refusal = await harness.admit("c", requests_at_once=2)
    assert refusal == Refusal("TENANT_REQUESTS_AT_ONCE", 1000)
    await harness.charge(Charge("a", 0, 5, is_final=True))
    assert await harness.reason("c", requests_at_once=2) == ""
    assert await harness.reason("d", requests_at_once=2) == "TENANT_REQUESTS_AT_ONCE"


async def test_all_coordinators_count_together(harness):
    limits = TenantLimits(requests_at_once=1)
    assert await harness.ledger.admit("acme", limits, "a") is None
    assert await harness.other.admit("acme", limits, "b") is not None
    await harness.other.charge("acme", limits, [Charge("a", 0, 0, is_final=True)])
    assert await harness.other.admit("acme", limits, "b") is None


async def test_what_a_dead_coordinator_held_is_free_when_its_lease_ends(harness):
    assert await harness.reason("a", requests_at_once=1) == ""
    harness.advance(LEASE - 1)
    assert await harness.reason("b", requests_at_once=1) == "TENANT_REQUESTS_AT_ONCE"
    harness.advance(2)
    assert await harness.reason("b", requests_at_once=1) == ""


async def test_a_charge_renews_the_lease_and_takes_a_lost_place_again(harness):
    assert await harness.reason("a", requests_at_once=1) == ""
    for _ in range(3):
        harness.advance(LEASE - 1)
        await harness.charge(Charge("a", 0, 0))
    assert await harness.reason("b", requests_at_once=1) == "TENANT_REQUESTS_AT_ONCE"
    harness.advance(2 * LEASE)
    assert await harness.reason("b", requests_at_once=1) == ""
    await harness.charge(Charge("a", 0, 0))
    await harness.charge(Charge("b", 0, 0, is_final=True))
    assert await harness.reason("c", requests_at_once=1) == "TENANT_REQUESTS_AT_ONCE"


async def test_a_repeated_admission_is_one(harness):
    limits = {"requests_at_once": 1, "requests_per_minute": 2}
    assert [await harness.reason("a", **limits) for _ in range(4)] == [""] * 4
    await harness.charge(Charge("a", 0, 0, is_final=True))
    assert await harness.reason("b", **limits) == ""


async def test_requests_per_minute_come_back_one_by_one(harness):
    limits = {"requests_per_minute": 3}
    assert [await harness.reason(name, **limits) for name in "abc"] == [""] * 3
    assert await harness.admit("d", **limits) == Refusal("TENANT_REQUESTS_PER_MINUTE", 20_000)
    harness.advance(5)
    assert await harness.admit("d", **limits) == Refusal("TENANT_REQUESTS_PER_MINUTE", 15_000)
    harness.advance(15)
    assert await harness.reason("d", **limits) == ""
    assert await harness.reason("e", **limits) == "TENANT_REQUESTS_PER_MINUTE"
    harness.advance(3600)  # no more than a minute's worth gathers
    assert [await harness.reason(name, **limits) for name in "fghi"] == [
        *[""] * 3,
        "TENANT_REQUESTS_PER_MINUTE",
    ]


async def test_who_overdrew_tokens_waits_until_the_bucket_is_above_zero(harness):
    limits = {"tokens_per_minute": 600}
    assert await harness.reason("a", **limits) == ""
    await harness.charge(Charge("a", 0, 900, is_final=True), **limits)
    assert await harness.admit("b", **limits) == Refusal("TENANT_TOKENS_PER_MINUTE", 30_100)
    harness.advance(30.0)
    assert await harness.admit("b", **limits) == Refusal("TENANT_TOKENS_PER_MINUTE", 100)
    harness.advance(0.1)
    assert await harness.reason("b", **limits) == ""


async def test_a_charge_counts_once_however_often_it_comes(harness):
    limits = {"tokens_per_day": 100}
    assert await harness.reason("a", **limits) == ""
    for charge in (Charge("a", 0, 40), Charge("a", 0, 40), Charge("a", 40, 60)):
        await harness.charge(charge, **limits)
    for _ in range(3):
        await harness.charge(Charge("a", 60, 99, is_final=True), **limits)
    assert await harness.reason("b", **limits) == ""
    await harness.charge(Charge("b", 0, 1, is_final=True), **limits)
    assert await harness.reason("c", **limits) == "TENANT_TOKENS_PER_DAY"


async def test_several_requests_are_charged_together(harness):
    limits = {"tokens_per_day": 100, "requests_at_once": 2}
    assert [await harness.reason(name, **limits) for name in "ab"] == ["", ""]
    await harness.charge(Charge("a", 0, 50, is_final=True), Charge("b", 0, 49), **limits)
    assert await harness.reason("c", **limits) == ""
    await harness.charge(Charge("b", 49, 50), Charge("c", 0, 0, is_final=True), **limits)
    assert await harness.admit("d", **limits) == Refusal("TENANT_TOKENS_PER_DAY", 43_200_000)


async def test_the_days_tokens_begin_anew_at_midnight(harness):
    limits = {"tokens_per_day": 10}
    assert await harness.reason("a", **limits) == ""
    await harness.charge(Charge("a", 0, 10, is_final=True), **limits)
    harness.advance(DAY / 2 - 1)
    assert await harness.admit("b", **limits) == Refusal("TENANT_TOKENS_PER_DAY", 1000)
    harness.advance(1)
    assert await harness.reason("b", **limits) == ""
    await harness.charge(Charge("b", 0, 9, is_final=True), **limits)
    assert await harness.reason("c", **limits) == ""


async def test_a_refused_request_uses_nothing_up(harness):
    limits = {"requests_per_minute": 1, "tokens_per_day": 1}
    assert await harness.reason("a", **limits) == ""
    await harness.charge(Charge("a", 0, 1, is_final=True), **limits)
    harness.advance(60)
    for name in "bc":
        assert await harness.reason(name, **limits) == "TENANT_TOKENS_PER_DAY"
    assert await harness.reason("d", requests_per_minute=1) == ""


async def test_tenants_do_not_count_against_each_other(harness):
    limits = {"requests_at_once": 1, "requests_per_minute": 1, "tokens_per_day": 1}
    assert await harness.reason("a", "acme", **limits) == ""
    await harness.charge(Charge("a", 0, 9), tenant="acme", **limits)
    assert await harness.reason("a", "other", **limits) == ""


async def test_a_lower_limit_holds_at_once(harness):
    assert await harness.reason("a", requests_per_minute=100) == ""
    assert await harness.reason("b", requests_per_minute=1) == ""
    assert await harness.reason("c", requests_per_minute=1) == "TENANT_REQUESTS_PER_MINUTE"


async def test_without_a_clock_the_time_is_that_of_redis(redis_url):
    client = connect(redis_url)
    await client.flushall()
    ledger, limits = RedisTenantLedger(client, lease_seconds=LEASE), TenantLimits(1, 1, 1, 1)
    assert await ledger.admit("acme", limits, "a") is None
    await ledger.charge("acme", limits, [Charge("a", 0, 9, is_final=True)])
    seconds, _ = await client.time()
    kept = {
        name.decode(): float(value)
        for name, value in (await client.hgetall("treedraft:tenant:{acme}")).items()
    }
    await client.aclose()
    assert abs(kept["tokens_at"] / 1000 - seconds) < 5
    assert (kept["day"], kept["day_tokens"]) == (seconds // 86_400, 9)


async def test_a_ledger_that_is_away_says_so(tmp_path):
    client = connect(f"unix://{tmp_path}/nobody.sock", timeout_seconds=0.2)
    ledger = RedisTenantLedger(client, lease_seconds=LEASE)
    with pytest.raises(UnavailableError) as caught:
        await ledger.admit("acme", TenantLimits(1), "a")
    assert caught.value.reason == "STORE_UNAVAILABLE"
    await client.aclose()


async def test_what_came_after_the_end_is_charged_by_a_request_of_its_own(harness):
    day = {"tokens_per_day": 10}
    assert await harness.reason("a", **day) == ""
    await harness.charge(Charge("a", 0, 6, is_final=True), **day)
    assert await harness.reason("b", **day) == ""
    await harness.charge(Charge("b", 0, 0, is_final=True), **day)
    await harness.charge(Charge("c", 6, 10), Charge("c", 10, 10, is_final=True), **day)
    assert await harness.reason("d", **day) == "TENANT_TOKENS_PER_DAY"

"""Whatever happens, and however often it is said, a ledger counts each token once."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from treedraft.coordinator.session_store.tenant_ledger import Charge, EmbeddedTenantLedger
from treedraft.coordinator.tenant import TenantLimits

STEPS = st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(0, 9), st.integers(1, 3), st.booleans()),
    max_size=30,
)


@given(STEPS)
def test_the_days_tokens_are_those_that_requests_used(steps):
    async def run() -> None:
        ledger = EmbeddedTenantLedger(lease_seconds=1e6, clock=lambda: 1e9)
        free, total, ended = TenantLimits(), dict.fromkeys("abc", 0), set()
        for name in total:
            await ledger.admit("t", free, name)
        for name, more, repeats, is_final in steps:
            if name in ended:
                continue
            before, total[name] = total[name], total[name] + more
            for _ in range(repeats):
                await ledger.charge("t", free, [Charge(name, before, total[name], is_final)])
            ended |= {name} if is_final else set()
        used = sum(total.values())
        if used:
            exact = TenantLimits(tokens_per_day=used)
            assert await ledger.admit("t", exact, "next") is not None
        assert await ledger.admit("t", TenantLimits(tokens_per_day=used + 1), "next") is None

    asyncio.run(run())


@given(st.lists(st.tuples(st.integers(0, 20_000), st.booleans()), max_size=40), st.integers(1, 5))
def test_no_stretch_of_time_has_more_requests_than_bucket_and_refill(steps, capacity):
    async def run() -> None:
        now = [0]
        ledger = EmbeddedTenantLedger(lease_seconds=1, clock=lambda: now[0] / 1000)
        limits, admitted = TenantLimits(requests_per_minute=capacity), []
        for number, (pause_ms, waits) in enumerate(steps):
            now[0] += pause_ms
            refusal = await ledger.admit("t", limits, str(number))
            if refusal is not None and waits:
                now[0] += refusal.retry_after_ms
                # Who comes again when told to is let in.
                assert await ledger.admit("t", limits, str(number)) is None
                refusal = None
            if refusal is None:
                admitted.append(now[0])
        for first, begin in enumerate(admitted):
            for last in range(first, len(admitted)):
                refilled = (admitted[last] - begin) * capacity / 60_000
                assert last - first + 1 <= capacity + refilled + 1e-6

    asyncio.run(run())

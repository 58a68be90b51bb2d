"""Sessions whose client broke off: they wait for it, end when told to, and begin once."""

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from tests.integration.test_resume import STORE, begin, holding, resume, store, two_coordinators
from tests.unit.coordinator.cluster import HELLO, a_cluster, ask, failure_of, text_of
from tests.unit.coordinator.redis_server import redis_server
from tests.unit.coordinator.support import (
    FakeTarget,
    a_target,
    encode,
    output,
    says,
    serving,
    until,
)
from tests.waiting import patience

from treedraft.coordinator.session_store.embedded import EmbeddedSessionStore
from treedraft.coordinator.use_cases import Caller, UseCases
from treedraft.core.errors import (
    CancelledError,
    InvalidRequestError,
    SessionConflictError,
    SessionNotFoundError,
    TokensMismatchError,
    TreedraftError,
    UnavailableError,
)
from treedraft.core.generation import Finished, Started
from treedraft.core.sampling import SamplingParameters, Verification
from treedraft.core.session import FinishReason

__all__ = ["store"]

KEYED = replace(HELLO, idempotency_key="a key")


@asynccontextmanager
async def a_patient_cluster(grace: float = 30.0, **settings):
    async with a_cluster(store=STORE, disconnect_grace_seconds=grace, **settings) as cluster:
        yield cluster


async def test_a_session_goes_on_while_its_client_is_away(store):
    async with a_patient_cluster(**store) as cluster:
        target = FakeTarget()
        await cluster.add_target(target)
        events, spec = await begin(cluster, target, HELLO, "one")
        await events.aclose()
        target.say(output(spec, 3, encode(" two"), FinishReason.STOP))
        await until(lambda: target.logged.get(spec.session_id) == len(spec.token_ids) + 3)
        answer = await resume(cluster.client, holding(spec.session_id, "on"))
        assert text_of(answer) == "e two"
        assert answer[-1].reason is FinishReason.STOP
        assert target.cancelled == []


async def test_a_session_that_nobody_comes_back_for_is_cancelled(store):
    async with a_patient_cluster(grace=0.1, **store) as cluster:
        target = FakeTarget()
        await cluster.add_target(target)
        events, spec = await begin(cluster, target, HELLO, "one")
        await events.aclose()
        await until(lambda: target.cancelled == [spec.session_id])
        await until_closed(cluster, spec.session_id)


async def until_closed(cluster, session_id):
    """Wait until the log says that the session was cancelled."""
    async with patience():
        while True:
            answer = await resume(cluster.client, holding(session_id, "one"))
            if answer[-1].reason is FinishReason.CANCELLED:
                return


async def test_who_reads_learns_that_the_session_was_cancelled(store):
    async with a_patient_cluster(**store) as cluster:
        target = FakeTarget()
        await cluster.add_target(target)
        events, spec = await begin(cluster, target, HELLO, "one")
        await cluster.client.cancel(spec.session_id)
        with pytest.raises(CancelledError):
            await anext(events)
        await until(lambda: target.cancelled == [spec.session_id])
        await until_closed(cluster, spec.session_id)
        for session_id in (spec.session_id, "nobody"):  # neither ended nor unknown is an error
            await cluster.client.cancel(session_id)


async def test_any_coordinator_cancels(tmp_path):
    async with two_coordinators(tmp_path) as (one, two):
        target = FakeTarget()
        await two.add_target(target)
        await one.until_serves("toy")
        events, spec = await begin(one, target, HELLO, "one")
        await two.client.cancel(spec.session_id)
        target.say(output(spec, 3, encode(" more")))  # the log of these is refused
        with pytest.raises(SessionConflictError):
            async for _ in events:
                pass
        await until(lambda: target.cancelled == [spec.session_id])


async def test_one_key_is_one_session_however_often_it_is_asked(store):
    async with a_patient_cluster(**store) as cluster:
        await cluster.add_target(FakeTarget(script=says("one two")))
        first, *_ = answer = await ask(cluster.client, KEYED)
        again = await ask(cluster.client, KEYED)
        assert replace(again[0], trace_id=first.trace_id) == first
        assert text_of(again) == text_of(answer) == "one two"
        other = await ask(cluster.client, replace(KEYED, idempotency_key="another"))
        assert other[0].session_id != first.session_id


async def test_a_key_is_for_one_request(store):
    async with a_patient_cluster(**store) as cluster:
        await cluster.add_target(FakeTarget(script=says("one two")))
        await ask(cluster.client, KEYED)
        error = await failure_of(cluster.client, replace(KEYED, text="goodbye"))
        assert isinstance(error, InvalidRequestError)
        assert (error.reason, error.field) == ("IDEMPOTENCY_KEY_REUSED", "idempotency_key")
        with pytest.raises(InvalidRequestError, match="at most 128"):
            replace(HELLO, idempotency_key="k" * 129)


async def test_a_key_asked_for_twice_at_once_begins_one_session(store):
    async with a_patient_cluster(**store) as cluster:
        target = FakeTarget()
        await cluster.add_target(target)
        calls = [asyncio.create_task(ask(cluster.client, KEYED)) for _ in range(2)]
        await until(lambda: any(spec.epoch > 1 for spec in target.started.values()))
        (spec,) = target.started.values()
        target.say(output(spec, 0, encode("one"), FinishReason.STOP))
        results = await asyncio.gather(*calls, return_exceptions=True)
        texts = [text_of(result) for result in results if isinstance(result, list)]
        assert texts == ["one"]  # the later one has it; the earlier one was told so


async def test_what_a_store_lost_is_put_back_for_a_client_that_comes_back(tmp_path):
    with redis_server(tmp_path) as url:
        async with a_patient_cluster(redis=url) as cluster:
            await cluster.add_target(FakeTarget(script=says("one two")))
            started, *_, finished = await ask(cluster.client, HELLO)
            assert isinstance(started, Started)
            assert isinstance(finished, Finished)
            await empty(url)
            answer = await resume(cluster.client, holding(started.session_id, "one"))
            assert text_of(answer) == " two"
            assert answer[-1].reason is FinishReason.STOP


async def test_a_store_that_was_emptied_gets_back_what_ended_a_moment_ago(tmp_path):
    async with two_coordinators(tmp_path, disconnect_grace_seconds=5.0) as (one, two):
        target = FakeTarget(script=says("one two"))
        await two.add_target(target)
        await one.until_serves("toy")
        started, *_ = await ask(one.client, HELLO)
        await empty(f"unix://{tmp_path / 'redis.sock'}")
        async with patience():
            while True:  # the first coordinator notices; the other one is asked
                try:
                    answer = await resume(two.client, holding(started.session_id, "one"))
                    break
                except SessionNotFoundError:
                    await asyncio.sleep(0.02)
        assert text_of(answer) == " two"


async def empty(url):
    from treedraft.coordinator.session_store.redis_connection import connect

    redis = connect(url)
    await redis.flushall()
    await redis.aclose()


async def test_who_resumes_a_session_in_the_middle_of_a_move_has_it(store):
    async with a_patient_cluster(failover={"wait_seconds": 60.0}, **store) as cluster:
        first, second = FakeTarget(), FakeTarget()
        leave = await cluster.add_target(first)
        events, spec = await begin(cluster, first, HELLO, "one")
        leave.cancel()
        await cluster.until_known("t1", is_known=False)
        first.hang_up()  # there is no other target: the session waits to move
        other = await cluster.stack.enter_async_context(serving(second))
        earlier = asyncio.create_task(anext(events))
        await asyncio.sleep(0.1)
        resuming = asyncio.create_task(resume_when_served(cluster, spec.session_id))
        await cluster.announce(a_target("t2", endpoint=other))
        with pytest.raises(SessionConflictError):
            await earlier
        async with patience():
            while not resuming.done():  # whichever start of the session is the reader's own
                for latest in list(second.started.values()):
                    second.say(output(latest, 3, encode(" two"), FinishReason.STOP))
                await asyncio.sleep(0.02)
        assert text_of(await resuming) == " two"


async def resume_when_served(cluster, session_id):
    """Resume, again and again until a target serves the model."""
    async with patience():
        while True:
            try:
                return await resume(cluster.client, holding(session_id, "one"))
            except UnavailableError:
                await asyncio.sleep(0.01)


async def test_a_coordinator_that_goes_away_leaves_its_sessions_to_the_others(tmp_path):
    async with two_coordinators(tmp_path) as (one, two):
        target = FakeTarget()
        await two.add_target(target)
        await one.until_serves("toy")
        events, spec = await begin(one, target, HELLO, "one")
        await one.stop()
        with pytest.raises(TreedraftError):
            await anext(events)
        resuming = asyncio.create_task(resume(two.client, holding(spec.session_id, "one")))
        await until(lambda: target.started[spec.session_id].epoch > 1)
        second = target.started[spec.session_id]
        target.say(output(second, 3, encode(" two"), FinishReason.STOP))
        assert text_of(await resuming) == " two"


@pytest.fixture
def use_cases(monkeypatch):
    """Give what is asked of the coordinators that a test starts, past their doors."""
    made = []

    class Noted(UseCases):
        def __init__(self, *parts):
            super().__init__(*parts)
            made.append(self)

    monkeypatch.setattr("treedraft.coordinator.__main__.UseCases", Noted)
    return made


async def test_who_leaves_before_all_choices_have_begun_leaves_none_behind(use_cases):
    async with a_patient_cluster() as cluster:
        target = FakeTarget()
        await cluster.add_target(target)
        choices = [replace(HELLO, choice=number) for number in range(3)]
        events = use_cases[0].generate_choices(choices, Caller())
        await anext(events)  # one has begun; that the others have as well, nobody has read yet
        await until(lambda: len(target.started) == 3)
        await events.aclose()
        await until(lambda: sorted(target.cancelled) == sorted(target.started))


async def test_a_session_outlives_a_claim_that_fails_and_a_store_that_forgets(monkeypatch):
    stores, is_away = [], asyncio.Event()
    claim = EmbeddedSessionStore.claim

    async def claim_or_fail(self, session_id, **options):
        if is_away.is_set():
            stores.append(self)
            raise UnavailableError("away", reason="STORE_UNAVAILABLE")
        return await claim(self, session_id, **options)

    monkeypatch.setattr(EmbeddedSessionStore, "claim", claim_or_fail)
    async with a_patient_cluster() as cluster:
        target = FakeTarget()
        await cluster.add_target(target)
        events, spec = await begin(cluster, target, HELLO, "one")
        await events.aclose()
        is_away.set()
        with pytest.raises(UnavailableError):
            await resume(cluster.client, holding(spec.session_id, "on"))
        stores[0]._sessions.clear()  # it was away because it began anew
        is_away.clear()
        resuming = asyncio.create_task(resume(cluster.client, holding(spec.session_id, "on")))
        await until(lambda: target.started[spec.session_id].epoch > 1)
        again = target.started[spec.session_id]
        target.say(output(again, 3, encode(" two"), FinishReason.STOP))
        assert text_of(await resuming) == "e two"


async def test_in_rejection_mode_a_log_that_lacks_what_was_shown_begins_no_other_text(use_cases):
    by_rejection = replace(
        HELLO, sampling=SamplingParameters(seed=3, verification=Verification.REJECTION)
    )
    async with a_patient_cluster() as cluster:
        target = FakeTarget()
        await cluster.add_target(target)
        events, spec = await begin(cluster, target, by_rejection, "one")
        record = await use_cases[0]._coordinator._store.load(spec.session_id)
        with pytest.raises(TokensMismatchError):  # shown by an owner that has yet to put it back
            await resume(cluster.client, holding(spec.session_id, "one two"))
        after = await use_cases[0]._coordinator._store.load(spec.session_id)
        assert (after.epoch, after.output_token_ids) == (record.epoch, record.output_token_ids)
        target.say(output(spec, 3, encode(" two"), FinishReason.STOP))  # its reader goes on
        assert text_of([event async for event in events]).endswith(" two")

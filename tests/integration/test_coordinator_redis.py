"""The coordinator over a real Redis: what it keeps there, and how it does without."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace

import pytest
from tests.unit.coordinator.cluster import HELLO, a_cluster, ask, failure_of, text_of, tokens_of
from tests.unit.coordinator.redis_server import redis_server
from tests.unit.coordinator.support import FakeTarget, encode, output, says, until
from tests.waiting import patience

from treedraft.coordinator.session_store.redis_connection import connect
from treedraft.coordinator.session_store.redis_store import RedisSessionStore
from treedraft.core.sampling import SamplingParameters, Verification
from treedraft.core.session import FinishReason

STORE = {"refresh_seconds": 0.05, "log_interval_seconds": 0.0, "redis_timeout_seconds": 20.0}
# Where Redis goes away, for good: how long what cannot be logged is kept.
FORSAKEN = {**STORE, "log_patience_seconds": 0.3}


@pytest.fixture
def redis(tmp_path) -> Iterator[str]:
    with redis_server(tmp_path) as url:
        yield url


def reader(url: str) -> RedisSessionStore:
    """Return a second pair of eyes on the store."""
    return RedisSessionStore(
        connect(url), session_ttl_seconds=60, lease_seconds=10, worker_ttl_seconds=10
    )


async def test_a_session_is_kept_whole(redis):
    async with a_cluster(redis=redis, store=STORE) as cluster:
        await cluster.add_target(FakeTarget(script=says("wörld")))
        started, *_ = await ask(cluster.client, HELLO)
        store = reader(redis)
        record = await store.load(started.session_id)
        assert list(record.request.prompt_token_ids) == encode("hello")
        assert list(record.output_token_ids) == encode("wörld")
        assert record.finish_reason is FinishReason.STOP
        assert record.request.sampling.seed == 3
        assert (record.placement.target_id, record.owner, record.epoch) == ("t1", "", 1)
        await store.close()


async def test_a_session_that_the_store_loses_as_it_begins_is_kept_again(redis, monkeypatch):
    place, num_placed = RedisSessionStore.place, 0

    async def place_in_an_emptied_store(store, *args, **options) -> None:
        nonlocal num_placed
        num_placed += 1
        if num_placed == 1:
            await store._redis.flushall()
        await place(store, *args, **options)

    monkeypatch.setattr(RedisSessionStore, "place", place_in_an_emptied_store)
    async with a_cluster(redis=redis, store=STORE) as cluster:
        await cluster.add_target(FakeTarget(script=says("wörld")))
        assert text_of(await ask(cluster.client, HELLO)) == "wörld"
    assert num_placed > 1


async def test_an_abandoned_session_is_closed_in_the_store(redis):
    async with a_cluster(redis=redis, store=STORE) as cluster:
        target = FakeTarget()
        await cluster.add_target(target)
        asking = asyncio.create_task(ask(cluster.client, HELLO))
        spec = await target.session()
        asking.cancel()
        await until(lambda: target.cancelled == [spec.session_id])
        store = reader(redis)
        async with patience():
            while (await store.load(spec.session_id)).finish_reason is None:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert (await store.load(spec.session_id)).finish_reason is FinishReason.CANCELLED
        await store.close()


async def test_workers_of_one_coordinator_serve_the_requests_of_another(redis):
    async with (
        a_cluster(redis=redis, store=STORE) as one,
        a_cluster(redis=redis, store=STORE, coordinator_id="c2") as two,
    ):
        target = FakeTarget(script=says("shared"))
        await one.add_target(target)
        await two.until_serves("toy")
        assert text_of(await ask(two.client, HELLO)) == "shared"
        assert target.coordinator_ids == ["c2"]


async def test_a_newer_owner_ends_the_stream(redis):
    async with a_cluster(redis=redis, store=STORE) as cluster:
        target = FakeTarget()
        await cluster.add_target(target)
        asking = asyncio.create_task(failure_of(cluster.client, HELLO))
        spec = await target.session()
        store = reader(redis)
        await store.claim(spec.session_id, owner="c1")
        target.say(output(spec, 0, [1]))
        assert (await asking).reason == "STALE_EPOCH"
        await until(lambda: target.cancelled == [spec.session_id])
        assert (await store.load(spec.session_id)).output_token_ids == ()
        await store.close()


async def test_a_running_stream_outlives_redis_and_new_ones_fail_clearly(tmp_path):
    with redis_server(tmp_path) as url:
        cluster_context = a_cluster(redis=url, store=FORSAKEN)
        cluster = await cluster_context.__aenter__()
        target = FakeTarget()
        await cluster.add_target(target)
        asking = asyncio.create_task(ask(cluster.client, HELLO))
        spec = await target.session()
        target.say(output(spec, 0, [1]))
        await until(lambda: target.logged.get(spec.session_id) == 6)
    target.say(output(spec, 1, [2, 3], FinishReason.LENGTH))
    assert tokens_of(await asking) == [1, 2, 3]
    assert (await failure_of(cluster.client, HELLO)).reason == "STORE_UNAVAILABLE"
    await cluster_context.__aexit__(None, None, None)


async def test_in_rejection_mode_nothing_is_shown_that_is_not_logged(tmp_path):
    query = replace(HELLO, sampling=SamplingParameters(seed=3, verification=Verification.REJECTION))
    with redis_server(tmp_path) as url:
        cluster_context = a_cluster(redis=url, store=FORSAKEN)
        cluster = await cluster_context.__aenter__()
        target = FakeTarget()
        await cluster.add_target(target)
        shown = []

        async def read() -> None:
            async for event in cluster.client.generate(query):
                shown.append(event)

        asking = asyncio.create_task(read())
        spec = await target.session()
        target.say(output(spec, 0, [1]))
        await until(lambda: tokens_of(shown) == [1])
    target.say(output(spec, 1, [2], FinishReason.LENGTH))
    await asyncio.wait([asking])
    assert asking.exception().reason == "STORE_UNAVAILABLE"
    assert tokens_of(shown) == [1]
    await cluster_context.__aexit__(None, None, None)


async def test_workers_come_back_to_an_empty_redis(tmp_path):
    with redis_server(tmp_path) as url:
        cluster_context = a_cluster(redis=url, store=STORE)
        cluster = await cluster_context.__aenter__()
        await cluster.add_target(FakeTarget(script=says("x")))
    with redis_server(tmp_path) as url:
        store = reader(url)
        async with patience():
            while not await store.list_workers():  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        assert text_of(await ask(cluster.client, HELLO)) == "x"
        await store.close()
        await cluster_context.__aexit__(None, None, None)

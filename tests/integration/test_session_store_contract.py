"""One contract, two stores: the embedded one, and Redis in a real redis-server."""

import asyncio
from dataclasses import replace

import pytest
from tests.integration.session_stores import (
    LEASE,
    SESSION_TTL,
    a_request,
    conflict_of,
    harness,
    redis_store,
    redis_url,
)

from treedraft.coordinator.session_store import protocol
from treedraft.coordinator.session_store.records import SessionPlacement
from treedraft.coordinator.session_store.redis_connection import connect
from treedraft.coordinator.session_store.redis_store import RedisSessionStore
from treedraft.core.errors import SessionConflictError, SessionNotFoundError, UnavailableError
from treedraft.core.session import FinishReason
from treedraft.core.worker import DrafterAddress

__all__ = ["harness", "redis_url"]


async def test_a_session_comes_back_as_it_was_kept(harness):
    placement = SessionPlacement("t1", "a", "host:1", (DrafterAddress("d1", "b", "host:2"),))
    await harness.store.create(a_request(), owner="c1")
    await harness.store.place("s1", 1, placement, owner="c1")
    assert await harness.store.append_tokens("s1", 1, 3, [10, 11], owner="c1") == 5
    record = await harness.store.load("s1")
    assert record.request == a_request()
    assert (record.epoch, record.owner, record.finish_reason) == (1, "c1", None)
    assert record.placement == placement
    assert record.token_ids == (1, 70_000, 3, 10, 11)
    assert record.output_token_ids == (10, 11)


async def test_create_may_be_repeated_but_not_taken(harness):
    await harness.store.create(a_request(), owner="c1")
    await harness.store.create(a_request(), owner="c1")
    assert await conflict_of(harness.store.create(a_request(), owner="c2")) == "SESSION_EXISTS"
    other = replace(a_request(), choice=3)
    assert await conflict_of(harness.store.create(other, owner="c1")) == "SESSION_EXISTS"


async def test_a_lost_session_is_put_back_at_its_epoch(harness):
    await harness.store.create(a_request(), owner="c1", epoch=4, output_token_ids=[8])
    record = await harness.store.load("s1")
    assert (record.epoch, record.output_token_ids) == (4, (8,))
    assert await harness.store.append_tokens("s1", 4, 4, [9], owner="c1") == 5


async def test_what_an_earlier_owner_put_back_gives_way_to_the_later_ones(harness):
    store = harness.store
    await store.create(a_request(), owner="c1", epoch=1, output_token_ids=(7,))
    for late in (
        store.append_tokens("s1", 2, 3, [7, 8], owner="c2"),
        store.renew("s1", 2, owner="c2"),
        store.finish("s1", 2, 3, FinishReason.STOP, owner="c2"),
    ):
        with pytest.raises(SessionNotFoundError):
            await late
    await store.create(a_request(), owner="c2", epoch=2, output_token_ids=(7, 8))
    record = await store.load("s1")
    assert (record.epoch, record.owner, record.output_token_ids) == (2, "c2", (7, 8))
    with pytest.raises(SessionConflictError) as caught:
        await store.create(a_request(), owner="c1", epoch=1, output_token_ids=(7,))
    assert caught.value.reason == protocol.SESSION_EXISTS


async def test_a_writer_that_is_not_the_owner_at_that_epoch_loses(harness):
    store = harness.store
    # c2 held epoch 2; the store was emptied, c1 put its epoch 1 back and c3 took it over.
    await store.create(a_request(), owner="c1", epoch=1, output_token_ids=(7,))
    await store.claim("s1", owner="c3", steals=True)
    late_writes = (
        store.append_tokens("s1", 2, 3, [7, 9], owner="c2"),
        store.renew("s1", 2, owner="c2"),
        store.place("s1", 2, SessionPlacement("t", "i", "e"), owner="c2"),
        store.finish("s1", 2, 4, FinishReason.STOP, owner="c2"),
    )
    for late in late_writes:
        assert await conflict_of(late) == "STALE_EPOCH"
    assert await store.append_tokens("s1", 2, 4, [8], owner="c3") == 5
    record = await store.load("s1")
    assert (record.output_token_ids, record.owner) == ((7, 8), "c3")
    assert (record.placement, record.finish_reason) == (None, None)


async def test_a_put_back_counts_at_an_equal_epoch_only_if_it_is_the_owners(harness):
    store = harness.store
    await store.create(a_request(), owner="c3", epoch=2, output_token_ids=(7,))
    other = store.create(a_request(), owner="c2", epoch=2, output_token_ids=(7, 8))
    assert await conflict_of(other) == "SESSION_EXISTS"
    await store.create(a_request(), owner="c3", epoch=2, output_token_ids=(7,))
    record = await store.load("s1")
    assert (record.epoch, record.owner, record.output_token_ids) == (2, "c3", (7,))


async def test_a_put_back_never_lowers_the_epoch(harness):
    store = harness.store
    await store.create(a_request(), owner="c2", epoch=3, output_token_ids=(7, 8))
    for owner in ("c1", "c2"):
        lower = store.create(a_request(), owner=owner, epoch=2, output_token_ids=(7, 8, 9))
        assert await conflict_of(lower) == "SESSION_EXISTS"
    record = await store.load("s1")
    assert (record.epoch, record.owner, record.output_token_ids) == (3, "c2", (7, 8))


async def test_a_log_that_was_cut_short_is_not_closed(harness):
    store = harness.store
    await store.create(a_request(), owner="c1", output_token_ids=(7,))
    short = store.finish("s1", 1, 5, FinishReason.STOP, owner="c1")
    assert await conflict_of(short) == "LOG_GAP"
    record = await store.load("s1")
    assert (record.finish_reason, record.owner) == (None, "c1")
    await store.append_tokens("s1", 1, 4, [8], owner="c1")
    await store.finish("s1", 1, 5, FinishReason.STOP, owner="c1")
    assert (await store.load("s1")).finish_reason is FinishReason.STOP


async def test_a_reader_steals_the_session_from_its_owner(harness):
    store = harness.store
    await store.create(a_request(), owner="c1")
    record = await store.claim("s1", owner="c2", steals=True)
    assert (record.epoch, record.owner) == (2, "c2")
    with pytest.raises(SessionConflictError) as caught:
        await store.append_tokens("s1", 1, 3, [7], owner="c1")
    assert caught.value.reason == protocol.STALE_EPOCH


async def test_a_store_is_known_by_its_mark_until_it_is_emptied(harness, request):
    mark = await harness.store.birth_mark()
    assert mark
    assert await harness.store.birth_mark() == mark
    if isinstance(harness.store, RedisSessionStore):
        client = connect(request.getfixturevalue("redis_url"))
        await client.flushall()
        await client.aclose()
        assert await harness.store.birth_mark() not in ("", mark)


async def test_unknown_sessions_are_said_to_be_unknown(harness):
    store = harness.store
    for call in (
        store.load("no"),
        store.claim("no", owner="c1"),
        store.renew("no", 1, owner="c1"),
        store.place("no", 1, SessionPlacement("t", "i", "e"), owner="c1"),
        store.append_tokens("no", 1, 0, [1], owner="c1"),
        store.finish("no", 1, 3, FinishReason.STOP, owner="c1"),
    ):
        with pytest.raises(SessionNotFoundError):
            await call


async def test_a_running_lease_keeps_others_out_and_a_lapsed_one_lets_them_in(harness):
    await harness.store.create(a_request(), owner="c1")
    assert await conflict_of(harness.store.claim("s1", owner="c2")) == "LEASE_HELD"
    await harness.advance(LEASE - 1)
    await harness.store.renew("s1", 1, owner="c1")
    await harness.advance(LEASE - 1)
    assert await conflict_of(harness.store.claim("s1", owner="c2")) == "LEASE_HELD"
    await harness.advance(1.5)
    assert (await harness.store.load("s1")).owner == ""
    record = await harness.store.claim("s1", owner="c2")
    assert (record.epoch, record.owner) == (2, "c2")
    assert record.request == a_request()


async def test_the_owner_may_claim_its_own_session_again(harness):
    await harness.store.create(a_request(), owner="c1")
    assert (await harness.store.claim("s1", owner="c1")).epoch == 2


async def test_a_late_writer_loses(harness):
    store = harness.store
    await store.create(a_request(), owner="c1")
    await harness.advance(LEASE + 1)
    await store.claim("s1", owner="c2")
    assert await conflict_of(store.append_tokens("s1", 1, 3, [10], owner="c1")) == "STALE_EPOCH"
    assert await conflict_of(store.renew("s1", 1, owner="c1")) == "STALE_EPOCH"
    assert (
        await conflict_of(store.place("s1", 1, SessionPlacement("t", "i", "e"), owner="c1"))
        == "STALE_EPOCH"
    )
    assert (
        await conflict_of(store.finish("s1", 1, 3, FinishReason.STOP, owner="c1")) == "STALE_EPOCH"
    )
    record = await store.load("s1")
    assert (record.token_ids, record.placement, record.finish_reason) == (
        (1, 70_000, 3),
        None,
        None,
    )


async def test_only_one_of_many_claims_wins_a_lapsed_lease(harness):
    await harness.store.create(a_request(), owner="c0")
    await harness.advance(LEASE + 1)
    claims = [harness.store.claim("s1", owner=f"c{i}") for i in range(1, 9)]
    results = await asyncio.gather(*claims, return_exceptions=True)
    winners = [result for result in results if not isinstance(result, BaseException)]
    assert [record.epoch for record in winners] == [2]
    assert (await harness.store.load("s1")).owner == winners[0].owner


async def test_an_append_may_be_repeated_but_never_skip_or_rewrite(harness):
    store = harness.store
    await store.create(a_request(), owner="c1")
    assert await store.append_tokens("s1", 1, 3, [10, 11], owner="c1") == 5
    assert await store.append_tokens("s1", 1, 3, [10, 11], owner="c1") == 5
    assert await store.append_tokens("s1", 1, 4, [11, 12], owner="c1") == 6
    assert await store.append_tokens("s1", 1, 3, [10], owner="c1") == 6
    assert await conflict_of(store.append_tokens("s1", 1, 7, [13], owner="c1")) == "LOG_GAP"
    assert (
        await conflict_of(store.append_tokens("s1", 1, 4, [99, 12, 13], owner="c1"))
        == "LOG_MISMATCH"
    )
    assert (await store.load("s1")).output_token_ids == (10, 11, 12)


async def test_a_finished_session_takes_no_more(harness):
    store = harness.store
    await store.create(a_request(), owner="c1")
    await store.append_tokens("s1", 1, 3, [10], owner="c1")
    await store.finish("s1", 1, 4, FinishReason.STOP, owner="c1")
    await store.finish("s1", 1, 4, FinishReason.CANCELLED, owner="c1")
    await store.renew("s1", 1, owner="c1")
    assert await store.append_tokens("s1", 1, 3, [10], owner="c1") == 4
    assert (
        await conflict_of(store.append_tokens("s1", 1, 4, [11], owner="c1")) == "SESSION_FINISHED"
    )
    assert await conflict_of(store.claim("s1", owner="c1")) == "SESSION_FINISHED"
    record = await store.load("s1")
    assert (record.finish_reason, record.owner) == (FinishReason.STOP, "")


async def test_sessions_are_forgotten_in_time_and_kept_while_written(harness):
    await harness.store.create(a_request("quiet"), owner="c1")
    await harness.store.create(a_request("busy"), owner="c1")
    await harness.advance(SESSION_TTL - 1)
    await harness.store.append_tokens("busy", 1, 3, [1], owner="c1")
    await harness.advance(2)
    await harness.store.remove_expired()
    with pytest.raises(SessionNotFoundError):
        await harness.store.load("quiet")
    assert (await harness.store.load("busy")).output_token_ids == (1,)


async def test_an_absent_redis_is_a_clear_error(tmp_path):
    store = redis_store(connect(f"unix://{tmp_path}/nobody.sock", timeout_seconds=0.2))
    with pytest.raises(UnavailableError) as caught:
        await store.load("s1")
    assert caught.value.reason == protocol.STORE_UNAVAILABLE
    with pytest.raises(UnavailableError):
        await store.prefix_holders(["t1"], [1])
    await store.close()


async def test_scripts_survive_a_redis_that_forgot_them(redis_url):
    client = connect(redis_url)
    await client.flushall()
    store = redis_store(client)
    await store.create(a_request(), owner="c1")
    await client.script_flush()
    assert await store.append_tokens("s1", 1, 3, [4], owner="c1") == 4
    await store.close()


async def test_two_coordinators_share_one_redis(redis_url):
    first, second = redis_store(connect(redis_url)), redis_store(connect(redis_url))
    await first.create(a_request("shared"), owner="c1")
    await first.append_tokens("shared", 1, 3, [5], owner="c1")
    assert (await second.load("shared")).output_token_ids == (5,)
    assert await conflict_of(second.claim("shared", owner="c2")) == "LEASE_HELD"
    await first.close()
    await second.close()

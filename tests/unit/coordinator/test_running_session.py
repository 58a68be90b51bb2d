import asyncio
from dataclasses import replace

import pytest
from tests.unit.coordinator.session_world import LOST, MODEL, REJECTION, World
from tests.unit.coordinator.support import a_spec, encode, output, until

from treedraft.coordinator.failover import Departure
from treedraft.core.errors import (
    CancelledError,
    OverloadedError,
    SessionConflictError,
    TreedraftError,
    UnavailableError,
)
from treedraft.core.generation import Delta
from treedraft.core.sampling import StoppingCriteria
from treedraft.core.session import FinishReason, SessionFailure, SessionFinish, SessionOutput


@pytest.fixture
async def run():
    worlds = []

    async def run(**options):
        world = World(**options)
        worlds.append(world)
        await world.start()
        return world

    yield run
    for world in worlds:
        world.reading.cancel()
        await asyncio.gather(world.reading, return_exceptions=True)
        await world.session.close()
        world.tracing.shutdown()


async def test_the_text_goes_on_where_it_was(run):
    world = await run(spec=a_spec(stopping=StoppingCriteria(max_tokens=9, stop_strings=("END",))))
    first = await world.until_at("t1")
    first.say("one E")
    first.sink.fail(LOST)
    second = await world.until_at("t2")
    (spec,) = second.specs
    assert spec == replace(world.spec, epoch=2, token_ids=(*world.spec.token_ids, *encode("one E")))
    assert first.cancelled == ["s1"]
    second.say("ND", FinishReason.STOP)
    await world.reading
    assert world.text == "one "
    assert world.token_ids == encode("one END")
    bases = [event.base_length for event in world.events if isinstance(event, Delta)]
    assert bases == [0, 5]
    record = await world.store.load("s1")
    assert list(record.output_token_ids) == encode("one END")
    assert (record.epoch, record.placement.target_id) == (2, "t2")
    assert record.finish_reason is FinishReason.STOP
    assert world.num_moves("TARGET_LOST") == 1
    assert world.registry.doubted == ["t1"]


async def test_the_last_targets_statistics_count_what_went_before(run):
    world = await run()
    first = await world.until_at("t1")
    first.say("abc")
    first.say("de")
    first.sink.fail(LOST)
    second = await world.until_at("t2")
    finish = output(second.specs[0], 5, encode("f"), FinishReason.LENGTH)
    own = replace(finish.finish.statistics, rounds=1, emitted_tokens=1, drafted_nodes=4)
    second.sink.deliver(replace(finish, finish=SessionFinish(FinishReason.LENGTH, own)))
    await world.reading
    statistics = world.events[-1].statistics
    assert (statistics.rounds, statistics.emitted_tokens, statistics.drafted_nodes) == (3, 6, 4)
    assert statistics.first_tokens == 3
    assert statistics.decode_ms >= 0.0


async def test_what_the_old_target_still_says_is_dropped(run):
    world = await run()
    first = await world.until_at("t1")
    first.say("a")
    first.sink.fail(LOST)
    second = await world.until_at("t2")
    first.say("late")
    first.sink.deliver(
        SessionOutput("s1", 1, 4, failure=SessionFailure("INTERNAL", "cut off, and so it failed"))
    )
    second.say("b", FinishReason.LENGTH)
    await world.reading
    assert world.text == "ab"


@pytest.mark.parametrize("reason", ["DRAINING", "UNAVAILABLE"])
async def test_a_failure_that_says_nothing_of_the_request_moves_it(run, reason):
    world = await run()
    first = await world.until_at("t1")
    first.sink.deliver(SessionOutput("s1", 1, 3, failure=SessionFailure(reason, "not I")))
    second = await world.until_at("t2")
    second.say("x", FinishReason.LENGTH)
    await world.reading
    assert world.text == "x"
    assert world.num_moves(reason) == 1
    assert world.registry.doubted == []


async def test_a_target_that_skips_tokens_is_left_and_told_to_stop(run):
    world = await run()
    first = await world.until_at("t1")
    first.sink.deliver(output(first.specs[0], 3, [9]))
    second = await world.until_at("t2")
    assert first.cancelled == ["s1"]
    second.say("x", FinishReason.LENGTH)
    await world.reading
    assert world.text == "x"


@pytest.mark.parametrize("reason", ["INTERNAL", "PROMPT_TOO_LONG", "KV_POOL_FULL"])
async def test_a_failure_of_the_request_ends_it(run, reason):
    world = await run()
    first = await world.until_at("t1")
    first.sink.deliver(SessionOutput("s1", 1, 3, failure=SessionFailure(reason, "no")))
    with pytest.raises(TreedraftError) as caught:
        await world.reading
    assert caught.value.reason == reason
    assert list(world.links.links) == ["t1"]


async def test_a_pass_that_failed_moves_a_session_once(run):
    world = await run()
    for number, name in enumerate(("t1", "t2"), 1):
        target = await world.until_at(name)
        failure = SessionFailure("PASS_FAILED", "the device fell off the bus")
        target.sink.deliver(SessionOutput("s1", target.specs[0].epoch, 3, failure=failure))
        assert number == 1 or "t3" not in world.links.links
    with pytest.raises(TreedraftError) as caught:
        await world.reading
    assert caught.value.reason == "INTERNAL"
    assert world.num_moves("PASS_FAILED") == 1


async def test_a_survivor_without_room_is_asked_again(run):
    world = await run(targets=("t1", "t2"))
    first = await world.until_at("t1")
    first.sink.fail(LOST)
    second = await world.until_at("t2")
    second.sink.fail(OverloadedError("full", reason="QUEUE_FULL", retry_after_ms=1))
    await world.until_at("t2", times=2)
    assert second.specs[1].epoch == 3
    second.say("x", FinishReason.LENGTH)
    await world.reading
    assert world.num_moves("QUEUE_FULL") == 1


async def test_moves_are_bounded(run):
    world = await run(max_moves=2)
    for name in ("t1", "t2", "t3"):
        (await world.until_at(name)).sink.fail(LOST)
    with pytest.raises(UnavailableError) as caught:
        await world.reading
    assert caught.value.reason == "MOVES_EXHAUSTED"
    assert "gone" in caught.value.message


async def test_no_moves_at_all_leave_the_cause(run):
    world = await run(max_moves=0)
    (await world.until_at("t1")).sink.fail(LOST)
    with pytest.raises(UnavailableError) as caught:
        await world.reading
    assert caught.value.reason == "TARGET_LOST"


async def test_without_another_target_it_ends_after_a_while_with_what_came_shown(run):
    world = await run(targets=("t1",), wait_seconds=0.01)
    first = await world.until_at("t1")
    first.say("abc")
    first.sink.fail(LOST)
    with pytest.raises(UnavailableError) as caught:
        await world.reading
    assert caught.value.reason == "NO_TARGET_LEFT"
    assert world.text == "abc"


async def test_the_time_of_the_request_bounds_the_wait(run):
    world = await run(targets=("t1",), wait_seconds=60.0)
    first = await world.until_at("t1")
    world.time_left = 0.01
    first.sink.fail(LOST)
    with pytest.raises(CancelledError) as caught:
        await world.reading
    assert caught.value.reason == "DEADLINE_EXCEEDED"


async def test_a_session_cancelled_on_the_move_says_so(run):
    world = await run(targets=("t1",), wait_seconds=60.0)
    first = await world.until_at("t1")
    first.sink.fail(LOST)
    await until(lambda: first.cancelled)
    await world.session.cancel()
    with pytest.raises(CancelledError) as caught:
        await world.reading
    assert caught.value.reason == "CANCELLED"


async def test_a_session_of_another_owner_does_not_move(run):
    world = await run()
    first = await world.until_at("t1")
    world.now += 31.0
    await world.store.claim("s1", owner="c2")
    first.sink.fail(LOST)
    with pytest.raises(SessionConflictError) as caught:
        await world.reading
    assert caught.value.reason == "LEASE_HELD"
    assert "t2" not in world.links.links


async def test_rejection_goes_on_from_what_came_and_shows_it_once_it_is_logged(run):
    world = await run(spec=a_spec(sampling=REJECTION))
    first = await world.until_at("t1")
    first.say("ab")
    await world.until_shown("ab")
    first.say("cd")
    first.sink.fail(LOST)
    second = await world.until_at("t2")
    shown, known = world.token_ids, list(second.specs[0].token_ids[3:])
    assert known[: len(shown)] == shown
    assert known == encode("abcd")
    second.say("e", FinishReason.LENGTH)
    await world.reading
    assert world.text == "abcde"
    assert list((await world.store.load("s1")).output_token_ids) == encode("abcde")


async def test_a_turn_lasts_until_the_first_new_token_or_the_end(run):
    one = await run(max_at_once=1, turn_seconds=60.0)
    (await one.until_at("t1")).sink.fail(LOST)
    second = await one.until_at("t2")
    waiting = asyncio.create_task(one.failover.place(Departure(a_spec(), MODEL)))
    await asyncio.sleep(0)
    assert not waiting.done()
    second.say("x")
    (await waiting)[1].end()
    second.sink.fail(LOST)
    await one.until_at("t3")
    waiting = asyncio.create_task(one.failover.place(Departure(a_spec(), MODEL)))
    await asyncio.sleep(0)
    assert not waiting.done()
    await one.session.close()
    (await waiting)[1].end()


async def test_acknowledgements_follow_the_session(run):
    world = await run()
    first = await world.until_at("t1")
    first.say("ab")
    await until(lambda: first.acknowledged == [5])
    first.sink.fail(LOST)
    second = await world.until_at("t2")
    second.say("cd", FinishReason.LENGTH)
    await world.reading
    assert second.acknowledged == [7]
    assert first.acknowledged == [5]

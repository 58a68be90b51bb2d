"""What the chaos suite itself is made of: a schedule, a judge, a proxy, a table of stalls."""

import asyncio
import math
from contextlib import AsyncExitStack, suppress

import pytest
from tests.chaos.faults import (
    COORDINATOR,
    EMPTY,
    FREEZE,
    KILL,
    REDIS,
    TARGET,
    Fault,
    Subject,
    plan_faults,
)
from tests.chaos.load import Stall, Text, judge
from tests.chaos.proxy import Proxy
from tests.chaos.report import NOTHING, SEVERAL, longest_stalls
from tests.chaos.storm import Suffered, is_fair_now
from tests.waiting import patience

SUBJECTS = [
    Subject(REDIS, "redis"),
    *(Subject(COORDINATOR, f"coordinator-{n}") for n in range(2)),
    *(Subject(TARGET, f"target-{n}") for n in range(3)),
]


def plan(seed):
    return plan_faults(seed, 300.0, SUBJECTS, per_second=1.5, most_at_once=3)


def test_a_seed_makes_a_schedule_that_hurts_everybody_and_several_at_once():
    faults = plan(1)
    assert plan(1) == faults
    assert plan(2) != faults
    assert {fault.subject for fault in faults} == set(SUBJECTS)
    overlaps = [sum(other.at <= fault.at < other.ends for other in faults) for fault in faults]
    assert max(overlaps) == 3


def test_the_one_loss_that_is_allowed_is_not_asked_for():
    faults = plan(3)
    for fault in faults:
        for other in faults:
            if fault.empties_the_store and other.ends_a_coordinator:
                assert fault.at - other.ends >= 8.0 or other.at - fault.ends >= 8.0


def suffered(kind, role, began, ended):
    return Suffered(Fault(0.0, kind, Subject(role, role), 0.0), began, ended)


@pytest.mark.parametrize(
    ("before", "is_fair"),
    [
        ([], True),
        ([(EMPTY, REDIS, 10.0, 10.0)], True),
        ([(EMPTY, REDIS, 13.0, 13.0)], False),
        ([(KILL, REDIS, 1.0, math.inf)], False),
        # What was lost can only come back while the store can be reached.
        ([(EMPTY, REDIS, 10.0, 10.0), (FREEZE, REDIS, 11.0, 14.0)], False),
        ([(EMPTY, REDIS, 10.0, 10.0), (FREEZE, REDIS, 11.0, math.inf)], False),
        ([(EMPTY, REDIS, 1.0, 1.0), (FREEZE, REDIS, 10.0, math.inf)], True),
        ([(KILL, TARGET, 19.0, 19.5), (FREEZE, REDIS, 18.0, 19.0)], True),
    ],
)
def test_a_coordinator_is_not_ended_before_the_store_has_its_sessions(before, is_fair):
    fault = Fault(0.0, KILL, Subject(COORDINATOR, "c"), 1.0)
    assert is_fair_now(fault, [suffered(*one) for one in before], now=20.0) is is_fair


def test_a_store_is_not_emptied_before_somebody_has_the_sessions_of_a_coordinator_that_died():
    fault = Fault(0.0, EMPTY, Subject(REDIS, "redis"), 1.0)
    died = suffered(KILL, COORDINATOR, 10.0, 11.0)
    assert not is_fair_now(fault, [died], now=18.0)
    assert is_fair_now(fault, [died], now=19.0)
    assert not is_fair_now(fault, [died, suffered(FREEZE, REDIS, 14.0, 15.0)], now=19.0)


@pytest.mark.parametrize(
    ("token_ids", "verdict"),
    [
        ((1, 2, 3), "right"),
        ((1, 2), "lost"),
        ((1, 2, 2, 3), "duplicated"),
        ((1, 2, 4), "changed"),
        ((2, 3), "changed"),
    ],
)
def test_what_is_wrong_with_an_answer_has_a_word(token_ids, verdict):
    wanted = Text((1, 2, 3), "abc", "length")
    text = "abc" if token_ids == wanted.token_ids else "?"
    assert judge(Text(token_ids, text, "length"), wanted) == verdict
    assert judge(Text((1, 2, 3), "abcc", "length"), wanted) == "changed"


def test_a_stall_is_put_down_to_a_fault_only_if_there_was_one():
    one = Suffered(Fault(0.0, KILL, Subject(TARGET, "t"), 1.0), 10.0, 11.0)
    other = Suffered(Fault(0.0, EMPTY, Subject(REDIS, "r"), 1.0), 20.0, 20.0)
    third = Suffered(Fault(0.0, FREEZE, Subject(TARGET, "t"), 1.0), 20.5, 21.0)
    stalls = [Stall(1.0, 2.0), Stall(9.5, 10.5), Stall(10.2, 11.0), Stall(19.0, 21.0)]
    assert longest_stalls(stalls, [one, other, third]) == {
        NOTHING: 1.0,
        "target kill": 1.0,
        SEVERAL: 2.0,
    }


async def test_a_link_is_whole_or_cut_or_swallows():
    async def echo(reader, writer):
        while data := await reader.read(100):
            writer.write(data)
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    proxy = await Proxy(server.sockets[0].getsockname()[1]).start()
    async with AsyncExitStack() as stack:
        stack.callback(server.close)
        stack.push_async_callback(proxy.close)

        async def connect():
            reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            stack.push_async_callback(hang_up, writer)
            return reader, writer

        reader, writer = await connect()
        writer.write(b"one")
        assert await reader.readexactly(3) == b"one"
        proxy.swallow()
        writer.write(b"two")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await reader.read(3)
        proxy.heal()
        async with patience():
            assert await reader.readexactly(3) == b"two"
            proxy.cut()
            for cut in (reader, (await connect())[0]):
                with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
                    await cut.readexactly(1)
            proxy.heal()
            reader, writer = await connect()
            writer.write(b"three")
            assert await reader.readexactly(5) == b"three"


async def hang_up(writer):
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()

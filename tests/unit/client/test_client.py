"""The client against coordinators that do what they like: over real gRPC, scripted."""

import asyncio
import random
from collections.abc import Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field

import grpc
import pytest
from tests.resets import resetting
from tests.unit.coordinator.support import until

from treedraft.client import Client, RetryPolicy
from treedraft.client.retries import is_worth_a_retry
from treedraft.core.errors import (
    CancelledError,
    InvalidRequestError,
    OverloadedError,
    SessionConflictError,
    SessionNotFoundError,
    TokensMismatchError,
    UnavailableError,
)
from treedraft.core.generation import Delta, Finished, GenerateQuery, Started, hash_tokens
from treedraft.core.growth import TokenSource
from treedraft.core.session import FinishReason, SessionStatistics
from treedraft.rpc.convert import generate_event_to_proto, resume_query_from_proto
from treedraft.rpc.errors import abort
from treedraft.v1 import coordinator_service_pb2 as pb2
from treedraft.v1.coordinator_service_pb2_grpc import (
    CoordinatorServiceServicer,
    add_CoordinatorServiceServicer_to_server,
)

TOKENS = tuple(range(10, 20))
QUERY = GenerateQuery(text="hello")
QUICK = RetryPolicy(first_pause_seconds=0.001, longest_pause_seconds=0.01, lost_seconds=60.0)
STARTED = Started("s1", 7, (1, 2), "", "toy")
FINISHED = Finished(FinishReason.LENGTH, SessionStatistics(), 1.0)


@dataclass
class Door(CoordinatorServiceServicer):
    """A coordinator that answers each call as `script` says for its number.

    A script yields how many more tokens to say, an error or a bare status to end with,
    or an event to wait for before going on; then it finishes.
    """

    script: Callable[[int], list]
    calls: list = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)

    async def Generate(self, request, context):  # noqa: N802
        self.keys.append(request.idempotency_key)
        async for event in self._answer(0, context):
            yield event

    async def Resume(self, request, context):  # noqa: N802
        query = resume_query_from_proto(request)
        assert query.session_id == "s1"
        assert query.begins(TOKENS)
        async for event in self._answer(query.num_tokens, context):
            yield pb2.ResumeResponse(part=event)

    async def Cancel(self, request, context):  # noqa: N802
        self.cancelled.append(request.session_id)
        return pb2.CancelResponse()

    async def _answer(self, num_held, context):
        self.calls.append(num_held)
        yield generate_event_to_proto(STARTED)
        for step in self.script(len(self.calls) - 1):
            if isinstance(step, Exception):
                await abort(context, step)
            if isinstance(step, grpc.StatusCode):
                await context.abort(step, step.name)
            if isinstance(step, asyncio.Event):
                await step.wait()
                continue
            yield pb2.GenerateResponse()  # a sign of life
            yield generate_event_to_proto(delta(num_held, TOKENS[num_held : num_held + step]))
            num_held += step
        rest = TOKENS[num_held:]
        if rest:
            yield generate_event_to_proto(delta(num_held, rest))
        yield generate_event_to_proto(FINISHED)


def delta(base, token_ids):
    text = "".join(chr(token_id + 87) for token_id in token_ids)
    return Delta(base, tuple(token_ids), (TokenSource.TARGET,) * len(token_ids), text)


@asynccontextmanager
async def serving(*doors):
    servers, endpoints = [], []
    for door in doors:
        server = grpc.aio.server()
        add_CoordinatorServiceServicer_to_server(door, server)
        endpoints.append(f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}")
        await server.start()
        servers.append(server)
    try:
        yield endpoints
    finally:
        for server in servers:
            await server.stop(None)


async def read(client, **options):
    return [event async for event in client.generate(QUERY, **options)]


def tokens_of(events):
    return tuple(t for event in events if isinstance(event, Delta) for t in event.token_ids)


LOST = UnavailableError("gone")


async def test_an_answer_over_many_broken_streams_is_one_answer():
    doors = [Door(lambda n: [1, LOST] if n < 4 else [2]) for _ in range(2)]
    async with serving(*doors) as endpoints, Client(endpoints, policy=QUICK) as client:
        events = await read(client)
    assert events[0] == STARTED
    assert tokens_of(events) == TOKENS
    assert "".join(e.text for e in events if isinstance(e, Delta)) == "".join(
        chr(t + 87) for t in TOKENS
    )
    assert [type(event) for event in events].count(Started) == 1
    assert isinstance(events[-1], Finished)
    assert sorted(doors[0].calls + doors[1].calls) == list(range(9))
    assert all(door.calls for door in doors)  # it turns to the other one each time


async def test_streams_that_are_cancelled_by_nobody_here_are_broken_streams():
    # What a server that shuts down says of a call that it had not taken up.
    dropped = grpc.StatusCode.CANCELLED
    doors = [Door(lambda n: [1, dropped] if n < 3 else [2]) for _ in range(2)]
    async with serving(*doors) as endpoints, Client(endpoints, policy=QUICK) as client:
        assert tokens_of(await read(client)) == TOKENS
    assert all(door.calls for door in doors)


async def test_calls_whose_streams_are_reset_are_made_elsewhere():
    door = Door(lambda n: [])
    async with resetting() as resets, serving(door) as endpoints:
        # Whichever comes first: a second answer begins at the one that the first went to.
        for order in ([resets.endpoint, *endpoints], [*endpoints, resets.endpoint]):
            async with Client(order, policy=QUICK, rng=random.Random(1)) as client:
                assert tokens_of(await read(client)) == TOKENS
        assert resets.num_streams == 1


async def test_patience_with_reset_streams_ends_as_well():
    now = [0.0]

    def clock():
        now[0] += 1.0
        return now[0]

    async with resetting() as resets, Client([resets.endpoint], policy=QUICK, clock=clock) as one:
        with pytest.raises(UnavailableError) as caught:
            await read(one)
        assert caught.value.reason == "CALL_DROPPED"
        assert resets.num_streams > 3


async def test_text_that_was_kept_back_until_the_end_comes_once():
    class Closing(Door):
        async def _answer(self, num_held, context):
            self.calls.append(num_held)
            yield generate_event_to_proto(STARTED)
            if num_held == 0:
                yield generate_event_to_proto(delta(0, TOKENS))
            yield generate_event_to_proto(Delta(len(TOKENS), (), (), "."))
            if len(self.calls) < 3:
                await abort(context, LOST)
            yield generate_event_to_proto(FINISHED)

    door = Closing(lambda n: [])
    async with serving(door) as endpoints, Client(endpoints, policy=QUICK) as client:
        events = await read(client)
    assert door.calls == [0, len(TOKENS), len(TOKENS)]
    assert [event.text for event in events if isinstance(event, Delta)][1:] == ["."]


async def test_a_query_that_never_began_is_asked_again_under_one_key():
    class Closed(Door):
        async def Generate(self, request, context):  # noqa: N802
            self.keys.append(request.idempotency_key)
            if len(self.keys) < 3:
                await abort(context, OverloadedError("full", retry_after_ms=1))
            async for event in self._answer(0, context):
                yield event

    door = Closed(lambda n: [])
    async with serving(door) as endpoints, Client(endpoints, policy=QUICK) as client:
        assert tokens_of(await read(client)) == TOKENS
    assert len(door.keys) == 3
    assert len(set(door.keys)) == 1
    assert len(door.keys[0]) >= 24


async def test_a_silent_coordinator_is_given_up():
    never = asyncio.Event()
    doors = [Door(lambda n: [2, never]), Door(lambda n: [2, never] if n == 0 else [])]
    policy = RetryPolicy(first_pause_seconds=0.001, silence_seconds=0.3)
    async with serving(*doors) as endpoints, Client(endpoints, policy=policy) as client:
        assert tokens_of(await read(client)) == TOKENS
        never.set()


async def test_what_the_caller_did_wrong_is_told_at_once():
    door = Door(lambda n: [1, InvalidRequestError("no", reason="TOKEN_OUT_OF_RANGE")])
    async with serving(door) as endpoints, Client(endpoints, policy=QUICK) as client:
        with pytest.raises(InvalidRequestError) as caught:
            await read(client)
    assert caught.value.reason == "TOKEN_OUT_OF_RANGE"
    assert door.calls == [0]


def impatient_client(door, endpoints):
    """Return a client whose clock goes on with each call alone."""
    return Client(endpoints, policy=QUICK, clock=lambda: 15.0 * len(door.calls))


async def test_a_session_that_nobody_knows_is_looked_for_and_then_given_up():
    door = Door(lambda n: [1, LOST] if n == 0 else [SessionNotFoundError("unknown")])
    async with serving(door) as endpoints, impatient_client(door, endpoints) as client:
        with pytest.raises(SessionNotFoundError):
            await read(client)
    assert len(door.calls) > 3


async def test_a_session_that_an_owner_of_before_put_back_is_asked_for_again():
    refused = [TokensMismatchError("not put right yet")]
    door = Door(lambda n: [[1, LOST], refused, refused, []][n])
    async with serving(door) as endpoints, Client(endpoints, policy=QUICK) as client:
        events = await read(client)
    assert [token for event in events[1:-1] for token in event.token_ids] == list(TOKENS)
    door = Door(lambda n: [1, LOST] if n == 0 else refused)
    async with serving(door) as endpoints, impatient_client(door, endpoints) as client:
        with pytest.raises(TokensMismatchError):  # it never is
            await read(client)
    assert len(door.calls) > 3


async def test_patience_ends_where_nothing_comes():
    now = [0.0]

    def script(number):
        now[0] += 20.0
        return [LOST]

    door = Door(script)
    async with (
        serving(door) as endpoints,
        Client(endpoints, policy=QUICK, clock=lambda: now[0]) as client,
    ):
        with pytest.raises(UnavailableError):
            await read(client)
    assert len(door.calls) == 5  # the first failure after 20 s begins the 60 s of patience


async def test_the_deadline_is_for_all_tries_together():
    now = [0.0]

    def script(number):
        now[0] += 4.0
        return [1, LOST]

    door = Door(script)
    async with (
        serving(door) as endpoints,
        Client(endpoints, policy=QUICK, clock=lambda: now[0]) as client,
    ):
        with pytest.raises(CancelledError) as caught:
            await read(client, timeout_seconds=10.0)
    assert caught.value.reason == "DEADLINE_EXCEEDED"
    assert len(door.calls) == 3


async def test_who_stops_reading_cancels_the_session():
    never = asyncio.Event()
    door = Door(lambda n: [2, never])
    async with serving(door) as endpoints, Client(endpoints, policy=QUICK) as client:
        async with aclosing(client.generate(QUERY)) as events:
            async for event in events:
                if isinstance(event, Delta):
                    break
        await until(lambda: door.cancelled == ["s1"])
        never.set()


@pytest.mark.parametrize(
    ("error", "before", "after"),
    [
        (LOST, True, True),
        (OverloadedError("full"), True, True),
        (SessionConflictError("resumed", reason="STALE_EPOCH"), False, True),
        (SessionNotFoundError("unknown"), False, True),
        (TokensMismatchError("other"), False, True),
        (CancelledError("cancelled"), False, False),
        (InvalidRequestError("no"), False, False),
        # What a proxy that hangs up looks like, too.
        (UnavailableError("no", reason="TLS_HANDSHAKE_FAILED"), True, True),
    ],
)
def test_what_is_worth_another_try(error, before, after):
    assert is_worth_a_retry(error, has_begun=False) is before
    assert is_worth_a_retry(error, has_begun=True) is after


def test_a_client_needs_an_endpoint():
    with pytest.raises(InvalidRequestError):
        Client([])


def test_hashes_are_over_all_tokens_held():
    assert hash_tokens([1, 2]) != hash_tokens([1])

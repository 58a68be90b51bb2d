"""Answers that go on after their stream broke: over real gRPC, on both stores."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import grpc
import pytest
from tests.unit.coordinator.cluster import HELLO, Cluster, a_cluster, ask, text_of, tokens_of
from tests.unit.coordinator.redis_server import redis_server
from tests.unit.coordinator.support import FakeTarget, encode, output, says, until
from tests.waiting import patience

from treedraft.coordinator.api_keys import TenantRoll, key_line, new_key
from treedraft.core.errors import (
    InvalidRequestError,
    OverloadedError,
    SessionConflictError,
    SessionNotFoundError,
    TokensMismatchError,
    TreedraftError,
    UnauthenticatedError,
    UnavailableError,
)
from treedraft.core.generation import Finished, ResumeQuery, Started, hash_tokens
from treedraft.core.sampling import SamplingParameters, StoppingCriteria
from treedraft.core.session import FinishReason
from treedraft.rpc.coordinator_client import CoordinatorClient
from treedraft.v1 import coordinator_service_pb2 as pb2
from treedraft.v1.coordinator_service_pb2_grpc import CoordinatorServiceStub

STORE = {"refresh_seconds": 0.05, "log_interval_seconds": 0.0}
STOPPING = replace(
    HELLO,
    sampling=SamplingParameters(seed=3),
    stopping=StoppingCriteria(stop_strings=("STOP",)),
)


@pytest.fixture(params=["embedded", "redis"])
def store(request, tmp_path):
    if request.param == "embedded":
        yield {}
        return
    with redis_server(tmp_path) as url:
        yield {"redis": url}


@pytest.fixture
async def cluster(store) -> AsyncIterator[Cluster]:
    async with a_cluster(store=STORE, **store) as cluster:
        yield cluster


def holding(session_id: str, text: str) -> ResumeQuery:
    return ResumeQuery(session_id, len(encode(text)), hash_tokens(encode(text)))


async def resume(client: CoordinatorClient, query: ResumeQuery) -> list:
    return [event async for event in client.resume(query)]


async def failure_of(client: CoordinatorClient, query: ResumeQuery) -> TreedraftError:
    with pytest.raises(TreedraftError) as caught:
        await resume(client, query)
    return caught.value


async def test_an_answer_that_has_ended_is_shown_from_the_log(cluster):
    await cluster.add_target(FakeTarget(script=says("one two STOP", chunk=2)))
    begun, *_ = await ask(cluster.client, STOPPING)
    for held in ("", "one", "one two S", "one two STOP"):
        started, *deltas, finished = await resume(cluster.client, holding(begun.session_id, held))
        assert started == replace(begun, trace_id=started.trace_id)
        assert tokens_of(deltas) == encode("one two STOP")[len(held) :]
        assert text_of(deltas) == "one two "[len(held) :]
        assert finished.reason is FinishReason.STOP
        assert finished.statistics.emitted_tokens == len("one two STOP")


async def test_another_text_is_refused_and_harms_nothing(cluster):
    await cluster.add_target(FakeTarget(script=says("one two")))
    begun, *_ = await ask(cluster.client, HELLO)
    for held in ("two", "one two three"):
        error = await failure_of(cluster.client, holding(begun.session_id, held))
        assert isinstance(error, TokensMismatchError)
        assert error.reason == "TOKENS_MISMATCH"
    async with grpc.aio.insecure_channel(cluster.endpoint) as channel:
        request = pb2.ResumeRequest(
            session_id=begun.session_id, num_tokens=1, tokens_hash=hash_tokens([0])
        )
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await CoordinatorServiceStub(channel).Resume(request).read()
        assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert text_of(await resume(cluster.client, holding(begun.session_id, "one"))) == " two"


async def test_what_nobody_knows_is_not_found(cluster):
    await cluster.add_target(FakeTarget())
    error = await failure_of(cluster.client, holding("nobody", ""))
    assert isinstance(error, SessionNotFoundError)
    with pytest.raises(InvalidRequestError):
        ResumeQuery("s", 1, b"short")


@pytest.fixture
def keys(tmp_path) -> dict[str, str]:
    """Keys of two tenants; `other` may make one request at a time."""
    keys = {name: new_key() for name in ("acme", "other")}
    lines = [key_line(key, name) for name, key in keys.items()]
    limits = "[tenants.other]\nrequests_at_once = 1\n"
    (tmp_path / "keys.toml").write_text("\n".join(["[keys]", *lines, limits]))
    (tmp_path / "secret").write_text("0123456789abcdef" * 2)
    return keys


@asynccontextmanager
async def a_cluster_with_keys(folder, keys, **store):
    """Give a cluster whose own client is acme's, and a client of the other tenant."""
    door = {
        "keys_file": str(folder / "keys.toml"),
        "tenant_secret_file": str(folder / "secret"),
        "audit_file": str(folder / "audit.jsonl"),
    }
    async with a_cluster(door=door, store=STORE, **store) as cluster:
        clients = [CoordinatorClient(cluster.endpoint, api_key=key) for key in keys.values()]
        for client in clients:
            cluster.stack.push_async_callback(client.close)
        cluster.client, other = clients
        yield cluster, other


async def test_to_another_tenant_a_session_is_as_unknown_as_one_that_never_was(
    store, tmp_path, keys
):
    async with a_cluster_with_keys(tmp_path, keys, **store) as (cluster, other):
        target = FakeTarget()
        leave = await cluster.add_target(target)
        reading = asyncio.create_task(ask(cluster.client, HELLO))
        spec = await target.session()
        unknown = await until_not_refused(other, holding("nobody", ""))
        assert (type(unknown), unknown.reason) == (SessionNotFoundError, "SESSION_NOT_FOUND")

        async def is_unknown(held: str) -> None:
            error = await until_not_refused(other, holding(spec.session_id, held))
            assert (type(error), error.reason) == (type(unknown), unknown.reason)
            assert error.message == unknown.message.replace("nobody", spec.session_id)

        for held in ("", "one", "three"):  # while it runs, with a right text and a wrong one
            await is_unknown(held)
        assert target.started[spec.session_id].epoch == 1
        target.say(output(spec, 0, encode("one two"), FinishReason.STOP))
        assert text_of(await reading) == "one two"
        for held in ("", "one", "three"):
            await is_unknown(held)
        stranger = CoordinatorClient(cluster.endpoint)
        cluster.stack.push_async_callback(stranger.close)
        error = await failure_of(stranger, holding(spec.session_id, "one"))
        assert isinstance(error, UnauthenticatedError)
        assert error.reason == "API_KEY_REQUIRED"
        resumed = await resume(cluster.client, holding(spec.session_id, "one"))
        assert text_of(resumed) == " two"
        leave.cancel()  # nor does it learn whether anybody serves the session's model
        await cluster.until_known("t1", is_known=False)
        await is_unknown("one")


async def until_not_refused(client: CoordinatorClient, query: ResumeQuery) -> TreedraftError:
    """Resume until the place that the last request held is free; return why it failed then."""
    async with patience():
        while True:
            error = await failure_of(client, query)
            if not isinstance(error, OverloadedError):
                return error
            await asyncio.sleep(0.01)


async def test_a_resumed_answer_keeps_salt_and_limits_and_its_prompt_is_charged_once(
    store, tmp_path, keys
):
    roll = TenantRoll(str(tmp_path / "keys.toml"), str(tmp_path / "secret"))
    async with a_cluster_with_keys(tmp_path, keys, **store) as (cluster, other):
        target = FakeTarget()
        await cluster.add_target(target)
        events, first = await begin(cluster, target, HELLO, "one")
        resuming = asyncio.create_task(resume(cluster.client, holding(first.session_id, "one")))
        await until(lambda: target.started[first.session_id].epoch > 1)
        second = target.started[first.session_id]
        assert second.tenant_salt == first.tenant_salt == roll.tenant_named("acme").salt
        with pytest.raises(SessionConflictError):
            await anext(events)
        target.say(output(second, 3, encode(" two"), FinishReason.STOP))
        assert text_of(await resuming) == " two"

        running = asyncio.create_task(ask(other, HELLO))
        spec = await target.session(1)
        error = await failure_of(other, holding(spec.session_id, ""))
        assert isinstance(error, OverloadedError)
        assert error.reason == "TENANT_REQUESTS_AT_ONCE"
        target.say(output(spec, 0, encode("four"), FinishReason.STOP))
        await running
        audit = tmp_path / "audit.jsonl"
        await until(lambda: len(audit.read_text().splitlines()) == 4)
    lines = [json.loads(line) for line in audit.read_text().splitlines()]
    of_session = [line for line in lines if line["session_id"] == first.session_id]
    counts = sorted((line["prompt_tokens"], line["output_tokens"]) for line in of_session)
    assert counts == [(0, len(" two")), (len("hello"), len("one"))]
    assert {(line["tenant"], line["model"]) for line in of_session} == {("acme", "toy")}


async def test_a_later_reader_takes_the_session_from_an_earlier_one(cluster):
    target = FakeTarget()
    await cluster.add_target(target)
    earlier: list = []

    async def read() -> None:
        async for event in cluster.client.generate(STOPPING):
            earlier.append(event)

    reading = asyncio.create_task(read())
    first = await target.session()
    target.say(output(first, 0, encode("one S")))
    await until(lambda: text_of(earlier) == "one ")
    resuming = asyncio.create_task(resume(cluster.client, holding(first.session_id, "one")))
    await until(lambda: target.started[first.session_id].epoch > 1)
    second = target.started[first.session_id]
    assert list(second.token_ids) == encode("hello") + encode("one S")
    assert (second.prompt_length, second.sampling) == (first.prompt_length, first.sampling)
    with pytest.raises(SessionConflictError):
        await reading
    target.say(output(first, 5, encode("late"), FinishReason.LENGTH))
    target.say(output(second, 5, encode("TOP"), FinishReason.STOP))
    events = await resuming
    assert tokens_of(events) == encode(" STOP")
    assert text_of(events) == " "


@asynccontextmanager
async def two_coordinators(tmp_path, **settings):
    with redis_server(tmp_path) as url:
        async with (
            a_cluster(redis=url, store=STORE, **settings) as one,
            a_cluster(redis=url, store=STORE, coordinator_id="c2", **settings) as two,
        ):
            yield one, two


async def begin(cluster: Cluster, target: FakeTarget, query, text: str):
    """Ask, let the target say a text, and return the call, which is still open."""
    events = cluster.client.generate(query)
    assert isinstance(await anext(events), Started)
    spec = await target.session()
    target.say(output(spec, 0, encode(text)))
    assert (await anext(events)).text == text
    await until(lambda: target.logged.get(spec.session_id) == len(spec.token_ids) + len(text))
    return events, spec


async def test_another_coordinator_takes_the_session_from_its_owner_alive_or_not(tmp_path):
    async with two_coordinators(tmp_path) as (one, two):
        target = FakeTarget()
        await two.add_target(target)
        await one.until_serves("toy")
        events, first = await begin(one, target, HELLO, "one two")
        resuming = asyncio.create_task(resume(two.client, holding(first.session_id, "one")))
        await until(lambda: target.started[first.session_id].epoch > 1)
        second = target.started[first.session_id]
        late = output(first, 7, encode(" late"))
        end = output(second, 7, encode(" three"), FinishReason.STOP)
        for _ in (one, two):  # each has a stream to this target, and one of them is not meant
            target.say(late, end)
        answer = await resuming
        assert text_of(answer) == " two three"
        assert isinstance(answer[-1], Finished)
        assert answer[-1].reason is FinishReason.STOP
        with pytest.raises(SessionConflictError):  # its log was refused: the epoch is over
            async for _ in events:
                pass
        again = await resume(one.client, holding(first.session_id, "one two"))
        assert text_of(again) == " three"


async def test_a_coordinator_that_stops_while_it_resumes_says_that_it_is_away(tmp_path):
    async with two_coordinators(tmp_path) as (one, two):
        target = FakeTarget()
        await two.add_target(target)
        await one.until_serves("toy")
        events, first = await begin(one, target, HELLO, "one")
        resuming = asyncio.create_task(failure_of(one.client, holding(first.session_id, "one")))
        await until(lambda: target.started[first.session_id].epoch > 1)
        await one.stop()
        assert type(await resuming) is UnavailableError  # what a client tries again elsewhere
        await events.aclose()
        target.script = says("one two")
        assert text_of(await resume(two.client, holding(first.session_id, "one"))) == " two"

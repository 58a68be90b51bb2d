import asyncio
from contextlib import aclosing

import pytest
from tests.waiting import patience

from treedraft.core.errors import (
    CancelledError,
    InvalidRequestError,
    OverloadedError,
    PromptTooLongError,
    UnavailableError,
)
from treedraft.core.generation import Delta, Finished, GenerateQuery, ServedModel, Started
from treedraft.core.growth import TokenSource
from treedraft.core.session import FinishReason, SessionStatistics
from treedraft.core.worker import (
    ClusterDescription,
    WorkerRegistration,
    WorkerReport,
    WorkerRole,
)
from treedraft.rpc.context import traceparent_of
from treedraft.rpc.convert import (
    cluster_to_proto,
    generate_event_to_proto,
    generate_query_from_proto,
    served_models_to_proto,
)
from treedraft.rpc.coordinator_client import CoordinatorClient
from treedraft.v1 import coordinator_service_pb2 as pb
from treedraft.v1 import coordinator_service_pb2_grpc as pb_grpc

EVENTS = [
    Started("s", 2**64 - 1, (1, 2), "", "toy"),
    Delta(0, (5, 6), (TokenSource.LOOKUP, TokenSource.TARGET), "hi"),
    Finished(FinishReason.STOP, SessionStatistics(rounds=1, emitted_tokens=2), 1.5),
]
MODELS = [ServedModel("toy", 2048, 1, 2)]
CLUSTER = ClusterDescription(
    (
        (
            WorkerRegistration("w", "i", WorkerRole.TARGET, "h:1", "toy", max_sessions=4),
            WorkerReport(num_sessions=2, added_prefixes=(7,)),
        ),
    ),
    3,
)


class ScriptedCoordinator(pb_grpc.CoordinatorServiceServicer):
    """Answers from a script; `query.model` chooses it."""

    def __init__(self):
        self.query = None
        self.traceparent = None
        self.ended = asyncio.Event()

    async def Generate(self, request, context):  # noqa: N802 - the name is the RPC's
        self.query = generate_query_from_proto(request)
        self.traceparent = traceparent_of(context)
        try:
            if self.query.model == "full":
                raise OverloadedError("full", retry_after_ms=20)
            yield generate_event_to_proto(EVENTS[0])
            if self.query.model == "long":
                raise PromptTooLongError("too long", field="input")
            if self.query.model == "endless":
                await asyncio.Event().wait()
            yield pb.GenerateResponse()  # an event of a later version
            for event in EVENTS[1:]:
                yield generate_event_to_proto(event)
        finally:
            self.ended.set()

    async def ListModels(self, request, context):  # noqa: N802 - the name is the RPC's
        return served_models_to_proto(MODELS)

    async def DescribeCluster(self, request, context):  # noqa: N802 - the name is the RPC's
        return cluster_to_proto(CLUSTER)


@pytest.fixture
async def coordinator(serving):
    servicer = ScriptedCoordinator()
    add = pb_grpc.add_CoordinatorServiceServicer_to_server
    async with serving((add, servicer)) as (server, endpoint):
        client = CoordinatorClient(endpoint)
        yield servicer, client, server
        await client.close()


async def collect(client, query, seen=None, **options):
    seen = [] if seen is None else seen
    async for event in client.generate(query, **options):
        seen.append(event)
    return seen


async def test_events_arrive_in_order_and_unknown_ones_are_skipped(coordinator):
    servicer, client, _ = coordinator
    query = GenerateQuery(token_ids=(1, 2))
    assert await collect(client, query, traceparent="00-a-b-01") == EVENTS
    assert servicer.query == query
    assert servicer.traceparent == "00-a-b-01"


async def test_errors_come_back_before_and_within_the_answer(coordinator):
    _, client, _ = coordinator
    with pytest.raises(OverloadedError) as caught:
        await collect(client, GenerateQuery(model="full", text="a"))
    assert caught.value.retry_after_ms == 20
    seen = []
    with pytest.raises(PromptTooLongError) as late:
        await collect(client, GenerateQuery(model="long", text="a"), seen)
    assert late.value.field == "input"
    assert seen == EVENTS[:1]


async def test_closing_the_generator_cancels_the_session(coordinator):
    servicer, client, _ = coordinator
    async with aclosing(client.generate(GenerateQuery(model="endless", text="a"))) as events:
        assert await anext(events) == EVENTS[0]
    async with patience():
        await servicer.ended.wait()


async def test_cancelling_the_caller_cancels_the_session(coordinator):
    servicer, client, _ = coordinator
    started = asyncio.Event()

    async def consume():
        async with aclosing(client.generate(GenerateQuery(model="endless", text="a"))) as events:
            async for _ in events:
                started.set()

    task = asyncio.create_task(consume())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with patience():
        await servicer.ended.wait()


async def test_the_time_limit_ends_the_answer(coordinator):
    _, client, _ = coordinator
    with pytest.raises(CancelledError) as caught:
        await collect(client, GenerateQuery(model="endless", text="a"), timeout_seconds=0.1)
    assert caught.value.reason == "DEADLINE_EXCEEDED"


async def test_what_cannot_be_asked_is_not_sent(coordinator):
    servicer, client, _ = coordinator
    with pytest.raises(InvalidRequestError):
        await collect(client, GenerateQuery())
    assert servicer.query is None


async def test_models_and_cluster_are_described(coordinator):
    _, client, _ = coordinator
    assert await client.list_models() == MODELS
    assert await client.describe_cluster() == CLUSTER


async def test_a_coordinator_that_is_gone_is_unavailable(coordinator):
    _, client, server = coordinator
    await server.stop(0)
    for ask in (client.list_models, client.describe_cluster):
        with pytest.raises(UnavailableError):
            await ask()
    with pytest.raises(UnavailableError):
        await collect(client, GenerateQuery(text="a"))

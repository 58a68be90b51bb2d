"""Bad input gets a clear error with a stable reason, and nothing is lost or leaked.

One small cluster of real processes takes it all; after each blow it still
answers, and its KV pool is as full as before.
"""

import asyncio
import json
from collections.abc import AsyncIterator

import grpc
import pytest
import pytest_asyncio
from tests.waiting import patience

from treedraft.core.errors import (
    InvalidRequestError,
    TreedraftError,
    UnavailableError,
)
from treedraft.core.generation import ChatMessage, Delta, Finished, GenerateQuery
from treedraft.core.sampling import SamplingParameters, StoppingCriteria
from treedraft.core.worker import WorkerRole
from treedraft.inference.toy import make_toy_model
from treedraft.local_cluster.cluster import LocalCluster
from treedraft.local_cluster.plan import ClusterPlan
from treedraft.rpc.coordinator_client import CoordinatorClient
from treedraft.rpc.errors import from_rpc_error
from treedraft.v1 import coordinator_service_pb2 as pb
from treedraft.v1 import coordinator_service_pb2_grpc as pb_grpc

KV_TOKENS = 512
VOCAB_SIZE = 512
SMALL_POOL = {
    "TREEDRAFT_TARGET__KV__TOKENS": str(KV_TOKENS),
    "TREEDRAFT_TARGET__NUM_THREADS": "1",
}

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return make_toy_model(tmp_path_factory.mktemp("toys") / "target", seed=1, vocab=VOCAB_SIZE)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(toy) -> AsyncIterator[LocalCluster]:
    async with LocalCluster(ClusterPlan(target=str(toy), settings=SMALL_POOL)) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def client(cluster) -> AsyncIterator[CoordinatorClient]:
    """A client of a cluster that must be as well after the test as before."""
    connected = cluster.connect()
    yield connected
    cluster.check()
    assert await generate(connected, GenerateQuery(text="hello", stopping=STOP_SOON))
    await wait_until_pool_is_free(connected)
    await connected.close()


STOP_SOON = StoppingCriteria(max_tokens=4, ignore_eos=True)


async def generate(client, query) -> list[int]:
    return [
        token
        async for event in client.generate(query, timeout_seconds=30)
        if isinstance(event, Delta)
        for token in event.token_ids
    ]


async def wait_until_pool_is_free(client) -> None:
    async with patience():
        while True:
            cluster = await client.describe_cluster()
            [report] = [r for who, r in cluster.workers if who.role is WorkerRole.TARGET]
            if report.num_sessions == 0 and report.free_kv_blocks == report.total_kv_blocks:
                return
            await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        (GenerateQuery(token_ids=()), "EMPTY_PROMPT"),
        (GenerateQuery(text=""), "EMPTY_PROMPT"),
        (GenerateQuery(token_ids=(1, 2, VOCAB_SIZE + 7)), "TOKEN_OUT_OF_RANGE"),
        (GenerateQuery(token_ids=(1,) * (KV_TOKENS + 1)), "PROMPT_TOO_LONG"),
        (GenerateQuery(token_ids=(1,) * 100_000), "PROMPT_TOO_LONG"),
        (GenerateQuery(text="hello", model="no-such-model"), "UNKNOWN_MODEL"),
        (
            GenerateQuery(
                text="hello", sampling=SamplingParameters(logit_bias=((VOCAB_SIZE * 2, 1.0),))
            ),
            "TOKEN_OUT_OF_RANGE",
        ),
    ],
    ids=["no tokens", "no text", "range", "pool", "context", "model", "bias"],
)
async def test_a_query_that_cannot_be_served(client, query, reason):
    with pytest.raises(InvalidRequestError) as error:
        await generate(client, query)
    assert error.value.reason == reason


def raw(**fields) -> pb.GenerateRequest:
    return pb.GenerateRequest(text="hello", **fields)


def with_unknown_field() -> pb.GenerateRequest:
    request = raw()
    request.MergeFromString(b"\xfa\x3f\x03new")  # field 1023, from a future version
    return request


@pytest.mark.parametrize(
    ("request_", "reason", "field"),
    [
        (raw(sampling={"temperature": -0.1}), "INVALID_REQUEST", "temperature"),
        (raw(sampling={"temperature": float("nan")}), "INVALID_REQUEST", "temperature"),
        (raw(sampling={"top_p": 0.0}), "INVALID_REQUEST", "top_p"),
        (raw(sampling={"min_p": 1.5}), "INVALID_REQUEST", "min_p"),
        (raw(sampling={"repetition_penalty": 0.0}), "INVALID_REQUEST", "repetition_penalty"),
        (raw(sampling={"presence_penalty": 3.0}), "INVALID_REQUEST", "presence_penalty"),
        (raw(sampling={"logit_bias": {1: 1e9}}), "INVALID_REQUEST", "logit_bias"),
        (raw(sampling={"verification": 77}), "INVALID_REQUEST", "verification"),
        (raw(stopping={"max_tokens": 0}), "INVALID_REQUEST", "max_tokens"),
        (raw(stopping={"stop_strings": ["x"] * 17}), "INVALID_REQUEST", "stop_strings"),
        (raw(stopping={"stop_strings": [""]}), "INVALID_REQUEST", "stop_strings"),
        (raw(speculation={"max_nodes": 100_000}), "INVALID_REQUEST", "max_nodes"),
        (raw(speculation={"max_depth": 100_000}), "INVALID_REQUEST", "max_depth"),
        (with_unknown_field(), "UNKNOWN_FIELD", ""),
        (pb.GenerateRequest(), "INVALID_INPUT", "input"),
    ],
)
async def test_a_request_that_breaks_a_rule(cluster, client, request_, reason, field):
    error = await call_raw(cluster.endpoint, request_)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    raised = from_rpc_error(error)
    assert isinstance(raised, InvalidRequestError)
    assert raised.reason == reason
    assert field in raised.field
    assert raised.message


async def call_raw(endpoint: str, request: pb.GenerateRequest) -> grpc.aio.AioRpcError:
    unlimited = [("grpc.max_send_message_length", -1)]
    async with grpc.aio.insecure_channel(endpoint, options=unlimited) as channel:
        stub = pb_grpc.CoordinatorServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            async for _ in stub.Generate(request, timeout=30):
                pass
    return error.value


async def test_a_message_of_100_megabytes(cluster, client):
    error = await call_raw(cluster.endpoint, pb.GenerateRequest(text="x" * 100_000_000))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert from_rpc_error(error).reason == "MESSAGE_TOO_LARGE"


async def test_a_template_that_refuses_the_conversation(client):
    query = GenerateQuery(conversation=(ChatMessage("user", "\ud800"),))
    with pytest.raises((TreedraftError, UnicodeEncodeError)):
        await generate(client, query)


async def test_a_client_that_leaves_frees_the_pool(client):
    endless = StoppingCriteria(ignore_eos=True)
    events = client.generate(GenerateQuery(text="hello", stopping=endless))
    async for event in events:
        if isinstance(event, Delta):
            break
    await events.aclose()
    await wait_until_pool_is_free(client)


async def test_a_deadline_that_passes_is_an_error_and_frees_the_pool(client):
    endless = StoppingCriteria(ignore_eos=True)
    with pytest.raises(TreedraftError) as error:
        async for _ in client.generate(
            GenerateQuery(token_ids=(1,) * 300, stopping=endless), timeout_seconds=0.05
        ):
            pass
    assert error.value.reason == "DEADLINE_EXCEEDED"
    await wait_until_pool_is_free(client)


async def test_the_end_of_the_pool_ends_the_text_as_a_limit(client):
    endless = StoppingCriteria(ignore_eos=True)
    finished = [
        event
        async for event in client.generate(
            GenerateQuery(token_ids=(1,) * (KV_TOKENS - 20), stopping=endless), timeout_seconds=30
        )
        if isinstance(event, Finished)
    ]
    assert [event.reason.value for event in finished] == ["length"]
    assert finished[0].statistics.emitted_tokens == 20


async def test_a_model_that_no_tree_can_verify_is_refused_by_name(toy, tmp_path):
    sliding = make_toy_model(tmp_path / "sliding", architecture="qwen2", seed=2)
    config = json.loads((sliding / "config.json").read_text())
    config |= {"use_sliding_window": True, "sliding_window": 8}
    config["layer_types"] = ["sliding_attention"] * len(config["layer_types"])
    (sliding / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnavailableError) as error:
        async with LocalCluster(ClusterPlan(target=str(sliding), num_drafters=0)):
            pass
    assert error.value.reason == "SERVICE_DIED"
    assert "UNSUPPORTED_ATTENTION" in error.value.message
    assert "sliding" in error.value.message

"""The service over real gRPC: handshake, frames, ends of streams, the whole process."""

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace

import grpc
import pytest
from draft_support import GREEDY, make_drafter, make_spec
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.waiting import PATIENCE_SECONDS, patience

from treedraft.core.errors import (
    IncompatiblePeerError,
    InvalidRequestError,
    TreedraftError,
    UnavailableError,
)
from treedraft.core.exchange import Commit, Hello, SessionOpen, TargetFrame
from treedraft.core.growth import TokenSource
from treedraft.draft.__main__ import serve
from treedraft.draft.links import Stop
from treedraft.draft.service import SERVICE_NAME, DraftServicer
from treedraft.draft.settings import DraftSettings
from treedraft.rpc.convert import target_frame_to_proto
from treedraft.rpc.draft_client import TreeExchange
from treedraft.rpc.server import RpcServer
from treedraft.settings import GrpcSettings, TelemetrySettings
from treedraft.v1 import draft_service_pb2, draft_service_pb2_grpc

TEXT = [*range(10, 40), 10, 11, 12]
TARGET = Hello("target", "i1", "hash-a", 512, "toy")


def draft_hello(tokenizer_hash="hash-a"):
    return Hello("draft", "i2", tokenizer_hash, 512, "lookup")


@asynccontextmanager
async def served(tmp_path, hello=None):
    drafter = make_drafter(tmp_path)
    servicer = DraftServicer()
    server = RpcServer(GrpcSettings(grace_seconds=1), [SERVICE_NAME])
    servicer.add_to(server.grpc)
    endpoint = await server.start()
    drafter.start()
    servicer.attach(hello or draft_hello(), drafter)
    try:
        yield endpoint, servicer, drafter
    finally:
        await server.stop(0)
        drafter.post(Stop())
        assert await asyncio.to_thread(drafter.join, PATIENCE_SECONDS)


async def until(condition):
    async with patience():
        while not condition():  # noqa: ASYNC110 - what is waited for happens on a thread
            await asyncio.sleep(0.005)


def opening(number=1, text=TEXT, **options):
    return TargetFrame(opens=[SessionOpen(number, make_spec(text, **options))], credit_nodes=500)


async def test_trees_are_exchanged(tmp_path):
    async with served(tmp_path) as (endpoint, _, drafter):
        exchange = await TreeExchange.dial(endpoint, TARGET, timeout_seconds=5)
        assert exchange.peer == draft_hello()
        await exchange.send(opening())
        frame = await exchange.receive()
        assert frame.growths[0].token_ids[:3] == (13, 14, 15)
        await exchange.send(TargetFrame(commits=[Commit(1, 5, (1,))]))
        while not frame.reopens:
            frame = await exchange.receive()
        assert frame.reopens[0].known_length == len(TEXT)
        await exchange.send(opening(2))
        await until(lambda: drafter.report.num_sessions == 1)
        await exchange.close()
        await until(lambda: drafter.report.num_sessions == 0)


@pytest.mark.parametrize("version", [1, 2])
async def test_a_target_gets_scores_as_its_protocol_has_them(tmp_path, version):
    async with served(tmp_path) as (endpoint, _, _), grpc.aio.insecure_channel(endpoint) as c:
        call = draft_service_pb2_grpc.DraftServiceStub(c).ExchangeTrees()
        hello = replace(TARGET, protocol_version=version)
        await call.write(target_frame_to_proto(TargetFrame(hello=hello)))
        await call.read()
        await call.write(target_frame_to_proto(opening()))
        growth = (await call.read()).growths[0]
        assert (len(growth.scores) > 0) is (version == 1)
        assert len(growth.token_ids) == len(growth.scores) + len(growth.score_steps)
        call.cancel()


async def test_another_tokenizer_is_refused_and_none_fits_all(tmp_path):
    async with served(tmp_path, draft_hello("hash-b")) as (endpoint, _, _):
        with pytest.raises(IncompatiblePeerError) as caught:
            await TreeExchange.dial(endpoint, TARGET, timeout_seconds=5)
        assert caught.value.reason == "TOKENIZER_MISMATCH"
    async with served(tmp_path, draft_hello("")) as (endpoint, _, _):
        await (await TreeExchange.dial(endpoint, TARGET, timeout_seconds=5)).close()


async def test_a_newer_protocol_only_is_refused(tmp_path):
    async with served(tmp_path) as (endpoint, _, _):
        newer = Hello("target", "i1", "hash-a", 512, "toy", 9, 9)
        with pytest.raises(IncompatiblePeerError) as caught:
            await TreeExchange.dial(endpoint, newer, timeout_seconds=5)
        assert caught.value.reason == "PROTOCOL_MISMATCH"


async def test_a_stream_without_hello_is_refused(tmp_path):
    async with served(tmp_path) as (endpoint, _, drafter), grpc.aio.insecure_channel(endpoint) as c:
        call = draft_service_pb2_grpc.DraftServiceStub(c).ExchangeTrees()
        await call.write(draft_service_pb2.ExchangeTreesRequest(credit_nodes=5))
        assert await call.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert drafter.report.num_sessions == 0


async def test_a_bad_frame_ends_its_own_stream_only(tmp_path):
    async with served(tmp_path) as (endpoint, _, drafter), grpc.aio.insecure_channel(endpoint) as c:
        good = await TreeExchange.dial(endpoint, TARGET, timeout_seconds=5)
        await good.send(opening())
        assert (await good.receive()).growths
        call = draft_service_pb2_grpc.DraftServiceStub(c).ExchangeTrees()
        hello = draft_service_pb2.ExchangeHello(protocol_version=1, min_protocol_version=1)
        await call.write(draft_service_pb2.ExchangeTreesRequest(hello=hello))
        await call.read()
        await call.write(draft_service_pb2.ExchangeTreesRequest(closes=range(5000)))
        assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
        await good.send(opening(2))
        assert (await good.receive()).growths
        assert drafter.report.num_sessions == 2
        await good.close()


async def test_streams_end_well_when_the_drafter_leaves(tmp_path):
    async with served(tmp_path) as (endpoint, servicer, _):
        exchange = await TreeExchange.dial(endpoint, TARGET, timeout_seconds=5)
        servicer.end_streams()
        assert await exchange.receive() is None
        with pytest.raises(UnavailableError):
            await TreeExchange.dial(endpoint, TARGET, timeout_seconds=5)
        await exchange.close()


@pytest.fixture(autouse=True)
def _logging_stays_as_it_is(monkeypatch):
    monkeypatch.setattr("treedraft.rpc.process.configure_logging", lambda *_: None)


@asynccontextmanager
async def running(settings):
    stop = asyncio.Event()
    task = asyncio.create_task(serve(settings, stop))
    try:
        yield task
    finally:
        stop.set()
        await task


def service_settings(tmp_path, **options):
    return DraftSettings(
        grpc=GrpcSettings(endpoint_file=str(tmp_path / "endpoint"), grace_seconds=1),
        telemetry=TelemetrySettings(
            store_path=str(tmp_path / "s.sqlite"), sample_ratio=1.0, log_level="error"
        ),
        **options,
    )


async def wait_until_healthy(tmp_path, task):
    await until(lambda: (tmp_path / "endpoint").exists() or task.done())
    endpoint = (tmp_path / "endpoint").read_text().strip()
    async with patience(), grpc.aio.insecure_channel(endpoint) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(
            health_pb2.HealthCheckRequest(service=SERVICE_NAME)
        )
        async for answer in watch:
            if answer.status == health_pb2.HealthCheckResponse.SERVING:
                return endpoint
    raise AssertionError("never healthy")


async def test_the_whole_service_drafts_with_a_model_and_stops(tmp_path, toy_folder, toy_model):
    settings = service_settings(tmp_path, model=str(toy_folder), kv_tokens=512, num_threads=1)
    async with running(settings) as task:
        endpoint = await wait_until_healthy(tmp_path, task)
        hello = Hello("target", "i1", toy_model.tokenizer_hash, 512, "toy")
        exchange = await TreeExchange.dial(endpoint, hello, timeout_seconds=5)
        assert exchange.peer.tokenizer_hash == toy_model.tokenizer_hash
        await exchange.send(opening(text=[1, 2, 3, 4], sampling=GREEDY))
        growth = (await exchange.receive()).growths[0]
        assert set(growth.sources) == {TokenSource.DRAFT_MODEL}
        await exchange.close()
    assert task.done()


async def test_a_drafter_of_lookup_alone_names_no_tokenizer(tmp_path):
    async with running(service_settings(tmp_path)) as task:
        endpoint = await wait_until_healthy(tmp_path, task)
        exchange = await TreeExchange.dial(endpoint, TARGET, timeout_seconds=5)
        assert exchange.peer.tokenizer_hash == ""
        await exchange.send(opening())
        assert (await exchange.receive()).growths
        await exchange.close()


async def test_nothing_to_draft_with_is_an_error(tmp_path):
    with pytest.raises(InvalidRequestError) as caught:
        await serve(service_settings(tmp_path, lookup={"enabled": False}))
    assert caught.value.reason == "NOTHING_TO_DRAFT_WITH"


async def test_a_model_that_is_not_there_is_a_clear_error(tmp_path):
    with pytest.raises(TreedraftError) as caught:
        await serve(service_settings(tmp_path, model=str(tmp_path / "nothing.gguf")))
    assert caught.value.reason == "MODEL_NOT_FOUND"

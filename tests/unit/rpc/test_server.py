import asyncio
import os
import signal
import socket
import threading
import time

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from tests.certificates import an_authority
from tests.waiting import PATIENCE_SECONDS, patience

from treedraft.core.errors import UnavailableError
from treedraft.rpc.channel import open_channel
from treedraft.rpc.context import seconds_left, traceparent_of
from treedraft.rpc.errors import from_rpc_error
from treedraft.rpc.health_client import ask_health
from treedraft.rpc.server import LIVENESS, RpcServer, advertised_endpoint, wait_for_signal
from treedraft.settings import GrpcSettings
from treedraft.v1 import coordinator_service_pb2 as pb
from treedraft.v1 import coordinator_service_pb2_grpc as pb_grpc

NAME = "treedraft.v1.CoordinatorService"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def health_of(channel, name):
    stub = health_pb2_grpc.HealthStub(channel)
    return (
        await stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=PATIENCE_SECONDS)
    ).status


@pytest.mark.parametrize("name", ["", NAME])
async def test_health_follows_what_the_service_says(name):
    server = RpcServer(GrpcSettings(), [NAME])
    async with open_channel(await server.start()) as channel:
        assert await health_of(channel, name) == NOT_SERVING
        await server.set_serving(True)
        assert await health_of(channel, name) == SERVING
        await server.set_serving(False)
        assert await health_of(channel, name) == NOT_SERVING
        await server.stop(0)


class Held(pb_grpc.CoordinatorServiceServicer):
    """Answers once it is told to."""

    def __init__(self):
        self.entered = asyncio.Event()
        self.release = asyncio.Event()
        self.seen = {}

    async def ListModels(self, request, context):  # noqa: N802 - the name is the RPC's
        self.seen = {"traceparent": traceparent_of(context), "left": seconds_left(context)}
        self.entered.set()
        await self.release.wait()
        return pb.ListModelsResponse()


async def test_a_stop_turns_unhealthy_first_and_lets_running_calls_end():
    server, held = RpcServer(GrpcSettings(), [NAME]), Held()
    pb_grpc.add_CoordinatorServiceServicer_to_server(held, server.grpc)
    async with open_channel(await server.start()) as channel:
        await server.set_serving(True)
        watch = health_pb2_grpc.HealthStub(channel).Watch(
            health_pb2.HealthCheckRequest(service=NAME)
        )
        assert (await watch.read()).status == SERVING
        call = asyncio.ensure_future(
            pb_grpc.CoordinatorServiceStub(channel).ListModels(
                pb.ListModelsRequest(), timeout=PATIENCE_SECONDS
            )
        )
        await held.entered.wait()
        stopping = asyncio.create_task(server.stop(10))
        assert (await watch.read()).status == NOT_SERVING
        watch.cancel()
        assert not stopping.done()
        held.release.set()
        assert await call == pb.ListModelsResponse()
        await stopping


async def test_a_stop_cancels_what_outlives_the_grace():
    server, held = RpcServer(GrpcSettings(grace_seconds=0.05), [NAME]), Held()
    pb_grpc.add_CoordinatorServiceServicer_to_server(held, server.grpc)
    async with open_channel(await server.start()) as channel:
        call = pb_grpc.CoordinatorServiceStub(channel).ListModels(
            pb.ListModelsRequest(), timeout=10
        )
        await held.entered.wait()
        await server.stop()
        with pytest.raises((grpc.aio.AioRpcError, asyncio.CancelledError)):
            await call


class Asking(threading.Thread):
    """Makes calls at once from a thread of its own, and keeps what they failed with."""

    def __init__(self, endpoint: str, num_calls: int) -> None:
        super().__init__()
        self._endpoint = endpoint
        self._num_calls = num_calls
        self.has_asked = threading.Event()
        self.errors: list[grpc.RpcError] = []
        self.num_answered = 0

    def run(self) -> None:
        with grpc.insecure_channel(self._endpoint) as channel:
            stub = pb_grpc.CoordinatorServiceStub(channel)
            grpc.channel_ready_future(channel).result(timeout=10)
            calls = [
                stub.ListModels.future(pb.ListModelsRequest(), timeout=10)
                for _ in range(self._num_calls)
            ]
            self.has_asked.set()
            for call in calls:
                try:
                    call.result()
                    self.num_answered += 1
                except grpc.RpcError as error:
                    self.errors.append(error)


async def test_calls_that_a_stop_finds_not_taken_up_say_that_the_server_is_away():
    server, held = RpcServer(GrpcSettings(), [NAME]), Held()
    held.release.set()
    pb_grpc.add_CoordinatorServiceServicer_to_server(held, server.grpc)
    asking = Asking(await server.start(), num_calls=8)
    asking.start()
    # The event loop stands still, so that gRPC holds calls that no handler gets.
    asking.has_asked.wait(10)
    time.sleep(0.1)  # noqa: ASYNC251
    await server.stop(5)
    await asyncio.to_thread(asking.join)
    assert asking.num_answered + len(asking.errors) == 8
    for error in asking.errors:
        assert type(from_rpc_error(error)) is UnavailableError, error


async def test_handlers_see_trace_context_and_deadline(serving):
    held = Held()
    held.release.set()
    added = (pb_grpc.add_CoordinatorServiceServicer_to_server, held)
    async with serving(added) as (_, endpoint), open_channel(endpoint) as channel:
        stub = pb_grpc.CoordinatorServiceStub(channel)
        await stub.ListModels(pb.ListModelsRequest())
        assert held.seen == {"traceparent": "", "left": None}
        await stub.ListModels(
            pb.ListModelsRequest(), timeout=60, metadata=(("traceparent", "00-a-b-01"),)
        )
        assert held.seen["traceparent"] == "00-a-b-01"
        assert 50 < held.seen["left"] < 61


@pytest.mark.parametrize("is_on", [True, False])
async def test_reflection_lists_the_services_if_it_is_on(is_on):
    server = RpcServer(GrpcSettings(reflection=is_on), [NAME])
    async with open_channel(await server.start()) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        call = stub.ServerReflectionInfo(iter([request]), timeout=PATIENCE_SECONDS)
        if is_on:
            answer = await call.read()
            names = {service.name for service in answer.list_services_response.service}
            assert {NAME, "grpc.health.v1.Health"} <= names
            call.cancel()
        else:
            with pytest.raises(grpc.aio.AioRpcError, match="UNIMPLEMENTED"):
                await call.read()
        await server.stop(0)


async def test_the_endpoint_file_holds_the_endpoint_and_nothing_else_is_left(tmp_path):
    path = tmp_path / "run" / "endpoint"
    server = RpcServer(GrpcSettings(endpoint_file=str(path)), [])
    endpoint = await server.start()
    assert path.read_text() == endpoint
    assert endpoint.startswith("127.0.0.1:")
    assert not endpoint.endswith(":0")
    assert list(path.parent.iterdir()) == [path]
    await server.stop(0)


async def test_a_port_in_use_is_a_clear_error(serving):
    async with serving() as (_, endpoint):
        second = RpcServer(GrpcSettings(port=int(endpoint.rpartition(":")[2])), [])
        with pytest.raises(UnavailableError) as caught:
            await second.start()
        assert caught.value.reason == "BIND_FAILED"
        await second.stop(0)


@pytest.mark.parametrize(
    ("host", "advertise", "expected"),
    [
        ("127.0.0.1", "", "127.0.0.1:5"),
        ("0.0.0.0", "", f"{socket.gethostname()}:5"),
        ("::", "", f"{socket.gethostname()}:5"),
        ("::1", "", "[::1]:5"),
        ("[::1]", "", "[::1]:5"),
        ("0.0.0.0", "draft-0.draft", "draft-0.draft:5"),
        ("0.0.0.0", "draft-0.draft:443", "draft-0.draft:443"),
        ("0.0.0.0", "[fe80::1]:443", "[fe80::1]:443"),
    ],
)
def test_what_others_dial(host, advertise, expected):
    assert advertised_endpoint(GrpcSettings(host=host, advertise=advertise), 5) == expected


@pytest.mark.parametrize(
    ("number", "default"),
    [(signal.SIGTERM, signal.SIG_DFL), (signal.SIGINT, signal.default_int_handler)],
)
async def test_a_signal_ends_the_wait_and_then_has_its_default_meaning(number, default):
    before = signal.getsignal(number)
    stop = asyncio.Event()
    waiting = asyncio.create_task(wait_for_signal(stop))
    await asyncio.sleep(0)
    os.kill(os.getpid(), number)
    try:
        async with patience():
            await waiting
        assert stop.is_set()
        assert signal.getsignal(number) == default
    finally:
        signal.signal(number, before)


async def test_an_event_ends_the_wait_as_well():
    stop = asyncio.Event()
    waiting = asyncio.create_task(wait_for_signal(stop))
    await asyncio.sleep(0)
    assert not waiting.done()
    stop.set()
    async with patience():
        await waiting


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


async def test_liveness_does_not_wait_for_the_service():
    server = RpcServer(GrpcSettings(), [NAME])
    endpoint = await server.start()
    try:
        assert not await ask_health(endpoint)
        assert await ask_health(endpoint, LIVENESS)
        assert not await ask_health(endpoint, "nobody")
    finally:
        await server.stop(0)


async def test_a_probe_without_certificate_is_answered_where_tls_is_demanded(tmp_path):
    tls = an_authority(tmp_path).settings("service", require_client_certificate=True)
    port = free_port()
    server = RpcServer(GrpcSettings(health_port=port), [NAME], tls)
    endpoint = await server.start()
    try:
        await server.set_serving(True)
        probe = f"127.0.0.1:{port}"
        assert await ask_health(probe, NAME)
        assert await ask_health(endpoint, tls=tls)
        with pytest.raises(UnavailableError):
            await ask_health(endpoint)
        async with open_channel(probe) as channel:
            stub = pb_grpc.CoordinatorServiceStub(channel)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.ListModels(pb.ListModelsRequest(), timeout=PATIENCE_SECONDS)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    finally:
        await server.stop(0)
    with pytest.raises(UnavailableError):
        await ask_health(f"127.0.0.1:{port}")


async def test_a_taken_health_port_is_refused_by_name():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        server = RpcServer(GrpcSettings(health_port=taken.getsockname()[1]), [NAME])
        with pytest.raises(UnavailableError, match="cannot listen") as caught:
            await server.start()
    assert caught.value.reason == "BIND_FAILED"

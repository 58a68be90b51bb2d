"""The streams of a target, over real gRPC, without an engine."""

import asyncio
from contextlib import asynccontextmanager

import grpc
from tests.unit.coordinator.support import a_spec, describe_toy, output

from treedraft.rpc.target_client import TargetClient
from treedraft.target.events import EngineNews
from treedraft.target.service import TargetBackend, TargetServicer


class FakeEngine:
    def __init__(self):
        self.events = []

    def post(self, event):
        self.events.append(event)


class FakeLinks:
    def acquire(self, drafters):
        pass

    def release(self, drafters):
        pass

    def send(self, frames):
        pass


@asynccontextmanager
async def a_stream(heartbeat_seconds):
    servicer = TargetServicer(heartbeat_seconds=heartbeat_seconds)
    servicer.attach(TargetBackend(describe_toy(), FakeEngine(), FakeLinks()))
    server = grpc.aio.server()
    servicer.add_to(server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    client = TargetClient(f"127.0.0.1:{port}")
    stream = await client.run_sessions("c1")
    try:
        async with asyncio.timeout(10):
            yield servicer, stream
    finally:
        await stream.close()
        await client.close()
        await server.stop(None)


async def test_a_stream_with_nothing_to_say_shows_signs_of_life():
    async with a_stream(0.01) as (servicer, stream):
        assert [await stream.receive() for _ in range(3)] == [(), (), ()]
        said = output(a_spec(), 0, [7])
        servicer.pass_on(EngineNews(outputs={1: (said,)}))
        while not (outputs := await stream.receive()):
            pass
        assert outputs == (said,)
        assert await stream.receive() == ()


async def test_a_stream_ends_when_it_is_told_to_signs_of_life_or_not():
    async with a_stream(0.01) as (servicer, stream):
        await stream.receive()
        servicer.end_streams()
        while (outputs := await stream.receive()) is not None:
            assert outputs == ()

"""The streams of a target, over real gRPC, without an engine."""

import asyncio
import threading
from contextlib import asynccontextmanager
from dataclasses import replace

import grpc
from tests.unit.coordinator.support import a_spec, describe_toy, output, until
from tests.waiting import PATIENCE_SECONDS, patience

from treedraft.core.exchange import CoordinatorFrame
from treedraft.core.grammar import ANY_JSON_OBJECT
from treedraft.core.sampling import SamplingParameters
from treedraft.rpc.target_client import TargetClient
from treedraft.target.events import CancelSession, EngineNews, StartSession
from treedraft.target.service import TargetBackend, TargetServicer


class FakeEngine:
    def __init__(self):
        self.events = []

    def post(self, event):
        self.events.append(event)

    def started(self):
        return [event.spec.session_id for event in self.events if isinstance(event, StartSession)]


class FakeLinks:
    def acquire(self, drafters):
        pass

    def release(self, drafters):
        pass

    def send(self, frames):
        pass


@asynccontextmanager
async def a_stream(heartbeat_seconds, *, engine=None, **parts):
    servicer = TargetServicer(heartbeat_seconds=heartbeat_seconds)
    servicer.attach(TargetBackend(describe_toy(), engine or FakeEngine(), FakeLinks(), **parts))
    server = grpc.aio.server()
    servicer.add_to(server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    client = TargetClient(f"127.0.0.1:{port}")
    stream = await client.run_sessions("c1")
    try:
        async with patience():
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


async def test_steps_that_ended_while_a_frame_was_on_its_way_are_told_together():
    async with a_stream(0.01) as (servicer, stream):
        await stream.receive()
        steps = [output(a_spec(), base_length, [base_length]) for base_length in range(8)]
        for step in steps:  # all of them before the stream has its turn
            servicer.pass_on(EngineNews(outputs={1: (step,)}))
        frames = []
        while sum(map(len, frames)) < len(steps):
            frames.append(await stream.receive())
        assert [one for frame in frames for one in frame] == steps
        assert sum(map(bool, frames)) <= 2


async def test_a_stream_ends_when_it_is_told_to_signs_of_life_or_not():
    async with a_stream(0.01) as (servicer, stream):
        await stream.receive()
        servicer.end_streams()
        while (outputs := await stream.receive()) is not None:
            assert outputs == ()


class Compiler:
    """Prepares a session until it is let go."""

    def __init__(self):
        self.begun, self.may_end = threading.Event(), threading.Event()

    def __call__(self, spec):
        self.begun.set()
        assert self.may_end.wait(PATIENCE_SECONDS)


def constrained(session_id):
    sampling = SamplingParameters(seed=1, grammar=ANY_JSON_OBJECT)
    return replace(a_spec(session_id), sampling=sampling)


async def test_a_grammar_is_compiled_before_the_engine_hears_of_the_session():
    engine, compiler = FakeEngine(), Compiler()
    async with a_stream(0.01, engine=engine, prepare=compiler) as (_, stream):
        await stream.send(CoordinatorFrame(starts=(constrained("slow"),)))
        assert await asyncio.to_thread(compiler.begun.wait, PATIENCE_SECONDS)
        await stream.send(CoordinatorFrame(starts=(a_spec("quick"),)))
        await until(lambda: engine.started() == ["quick"])
        compiler.may_end.set()
        await until(lambda: engine.started() == ["quick", "slow"])


async def test_a_session_that_is_cancelled_while_its_grammar_is_compiled_never_starts():
    engine, compiler = FakeEngine(), Compiler()
    async with a_stream(0.01, engine=engine, prepare=compiler) as (servicer, stream):
        await stream.send(CoordinatorFrame(starts=(constrained("s"),)))
        assert await asyncio.to_thread(compiler.begun.wait, PATIENCE_SECONDS)
        await stream.send(CoordinatorFrame(cancels=("s",)))
        await until(lambda: CancelSession(1, "s") in engine.events)
        compiler.may_end.set()
        await stream.send(CoordinatorFrame(starts=(a_spec("later"),)))
        await until(lambda: engine.started() == ["later"])
        assert list(servicer._specs) == [(1, "later")]

import asyncio

import pytest
from tests.waiting import patience

from treedraft.core.errors import (
    CancelledError,
    InvalidRequestError,
    OverloadedError,
    UnavailableError,
)
from treedraft.core.exchange import CoordinatorFrame, LogAcknowledgement
from treedraft.core.growth import TokenSource
from treedraft.core.model_description import ModelDescription
from treedraft.core.sampling import SamplingParameters
from treedraft.core.session import SessionOutput, SessionSpec
from treedraft.rpc.convert import (
    coordinator_frame_from_proto,
    model_description_to_proto,
    outputs_to_proto,
)
from treedraft.rpc.target_client import TargetClient
from treedraft.v1 import target_service_pb2_grpc

DESCRIPTION = ModelDescription(
    model="toy",
    fingerprint="f",
    tokenizer_hash="h",
    vocab_size=512,
    context_length=2048,
    max_prompt_tokens=2000,
    eos_token_ids=frozenset({2}),
    tokenizer_json="{}",
)


class EchoingTarget(target_service_pb2_grpc.TargetServiceServicer):
    """Answers each session with the beginning of its prompt."""

    def __init__(self, description=DESCRIPTION):
        self.description = description
        self.frames = []
        self.ended = asyncio.Event()
        self.release = asyncio.Event()
        self.release.set()

    async def DescribeModel(self, request, context):  # noqa: N802 - the name is the RPC's
        await self.release.wait()
        return model_description_to_proto(self.description)

    async def RunSessions(self, request_iterator, context):  # noqa: N802 - the name is the RPC's
        try:
            async for request in request_iterator:
                frame = coordinator_frame_from_proto(request)
                self.frames.append(frame)
                if "fail" in frame.cancels:
                    raise OverloadedError("full", reason="TOO_MANY_SESSIONS")
                if "end" in frame.cancels:
                    return
                if frame.starts:
                    yield outputs_to_proto([output_of(spec) for spec in frame.starts])
        finally:
            self.ended.set()


def output_of(spec):
    return SessionOutput(
        spec.session_id,
        spec.epoch,
        spec.prompt_length,
        spec.token_ids[:3],
        (TokenSource.TARGET,) * 3,
    )


def session(name, num_tokens=3):
    return SessionSpec(name, 1, (60000,) * num_tokens, num_tokens, SamplingParameters(seed=1))


@pytest.fixture
async def target(serving):
    servicer = EchoingTarget()
    add = target_service_pb2_grpc.add_TargetServiceServicer_to_server
    async with serving((add, servicer)) as (server, endpoint):
        client = TargetClient(endpoint)
        yield servicer, client, server
        await client.close()


async def test_the_description_arrives(target):
    _, client, _ = target
    assert await client.describe_model(5) == DESCRIPTION


async def test_a_tokenizer_larger_than_the_message_limit_arrives(target):
    servicer, client, _ = target
    servicer.description = ModelDescription(
        **{name: getattr(DESCRIPTION, name) for name in DESCRIPTION.__slots__}
        | {"tokenizer_json": "x" * (20 << 20)}
    )
    assert len((await client.describe_model(10)).tokenizer_json) == 20 << 20


async def test_a_slow_target_runs_into_the_deadline(target):
    servicer, client, _ = target
    servicer.release.clear()
    with pytest.raises(CancelledError) as caught:
        await client.describe_model(0.05)
    assert caught.value.reason == "DEADLINE_EXCEEDED"


async def test_sessions_run_over_one_stream(target):
    servicer, client, _ = target
    stream = await client.run_sessions("c1")
    specs = (session("a"), session("b"))
    await stream.send(
        CoordinatorFrame(starts=specs, acknowledgements=(LogAcknowledgement("a", 3),))
    )
    assert await stream.receive() == tuple(output_of(spec) for spec in specs)
    assert [frame.coordinator_id for frame in servicer.frames] == ["c1", ""]
    assert servicer.frames[1].acknowledgements == (LogAcknowledgement("a", 3),)
    await stream.close()
    async with patience():
        await servicer.ended.wait()


async def test_many_long_prompts_at_once_travel_in_parts(target):
    servicer, client, _ = target
    stream = await client.run_sessions("c1")
    specs = tuple(session(str(number), 500_000) for number in range(4))
    await stream.send(CoordinatorFrame(starts=specs))
    outputs = []
    while len(outputs) < len(specs):
        outputs.extend(await stream.receive())
    assert [output.session_id for output in outputs] == ["0", "1", "2", "3"]
    assert len(servicer.frames) > 2


async def test_a_prompt_larger_than_any_message_harms_no_other_session(target):
    _, client, _ = target
    stream = await client.run_sessions("c1")
    with pytest.raises(InvalidRequestError) as caught:
        await stream.send(CoordinatorFrame(starts=(session("huge", 2_000_000),)))
    assert caught.value.reason == "MESSAGE_TOO_LARGE"
    await stream.send(CoordinatorFrame(starts=(session("a"),)))
    assert await stream.receive() == (output_of(session("a")),)


async def test_an_error_of_the_target_comes_back_to_reader_and_writer(target):
    _, client, _ = target
    stream = await client.run_sessions("c1")
    await stream.send(CoordinatorFrame(cancels=("fail",)))
    with pytest.raises(OverloadedError, match="full") as caught:
        await stream.receive()
    assert caught.value.reason == "TOO_MANY_SESSIONS"
    with pytest.raises(OverloadedError, match="full"):
        await stream.send(CoordinatorFrame(cancels=("x",)))


async def write_until_it_fails(stream):
    while True:
        await stream.send(CoordinatorFrame(cancels=("x",)))


@pytest.mark.parametrize("attempt", range(10))
async def test_a_writer_that_runs_into_the_end_learns_the_reason(target, attempt):
    _, client, _ = target
    stream = await client.run_sessions("c1")
    await stream.send(CoordinatorFrame(cancels=("fail",)))
    with pytest.raises(OverloadedError, match="full"):
        await write_until_it_fails(stream)
    with pytest.raises(OverloadedError, match="full"):
        await stream.receive()


@pytest.mark.parametrize("attempt", range(10))
async def test_a_writer_that_runs_into_a_good_end_is_told_and_the_reader_sees_none(target, attempt):
    _, client, _ = target
    stream = await client.run_sessions("c1")
    await stream.send(CoordinatorFrame(cancels=("end",)))
    with pytest.raises(UnavailableError) as caught:
        await write_until_it_fails(stream)
    assert caught.value.reason == "STREAM_ENDED"
    assert await stream.receive() is None


async def test_a_stream_that_ends_well_gives_none(target):
    _, client, _ = target
    stream = await client.run_sessions("c1")
    await stream.send(CoordinatorFrame(cancels=("end",)))
    assert await stream.receive() is None


async def test_a_target_that_dies_is_unavailable(target):
    _, client, server = target
    stream = await client.run_sessions("c1")
    receiving = asyncio.create_task(stream.receive())
    await server.stop(0)
    with pytest.raises(UnavailableError):
        await receiving
    with pytest.raises(UnavailableError):
        await client.describe_model(5)
    with pytest.raises(UnavailableError):
        await client.run_sessions("c1")

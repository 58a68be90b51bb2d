import asyncio

import pytest
from tests.waiting import patience

from treedraft.core.errors import (
    IncompatiblePeerError,
    InvalidGrowthError,
    InvalidRequestError,
    TreedraftError,
    UnavailableError,
)
from treedraft.core.exchange import Commit, DraftFrame, Hello, SessionOpen, TargetFrame
from treedraft.core.growth import Growth, TokenSource
from treedraft.core.sampling import SamplingParameters, SpeculationOptions
from treedraft.core.session import DraftSpec
from treedraft.rpc.convert import draft_frame_to_proto, target_frame_from_proto
from treedraft.rpc.draft_client import TreeExchange
from treedraft.v1 import draft_service_pb2, draft_service_pb2_grpc, token_tree_pb2

TARGET = Hello("target-1", "t0", "hash", 512, "toy")
DRAFTER = Hello("draft-1", "d0", "hash", 512, "toy-small")
GROWTH = Growth(
    session_number=1,
    base_length=3,
    first_node_id=0,
    parent_offsets=(0, 1),
    token_ids=(5, 6),
    scores=(-0.5, -1.0),
    sources=(TokenSource.DRAFT_MODEL,) * 2,
)


class ScriptedDrafter(draft_service_pb2_grpc.DraftServiceServicer):
    """Says hello and then does what `script` does with the frames it gets."""

    def __init__(self, script=None, hello=DRAFTER):
        self.script = script
        self.hello = hello
        self.frames = []
        self.ended = asyncio.Event()

    async def ExchangeTrees(self, request_iterator, context):  # noqa: N802 - the name is the RPC's
        requests = aiter(request_iterator)
        try:
            self.frames.append(target_frame_from_proto(await anext(requests)))
            if self.hello:
                yield draft_frame_to_proto(DraftFrame(hello=self.hello))
            if self.script:
                async for message in self.script(self, requests):
                    yield message
        finally:
            self.ended.set()


def added(drafter):
    return (draft_service_pb2_grpc.add_DraftServiceServicer_to_server, drafter)


async def dial(endpoint, **options):
    return await TreeExchange.dial(endpoint, TARGET, **{"timeout_seconds": 5, **options})


async def grow_on_each_commit(drafter, requests):
    async for request in requests:
        drafter.frames.append(target_frame_from_proto(request))
        if request.commits:
            yield draft_frame_to_proto(DraftFrame(growths=(GROWTH,)))


async def test_frames_go_both_ways_after_the_handshake(serving):
    drafter = ScriptedDrafter(grow_on_each_commit)
    async with serving(added(drafter)) as (_, endpoint):
        exchange = await dial(endpoint)
        assert exchange.peer == DRAFTER
        frame = TargetFrame(commits=(Commit(1, 2, (7,)),), credit_nodes=64)
        await exchange.send(frame)
        assert await exchange.receive() == DraftFrame(growths=(GROWTH,))
        assert drafter.frames == [TargetFrame(hello=TARGET), frame]
        await exchange.close()
        async with patience():
            await drafter.ended.wait()


async def test_the_end_of_the_stream_is_none_and_sending_then_fails(serving):
    async with serving(added(ScriptedDrafter())) as (_, endpoint):
        exchange = await dial(endpoint)
        assert await exchange.receive() is None
        assert await exchange.receive() is None
        with pytest.raises(UnavailableError) as caught:
            await exchange.send(TargetFrame(credit_nodes=1))
        assert caught.value.reason == "STREAM_ENDED"
        await exchange.close()


async def test_a_drafter_that_dies_is_unavailable(serving):
    async def wait_forever(drafter, requests):
        await asyncio.Event().wait()
        yield

    async with serving(added(ScriptedDrafter(wait_forever))) as (server, endpoint):
        exchange = await dial(endpoint)
        receiving = asyncio.create_task(exchange.receive())
        await server.stop(0)
        with pytest.raises(UnavailableError):
            await receiving
        with pytest.raises(TreedraftError):
            await exchange.send(TargetFrame(credit_nodes=1))
        await exchange.close()


async def test_a_drafter_of_another_tokenizer_is_refused_and_let_go(serving):
    drafter = ScriptedDrafter(grow_on_each_commit, Hello("d", "0", "other", 512, "other"))
    async with serving(added(drafter)) as (_, endpoint):
        with pytest.raises(IncompatiblePeerError) as caught:
            await dial(endpoint)
        assert caught.value.reason == "TOKENIZER_MISMATCH"
        async with patience():
            await drafter.ended.wait()


async def test_a_refusal_of_the_drafter_comes_back_as_it_was(serving):
    async def refuse(drafter, requests):
        raise IncompatiblePeerError("no", reason="PROTOCOL_MISMATCH")
        yield

    async with serving(added(ScriptedDrafter(refuse, hello=None))) as (_, endpoint):
        with pytest.raises(IncompatiblePeerError) as caught:
            await dial(endpoint)
        assert caught.value.reason == "PROTOCOL_MISMATCH"


async def test_a_first_frame_without_a_hello_is_refused(serving):
    async def start_growing(drafter, requests):
        yield draft_frame_to_proto(DraftFrame(growths=(GROWTH,)))

    async with serving(added(ScriptedDrafter(start_growing, hello=None))) as (_, endpoint):
        with pytest.raises(IncompatiblePeerError) as caught:
            await dial(endpoint)
        assert caught.value.reason == "PROTOCOL_MISMATCH"


async def test_a_stream_that_ends_without_a_hello_is_unavailable(serving):
    async with serving(added(ScriptedDrafter(hello=None))) as (_, endpoint):
        with pytest.raises(UnavailableError):
            await dial(endpoint)


async def test_a_drafter_that_says_nothing_is_given_up(serving):
    async def wait_forever(drafter, requests):
        await asyncio.Event().wait()
        yield

    drafter = ScriptedDrafter(wait_forever, hello=None)
    async with serving(added(drafter)) as (_, endpoint):
        with pytest.raises(UnavailableError) as caught:
            await dial(endpoint, timeout_seconds=0.1)
        assert caught.value.reason == "DIAL_TIMEOUT"
        async with patience():
            await drafter.ended.wait()


async def test_nobody_at_the_endpoint_is_unavailable(serving):
    async with serving() as (_, endpoint):
        pass
    with pytest.raises(UnavailableError):
        await dial(endpoint)


async def test_an_endpoint_that_is_no_drafter_is_incompatible(serving):
    async with serving() as (_, endpoint):
        with pytest.raises(IncompatiblePeerError):
            await dial(endpoint)


async def test_a_frame_that_cannot_be_read_is_an_invalid_growth(serving):
    async def lie(drafter, requests):
        runs = token_tree_pb2.TokenSourceRuns(sources=[1], lengths=[2**32 - 1])
        growth = token_tree_pb2.Growth(token_ids=[1], sources=runs)
        yield draft_service_pb2.ExchangeTreesResponse(growths=[growth])

    async with serving(added(ScriptedDrafter(lie))) as (_, endpoint):
        exchange = await dial(endpoint)
        with pytest.raises(InvalidGrowthError):
            await exchange.receive()
        await exchange.close()


async def test_a_frame_over_the_limit_ends_the_link_and_not_the_target(serving):
    async def flood(drafter, requests):
        growth = token_tree_pb2.Growth(token_ids=[2**31] * 1_000_000)
        yield draft_service_pb2.ExchangeTreesResponse(growths=[growth])

    async with serving(added(ScriptedDrafter(flood))) as (_, endpoint):
        exchange = await dial(endpoint, max_message_mb=1)
        with pytest.raises(InvalidRequestError) as caught:
            await exchange.receive()
        assert caught.value.reason == "MESSAGE_TOO_LARGE"
        await exchange.close()


def opened(number, num_tokens):
    spec = DraftSpec(
        f"s{number}", (60000,) * num_tokens, num_tokens, SamplingParameters(), SpeculationOptions()
    )
    return SessionOpen(number, spec)


async def test_a_large_frame_travels_in_parts(serving):
    drafter = ScriptedDrafter(grow_on_each_commit)
    async with serving(added(drafter), max_message_mb=1) as (_, endpoint):
        exchange = await dial(endpoint, max_message_mb=1)
        opens = tuple(opened(number, 200_000) for number in range(4))
        await exchange.send(TargetFrame(opens=opens, commits=(Commit(1, 200_000, (1,)),)))
        assert await exchange.receive() == DraftFrame(growths=(GROWTH,))
        received = [item for frame in drafter.frames for item in frame.opens]
        assert tuple(received) == opens
        await exchange.close()


async def test_what_fits_into_no_message_is_refused_and_the_exchange_goes_on(serving):
    async with serving(added(ScriptedDrafter(grow_on_each_commit))) as (_, endpoint):
        exchange = await dial(endpoint, max_message_mb=1)
        with pytest.raises(InvalidRequestError) as caught:
            await exchange.send(TargetFrame(opens=(opened(1, 400_000),)))
        assert caught.value.reason == "MESSAGE_TOO_LARGE"
        await exchange.send(TargetFrame(commits=(Commit(1, 2, (7,)),)))
        assert await exchange.receive() == DraftFrame(growths=(GROWTH,))
        await exchange.close()


async def test_a_close_wakes_whoever_receives_without_cancelling_it(serving):
    async with serving(added(ScriptedDrafter(grow_on_each_commit))) as (_, endpoint):
        exchange = await dial(endpoint)
        receiving = asyncio.create_task(exchange.receive())
        await asyncio.sleep(0)
        await exchange.close()
        assert await receiving is None
        await exchange.close()


async def test_a_cancelled_receiver_is_cancelled(serving):
    async with serving(added(ScriptedDrafter(grow_on_each_commit))) as (_, endpoint):
        exchange = await dial(endpoint)
        receiving = asyncio.create_task(exchange.receive())
        await asyncio.sleep(0)
        receiving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await receiving
        await exchange.close()

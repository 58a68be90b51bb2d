"""What handlers raise, in each of the four kinds of RPC."""

import asyncio

import grpc
import pytest
import structlog
from tests.waiting import PATIENCE_SECONDS, patience

from treedraft.core.errors import InvalidRequestError, TreedraftError, UnavailableError
from treedraft.rpc.channel import open_channel
from treedraft.rpc.errors import from_rpc_error
from treedraft.v1 import coordinator_service_pb2 as pb
from treedraft.v1 import coordinator_service_pb2_grpc as pb_grpc

SERVICE = "treedraft.test.Echo"


def raw_server(**behaviours):
    """Return what adds handlers of raw bytes, named after their kind."""

    def add(_, server):
        handlers = {
            name: getattr(grpc, f"{name}_rpc_method_handler")(behaviour)
            for name, behaviour in behaviours.items()
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))

    return (add, None)


async def call(endpoint, kind, payload=b"x", path=""):
    async with open_channel(endpoint) as channel:
        method = getattr(channel, kind)(f"/{path or f'{SERVICE}/{kind}'}")
        request = iter([payload]) if kind.startswith("stream") else payload
        if kind.endswith("stream"):
            return [item async for item in method(request, timeout=PATIENCE_SECONDS)]
        return [await method(request, timeout=PATIENCE_SECONDS)]


def failing(kind, error):
    async def unary(request, context):
        raise error

    async def stream(request, context):
        yield b"first"
        raise error

    return {kind: stream if kind.endswith("stream") else unary}


KINDS = ["unary_unary", "unary_stream", "stream_unary", "stream_stream"]


@pytest.mark.parametrize("kind", KINDS)
async def test_an_error_of_the_domain_is_told(serving, kind):
    error = InvalidRequestError("bad", field="f", reason="EMPTY_PROMPT")
    async with serving(raw_server(**failing(kind, error))) as (_, endpoint):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(endpoint, kind)
    received = from_rpc_error(caught.value)
    assert type(received) is InvalidRequestError
    assert (received.reason, received.field) == ("EMPTY_PROMPT", "f")


@pytest.mark.parametrize("kind", KINDS)
async def test_a_bug_is_logged_and_its_text_kept_from_the_caller(serving, kind):
    bug = ZeroDivisionError("secret prompt")
    with structlog.testing.capture_logs() as logs:
        async with serving(raw_server(**failing(kind, bug))) as (_, endpoint):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(endpoint, kind)
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert "secret" not in str(caught.value)
    assert type(from_rpc_error(caught.value)) is TreedraftError
    [entry] = [entry for entry in logs if entry["log_level"] == "error"]
    assert entry["exc_info"] is bug
    assert entry["method"] == f"/{SERVICE}/{kind}"


@pytest.mark.parametrize("kind", KINDS)
async def test_an_abort_of_the_handler_itself_is_left_alone(serving, kind):
    async def unary(request, context):
        await context.abort(grpc.StatusCode.DATA_LOSS, "mine")

    async def stream(request, context):
        yield b"first"
        await context.abort(grpc.StatusCode.DATA_LOSS, "mine")

    handler = stream if kind.endswith("stream") else unary
    async with serving(raw_server(**{kind: handler})) as (_, endpoint):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(endpoint, kind)
    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.DATA_LOSS, "mine")


async def cancelled_within():
    """Wait for something that somebody cancelled."""
    awaited = asyncio.get_running_loop().create_future()
    awaited.cancel()
    await awaited


@pytest.mark.parametrize("kind", KINDS)
async def test_a_caller_who_waits_is_not_left_alone_with_a_cancellation_from_within(serving, kind):
    async def unary(request, context):
        await cancelled_within()

    async def stream(request, context):
        yield b"first"
        await cancelled_within()

    handler = stream if kind.endswith("stream") else unary
    with structlog.testing.capture_logs() as logs:
        async with serving(raw_server(**{kind: handler})) as (_, endpoint):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(endpoint, kind)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    error = from_rpc_error(caught.value)
    assert (type(error), error.reason) == (UnavailableError, "CALL_DROPPED")
    assert [entry["method"] for entry in logs if entry["log_level"] == "error"] == [
        f"/{SERVICE}/{kind}"
    ]


async def test_answers_pass_through_in_order(serving):
    async def count(request, context):
        for number in range(5):
            yield bytes([number])

    async with serving(raw_server(unary_stream=count)) as (_, endpoint):
        assert await call(endpoint, "unary_stream") == [bytes([number]) for number in range(5)]


async def test_a_client_that_leaves_frees_what_the_handler_holds(serving):
    freed = asyncio.Event()

    async def hold(request, context):
        try:
            yield b"first"
            await asyncio.Event().wait()
        finally:
            freed.set()

    async with (
        serving(raw_server(unary_stream=hold)) as (_, endpoint),
        open_channel(endpoint) as channel,
    ):
        stream = channel.unary_stream(f"/{SERVICE}/unary_stream")(b"x")
        assert await stream.read() == b"first"
        stream.cancel()
        async with patience():
            await freed.wait()


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        ("unary_unary", "ListModels"),
        ("unary_stream", "Generate"),
        ("stream_stream", "AnnounceWorker"),
    ],
)
async def test_bytes_that_are_no_message_are_the_callers_fault(serving, kind, method):
    class Reading(pb_grpc.CoordinatorServiceServicer):
        async def ListModels(self, request, context):  # noqa: N802 - the name is the RPC's
            return pb.ListModelsResponse()

        async def Generate(self, request, context):  # noqa: N802 - the name is the RPC's
            yield pb.GenerateResponse()

        async def AnnounceWorker(self, requests, context):  # noqa: N802 - the name is the RPC's
            async for _ in requests:
                yield pb.AnnounceWorkerResponse()

    added = (pb_grpc.add_CoordinatorServiceServicer_to_server, Reading())
    async with serving(added) as (_, endpoint):
        path = f"treedraft.v1.CoordinatorService/{method}"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(endpoint, kind, b"\xff\xff\xff", path=path)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert from_rpc_error(caught.value).reason == "MALFORMED_MESSAGE"


async def test_an_unknown_method_is_unimplemented(serving):
    async with serving() as (_, endpoint):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(endpoint, "unary_unary")
    assert from_rpc_error(caught.value).reason == "UNIMPLEMENTED"


async def test_a_message_over_the_limit_is_the_callers_fault_and_the_server_lives(serving):
    async def echo(request, context):
        return request

    async with serving(raw_server(unary_unary=echo), max_message_mb=1) as (_, endpoint):
        channel = open_channel(endpoint, max_message_mb=200)
        method = channel.unary_unary(f"/{SERVICE}/unary_unary")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await method(b"x" * (100 << 20), timeout=PATIENCE_SECONDS)
        assert from_rpc_error(caught.value).reason == "MESSAGE_TOO_LARGE"
        assert await method(b"small", timeout=PATIENCE_SECONDS) == b"small"
        await channel.close()


async def test_a_message_over_the_clients_own_limit_is_not_even_sent(serving):
    async with serving() as (_, endpoint):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(endpoint, "unary_unary", b"x" * (5 << 20))
    assert from_rpc_error(caught.value).reason == "MESSAGE_TOO_LARGE"


async def test_nobody_at_the_endpoint_is_unavailable(serving):
    async with serving() as (_, endpoint):
        pass
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(endpoint, "unary_unary")
    assert type(from_rpc_error(caught.value)) is UnavailableError

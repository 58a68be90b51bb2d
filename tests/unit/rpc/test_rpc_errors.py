"""Errors cross a real server and come back as what they were."""

import grpc
import pytest
from tests.waiting import PATIENCE_SECONDS

from treedraft.core import errors as domain
from treedraft.rpc.channel import open_channel
from treedraft.rpc.errors import abort, from_rpc_error, status_code
from treedraft.v1 import coordinator_service_pb2 as pb
from treedraft.v1 import coordinator_service_pb2_grpc as pb_grpc

ALL_CLASSES = sorted(
    {
        value
        for value in vars(domain).values()
        if isinstance(value, type) and issubclass(value, domain.TreedraftError)
    },
    key=lambda cls: cls.__name__,
)


class Raising(pb_grpc.CoordinatorServiceServicer):
    """Answers every call with one error."""

    def __init__(self, error):
        self.error = error

    async def ListModels(self, request, context):  # noqa: N802 - the name is the RPC's
        raise self.error


async def cross(serving, error):
    added = (pb_grpc.add_CoordinatorServiceServicer_to_server, Raising(error))
    async with serving(added) as (_, endpoint), open_channel(endpoint) as channel:
        stub = pb_grpc.CoordinatorServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.ListModels(pb.ListModelsRequest(), timeout=PATIENCE_SECONDS)
        return caught.value


@pytest.mark.parametrize("error_class", ALL_CLASSES)
async def test_every_class_comes_back_as_itself(serving, error_class):
    sent = error_class("what went wrong: ä, 好\nand more", reason="SOME_REASON")
    status = await cross(serving, sent)
    received = from_rpc_error(status)
    assert type(received) is error_class
    assert received.reason == "SOME_REASON"
    assert received.message == sent.message
    assert status.code() is status_code(sent)


async def test_the_field_comes_back(serving):
    sent = domain.InvalidRequestError("temperature must be at least 0", field="temperature")
    received = from_rpc_error(await cross(serving, sent))
    assert isinstance(received, domain.InvalidRequestError)
    assert received.field == "temperature"
    assert received.reason == "INVALID_REQUEST"


async def test_the_time_to_wait_comes_back(serving):
    received = from_rpc_error(
        await cross(serving, domain.OverloadedError("full", retry_after_ms=250))
    )
    assert isinstance(received, domain.OverloadedError)
    assert received.retry_after_ms == 250


async def test_metadata_comes_back_without_our_own_key(serving):
    sent = domain.SessionConflictError("late", metadata={"epoch": "7"})
    assert from_rpc_error(await cross(serving, sent)).metadata == {"epoch": "7"}


async def test_a_deadline_has_its_own_code(serving):
    sent = domain.CancelledError("too slow", reason="DEADLINE_EXCEEDED")
    status = await cross(serving, sent)
    assert status.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert type(from_rpc_error(status)) is domain.CancelledError


@pytest.mark.parametrize("letter", ["a", "好", "\x00", "\ud800"])
async def test_a_huge_message_is_clipped_and_not_lost(serving, letter):
    sent = domain.InvalidRequestError(letter * 100_000, field=letter * 100_000)
    received = from_rpc_error(await cross(serving, sent))
    assert type(received) is domain.InvalidRequestError
    assert 0 < len(received.message) <= 768
    assert 0 < len(received.field) <= 128


async def test_a_subclass_outside_the_table_is_sent_as_its_parent(serving):
    class TooManyTenants(domain.OverloadedError):
        reason = "TOO_MANY_TENANTS"

    received = from_rpc_error(await cross(serving, TooManyTenants("full")))
    assert type(received) is domain.OverloadedError
    assert received.reason == "TOO_MANY_TENANTS"


class RecordingContext:
    """Remembers how it was aborted."""

    async def abort(self, code, details="", trailing_metadata=()):
        self.aborted = (code, details, dict(trailing_metadata))
        raise grpc.aio.AbortError


async def test_abort_hands_over_code_text_and_details_one_by_one():
    context = RecordingContext()
    with pytest.raises(grpc.aio.AbortError):
        await abort(context, domain.UnavailableError("away"))
    code, details, trailing = context.aborted
    assert (code, details) == (grpc.StatusCode.UNAVAILABLE, "away")
    assert list(trailing) == ["grpc-status-details-bin"]


def bare(code, details="", trailing=()):
    empty = grpc.aio.Metadata()
    return grpc.aio.AioRpcError(code, empty, grpc.aio.Metadata(*trailing), details=details)


@pytest.mark.parametrize(
    ("status", "error_class", "reason"),
    [
        (
            bare(grpc.StatusCode.RESOURCE_EXHAUSTED, "Received message larger than max (9 vs. 4)"),
            domain.InvalidRequestError,
            "MESSAGE_TOO_LARGE",
        ),
        (bare(grpc.StatusCode.RESOURCE_EXHAUSTED, "slow"), domain.OverloadedError, "OVERLOADED"),
        (
            bare(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded"),
            domain.CancelledError,
            "DEADLINE_EXCEEDED",
        ),
        (bare(grpc.StatusCode.CANCELLED), domain.UnavailableError, "CALL_DROPPED"),
        (
            bare(grpc.StatusCode.CANCELLED, "Received RST_STREAM with error code 8"),
            domain.UnavailableError,
            "CALL_DROPPED",
        ),
        (bare(grpc.StatusCode.UNAVAILABLE, "no route"), domain.UnavailableError, "UNAVAILABLE"),
        (
            bare(grpc.StatusCode.INTERNAL, "Received RST_STREAM with error code 2"),
            domain.UnavailableError,
            "UNAVAILABLE",
        ),
        (
            bare(grpc.StatusCode.UNIMPLEMENTED, "Method not found!"),
            domain.IncompatiblePeerError,
            "UNIMPLEMENTED",
        ),
        (bare(grpc.StatusCode.INTERNAL, "bug"), domain.TreedraftError, "INTERNAL"),
        (bare(grpc.StatusCode.UNKNOWN), domain.TreedraftError, "INTERNAL"),
    ],
)
def test_statuses_of_grpc_itself_get_a_class(status, error_class, reason):
    error = from_rpc_error(status)
    assert type(error) is error_class
    assert error.reason == reason
    assert error.message


@pytest.mark.parametrize("details", [b"\xff\xff\xff", b"\x08\x03\x12\x05other"])
def test_details_that_do_not_fit_the_status_are_ignored(details):
    status = bare(grpc.StatusCode.UNAVAILABLE, "away", [("grpc-status-details-bin", details)])
    assert type(from_rpc_error(status)) is domain.UnavailableError


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (
            "failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:1: Failed to "
            "connect to remote host: Connection refused",
            "nobody listens at 127.0.0.1:1",
        ),
        (
            "failed to connect to all addresses; last error: UNKNOWN: ipv6:%5B::1%5D:50: Failed to "
            "connect to remote host: connect: Connection refused (111)",
            "nobody listens at [::1]:50",
        ),
        (
            "errors resolving door.example:50050: [field:hostname lookup error:address lookup "
            "failed for door.example:50050: Domain name not found]",
            "no machine is called door.example",
        ),
        (
            "DNS resolution failed for door:50050: C-ares status is not ARES_SUCCESS",
            "no machine is called door",
        ),
        (
            "failed to connect to all addresses; last error: UNKNOWN: ipv4:10.0.0.1:50: connection "
            "attempt timed out before receiving SETTINGS frame",
            "10.0.0.1:50 does not answer",
        ),
        ("something new", "something new"),
    ],
)
def test_a_peer_that_cannot_be_reached_is_told_of_in_plain_words(said, words):
    error = from_rpc_error(bare(grpc.StatusCode.UNAVAILABLE, said))
    assert (error.message, error.reason) == (words, "UNAVAILABLE")

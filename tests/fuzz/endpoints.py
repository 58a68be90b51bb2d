"""Hostile frames, in hostile orders, for every public endpoint over real gRPC.

A coordinator with a scripted target, a drafter that looks up, and the target's
servicer run in this process; messages are sent as bytes. Allowed are an answer, or a
status with a reason of its own. Afterwards each service still has to serve.
"""

import asyncio
import collections
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from tests.fuzz.mutate import mutate_bytes, mutate_message
from tests.fuzz.targets import examples_of
from tests.properties.test_convert_properties import ROUND_TRIPS, registrations, reports
from tests.unit.coordinator.cluster import a_cluster
from tests.unit.coordinator.support import FakeTarget, describe_toy, says
from tests.unit.draft.draft_support import make_drafter
from tests.unit.target.test_target_service import FakeEngine, FakeLinks
from tests.waiting import PATIENCE_SECONDS

from treedraft.core.exchange import Hello
from treedraft.draft import service as draft_service
from treedraft.draft.links import Stop
from treedraft.rpc import convert
from treedraft.rpc.errors import from_rpc_error
from treedraft.rpc.server import RpcServer
from treedraft.settings import GrpcSettings
from treedraft.target import service as target_service
from treedraft.target.service import TargetBackend, TargetServicer
from treedraft.v1 import coordinator_service_pb2 as pb

OK = "OK"
ENDED_EARLY = "ENDED_EARLY"
# What gRPC says to who still writes when the status has come.
_MAKESHIFT = "Internal error from Core"
_CALL_SECONDS = 5.0
_MAX_FRAMES = 4


class UnreasonedError(Exception):
    """An endpoint ended a call without a reason: method, details, frames."""


@dataclass(frozen=True)
class Endpoint:
    """A method: where it is, good messages for it, and how it is called."""

    method: str
    message: type
    corpus: Sequence[bytes]
    is_request_stream: bool = False
    is_response_stream: bool = True


def coordinator_endpoints() -> list[Endpoint]:
    """Return what clients and workers may call."""
    name = "/treedraft.v1.CoordinatorService/"

    def good(kind: str) -> list[bytes]:
        to_proto = getattr(convert, f"{kind}_to_proto")
        return [to_proto(one).SerializeToString() for one in examples_of(ROUND_TRIPS[kind])]

    pairs = zip(examples_of(registrations), examples_of(reports), strict=False)
    announced = [convert.announcement_to_proto(*pair).SerializeToString() for pair in pairs]
    cancel = [pb.CancelRequest(session_id="s").SerializeToString()]
    return [
        Endpoint(name + "Generate", pb.GenerateRequest, good("generate_query")),
        Endpoint(name + "Resume", pb.ResumeRequest, good("resume_query")),
        Endpoint(name + "Cancel", pb.CancelRequest, cancel, is_response_stream=False),
        Endpoint(name + "ListModels", pb.ListModelsRequest, [b""], is_response_stream=False),
        Endpoint(
            name + "DescribeCluster", pb.DescribeClusterRequest, [b""], is_response_stream=False
        ),
        Endpoint(
            name + "AnnounceWorker", pb.AnnounceWorkerRequest, announced, is_request_stream=True
        ),
    ]


def draft_endpoint() -> Endpoint:
    """Return the exchange, as targets call it; a hello is among its good messages."""
    hello = convert.target_frame_to_proto(_hello_frame())
    frames = [
        convert.target_frame_to_proto(one) for one in examples_of(ROUND_TRIPS["target_frame"])
    ]
    corpus = [hello.SerializeToString()] * 8 + [one.SerializeToString() for one in frames]
    return Endpoint(
        "/treedraft.v1.DraftService/ExchangeTrees", type(hello), corpus, is_request_stream=True
    )


def target_endpoint() -> Endpoint:
    """Return the stream of sessions, as coordinators call it."""
    values = examples_of(ROUND_TRIPS["coordinator_frame"])
    frames = [convert.coordinator_frame_to_proto(one) for one in values]
    return Endpoint(
        "/treedraft.v1.TargetService/RunSessions",
        type(frames[0]),
        [one.SerializeToString() for one in frames],
        is_request_stream=True,
    )


def _hello_frame() -> Any:
    from treedraft.core.exchange import TargetFrame

    return TargetFrame(hello=Hello("t", "i", "", 512, "toy"), credit_nodes=500)


@asynccontextmanager
async def a_drafter(folder: Path) -> AsyncIterator[str]:
    """Serve a drafter that looks up."""
    drafter, servicer = make_drafter(folder), draft_service.DraftServicer()
    server = RpcServer(GrpcSettings(grace_seconds=0), [draft_service.SERVICE_NAME])
    servicer.add_to(server.grpc)
    endpoint = await server.start()
    drafter.start()
    servicer.attach(Hello("d", "i", "", 0, "lookup"), drafter)
    try:
        yield endpoint
    finally:
        await server.stop(0)
        drafter.post(Stop())
        assert await asyncio.to_thread(drafter.join, PATIENCE_SECONDS), "the drafter hangs"


@asynccontextmanager
async def a_target() -> AsyncIterator[str]:
    """Serve a target whose engine takes everything and says nothing."""
    servicer = TargetServicer()
    servicer.attach(TargetBackend(describe_toy(), FakeEngine(), FakeLinks()))
    server = RpcServer(GrpcSettings(grace_seconds=0), [target_service.SERVICE_NAME])
    servicer.add_to(server.grpc)
    try:
        yield await server.start()
    finally:
        servicer.end_streams()
        await server.stop(0)


async def fuzz_endpoints(num_calls: int, seed: int, folder: Path) -> dict[str, dict[str, int]]:
    """Return how often each endpoint ended how."""
    async with a_cluster() as cluster, a_drafter(folder) as drafter, a_target() as target:
        await cluster.add_target(FakeTarget(script=says("hi")))
        places = [(cluster.endpoint, one) for one in coordinator_endpoints()]
        places += [(drafter, draft_endpoint()), (target, target_endpoint())]
        share = max(1, num_calls // len(places))
        counts = {}
        for address, endpoint in places:
            rng = random.Random(f"{seed} {endpoint.method}")
            counts[endpoint.method] = await _fuzz(address, endpoint, share, rng)
            await _check_serves(address, endpoint)
    return counts


async def _fuzz(
    address: str, endpoint: Endpoint, num_calls: int, rng: random.Random
) -> dict[str, int]:
    outcomes: collections.Counter[str] = collections.Counter()
    async with grpc.aio.insecure_channel(address) as channel:
        for _ in range(num_calls):
            count = rng.randint(1, _MAX_FRAMES) if endpoint.is_request_stream else 1
            frames = [_spoilt(endpoint, rng) for _ in range(count)]
            outcomes[await _call(channel, endpoint, frames)] += 1
            outcomes["inputs"] += count
    return dict(outcomes)


def _spoilt(endpoint: Endpoint, rng: random.Random) -> bytes:
    data = rng.choice(endpoint.corpus)
    if rng.random() < 0.25:
        return data
    if rng.random() < 0.6:
        message = endpoint.message.FromString(data)
        mutate_message(message, rng)
        return message.SerializeToString()
    return mutate_bytes(data, endpoint.corpus, rng)


async def _call(channel: grpc.aio.Channel, endpoint: Endpoint, frames: list[bytes]) -> str:
    """Send the frames, read what comes, and return the reason of the end."""
    try:
        async with asyncio.timeout(_CALL_SECONDS):
            if endpoint.is_request_stream:
                await _exchange(channel.stream_stream(endpoint.method)(), frames)
            elif endpoint.is_response_stream:
                async for _ in channel.unary_stream(endpoint.method)(frames[0]):
                    pass
            else:
                await channel.unary_unary(endpoint.method)(frames[0])
    except grpc.aio.AioRpcError as error:
        reason = from_rpc_error(error).reason
        if error.details() == _MAKESHIFT:
            return ENDED_EARLY
        if reason in {"INTERNAL", "UNKNOWN"}:
            raise UnreasonedError(endpoint.method, error.details(), frames) from error
        return reason
    return OK


async def _exchange(call: Any, frames: list[bytes]) -> None:
    try:
        for frame in frames:
            await call.write(frame)
        await call.done_writing()
    except (grpc.aio.UsageError, asyncio.InvalidStateError):
        pass  # the call has ended already: reading tells why
    while await call.read() is not grpc.aio.EOF:
        pass


async def _check_serves(address: str, endpoint: Endpoint) -> None:
    """Fail unless a harmless call is answered as ever."""
    async with grpc.aio.insecure_channel(address) as channel:
        health = channel.unary_unary("/grpc.health.v1.Health/Check")
        async with asyncio.timeout(_CALL_SECONDS):
            await health(b"")

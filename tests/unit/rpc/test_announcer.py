import asyncio
import random

import pytest
import structlog
from tests.waiting import patience

from treedraft.core.errors import OverloadedError
from treedraft.core.worker import WorkerRegistration, WorkerReport, WorkerRole
from treedraft.rpc.announcer import Announcer
from treedraft.rpc.convert import announcement_from_proto, duration_to_proto
from treedraft.v1 import coordinator_service_pb2 as pb
from treedraft.v1 import coordinator_service_pb2_grpc as pb_grpc

REGISTRATION = WorkerRegistration("w1", "i1", WorkerRole.TARGET, "h:1", "toy")
NEVER = 3600.0


class Register(pb_grpc.CoordinatorServiceServicer):
    """Notes what each announcement stream says."""

    def __init__(self, time_to_live=4 * NEVER):
        self.time_to_live = time_to_live
        self.refusal = None
        self.heard = asyncio.Queue()
        self.signed_off = asyncio.Event()
        self.hang_up_after = None

    async def AnnounceWorker(self, request_iterator, context):  # noqa: N802 - the name is the RPC's
        try:
            count = 0
            async for request in request_iterator:
                count += 1
                if self.refusal:
                    self.heard.put_nowait("refused")
                    raise self.refusal
                self.heard.put_nowait(announcement_from_proto(request))
                yield pb.AnnounceWorkerResponse(time_to_live=duration_to_proto(self.time_to_live))
                if count == self.hang_up_after:
                    return
        finally:
            self.signed_off.set()

    async def next(self):
        async with patience():
            return await self.heard.get()


@pytest.fixture
def add():
    return pb_grpc.add_CoordinatorServiceServicer_to_server


class Worker:
    """A worker whose prefixes the test sets."""

    def __init__(self, endpoint, interval=NEVER):
        self.prefixes = (3, 1)
        self.announcer = Announcer(
            endpoint, REGISTRATION, self.report, interval, rng=random.Random(0)
        )

    def report(self):
        return WorkerReport(num_sessions=1, added_prefixes=self.prefixes)

    async def __aenter__(self):
        self.task = asyncio.create_task(self.announcer.run())
        return self

    async def __aexit__(self, *_):
        self.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await self.task


async def test_registration_comes_first_and_then_only_what_changed(serving, add):
    register = Register()
    async with serving((add, register)) as (_, endpoint), Worker(endpoint) as worker:
        assert await register.next() == (
            REGISTRATION,
            WorkerReport(num_sessions=1, added_prefixes=(1, 3)),
        )
        worker.prefixes = (3, 4)
        worker.announcer.report_now()
        assert await register.next() == (
            None,
            WorkerReport(num_sessions=1, added_prefixes=(4,), removed_prefixes=(1,)),
        )
        worker.announcer.report_now()
        assert await register.next() == (None, WorkerReport(num_sessions=1))


async def test_reports_come_at_the_interval(serving, add):
    register = Register()
    async with serving((add, register)) as (_, endpoint), Worker(endpoint, interval=0.01):
        for _ in range(5):
            await register.next()


async def test_a_short_time_to_live_shortens_the_interval(serving, add):
    register = Register(time_to_live=0.1)
    async with serving((add, register)) as (_, endpoint), Worker(endpoint):
        for _ in range(5):
            await register.next()


async def test_cancellation_signs_off(serving, add):
    register = Register()
    async with serving((add, register)) as (_, endpoint):
        async with Worker(endpoint):
            await register.next()
        async with patience():
            await register.signed_off.wait()


async def test_a_new_stream_begins_with_everything(serving, add):
    register = Register()
    register.hang_up_after = 2
    async with serving((add, register)) as (_, endpoint), Worker(endpoint) as worker:
        first = await register.next()
        worker.announcer.report_now()
        await register.next()
        assert await register.next() == first


async def test_a_refusal_is_tried_again_and_logged_once(serving, add):
    register = Register()
    register.refusal = OverloadedError("too many workers", reason="TOO_MANY_WORKERS")
    with structlog.testing.capture_logs() as logs:
        async with serving((add, register)) as (_, endpoint), Worker(endpoint):
            assert await register.next() == "refused"
            assert await register.next() == "refused"
            register.refusal = None
            registration, _ = await register.next()
            assert registration == REGISTRATION
    warnings = [entry for entry in logs if entry["log_level"] == "warning"]
    assert [entry["reason"] for entry in warnings].count("TOO_MANY_WORKERS") == 1


async def test_a_coordinator_that_restarts_is_found_again(serving, add):
    first, second = Register(), Register()
    async with serving((add, first)) as (_, endpoint):
        worker = Worker(endpoint)
        await worker.__aenter__()
        registered = await first.next()
    async with serving((add, second), port=int(endpoint.rpartition(":")[2])):
        assert await second.next() == registered
        await worker.__aexit__()

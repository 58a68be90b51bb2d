"""Workers that misbehave, readers that dawdle, and a coordinator that is told to stop."""

import asyncio
from contextlib import asynccontextmanager

import grpc
from tests.unit.coordinator.cluster import HELLO, a_cluster, ask, failure_of, tokens_of
from tests.unit.coordinator.support import FakeTarget, a_target, output, until
from tests.waiting import PATIENCE_SECONDS, patience

from treedraft.coordinator.accounts import Accounts
from treedraft.coordinator.rollout import Rollout
from treedraft.core.errors import TreedraftError, UnavailableError
from treedraft.core.session import FinishReason
from treedraft.core.worker import WorkerReport
from treedraft.rpc.convert import announcement_to_proto
from treedraft.rpc.errors import from_rpc_error
from treedraft.telemetry import names
from treedraft.v1.coordinator_service_pb2_grpc import CoordinatorServiceStub

QUICK = {"refresh_seconds": 0.05, "worker_ttl_seconds": 1.0, "log_interval_seconds": 0.0}


@asynccontextmanager
async def an_announcement(cluster):
    """Open a raw announce stream."""
    async with grpc.aio.insecure_channel(cluster.endpoint) as channel:
        yield CoordinatorServiceStub(channel).AnnounceWorker()


async def end_of(call) -> TreedraftError:
    try:
        while await call.read() is not grpc.aio.EOF:
            pass
    except grpc.aio.AioRpcError as error:
        return from_rpc_error(error)
    raise AssertionError("the stream ended well")


async def test_a_stream_that_does_not_begin_with_a_registration_is_refused():
    async with a_cluster() as cluster, an_announcement(cluster) as call:
        await call.write(announcement_to_proto(None, WorkerReport()))
        assert (await end_of(call)).reason == "REGISTRATION_REQUIRED"
        assert await cluster.worker_ids() == []


async def test_a_worker_that_falls_silent_is_forgotten():
    async with a_cluster(store=QUICK) as cluster, an_announcement(cluster) as call:
        await call.write(announcement_to_proto(a_target(), WorkerReport()))
        answer = await call.read()
        assert answer.time_to_live.ToMilliseconds() == 1000
        assert await cluster.worker_ids() == ["t1"]
        assert (await end_of(call)).reason == "WORKER_SILENT"
        await cluster.until_known("t1", is_known=False)


async def test_a_restarted_worker_ends_the_stream_of_its_old_self():
    async with a_cluster() as cluster, an_announcement(cluster) as old:
        await old.write(announcement_to_proto(a_target(), WorkerReport()))
        await old.read()
        async with an_announcement(cluster) as new:
            restarted = a_target(incarnation="second")
            await new.write(announcement_to_proto(restarted, WorkerReport()))
            await new.read()
            await old.write(announcement_to_proto(None, WorkerReport(num_sessions=9)))
            assert (await end_of(old)).reason == "WORKER_REPLACED"
            ((registration, report),) = (await cluster.client.describe_cluster()).workers
            assert registration == restarted
            assert report.num_sessions == 0


async def test_draining_lets_running_requests_end_and_takes_no_new_ones():
    context = a_cluster(drain_seconds=PATIENCE_SECONDS)
    cluster = await context.__aenter__()
    target = FakeTarget()
    await cluster.add_target(target)
    asking = asyncio.create_task(ask(cluster.client, HELLO))
    spec = await target.session()
    stopping = asyncio.create_task(cluster.stop())
    error = None
    async with patience():
        while error is None:
            refused = await failure_of(cluster.client, HELLO, timeout_seconds=0.3)
            error = refused if isinstance(refused, UnavailableError) else None
    assert error.reason == "DRAINING"
    assert not stopping.done()
    target.say(output(spec, 0, [1, 2], FinishReason.STOP))
    assert tokens_of(await asking) == [1, 2]
    await stopping
    await context.__aexit__(None, None, None)


async def test_a_request_that_outlasts_the_drain_is_ended_and_freed():
    context = a_cluster(drain_seconds=0.1, grpc={"grace_seconds": 0.1})
    cluster = await context.__aenter__()
    target = FakeTarget()
    await cluster.add_target(target)
    asking = asyncio.create_task(failure_of(cluster.client, HELLO))
    await target.session()
    await cluster.stop()
    assert isinstance(await asking, TreedraftError)
    await context.__aexit__(None, None, None)


async def test_upkeep_that_fails_in_one_part_does_the_others(monkeypatch):
    async def fail(self):
        raise UnavailableError("away", reason="STORE_UNAVAILABLE")

    monkeypatch.setattr(Accounts, "renew", fail)
    monkeypatch.setattr(Rollout, "refresh", fail)
    async with a_cluster() as cluster:
        await cluster.add_target(FakeTarget())
        await until(lambda: cluster.counted(names.METRIC_WORKERS) == 1)
        await until(lambda: cluster.counted(names.METRIC_UPKEEP_FAILURES) > 1)

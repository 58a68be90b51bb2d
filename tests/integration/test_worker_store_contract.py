"""What both stores keep of workers, and of the prefixes that they hold."""

from tests.integration.session_stores import MAX_HASH, WORKER_TTL, a_worker, harness, redis_url

from treedraft.core.worker import WorkerReport

__all__ = ["harness", "redis_url"]


async def test_workers_are_listed_while_they_report(harness):
    store = harness.store
    await store.register_worker(a_worker("t2"), WorkerReport(free_kv_blocks=5, added_prefixes=(1,)))
    await store.register_worker(a_worker("t1"), WorkerReport())
    await harness.advance(WORKER_TTL - 1)
    assert await store.report_worker(a_worker("t2"), WorkerReport(num_sessions=3, is_draining=True))
    await harness.advance(2)
    await store.remove_expired()
    (worker,) = await store.list_workers()
    assert worker.registration == a_worker("t2")
    assert worker.report == WorkerReport(num_sessions=3, is_draining=True)
    assert not await store.report_worker(a_worker("t1"), WorkerReport())
    assert await store.prefix_holders(["t2", "t1"], [1]) == {"t2": 1}


async def test_workers_are_listed_by_id(harness):
    for worker_id in ("t3", "t1", "t2"):
        await harness.store.register_worker(a_worker(worker_id), WorkerReport())
    workers = await harness.store.list_workers()
    assert [worker.registration.worker_id for worker in workers] == ["t1", "t2", "t3"]


async def test_a_restarted_worker_is_not_taken_for_its_old_self(harness):
    store = harness.store
    old, new = a_worker(incarnation="old"), a_worker(incarnation="new")
    await store.register_worker(old, WorkerReport(added_prefixes=(1, 2)))
    await store.register_worker(new, WorkerReport(added_prefixes=(2,)))
    assert not await store.report_worker(old, WorkerReport(num_sessions=9, added_prefixes=(1,)))
    await store.remove_worker(old)
    (worker,) = await store.list_workers()
    assert worker.registration == new
    assert worker.report.num_sessions == 0
    assert await store.prefix_holders(["t1"], [1, 2]) == {}
    await store.remove_worker(new)
    assert await store.list_workers() == []


async def test_the_directory_counts_leading_pages(harness):
    store = harness.store
    await store.register_worker(a_worker("t1"), WorkerReport(added_prefixes=(1, 2, MAX_HASH)))
    await store.register_worker(a_worker("t2"), WorkerReport(added_prefixes=(2, 3)))
    assert await store.prefix_holders(["t1", "t2", "t9"], [1, 2, 3]) == {"t1": 2}
    assert await store.prefix_holders(["t1"], [MAX_HASH, 2, 4]) == {"t1": 2}
    await store.report_worker(
        a_worker("t1"), WorkerReport(added_prefixes=(3,), removed_prefixes=(2,))
    )
    assert await store.prefix_holders(["t1", "t2"], [1, 2, 3]) == {"t1": 1}
    assert await store.prefix_holders(["t1", "t2"], [3]) == {"t1": 1, "t2": 1}
    assert await store.prefix_holders([], [1]) == {}
    assert await store.prefix_holders(["t1"], []) == {}

from dataclasses import replace

import pytest
from tests.unit.coordinator.support import a_drafter, a_target, describe_toy

from treedraft.coordinator.catalog import ModelCatalog
from treedraft.coordinator.registry import WorkerRegistry
from treedraft.coordinator.session_store.embedded import EmbeddedSessionStore
from treedraft.core.errors import UnavailableError
from treedraft.core.worker import WorkerReport


class AwayStore(EmbeddedSessionStore):
    """A store that can be away for the register of workers."""

    is_away = False

    def check(self):
        if self.is_away:
            raise UnavailableError("away", reason="STORE_UNAVAILABLE")

    async def register_worker(self, registration, report):
        self.check()
        await super().register_worker(registration, report)

    async def report_worker(self, registration, report):
        self.check()
        return await super().report_worker(registration, report)

    async def remove_worker(self, registration):
        self.check()
        await super().remove_worker(registration)

    async def list_workers(self):
        self.check()
        return await super().list_workers()

    async def prefix_holders(self, worker_ids, prefixes):
        self.check()
        return await super().prefix_holders(worker_ids, prefixes)


class World:
    """Two coordinators' registers over one store, and a clock."""

    def __init__(self):
        self.now = 0.0
        self.asked = []
        self.silent = set()
        self.store = AwayStore(
            session_ttl_seconds=60,
            lease_seconds=10,
            worker_ttl_seconds=5,
            clock=lambda: self.now,
        )
        self.ours, self.theirs = self.registry(), self.registry()

    def registry(self):
        return WorkerRegistry(
            self.store, ModelCatalog(self.describe), ttl_seconds=5, clock=lambda: self.now
        )

    async def describe(self, endpoint):
        self.asked.append(endpoint)
        if endpoint in self.silent:
            raise UnavailableError("no answer")
        return describe_toy()


@pytest.fixture
def world():
    return World()


def ids(workers):
    return [worker.registration.worker_id for worker in workers]


async def test_a_worker_is_known_here_at_once_and_elsewhere_after_a_refresh(world):
    await world.ours.register(a_target(), WorkerReport(num_sessions=2, added_prefixes=(1, 2)))
    await world.ours.register(a_drafter(), WorkerReport())
    assert ids(world.ours.workers()) == ["d1", "t1"]
    ((worker, known),) = world.ours.targets()
    assert worker.report == WorkerReport(num_sessions=2)
    assert known.description == describe_toy()
    assert ids(world.ours.drafters()) == ["d1"]
    assert world.theirs.workers() == []
    await world.theirs.refresh()
    assert ids(world.theirs.workers()) == ["d1", "t1"]
    assert len(world.theirs.targets()) == 1
    assert await world.theirs.held_pages(["t1"], [1, 2, 3]) == {"t1": 2}
    assert await world.ours.held_pages(["t1"], [1, 2, 3]) == {"t1": 2}


async def test_reports_carry_deltas_of_prefixes(world):
    await world.ours.register(a_target(), WorkerReport(added_prefixes=(1, 2)))
    assert await world.ours.report(
        a_target(), WorkerReport(added_prefixes=(3,), removed_prefixes=(2,))
    )
    await world.theirs.refresh()
    for registry in (world.ours, world.theirs):
        assert await registry.held_pages(["t1"], [1, 2]) == {"t1": 1}
        assert await registry.held_pages(["t1"], [3]) == {"t1": 1}


async def test_a_worker_that_signs_off_is_gone_everywhere(world):
    await world.ours.register(a_target(), WorkerReport())
    await world.theirs.refresh()
    await world.ours.refresh()
    await world.ours.leave(a_target())
    assert world.ours.workers() == []
    await world.theirs.refresh()
    assert world.theirs.workers() == []


async def test_a_silent_worker_is_forgotten(world):
    await world.ours.register(a_target(), WorkerReport())
    world.now += 4
    await world.ours.refresh()
    assert ids(world.ours.workers()) == ["t1"]
    world.now += 2
    await world.ours.refresh()
    assert world.ours.workers() == []


async def test_a_restarted_worker_takes_the_place_of_its_old_self(world):
    await world.ours.register(a_target(), WorkerReport(added_prefixes=(1,)))
    new = a_target(incarnation="second", endpoint="t1:2")
    await world.ours.register(new, WorkerReport())
    assert not await world.ours.report(a_target(), WorkerReport(num_sessions=9))
    await world.ours.leave(a_target())
    ((worker, _),) = world.ours.targets()
    assert worker.registration == new
    assert worker.report.num_sessions == 0
    assert not any((await world.ours.held_pages(["t1"], [1])).values())
    assert world.asked == ["t1:1", "t1:2"]


async def test_a_target_that_does_not_answer_is_asked_again_at_its_next_report(world):
    world.silent.add("t1:1")
    await world.ours.register(a_target(), WorkerReport())
    assert ids(world.ours.workers()) == ["t1"]
    assert world.ours.targets() == []
    world.silent.clear()
    await world.ours.report(a_target(), WorkerReport())
    assert len(world.ours.targets()) == 1


async def test_tokenizers_are_shared(world):
    await world.ours.register(a_target("t1"), WorkerReport())
    await world.ours.register(a_target("t2"), WorkerReport())
    (_, one), (_, two) = world.ours.targets()
    assert one.tokenizer is two.tokenizer


async def test_without_the_store_our_own_workers_serve_on_and_are_registered_later(world):
    world.store.is_away = True
    await world.ours.register(a_target(), WorkerReport(added_prefixes=(1,)))
    await world.ours.report(a_target(), WorkerReport(added_prefixes=(2,)))
    await world.ours.refresh()
    assert len(world.ours.targets()) == 1
    assert not any((await world.ours.held_pages(["elsewhere"], [1])).values())
    world.store.is_away = False
    await world.ours.report(a_target(), WorkerReport(num_sessions=4))
    (stored,) = await world.store.list_workers()
    assert stored.report.num_sessions == 4
    assert await world.store.prefix_holders(["t1"], [1, 2]) == {"t1": 2}


async def test_a_store_that_forgot_a_worker_gets_it_back_whole(world):
    await world.ours.register(a_target(), WorkerReport(added_prefixes=(1,)))
    world.store._workers.clear()
    await world.ours.report(a_target(), WorkerReport(added_prefixes=(2,)))
    assert await world.store.prefix_holders(["t1"], [1, 2]) == {"t1": 2}


async def test_placed_sessions_count_until_the_next_report(world):
    await world.ours.register(a_target(), WorkerReport())
    world.ours.assign("t1", num_pages=3)
    world.ours.assign("t1", num_pages=4)
    assert world.ours.num_assigned("t1") == 2
    assert world.ours.num_assigned_pages("t1") == 7
    await world.ours.report(a_target(), WorkerReport(num_sessions=2))
    assert world.ours.num_assigned("t1") == world.ours.num_assigned_pages("t1") == 0


async def test_a_worker_announced_to_both_is_seen_through_the_own_stream(world):
    await world.theirs.register(a_target(), WorkerReport(num_sessions=1))
    await world.ours.refresh()
    await world.ours.register(a_target(), WorkerReport(num_sessions=5))
    await world.ours.refresh()
    (worker,) = world.ours.workers()
    assert worker.report == replace(WorkerReport(), num_sessions=5)

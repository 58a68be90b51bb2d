import asyncio

import pytest
from tests.unit.coordinator.support import a_spec, a_target, describe_toy, until
from tests.waiting import on_virtual_time, patience

from treedraft.coordinator.catalog import ModelCatalog
from treedraft.coordinator.failover import Departure, Failover
from treedraft.coordinator.placer import Placer
from treedraft.coordinator.registry import WorkerRegistry
from treedraft.coordinator.session_store.embedded import EmbeddedSessionStore
from treedraft.coordinator.settings import FailoverSettings
from treedraft.core.errors import UnavailableError
from treedraft.core.sampling import StoppingCriteria
from treedraft.core.worker import WorkerReport


class World:
    """A registry whose targets say what they serve, by endpoint."""

    def __init__(self, **settings):
        store = EmbeddedSessionStore(
            session_ttl_seconds=60, lease_seconds=10, worker_ttl_seconds=5, clock=lambda: 0.0
        )
        self.models = {}
        self.catalog = ModelCatalog(self.describe)
        self.registry = WorkerRegistry(store, self.catalog, ttl_seconds=5, clock=lambda: 0.0)
        placer = Placer(self.registry, num_drafters=1)
        chosen = {"wait_seconds": 0.0, **settings}
        self.failover = Failover(self.registry, placer, FailoverSettings(**chosen))

    async def describe(self, endpoint):
        return self.models[endpoint]

    async def add(self, worker_id, *, incarnation="first", report=None, **model):
        worker = a_target(worker_id, incarnation=incarnation)
        self.models[worker.endpoint] = describe_toy(**model)
        await self.registry.register(worker, report or WorkerReport(free_kv_blocks=64))

    async def departure(self, *left, **spec):
        known = await self.catalog.learn(a_target("t1"))
        return Departure(a_spec(**spec), known, frozenset(left))

    async def choice(self, departure):
        placement, turn = await self.failover.place(departure)
        turn.end()
        return placement.target.worker_id


LEFT = ("t1", "first")


async def test_it_never_goes_back_but_to_a_new_start():
    world = World()
    await world.add("t1")
    departure = await world.departure(LEFT)
    with pytest.raises(UnavailableError) as caught:
        await world.failover.place(departure)
    assert caught.value.reason == "NO_TARGET_LEFT"
    await world.add("t1", incarnation="second")
    assert await world.choice(departure) == "t1"


async def test_it_goes_back_to_one_that_was_cut_off_once_that_is_heard_of_and_there_is_no_other():
    world = World()
    await world.add("t1")
    departure = await world.departure(LEFT)
    world.failover.doubt(LEFT)
    with pytest.raises(UnavailableError):
        await world.failover.place(departure)
    await world.registry.report(a_target("t1"), WorkerReport(free_kv_blocks=64))
    assert await world.choice(departure) == "t1"
    await world.add("t2", report=WorkerReport(num_sessions=7))
    assert await world.choice(departure) == "t2"


async def test_a_target_of_the_same_numbers_comes_before_a_less_loaded_one():
    world = World()
    await world.add("t1")
    await world.add("t2", fingerprint="other")
    departure = await world.departure(LEFT)
    assert await world.choice(departure) == "t2"
    await world.add("t3", report=WorkerReport(num_sessions=7))
    assert await world.choice(departure) == "t3"


@pytest.mark.parametrize(
    "model",
    [
        {"model": "other"},
        {"tokenizer_hash": "other"},
        {"context_length": 3 + 63},
        {"max_prompt_tokens": 2},
    ],
)
async def test_a_target_that_cannot_go_on_is_no_choice(model):
    world = World()
    await world.add("t1")
    await world.add("t2", **model)
    with pytest.raises(UnavailableError):
        await world.failover.place(await world.departure(LEFT))


async def test_a_target_that_holds_just_the_whole_text_is_one():
    world = World()
    await world.add("t1")
    await world.add("t2", context_length=3 + 64, max_prompt_tokens=5)
    departure = await world.departure(LEFT, token_ids=(1, 2, 3, 4, 5))
    assert await world.choice(departure) == "t2"


async def test_a_draining_target_is_no_choice():
    world = World()
    await world.add("t1")
    await world.add("t2", report=WorkerReport(is_draining=True))
    with pytest.raises(UnavailableError):
        await world.failover.place(await world.departure(LEFT))


async def test_a_doubted_target_is_the_last_choice_until_it_reports():
    world = World()
    await world.add("t1")
    await world.add("t2")
    await world.add("t3", report=WorkerReport(num_sessions=8))  # full
    departure = await world.departure(LEFT)
    world.failover.doubt(("t2", "first"))
    assert await world.choice(departure) == "t3"
    await world.registry.leave(a_target("t3"))
    assert await world.choice(departure) == "t2"
    await world.add("t3", report=WorkerReport(num_sessions=6))
    await world.registry.report(a_target("t2"), WorkerReport(free_kv_blocks=64))
    assert await world.choice(departure) == "t2"


async def test_it_waits_for_a_target_to_come_up():
    world = World(wait_seconds=30.0)
    await world.add("t1")
    placing = asyncio.create_task(world.choice(await world.departure(LEFT)))
    await asyncio.sleep(0)
    assert not placing.done()
    await world.add("t2")
    assert await placing == "t2"


async def test_sessions_move_in_turns_and_a_turn_ends_once():
    world = World(max_at_once=2, turn_seconds=60.0)
    await world.add("t1")
    await world.add("t2")
    departure = await world.departure(LEFT)
    moves = [asyncio.create_task(world.failover.place(departure)) for _ in range(4)]
    await until(lambda: sum(move.done() for move in moves) == 2)
    _, first = await moves[0]
    first.end()
    first.end()
    await until(lambda: sum(move.done() for move in moves) == 3)
    for _ in range(5):
        await asyncio.sleep(0)
    assert not moves[3].done()
    (await moves[1])[1].end()
    (await moves[2])[1].end()
    (await moves[3])[1].end()


@on_virtual_time
async def test_a_turn_ends_by_itself():
    world = World(max_at_once=1, turn_seconds=5.0)
    await world.add("t1")
    await world.add("t2")
    departure = await world.departure(LEFT)
    for _ in range(3):
        await world.failover.place(departure)


async def test_who_gives_up_waiting_leaves_no_turn_taken():
    world = World(max_at_once=1, turn_seconds=60.0)
    await world.add("t1")
    await world.add("t2")
    departure = await world.departure(LEFT)
    _, turn = await world.failover.place(departure)
    waiting = asyncio.create_task(world.failover.place(departure))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    turn.end()
    async with patience():
        assert await world.choice(departure) == "t2"


async def test_a_target_that_leaves_while_a_turn_is_awaited_is_not_chosen():
    world = World(max_at_once=1, turn_seconds=60.0, wait_seconds=30.0)
    await world.add("t1")
    await world.add("t2")
    departure = await world.departure(LEFT, stopping=StoppingCriteria(max_tokens=8))
    _, turn = await world.failover.place(departure)
    placing = asyncio.create_task(world.choice(departure))
    await asyncio.sleep(0)
    await world.registry.leave(a_target("t2"))
    turn.end()
    await asyncio.sleep(0)
    await world.add("t3")
    assert await placing == "t3"

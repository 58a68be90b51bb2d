"""What several coordinators know, put together."""

from tests.unit.autoscaler.support import a_worker

from treedraft.autoscaler.observation import ClusterObserver, resolve
from treedraft.core.errors import UnavailableError
from treedraft.core.worker import ClusterDescription


class FakeClient:
    def __init__(self, answers):
        self.answers, self.is_closed = answers, False

    async def describe_cluster(self, *, timeout_seconds=10.0):
        if self.answers is None:
            raise UnavailableError("away")
        return self.answers

    async def close(self):
        self.is_closed = True


class World:
    """Coordinators by address; the observer dials them."""

    def __init__(self, **answers):
        self.clients = {f"127.0.0.1:{port[1:]}": FakeClient(one) for port, one in answers.items()}
        self.observer = ClusterObserver(sorted(self.clients), self.clients.__getitem__)

    def set(self, port, answer):
        self.clients[f"127.0.0.1:{port}"].answers = answer


def knowing(*worker_ids, unserved=()):
    return ClusterDescription(
        tuple(a_worker(worker_id) for worker_id in worker_ids), num_unserved=unserved
    )


async def test_workers_are_united_by_name():
    world = World(p1=knowing("t-0", "t-1"), p2=knowing("t-1", "t-2"))
    view = await world.observer.observe()
    assert [worker.worker_id for worker, _ in view.workers] == ["t-0", "t-1", "t-2"]


async def test_a_coordinator_that_does_not_answer_is_left_out():
    world = World(p1=None, p2=knowing("t-1"))
    view = await world.observer.observe()
    assert [worker.worker_id for worker, _ in view.workers] == ["t-1"]


async def test_if_none_answers_nothing_is_seen():
    assert await World(p1=None, p2=None).observer.observe() is None


async def test_requests_without_a_target_count_once_and_from_the_first_look_on():
    world = World(p1=knowing(unserved=(("m", 5),)), p2=knowing(unserved=(("m", 1),)))
    assert (await world.observer.observe()).unserved == {}
    world.set(1, knowing(unserved=(("m", 7), ("", 1))))
    assert (await world.observer.observe()).unserved == {"m": 2, "": 1}
    assert (await world.observer.observe()).unserved == {}


async def test_a_restarted_coordinator_begins_to_count_anew():
    world = World(p1=knowing(unserved=(("m", 5),)))
    await world.observer.observe()
    world.set(1, knowing(unserved=(("m", 2),)))
    assert (await world.observer.observe()).unserved == {"m": 2}


async def test_connections_are_closed_at_the_end():
    world = World(p1=knowing("t-0"))
    await world.observer.observe()
    await world.observer.close()
    assert all(client.is_closed for client in world.clients.values())


async def test_a_name_is_asked_at_each_of_its_addresses():
    assert "127.0.0.1:50" in await resolve("localhost:50")
    assert await resolve("[::1]:50") == ["[::1]:50"]
    assert await resolve("no-such-host.invalid:50") == []

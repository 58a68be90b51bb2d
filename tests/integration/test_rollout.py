"""A new revision beside the old one, over real gRPC: shares, counts, and backing out."""

from collections.abc import AsyncIterator, Iterator

import pytest
from tests.unit.coordinator.cluster import HELLO, Cluster, a_cluster, ask, failure_of, text_of
from tests.unit.coordinator.redis_server import redis_server
from tests.unit.coordinator.support import FakeTarget, a_drafter, encode, output, says

from treedraft.coordinator.api_keys import key_line, new_key
from treedraft.coordinator.session_store.redis_connection import connect
from treedraft.coordinator.session_store.rollout_store import (
    EmbeddedRolloutStore,
    RedisRolloutStore,
)
from treedraft.core.errors import PermissionDeniedError, UnauthenticatedError, UnavailableError
from treedraft.core.rollout import Pairing, PairingCounts, Pool, WeightChange
from treedraft.core.session import FinishReason, SessionFailure, SessionOutput
from treedraft.rpc.coordinator_client import CoordinatorClient

V1, V2 = Pool("target", "v1"), Pool("target", "v2")


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory) -> Iterator[str]:
    with redis_server(tmp_path_factory.mktemp("redis")) as url:
        yield url


@pytest.fixture(params=["embedded", "redis"])
async def stores(request):
    """Give a store, and the same as another coordinator sees it."""
    if request.param == "embedded":
        store = EmbeddedRolloutStore()
        yield store, store
        return
    client = connect(request.getfixturevalue("redis_url"))
    await client.flushdb()
    yield RedisRolloutStore(client), RedisRolloutStore(client)
    await client.aclose()


async def test_both_stores_keep_shares_and_counts(stores):
    ours, theirs = stores
    await ours.change([WeightChange(V1, 0.9), WeightChange(V2, 0.1)], now=5.0)
    assert (await theirs.read()).weights == {V1: 0.9, V2: 0.1}
    pairing = Pairing("smöl", "v1", ("a", "b"))
    await ours.add({pairing: PairingCounts(sessions=1, emitted_tokens=2**40)})
    await theirs.add({pairing: PairingCounts(sessions=2), Pairing("x", ""): PairingCounts(0, 1)})
    state = await ours.read()
    assert state.counts == {
        pairing: PairingCounts(sessions=3, emitted_tokens=2**40),
        Pairing("x", ""): PairingCounts(failures=1),
    }
    assert state.since == 5.0


async def test_a_change_begins_to_count_anew_and_can_be_taken_back(stores):
    ours, theirs = stores
    await ours.change([WeightChange(V1, 0.0), WeightChange(V2, 2.0)], now=5.0)
    await ours.add({Pairing("m", "v1"): PairingCounts(sessions=1)})
    await theirs.change([WeightChange(V1, None)], now=6.5)
    state = await ours.read()
    assert (state.weights, state.counts, state.since) == ({V2: 2.0}, {}, 6.5)


async def test_redis_away_is_said_so(tmp_path):
    client = connect(f"unix://{tmp_path}/nobody.sock", timeout_seconds=0.2)
    with pytest.raises(UnavailableError) as caught:
        await RedisRolloutStore(client).read()
    assert caught.value.reason == "STORE_UNAVAILABLE"
    await client.aclose()


class Side:
    """The old revision and the new one, beside each other."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.old = FakeTarget(script=says("old"))
        self.new = FakeTarget(script=says("new"))

    async def ask(self, count: int) -> list[str]:
        return [text_of(await ask(self.cluster.client, HELLO)) for _ in range(count)]


@pytest.fixture
async def side() -> AsyncIterator[Side]:
    async with a_cluster() as cluster:
        made = Side(cluster)
        await cluster.add_target(made.old, "t1", pool="v1")
        await cluster.add_target(made.new, "t2", pool="v2", weight=0.0)
        yield made


async def test_a_revision_goes_from_nothing_to_everything_and_back(side):
    client = side.cluster.client
    assert await side.ask(4) == ["old"] * 4
    await client.set_pool_weights([WeightChange(V1, 1.0), WeightChange(V2, 1.0)])
    assert {"old", "new"} <= set(await side.ask(40))  # missing one: 2 in 10 ** 12
    await client.set_pool_weights([WeightChange(V1, 0.0)])
    assert await side.ask(4) == ["new"] * 4
    # Out again, in one call.
    await client.set_pool_weights([WeightChange(V1, 1.0), WeightChange(V2, 0.0)])
    assert await side.ask(4) == ["old"] * 4
    await client.set_pool_weights([WeightChange(V1, None), WeightChange(V2, None)])
    assert await side.ask(4) == ["old"] * 4


async def test_a_session_ends_where_it_began(side):
    side.old.script = None
    events = side.cluster.client.generate(HELLO)
    await anext(events)
    spec = await side.old.session()
    await side.cluster.client.set_pool_weights([WeightChange(V1, 0.0), WeightChange(V2, 1.0)])
    assert await side.ask(1) == ["new"]
    side.old.say(output(spec, 0, encode("still"), FinishReason.STOP))
    assert text_of([event async for event in events]) == "still"
    assert side.old.cancelled == []
    assert spec.session_id not in side.new.started


async def test_what_came_of_sessions_is_compared(side):
    client = side.cluster.client
    await side.cluster.announce(a_drafter("d1", pool="good"))
    await client.set_pool_weights([WeightChange(V2, 1.0), WeightChange(V1, 0.0)])
    await side.ask(3)
    await client.set_pool_weights([WeightChange(V2, 0.0), WeightChange(V1, 1.0)])
    await side.ask(2)
    described = await client.describe_rollout()
    # Counting began anew with the last change.
    ((pairing, counts),) = described.pairings
    assert pairing == Pairing("toy", "v1", ("good",))
    assert (counts.sessions, counts.rounds, counts.emitted_tokens) == (2, 4, 6)
    assert described.since > 1.7e9
    pools = {str(status.pool): status for status in described.pools}
    assert set(pools) == {"target/v1", "target/v2", "draft/good"}
    assert (pools["target/v2"].weight, pools["target/v2"].announced_weight) == (0.0, 0.0)
    assert (pools["target/v1"].models, pools["target/v1"].num_workers) == (("toy",), 1)


async def test_failures_are_counted(side):
    failure = SessionFailure("KV_POOL_FULL", "no room")
    side.old.script = lambda spec: [SessionOutput(spec.session_id, 1, 5, failure=failure)]
    await failure_of(side.cluster.client, HELLO)
    described = await side.cluster.client.describe_rollout()
    assert described.pairings == ((Pairing("toy", "v1"), PairingCounts(failures=1)),)


async def test_shares_reach_every_coordinator_of_a_store(redis_url):
    # Targets announce themselves to one of them; the other learns of all from Redis.
    async with a_cluster(redis=redis_url) as one, a_cluster(redis=redis_url) as two:
        await one.add_target(FakeTarget(script=says("old")), "r1", pool="v1")
        await one.add_target(FakeTarget(script=says("new")), "r2", pool="v2")
        await two.until_serves("toy", 2)
        await one.client.set_pool_weights([WeightChange(V1, 0.0), WeightChange(V2, 1.0)])
        assert (await two.client.describe_rollout()).pools[-1].weight == 1.0  # reads them, too
        assert [text_of(await ask(two.client, HELLO)) for _ in range(4)] == ["new"] * 4
        await two.client.describe_rollout()  # adds what it has counted
        counts = dict((await one.client.describe_rollout()).pairings)
        assert counts[Pairing("toy", "v2")].sessions == 4


async def test_only_operators_change_shares_where_there_are_keys(tmp_path):
    keys = {name: new_key() for name in ("ops", "acme")}
    lines = [key_line(key, name) for name, key in keys.items()]
    (tmp_path / "keys.toml").write_text(
        "\n".join(["[keys]", *lines, "[tenants.ops]", "operator = true", ""])
    )
    (tmp_path / "secret").write_text("s" * 32)
    door = {
        "keys_file": str(tmp_path / "keys.toml"),
        "tenant_secret_file": str(tmp_path / "secret"),
    }
    async with a_cluster(door=door) as cluster:
        clients = {
            name: CoordinatorClient(cluster.endpoint, api_key=key)
            for name, key in {**keys, "nobody": ""}.items()
        }
        with pytest.raises(PermissionDeniedError) as caught:
            await clients["acme"].set_pool_weights([WeightChange(V1, 0.0)])
        assert caught.value.reason == "NOT_AN_OPERATOR"
        with pytest.raises(UnauthenticatedError):
            await clients["nobody"].set_pool_weights([WeightChange(V1, 0.0)])
        await clients["ops"].set_pool_weights([WeightChange(V1, 0.0)])
        # Everybody with a key may look.
        (status,) = (await clients["acme"].describe_rollout()).pools
        assert (status.pool, status.weight, status.num_workers) == (V1, 0.0, 0)
        for client in clients.values():
            await client.close()

from peers_cluster import RUNNING, FakeClient, FakeCluster

from treedraft.bench.peers import treedraft_peer
from treedraft.bench.peers.plan import SPECULATIVE
from treedraft.bench.peers.treedraft_peer import TreedraftPeer
from treedraft.local_cluster.plan import ClusterPlan


async def test_the_cluster_lives_as_long_as_the_peer_and_is_asked_with_ids(monkeypatch):
    monkeypatch.setattr(treedraft_peer, "LocalCluster", FakeCluster)
    monkeypatch.setattr(treedraft_peer, "CoordinatorClient", FakeClient)
    async with TreedraftPeer(ClusterPlan(), print) as peer:
        assert RUNNING == ["cluster", "client"]
        plain = await peer.generate("plain", (1, 2), 3)
        fast = await peer.generate(SPECULATIVE, (1, 2), 3)
    assert RUNNING == []
    assert plain.token_ids == fast.token_ids == (0, 1, 2)
    assert (plain.num_passes, plain.seconds > 0) == (2, True)
    queries = FakeClient.queries
    assert [query.token_ids for query in queries] == [(1, 2)] * 2
    assert [query.speculation.enabled for query in queries] == [False, True]
    assert all(query.stopping.ignore_eos for query in queries)
    assert all(query.sampling.temperature == 0.0 for query in queries)

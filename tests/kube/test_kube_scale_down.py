"""Four targets to one under load, with a real API server and its StatefulSet controller."""

import pytest
from kubernetes import client
from tests.kube.kubelet import StatefulSetPods
from tests.scale_down.drill import NUM_TARGETS, scale_down
from tests.unit.coordinator.redis_server import find_redis_server


@pytest.mark.timeout(300)
@pytest.mark.skipif(find_redis_server() is None, reason="no redis-server on this machine")
async def test_no_answer_is_lost_to_a_real_scale_down(
    release, kube, namespace, autoscaler_token, tmp_path, monkeypatch
):
    monkeypatch.setenv("TREEDRAFT_NATIVE", "0")
    release.install()
    pods = StatefulSetPods(kube, namespace, autoscaler_token())
    figures = await scale_down(tmp_path, pods, drain_seconds=0.3)
    print(figures)
    assert figures.is_good, figures
    assert figures.sessions >= 12
    assert figures.moves >= 1
    # A StatefulSet gives up its last pods.
    gone = {one.name for one in figures.removals}
    assert gone == {f"{pods.pool}-{number}" for number in range(1, NUM_TARGETS)}
    assert figures.reasons == ("from 4 to 1: 1 at least",)
    found = client.AppsV1Api(kube.client()).read_namespaced_stateful_set(pods.workload, namespace)
    assert found.spec.replicas == 1

"""What an autoscaler refuses to start with, and what its settings say."""

import pytest
from pydantic import ValidationError
from tests.unit.autoscaler.support import a_worker

from treedraft.autoscaler.__main__ import serve
from treedraft.autoscaler.controller import members
from treedraft.autoscaler.settings import AutoscalerSettings, LeaderSettings, WorkloadSettings
from treedraft.core.errors import InvalidRequestError

POOLS = ({"target": {"name": "t"}},)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (AutoscalerSettings(coordinators="c:1"), "NO_POOLS"),
        (AutoscalerSettings(pools=POOLS), "NO_COORDINATORS"),
    ],
)
async def test_there_must_be_something_to_size_and_somebody_to_ask(settings, reason):
    with pytest.raises(InvalidRequestError) as caught:
        await serve(settings)
    assert caught.value.reason == reason


async def test_without_a_cluster_it_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    settings = AutoscalerSettings(
        coordinators="c:1", pools=POOLS, telemetry={"store_path": str(tmp_path / "spans.db")}
    )
    with pytest.raises(InvalidRequestError) as caught:
        await serve(settings)
    assert caught.value.reason == "NO_KUBERNETES"


def test_pools_come_from_the_environment_as_json(monkeypatch):
    monkeypatch.setenv(
        "TREEDRAFT_AUTOSCALER__POOLS",
        '[{"target": {"name": "t", "max_replicas": 3}, "draft": {"name": "d"}}]',
    )
    [pool] = AutoscalerSettings().pools
    assert pool.target.max_replicas == 3
    assert pool.draft.name == "d"


def test_settings_that_contradict_each_other_are_refused():
    with pytest.raises(ValidationError, match="below min_replicas"):
        WorkloadSettings(name="t", min_replicas=5, max_replicas=4)
    with pytest.raises(ValidationError, match="below lease_seconds"):
        LeaderSettings(lease_seconds=5, renew_seconds=5)


def test_a_worker_belongs_to_the_workload_whose_pod_it_is():
    workers = [
        a_worker(worker_id)
        for worker_id in ("llm-0", "llm-12", "llm-big-0", "llm-7c9f-x2x", "llm", "xllm-0")
    ]

    def of(kind):
        workload = WorkloadSettings(name="llm", kind=kind)
        return [worker.worker_id for worker, _ in members(workload, workers)]

    assert of("StatefulSet") == ["llm-0", "llm-12"]
    assert of("Deployment") == ["llm-big-0", "llm-7c9f-x2x"]

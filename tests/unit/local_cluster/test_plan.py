import pytest

from treedraft.environment import check_environment
from treedraft.local_cluster.plan import (
    ClusterPlan,
    plan_coordinator,
    plan_workers,
    share_threads,
)


def workers_of(plan, tmp_path, environ=None, num_cores=8):
    return plan_workers(plan, "host:1", tmp_path, environ or {}, num_cores=num_cores)


@pytest.mark.parametrize(
    ("num_cores", "plan", "threads"),
    [
        (2, ClusterPlan(), (2, 1)),
        (2, ClusterPlan(draft="m"), (2, 2)),
        (4, ClusterPlan(draft="m"), (4, 4)),
        (4, ClusterPlan(draft="m", num_drafters=2), (3, 1)),
        (2, ClusterPlan(draft="m", target_threads=1), (1, 1)),
        (1, ClusterPlan(draft="m"), (1, 1)),
        (16, ClusterPlan(draft="m"), (12, 4)),
        (16, ClusterPlan(draft="m", num_drafters=2), (12, 2)),
        (16, ClusterPlan(num_targets=2), (8, 1)),
        (16, ClusterPlan(draft="m", target_threads=3, draft_threads=5), (3, 5)),
    ],
)
def test_cores_are_dealt_out(num_cores, plan, threads):
    assert share_threads(num_cores, plan) == threads


def test_every_worker_has_its_own_name_and_files(tmp_path):
    workers = workers_of(ClusterPlan(num_targets=2, num_drafters=3), tmp_path)
    names = ["target-0", "target-1", "draft-0", "draft-1", "draft-2"]
    assert [worker.name for worker in workers] == names
    assert len({worker.endpoint_file(tmp_path) for worker in workers}) == 5
    for worker in workers:
        key = f"TREEDRAFT_{worker.role.upper()}__GRPC__ENDPOINT_FILE"
        assert worker.environment[key] == str(worker.endpoint_file(tmp_path))


def test_metrics_are_served_on_ports_that_follow_each_other(tmp_path):
    plan = ClusterPlan(num_targets=2, num_drafters=1, metrics_port=9464)
    services = [plan_coordinator(plan, tmp_path, {}), *workers_of(plan, tmp_path)]
    ports = [
        service.environment[f"TREEDRAFT_{service.role.upper()}__TELEMETRY__METRICS_PORT"]
        for service in services
    ]
    assert ports == ["9464", "9465", "9466", "9467"]
    silent = plan_coordinator(ClusterPlan(), tmp_path, {})
    assert "TREEDRAFT_COORDINATOR__TELEMETRY__METRICS_PORT" not in silent.environment


def test_every_request_is_traced_unless_the_user_says_otherwise(tmp_path):
    name = "TREEDRAFT_COORDINATOR__TELEMETRY__SAMPLE_RATIO"
    assert plan_coordinator(ClusterPlan(), tmp_path, {}).environment[name] == "1"
    assert plan_coordinator(ClusterPlan(), tmp_path, {name: "0"}).environment[name] == "0"
    plan = ClusterPlan(settings={name: "0.1"})
    assert plan_coordinator(plan, tmp_path, {}).environment[name] == "0.1"


def test_models_go_to_those_who_load_them(tmp_path):
    target, draft = workers_of(ClusterPlan(target="big", draft="small"), tmp_path)
    assert target.environment["TREEDRAFT_TARGET__MODEL"] == "big"
    assert draft.environment["TREEDRAFT_DRAFT__MODEL"] == "small"
    assert target.environment["TREEDRAFT_TARGET__WORKER__COORDINATORS"] == "host:1"


def test_the_users_settings_stay_but_not_ports(tmp_path):
    environ = {
        "TREEDRAFT_TARGET__NUM_THREADS": "5",
        "TREEDRAFT_TARGET__BUDGET__MAX_NODES": "7",
        "TREEDRAFT_TARGET__GRPC__PORT": "9",
        "PATH": "/bin",
    }
    target, _ = workers_of(ClusterPlan(), tmp_path, environ)
    assert target.environment["TREEDRAFT_TARGET__NUM_THREADS"] == "5"
    assert target.environment["TREEDRAFT_TARGET__BUDGET__MAX_NODES"] == "7"
    assert target.environment["TREEDRAFT_TARGET__GRPC__PORT"] == "0"
    assert target.environment["PATH"] == "/bin"


def test_every_variable_is_one_that_a_service_reads(tmp_path):
    from treedraft.coordinator.settings import CoordinatorSettings
    from treedraft.draft.settings import DraftSettings
    from treedraft.target.settings import TargetSettings

    plan = ClusterPlan(
        draft="m",
        redis="redis://r",
        dtype="float32",
        device="cpu",
        coordinator_host="0.0.0.0",
        coordinator_port=5,
    )
    services = [plan_coordinator(plan, tmp_path, {}), *workers_of(plan, tmp_path)]
    classes = {"coordinator": CoordinatorSettings, "target": TargetSettings, "draft": DraftSettings}
    for service in services:
        check_environment(service.environment, classes[service.role])
    coordinator = services[0].environment
    assert coordinator["TREEDRAFT_COORDINATOR__REDIS"] == "redis://r"
    assert coordinator["TREEDRAFT_COORDINATOR__GRPC__PORT"] == "5"


def test_no_model_spins_for_long_while_it_waits(tmp_path):
    for worker in workers_of(ClusterPlan(draft="m"), tmp_path):
        assert 0 < int(worker.environment["GOMP_SPINCOUNT"]) <= 10_000

"""Who sizes pools: our autoscaler, HPA or KEDA; and what each of them may and is told."""

import pytest
from scripts.chart.helm import HelmError
from tests.chart.manifests import environment, named, of_kind, pod_of, workloads

from treedraft.autoscaler.settings import AutoscalerSettings

ALL = {"autoscaling": {"kind": "treedraft"}}


def told(monkeypatch, objects):
    for name, value in environment(pod_of(objects, "autoscaler")).items():
        if name.startswith("TREEDRAFT_"):
            monkeypatch.setenv(name, value)
    return AutoscalerSettings()


def replicas(objects):
    return {item["metadata"]["name"]: item["spec"].get("replicas") for item in workloads(objects)}


def test_our_autoscaler_is_told_of_all_pools_by_pairs(rendered, monkeypatch):
    settings = told(monkeypatch, rendered("many-drafters"))
    pools = {pool.model: pool for pool in settings.pools}
    assert set(pools) == {"large", "small"}
    assert pools["large"].target.name == "demo-treedraft-target-large"
    assert pools["large"].draft.name == "demo-treedraft-draft-large"
    assert pools["small"].draft.name == "demo-treedraft-draft-little"
    assert (pools["small"].target.min_replicas, pools["small"].target.max_replicas) == (0, 8)
    assert settings.coordinators == ("demo-treedraft-coordinator-each.serving.svc:50051",)
    assert settings.namespace == "serving"
    assert settings.target.goal_first_token_seconds == 1.5


def test_what_it_sizes_has_no_size_in_manifests_and_the_rest_has(rendered):
    found = replicas(rendered("many-drafters"))
    assert found["demo-treedraft-target-large"] is None
    assert found["demo-treedraft-draft-little"] is None
    assert found["demo-treedraft-draft-lookup"] == 2  # no pool of targets names it
    assert found["demo-treedraft-autoscaler"] == 2


def test_it_may_do_what_it_does_and_no_more(rendered):
    objects = rendered("many-drafters")
    role = named(objects, "Role", "demo-treedraft-autoscaler")
    allowed = {
        (resource, verb, name)
        for rule in role["rules"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
        for name in rule.get("resourceNames", ["*"])
    }
    sized = [
        "demo-treedraft-target-large",
        "demo-treedraft-target-small",
        "demo-treedraft-draft-large",
        "demo-treedraft-draft-little",
    ]
    assert allowed == {
        *(("statefulsets", verb, name) for verb in ("get", "list", "watch") for name in sized),
        *(("statefulsets/scale", verb, name) for verb in ("get", "update") for name in sized),
        ("leases", "get", "demo-treedraft-autoscaler"),
        ("leases", "update", "demo-treedraft-autoscaler"),
        ("leases", "create", "*"),
        ("events", "create", "*"),
    }
    (binding,) = of_kind(objects, "RoleBinding")
    assert binding["subjects"] == [
        {"kind": "ServiceAccount", "name": "demo-treedraft-autoscaler", "namespace": "serving"}
    ]
    assert not of_kind(objects, "ClusterRole", "ClusterRoleBinding")


def test_the_lease_is_the_one_it_may_write(rendered, monkeypatch):
    settings = told(monkeypatch, rendered("many-drafters"))
    assert settings.leader.lease_name == "demo-treedraft-autoscaler"


def test_pods_of_deployments_may_be_marked(helm):
    objects = helm.template({**ALL, "targetDefaults": {"workload": "Deployment"}})
    role = named(objects, "Role", "demo-treedraft-autoscaler")
    kinds = {resource for rule in role["rules"] for resource in rule["resources"]}
    assert {"deployments", "deployments/scale", "statefulsets", "pods"} <= kinds


def test_a_key_is_read_from_where_it_is_mounted(helm, monkeypatch):
    secret = {"name": "operator-key", "key": "key"}
    objects = helm.template(
        {"autoscaling": {"kind": "treedraft", "autoscaler": {"apiKeySecret": secret}}}
    )
    assert told(monkeypatch, objects).api_key_file == "/etc/treedraft/key/key"
    volumes = pod_of(objects, "autoscaler")["spec"]["volumes"]
    assert {"operator-key"} == {v["secret"]["secretName"] for v in volumes if "secret" in v}


def test_drafters_that_are_not_there_are_refused(helm):
    with pytest.raises(HelmError, match=r"there is no draftPools\.others"):
        helm.template({**ALL, "targetDefaults": {"drafters": "others"}})


def test_a_pool_can_be_left_alone(helm, monkeypatch):
    objects = helm.template({**ALL, "draftDefaults": {"scaling": {"enabled": False}}})
    (pool,) = told(monkeypatch, objects).pools
    assert pool.draft is None
    assert replicas(objects)["demo-treedraft-draft-main"] == 1


@pytest.mark.parametrize(
    ("kind", "object_kind"), [("hpa", "HorizontalPodAutoscaler"), ("keda", "ScaledObject")]
)
def test_alternatives_point_at_each_workload_and_replace_our_own(helm, kind, object_kind):
    objects = helm.template({"autoscaling": {"kind": kind}})
    sized = {item["spec"]["scaleTargetRef"]["name"] for item in of_kind(objects, object_kind)}
    assert sized == {"demo-treedraft-target-main", "demo-treedraft-draft-main"}
    for name in sized:
        assert replicas(objects)[name] is None
    assert "demo-treedraft-autoscaler" not in replicas(objects)
    assert not of_kind(objects, "Role")


def test_keda_asks_for_what_services_export(rendered):
    from treedraft.telemetry import names

    for item in of_kind(rendered("keda"), "ScaledObject"):
        (trigger,) = item["spec"]["triggers"]
        query = trigger["metadata"]["query"]
        assert names.METRIC_SESSIONS in query
        assert 'namespace="serving"' in query
        # Without any pod the sum is 0 and not nothing.
        assert query.count("or vector(0)") == query.count("sum(")

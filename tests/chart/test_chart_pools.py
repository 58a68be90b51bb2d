"""What a pool is made of: models from everywhere, GPUs, images, workloads, ways in."""

import pytest
from tests.chart.manifests import container, environment, named, of_kind, pod_of


def a_target(helm, pool, *arguments):
    objects = helm.template({"targetPools": {"main": pool}}, [], *arguments)
    return objects, pod_of(objects, "target", "main")


def volumes(pod):
    return {volume.pop("name"): volume for volume in [dict(v) for v in pod["spec"]["volumes"]]}


def mounts(pod):
    return {mount["name"]: mount for mount in container(pod)["volumeMounts"]}


def test_a_model_of_the_hub(helm):
    pool = {"model": {"hub": "org/chat@v2", "name": "chat", "hubTokenSecret": {"name": "t"}}}
    _, pod = a_target(helm, pool)
    variables = environment(pod)
    assert variables["TREEDRAFT_TARGET__MODEL"] == "org/chat@v2"
    assert variables["TREEDRAFT_TARGET__MODEL_NAME"] == "chat"
    assert variables["HF_HOME"].startswith(mounts(pod)["cache"]["mountPath"])
    assert "HF_HUB_OFFLINE" not in variables
    (token,) = [item for item in container(pod)["env"] if item["name"] == "HF_TOKEN"]
    assert token["valueFrom"]["secretKeyRef"] == {"name": "t", "key": "token"}


@pytest.mark.parametrize(("path", "found"), [("a/b", "/models/a/b"), ("", "/models")])
def test_a_model_in_a_volume_is_read_only_and_needs_no_network(helm, path, found):
    source = {"source": "volume", "volume": {"claim": "models", "path": path}}
    _, pod = a_target(helm, {"model": source})
    variables = environment(pod)
    assert variables["TREEDRAFT_TARGET__MODEL"] == found
    assert variables["HF_HUB_OFFLINE"] == "1"
    assert mounts(pod)["model"] == {"name": "model", "mountPath": "/models", "readOnly": True}
    claim = {"claimName": "models", "readOnly": True}
    assert volumes(pod)["model"] == {"persistentVolumeClaim": claim}


@pytest.mark.parametrize("enabled_by", ["version", "value"])
def test_a_model_in_an_artefact(helm, enabled_by):
    values = {
        "targetDefaults": {
            "model": {"source": "oci", "oci": {"reference": "registry/m@sha256:1", "path": "m"}}
        },
        "kubernetes": {"imageVolumes": enabled_by == "value"},
    }
    version = "1.35.0" if enabled_by == "version" else "1.32.0"
    pod = pod_of(helm.template(values, [], f"--kube-version={version}"), "target", "main")
    image = {"reference": "registry/m@sha256:1", "pullPolicy": "IfNotPresent"}
    assert volumes(pod)["model"] == {"image": image}
    assert environment(pod)["TREEDRAFT_TARGET__MODEL"] == "/models/m"


def test_drafters_draft_with_the_shipped_one_and_lookup_needs_neither_model_nor_torch(helm):
    shipped = pod_of(helm.template(), "draft", "main")
    assert environment(shipped)["TREEDRAFT_DRAFT__MODEL"] == "smollm2-135m-drafter"
    copying = pod_of(
        helm.template({"draftDefaults": {"model": {"hub": "lookup"}}}), "draft", "main"
    )
    assert environment(copying)["TREEDRAFT_DRAFT__MODEL"] == ""
    assert container(copying)["image"] == "treedraft/control:0.1.0"


def test_gpus_bring_their_image_their_resource_and_a_toleration(helm):
    pool = {"gpus": 2, "tolerations": [{"key": "team", "operator": "Exists"}]}
    _, pod = a_target(helm, pool)
    assert container(pod)["image"] == "treedraft/inference-cuda:0.1.0"
    assert container(pod)["resources"]["limits"]["nvidia.com/gpu"] == "2"
    assert [item["key"] for item in pod["spec"]["tolerations"]] == ["team", "nvidia.com/gpu"]


def test_a_digest_wins_over_a_tag(helm):
    digest = "sha256:" + "0" * 64
    values = {"images": {"cpu": {"repository": "r/cpu", "tag": "x", "digest": digest}}}
    pod = pod_of(helm.template(values), "target", "main")
    assert container(pod)["image"] == f"r/cpu@{digest}"


def test_a_cache_can_outlive_its_pod(helm):
    objects, pod = a_target(helm, {"cache": {"persistent": True, "size": "7Gi"}})
    workload = named(objects, "StatefulSet", "demo-treedraft-target-main")
    (claim,) = workload["spec"]["volumeClaimTemplates"]
    assert claim["spec"]["resources"]["requests"]["storage"] == "7Gi"
    assert "cache" not in volumes(pod)


def test_pools_of_deployments_keep_their_pods_while_they_are_replaced(helm):
    objects, _ = a_target(helm, {"workload": "Deployment"})
    strategy = named(objects, "Deployment", "demo-treedraft-target-main")["spec"]["strategy"]
    assert strategy["rollingUpdate"] == {"maxUnavailable": 0}


def test_every_stateful_set_has_its_headless_service(rendered):
    objects = rendered("many-drafters")
    for workload in of_kind(objects, "StatefulSet"):
        service = named(objects, "Service", workload["spec"]["serviceName"])
        assert service["spec"]["clusterIP"] == "None"
        assert service["spec"]["publishNotReadyAddresses"] is True
        assert service["spec"]["selector"] == workload["spec"]["selector"]["matchLabels"]


def test_pools_can_be_removed_and_added(rendered):
    names = {item["metadata"]["name"] for item in of_kind(rendered("many-drafters"), "StatefulSet")}
    assert names == {
        "demo-treedraft-target-large",
        "demo-treedraft-target-small",
        "demo-treedraft-draft-large",
        "demo-treedraft-draft-little",
        "demo-treedraft-draft-lookup",
    }


def test_two_revisions_share_one_name_by_weight(helm):
    values = {
        "targetPools": {
            "main": None,
            "v1": {"model": {"name": "chat"}},
            "v2": {"model": {"name": "chat"}, "weight": 0},
        }
    }
    objects = helm.template(values)
    for pool, weight in (("v1", "1"), ("v2", "0")):
        variables = environment(pod_of(objects, "target", pool))
        assert variables["TREEDRAFT_TARGET__MODEL_NAME"] == "chat"
        assert variables["TREEDRAFT_TARGET__WORKER__POOL"] == pool
        assert variables["TREEDRAFT_TARGET__WORKER__WEIGHT"] == weight


def test_the_http_door_has_a_way_in_from_outside(helm):
    ingress = {"enabled": True, "host": "llm.example", "tlsSecretName": "cert"}
    (found,) = of_kind(helm.template({"coordinator": {"http": {"ingress": ingress}}}), "Ingress")
    (rule,) = found["spec"]["rules"]
    (path,) = rule["http"]["paths"]
    assert (rule["host"], path["path"]) == ("llm.example", "/v1")
    assert path["backend"]["service"]["port"] == {"name": "http"}
    assert found["spec"]["tls"] == [{"hosts": ["llm.example"], "secretName": "cert"}]


def test_without_http_there_is_no_port_for_it(helm):
    objects = helm.template({"coordinator": {"http": {"enabled": False}}})
    pod = pod_of(objects, "coordinator")
    assert environment(pod)["TREEDRAFT_COORDINATOR__HTTP__ENABLED"] == "false"
    assert "http" not in {port["name"] for port in container(pod)["ports"]}
    service = named(objects, "Service", "demo-treedraft-coordinator")
    assert [port["name"] for port in service["spec"]["ports"]] == ["grpc"]


def test_long_names_are_cut_so_that_kubernetes_takes_them(helm):
    pool = "a" * 15
    objects = helm.template({"targetPools": {"main": None, pool: {}}, "fullnameOverride": "b" * 28})
    for item in of_kind(objects, "StatefulSet", "Deployment"):
        assert len(item["metadata"]["name"]) <= 52

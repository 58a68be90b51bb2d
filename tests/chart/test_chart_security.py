"""Every pod meets the Pod Security Standard "restricted", and more."""

import pytest
from scripts.chart.service_settings import SERVICES
from tests.chart.conftest import EXAMPLE_NAMES
from tests.chart.manifests import component, container, environment, named, of_kind, pods, workloads

_NAMES = ("defaults", *EXAMPLE_NAMES)
# What "restricted" allows; the others reach the node.
_VOLUMES = {"configMap", "emptyDir", "image", "persistentVolumeClaim", "secret"}


@pytest.fixture(params=_NAMES)
def objects(request, rendered):
    return rendered(request.param)


def test_pods_are_restricted(objects):
    for pod in pods(objects):
        security = pod["spec"]["securityContext"]
        assert security["runAsNonRoot"] is True
        assert security["runAsUser"] > 0
        assert security["runAsGroup"] > 0
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod["spec"])
        for volume in pod["spec"]["volumes"]:
            assert (set(volume) - {"name"}) <= _VOLUMES


def test_containers_are_restricted(objects):
    for pod in pods(objects):
        security = container(pod)["securityContext"]
        assert security == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "capabilities": {"drop": ["ALL"]},
        }
        for port in container(pod).get("ports", []):
            assert "hostPort" not in port


def test_a_folder_for_temporary_files_is_there_and_bounded(objects):
    for pod in pods(objects):
        mounts = {item["mountPath"]: item["name"] for item in container(pod)["volumeMounts"]}
        volumes = {item["name"]: item for item in pod["spec"]["volumes"]}
        assert "sizeLimit" in volumes[mounts["/tmp"]]["emptyDir"]


def test_what_is_mounted_is_there(objects):
    for item in workloads(objects):
        template = item["spec"]["template"]
        volumes = {volume["name"] for volume in template["spec"]["volumes"]}
        claims = item["spec"].get("volumeClaimTemplates", [])
        volumes |= {claim["metadata"]["name"] for claim in claims}
        assert {mount["name"] for mount in container(template)["volumeMounts"]} == volumes


def test_resources_are_asked_for_and_memory_is_bounded(objects):
    for pod in pods(objects):
        resources = container(pod)["resources"]
        assert {"cpu", "memory"} <= set(resources["requests"])
        assert "memory" in resources["limits"]


def test_no_pod_may_speak_to_the_api_server_but_our_autoscaler(objects):
    for pod in pods(objects):
        may = pod["spec"]["automountServiceAccountToken"]
        assert may is (component(pod) == "autoscaler")
        account = named(objects, "ServiceAccount", pod["spec"]["serviceAccountName"])
        assert account["automountServiceAccountToken"] is False


def test_liveness_depends_on_no_peer(objects):
    for pod in pods(objects):
        if component(pod) in SERVICES:
            probe = container(pod)["livenessProbe"]
            assert probe["grpc"] == {"port": 50059, "service": "treedraft.liveness"}
            # Long enough for a stop of the world, short enough to matter.
            assert 30 <= probe["periodSeconds"] * probe["failureThreshold"] <= 120


def test_probes_ask_where_no_certificate_is_needed(objects):
    for pod in pods(objects):
        if component(pod) in SERVICES:
            for name in ("startupProbe", "readinessProbe", "livenessProbe"):
                port = container(pod)[name]["grpc"]["port"]
                settings = environment(pod)
                key = f"TREEDRAFT_{component(pod).upper()}__GRPC__HEALTH_PORT"
                assert settings[key] == str(port)


def test_the_grace_time_outlasts_the_drain(objects):
    for pod in pods(objects):
        if component(pod) not in SERVICES:
            continue
        settings = environment(pod)
        prefix = f"TREEDRAFT_{component(pod).upper()}__"
        pause = container(pod)["lifecycle"]["preStop"]["sleep"]["seconds"]
        drain = float(settings.get(prefix + "DRAIN_SECONDS", 0))
        running = float(settings[prefix + "GRPC__GRACE_SECONDS"])
        assert pod["spec"]["terminationGracePeriodSeconds"] >= pause + drain + running + 5


def test_each_workload_has_a_disruption_budget(objects):
    budgets = of_kind(objects, "PodDisruptionBudget")
    selected = [budget["spec"]["selector"]["matchLabels"] for budget in budgets]
    for item in workloads(objects):
        if component(item) in SERVICES:
            assert item["spec"]["selector"]["matchLabels"] in selected


def test_selectors_match_their_pods_and_no_others(objects):
    for item in workloads(objects):
        labels = item["spec"]["selector"]["matchLabels"]
        matched = [
            pod for pod in pods(objects) if labels.items() <= pod["metadata"]["labels"].items()
        ]
        assert matched == [item["spec"]["template"]]


def test_secrets_are_named_and_never_written(objects):
    assert of_kind(objects, "Secret") == []
    for pod in pods(objects):
        for variable in container(pod).get("env", []):
            if variable["name"].endswith(("_TOKEN", "_API_KEY", "_PASSWORD")):
                assert set(variable["valueFrom"]) == {"secretKeyRef"}


def test_pods_are_spread_over_nodes_and_zones(objects):
    for item in workloads(objects):
        spread = item["spec"]["template"]["spec"]["topologySpreadConstraints"]
        assert [constraint["topologyKey"] for constraint in spread] == [
            "kubernetes.io/hostname",
            "topology.kubernetes.io/zone",
        ]
        for constraint in spread:
            labels = constraint["labelSelector"]["matchLabels"]
            assert labels == item["spec"]["selector"]["matchLabels"]

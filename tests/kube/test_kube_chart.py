"""What the chart renders, as a real API server sees it."""

import copy

import pytest
from kubernetes import client, dynamic
from kubernetes.client.exceptions import ApiException
from scripts.chart.__main__ import EXAMPLES
from tests.kube.server import VERSION
from tests.waiting import until

# Of operators that are not there; tests/chart holds these to the operators' own models.
FOREIGN = {"Certificate", "Issuer", "PrometheusRule", "ScaledObject", "ServiceMonitor"}
EXAMPLE_NAMES = sorted(path.stem for path in EXAMPLES.glob("*.yaml"))


def render(helm, name):
    objects = helm.template({}, [EXAMPLES / f"{name}.yaml"], f"--kube-version={VERSION}")
    return [item for item in objects if item["kind"] not in FOREIGN]


def apply(api, item, namespace):
    """Apply an object; the server checks every field against its schema.

    All but service accounts are a trial: a pod is refused if there is not that of its name.
    """
    item = copy.deepcopy(item)
    item["metadata"]["namespace"] = namespace
    for subject in item.get("subjects", ()):
        subject["namespace"] = namespace
    found = dynamic.DynamicClient(api).resources.get(
        api_version=item["apiVersion"], kind=item["kind"]
    )
    trial = [] if item["kind"] == "ServiceAccount" else [("dryRun", "All")]
    found.server_side_apply(
        body=item, namespace=namespace, field_manager="suite", query_params=trial
    )


@pytest.mark.parametrize("name", EXAMPLE_NAMES)
def test_every_object_of_every_example_is_taken(kube, helm, namespace, name):
    objects = sorted(render(helm, name), key=lambda item: item["kind"] != "ServiceAccount")
    assert len(objects) > 10
    api = kube.client()
    for item in objects:
        apply(api, item, namespace)


@pytest.mark.parametrize(
    "path", [["spec"], ["spec", "template", "spec"], ["spec", "template", "spec", "containers", 0]]
)
def test_a_field_that_there_is_not_is_refused(kube, helm, namespace, path):
    item = next(item for item in render(helm, "cpu-demo") if item["kind"] == "StatefulSet")
    at = item
    for step in path:
        at = at[step]
    at["replicaz"] = 3
    with pytest.raises(ApiException) as refused:
        apply(kube.client(), item, namespace)
    assert "replicaz" in str(refused.value.body)


TARGETS = "demo-treedraft-target-main"
WORKLOADS = {
    "demo-treedraft-coordinator",
    "demo-treedraft-autoscaler",
    "demo-treedraft-draft-main",
    TARGETS,
}


def test_a_real_install_makes_the_pods_that_it_should(release, kube, namespace):
    release.install()
    core, apps = client.CoreV1Api(kube.client()), client.AppsV1Api(kube.client())
    wanted = {
        item.metadata.name: item.spec.replicas
        for listing in (apps.list_namespaced_deployment, apps.list_namespaced_stateful_set)
        for item in listing(namespace).items
    }
    assert set(wanted) >= WORKLOADS

    def pods():
        return core.list_namespaced_pod(namespace).items

    # Nothing is refused on its way to a pod: accounts, limits and probes are as they should be.
    until(lambda: len(pods()) == sum(wanted.values()))
    names = {pod.metadata.name for pod in pods()}
    assert f"{TARGETS}-0" in names
    for pod in pods():
        has_token = any(
            "serviceaccount" in mount.mount_path
            for container in pod.spec.containers
            for mount in container.volume_mounts
        )
        assert has_token == ("autoscaler" in pod.metadata.name), pod.metadata.name


@pytest.mark.parametrize("name", [name for name in EXAMPLE_NAMES if name not in ("keda", "tls")])
def test_examples_install_too(release, name):
    release.install(files=[EXAMPLES / f"{name}.yaml"])


def test_an_upgrade_leaves_the_sizes_that_were_decided(release, kube, namespace):
    release.install()
    apps = client.AppsV1Api(kube.client())
    apps.patch_namespaced_stateful_set_scale(TARGETS, namespace, {"spec": {"replicas": 4}})
    release.upgrade("targetDefaults.settings.kv.tokens=4096")
    found = apps.read_namespaced_stateful_set(TARGETS, namespace)
    variables = found.spec.template.spec.containers[0].env
    assert "4096" in [one.value for one in variables if one.name.endswith("KV__TOKENS")]
    assert found.spec.replicas == 4


def test_nothing_is_left_of_a_release_that_was_taken_away(release, kube, namespace):
    release.install()
    core, apps = client.CoreV1Api(kube.client()), client.AppsV1Api(kube.client())
    rights = client.RbacAuthorizationV1Api(kube.client())
    release.uninstall()

    def left():
        listings = (
            apps.list_namespaced_deployment,
            apps.list_namespaced_stateful_set,
            core.list_namespaced_service,
            core.list_namespaced_pod,
            core.list_namespaced_config_map,
            rights.list_namespaced_role,
            rights.list_namespaced_role_binding,
        )
        selector = "app.kubernetes.io/instance=demo"
        return [
            item for list_ in listings for item in list_(namespace, label_selector=selector).items
        ]

    until(lambda: not left())

"""Settings reach the services: what is rendered is read by the real settings classes."""

import os

import pytest
from scripts.chart.helm import HelmError
from scripts.chart.service_settings import OWNED, SERVICES
from tests.chart.conftest import EXAMPLE_NAMES
from tests.chart.manifests import component, environment, pod_of, pods

from treedraft.environment import check_environment
from treedraft.settings import TlsSettings

_PLACES = {
    "coordinator": ("coordinator", "settings"),
    "target": ("targetDefaults", "settings"),
    "draft": ("draftDefaults", "settings"),
    "autoscaler": ("autoscaling", "autoscaler", "settings"),
}


@pytest.fixture
def read(monkeypatch):
    """Return the settings that a pod's process would read."""

    def settings_of(pod):
        for name in list(os.environ):
            if name.startswith("TREEDRAFT_"):
                monkeypatch.delenv(name)
        variables = environment(pod)
        for name, value in variables.items():
            if name.startswith("TREEDRAFT_"):
                monkeypatch.setenv(name, value)
        settings_class = SERVICES[component(pod)]
        check_environment(variables, settings_class)
        return settings_class()

    return settings_of


@pytest.mark.parametrize("name", ["defaults", *EXAMPLE_NAMES])
def test_every_service_reads_what_is_rendered(rendered, read, name):
    services = [pod for pod in pods(rendered(name)) if component(pod) in SERVICES]
    assert len(services) >= 3
    for pod in services:
        settings = read(pod)
        assert settings.grpc.port == 50051
        assert settings.grpc.advertise == "10.1.2.3"
        assert settings.telemetry.log_format == "json"


def test_values_of_all_kinds_arrive_as_they_were_given(helm, read):
    given = {
        "targetDefaults": {
            "drainSeconds": 7,
            "settings": {
                "kv": {"tokens": 123456789, "block_size": 32},
                "patience": {"enabled": False, "max_pass_share": 0.125},
                "dtype": "bfloat16",
                "budget": {"max_nodes": 0},
            },
        }
    }
    settings = read(pod_of(helm.template(given), "target", "main"))
    assert settings.kv.tokens == 123456789
    assert settings.kv.block_size == 32
    assert settings.patience.enabled is False
    assert settings.patience.max_pass_share == 0.125
    assert settings.dtype == "bfloat16"
    assert settings.budget.max_nodes == 0
    assert settings.drain_seconds == 7


def test_a_pool_differs_where_it_says_so_and_0_counts(helm, read):
    given = {
        "targetDefaults": {"settings": {"num_threads": 8, "kv": {"tokens": 4096}}},
        "targetPools": {"main": None, "one": {"settings": {"num_threads": 0}}, "two": {}},
    }
    objects = helm.template(given)
    one = read(pod_of(objects, "target", "one"))
    two = read(pod_of(objects, "target", "two"))
    assert (one.num_threads, one.kv.tokens) == (0, 4096)
    assert (two.num_threads, two.kv.tokens) == (8, 4096)


def test_workers_have_lasting_names_and_announce_themselves_to_the_service(rendered, read):
    target = read(pod_of(rendered("defaults"), "target", "main"))
    assert target.worker.worker_id == "pod-0"
    assert (target.worker.pool, target.worker.weight) == ("main", 1.0)
    assert target.worker.coordinators == ("demo-treedraft-coordinator.serving.svc:50051",)


def test_pods_with_ipv6_alone_are_listened_on(helm, read):
    objects = helm.template({"kubernetes": {"listen": "::"}})
    coordinator = read(pod_of(objects, "coordinator"))
    assert (coordinator.grpc.host, coordinator.http.host) == ("::", "::")
    assert read(pod_of(objects, "target", "main")).grpc.host == "::"


def test_certificates_are_read_from_where_they_are_mounted(rendered, read):
    for pod in pods(rendered("tls")):
        if component(pod) not in SERVICES:
            continue
        tls = read(pod).tls
        mounts = {item["name"]: item for item in pod["spec"]["containers"][0]["volumeMounts"]}
        for path in (tls.ca, tls.certificate, tls.key):
            assert path.startswith(mounts["tls"]["mountPath"] + "/")
        assert tls.require_client_certificate
        assert tls.service_names == (tls.server_name,) == ("demo-treedraft.serving.svc",)


def test_helm_test_speaks_the_tls_of_the_services(rendered, monkeypatch):
    variables = environment(pod_of(rendered("tls"), "test"))
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    check_environment(variables, TlsSettings)
    assert TlsSettings().server_name == "demo-treedraft.serving.svc"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"targetDefaults": {"settings": {"kv": {"token": 1}}}}, "token"),
        ({"draftPools": {"main": {"settings": {"growht": {}}}}}, "growht"),
        ({"coordinator": {"settings": {"drain_secs": 3}}}, "drain_secs"),
        ({"coordinator": {"replica": 2}}, "replica"),
        ({"coordinators": {}}, "coordinators"),
        ({"targetDefaults": {"settings": {"kv": {"tokens": "many"}}}}, "tokens"),
        ({"targetDefaults": {"settings": {"kv": {"block_size": 1000}}}}, "block_size"),
        ({"targetDefaults": {"settings": {"dtype": "float8"}}}, "dtype"),
        ({"targetDefaults": {"gpus": "two"}}, "gpus"),
        ({"targetDefaults": {"replicas": -1}}, "replicas"),
        ({"targetPools": {"Main": {}}}, "Main"),
        ({"redis": {"kind": "embedded"}}, "kind"),
        ({"redis": {"external": {"url": "redis://:secret@host"}}}, "url"),
        ({"images": {"cpu": {"digest": "sha256:12"}}}, "digest"),
        ({"telemetry": {"sampleRatio": 2}}, "sampleRatio"),
    ],
)
@pytest.mark.parametrize("major", ["helm", "older_helm"])
def test_what_is_misspelt_or_of_a_wrong_type_is_refused_by_name(request, major, values, words):
    with pytest.raises(HelmError) as caught:
        request.getfixturevalue(major).template(values)
    assert "schema" in str(caught.value)
    assert words in str(caught.value)


@pytest.mark.parametrize("service", SERVICES)
def test_what_the_chart_sets_itself_cannot_be_set(helm, service):
    for name in OWNED[service]:
        values: object = "x"
        for part in reversed((*_PLACES[service], *name.split("."))):
            values = {part: values}
        with pytest.raises(HelmError, match="|".join(f"'{part}'" for part in name.split("."))):
            helm.template(values)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"targetPools": {"main": None}}, "there is no target"),
        ({"coordinator": {"replicas": 2}}, "set redis.kind"),
        ({"redis": {"kind": "external"}}, "redis.external"),
        (
            {"targetDefaults": {"model": {"source": "volume"}}},
            "targetPools.main.model.volume.claim",
        ),
        ({"draftDefaults": {"model": {"source": "oci"}}}, "kubernetes.imageVolumes"),
        ({"targetDefaults": {"workload": "Deployment", "cache": {"persistent": True}}}, "cache"),
        (
            {"autoscaling": {"kind": "hpa"}, "draftDefaults": {"scaling": {"minReplicas": 0}}},
            "draftPools.main.scaling.minReplicas",
        ),
        (
            {"coordinator": {"http": {"ingress": {"enabled": True}}}},
            "coordinator.http.ingress.host",
        ),
        ({"tls": {"enabled": True, "certManager": {"enabled": False}}}, "tls.secretName"),
    ],
)
def test_what_cannot_work_together_is_refused_with_a_hint(helm, values, words):
    with pytest.raises(HelmError) as caught:
        helm.template(values, [], "--kube-version=1.30.0")
    assert words in str(caught.value)

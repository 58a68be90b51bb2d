"""Every example renders, has no warning, is valid, and is what it was."""

import kubernetes_validate
import pytest
from scripts.chart.__main__ import CHART, GOLDEN, outdated
from tests.chart.conftest import EXAMPLE_NAMES, example
from tests.chart.manifests import container, of_kind, pod_of

_FOREIGN = ("cert-manager.io/", "keda.sh/", "monitoring.coreos.com/")
_NAMES = ("defaults", *EXAMPLE_NAMES)


def test_the_examples_are_those_that_were_promised():
    assert set(EXAMPLE_NAMES) >= {
        "cpu-demo",
        "external-redis",
        "keda",
        "many-drafters",
        "one-gpu",
        "tls",
    }


@pytest.mark.parametrize("name", _NAMES)
@pytest.mark.parametrize("major", ["helm", "older_helm"])
def test_lint_finds_nothing(request, major, name):
    files = [] if name == "defaults" else [f"--values={example(name)}"]
    said = request.getfixturevalue(major).lint(*files)
    assert "[WARNING]" not in said
    assert "[ERROR]" not in said
    assert "1 chart(s) linted, 0 chart(s) failed" in said


@pytest.mark.parametrize("name", _NAMES)
def test_both_majors_of_helm_render_the_same(helm, older_helm, name):
    files = [] if name == "defaults" else [example(name)]
    version = "--kube-version=1.32.0"
    assert helm.template({}, files, version) == older_helm.template({}, files, version)


@pytest.mark.parametrize("name", _NAMES)
def test_objects_of_kubernetes_are_valid(rendered, name):
    checked = 0
    for item in rendered(name):
        if not item["apiVersion"].startswith(_FOREIGN):
            kubernetes_validate.validate(item, "1.37", strict=True)
            checked += 1
    assert checked > 10


@pytest.mark.parametrize("version", ["1.25", "1.27", "1.30", "1.33", "1.37"])
@pytest.mark.parametrize("name", ["cpu-demo", "tls"])
def test_older_servers_get_what_they_know(helm, name, version):
    for item in helm.template({}, [example(name)], f"--kube-version={version}.0"):
        if not item["apiVersion"].startswith(_FOREIGN):
            kubernetes_validate.validate(item, version, strict=True)


_HPA = "HorizontalPodAutoscaler"
# For each thing the first version that has it, and how it is said before and since.
SWITCHES = [
    ("1.21.0", lambda objects: _api_version(objects, "PodDisruptionBudget"), "policy/v1beta1"),
    (
        "1.23.0",
        lambda objects: _api_version(objects, "HorizontalPodAutoscaler"),
        "autoscaling/v2beta2",
    ),
    ("1.24.0", lambda objects: _handler(objects, "livenessProbe"), "exec"),
    ("1.27.0", lambda objects: _budget(objects).get("unhealthyPodEvictionPolicy"), None),
    ("1.30.0", lambda objects: next(iter(_lifecycle(objects)["preStop"])), "exec"),
]


@pytest.mark.parametrize(("version", "look", "before"), SWITCHES)
def test_servers_on_either_side_of_a_switch(helm, version, look, before):
    values = {"autoscaling": {"kind": "hpa"}}
    major, minor, _ = version.split(".")
    older = helm.template(values, [], f"--kube-version={major}.{int(minor) - 1}.9")
    assert look(older) == before
    assert look(helm.template(values, [], f"--kube-version={version}")) != before
    told = {**values, "kubernetes": {"version": f"{major}.{int(minor) - 1}"}}
    assert look(helm.template(told)) == before


def test_a_probe_of_an_old_server_is_our_own_command(helm):
    probe = container(pod_of(helm.template({}, [], "--kube-version=1.20.2"), "target", "main"))
    assert probe["livenessProbe"]["exec"]["command"] == [
        "treedraft",
        "health",
        "127.0.0.1:50059",
        "--service=treedraft.liveness",
    ]


def _api_version(objects, kind):
    return of_kind(objects, kind)[0]["apiVersion"]


def _handler(objects, name):
    probe = container(pod_of(objects, "coordinator"))[name]
    return next(iter(set(probe) & {"exec", "grpc"}))


def _budget(objects):
    return of_kind(objects, "PodDisruptionBudget")[0]["spec"]


def _lifecycle(objects):
    return container(pod_of(objects, "coordinator"))["lifecycle"]


def test_generated_files_and_golden_manifests_are_up_to_date():
    assert [path.name for path in outdated()] == []


def test_there_is_a_golden_manifest_for_each_example_and_no_other():
    assert {path.stem for path in GOLDEN.glob("*.yaml")} == set(EXAMPLE_NAMES)


def test_every_example_says_what_it_is_for():
    for name in EXAMPLE_NAMES:
        assert example(name).read_text().startswith("# ")


def test_the_chart_is_of_the_version_of_the_package():
    from treedraft import __version__

    assert f'appVersion: "{__version__}"' in (CHART / "Chart.yaml").read_text()

"""The real API server of a session, and namespaces of it."""

import itertools
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kubernetes import client
from scripts.chart.__main__ import CHART
from scripts.chart.helm import HELM_4, Helm, HelmError, fetch
from tests.kube.server import VERSION, KubeServer, binaries

_numbers = itertools.count(1)
# What `helm install` of the suite asks for: our autoscaler, for targets and drafters.
RELEASE = (
    "autoscaling.kind=treedraft",
    "targetDefaults.scaling.maxReplicas=6",
    "draftDefaults.workload=Deployment",
)


@pytest.fixture(scope="session")
def kube(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubeServer]:
    found = binaries()
    if found is None:
        pytest.skip(f"no kube-apiserver {VERSION} here: `make kube-binaries` builds it")
    with KubeServer(found, tmp_path_factory.mktemp("kube")) as server:
        yield server


@pytest.fixture(scope="session")
def helm() -> Helm:
    return Helm(fetch(HELM_4), CHART)


@pytest.fixture
def namespace(kube: KubeServer) -> Iterator[str]:
    core = client.CoreV1Api(kube.client())
    name = f"serving-{next(_numbers)}"
    core.create_namespace({"metadata": {"name": name}})
    yield name
    core.delete_namespace(name)


@pytest.fixture
def install(
    kube: KubeServer, helm: Helm, namespace: str, tmp_path: Path
) -> Callable[..., client.ApiClient]:
    """Install the chart as `demo` by a real Helm."""

    def run(*values: str) -> client.ApiClient:
        config = kube.kubeconfig(tmp_path / "admin.kubeconfig")
        command = [str(helm.binary), "install", "demo", str(helm.chart), "--namespace", namespace]
        for value in (*RELEASE, *values):
            command += ["--set", value]
        environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "KUBECONFIG": str(config)}
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        if done.returncode:
            raise HelmError(done.stderr + done.stdout)
        return kube.client()

    return run


@pytest.fixture
def autoscaler_token(kube: KubeServer, namespace: str) -> Callable[[], str]:
    """Return a token of the service account that the chart makes for the autoscaler."""

    def ask() -> str:
        core = client.CoreV1Api(kube.client())
        # The official client of today expects a field that this server leaves out.
        answer = core.create_namespaced_service_account_token(
            "demo-treedraft-autoscaler",
            namespace,
            {"spec": {"audiences": ["https://treedraft.test"], "expirationSeconds": 3600}},
        )
        token: str = answer.status.token
        return token

    return ask

"""The real API server of a session, and namespaces of it."""

import gc
import itertools
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kubernetes import client
from scripts.chart.__main__ import CHART
from scripts.chart.helm import HELM_4, Helm, fetch
from tests.kube.release import Release
from tests.kube.server import VERSION, KubeServer, binaries

_numbers = itertools.count(1)
# A watch whose server died leaves its socket to the garbage collector: the client library's way.
_LEFT_SOCKETS = "ignore:unclosed <ssl.SSLSocket:ResourceWarning"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is in this folder."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.kube)
            item.add_marker(pytest.mark.filterwarnings(_LEFT_SOCKETS))


@pytest.fixture(scope="session")
def kube(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubeServer]:
    found = binaries()
    if found is None:
        pytest.skip(f"no kube-apiserver {VERSION} here: `make kube-binaries` builds it")
    with KubeServer(found, tmp_path_factory.mktemp("kube")) as server:
        yield server
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


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
def release(kube: KubeServer, helm: Helm, namespace: str, tmp_path: Path) -> Release:
    return Release(helm, namespace, kube.kubeconfig(tmp_path / "admin.kubeconfig"))


@pytest.fixture
def autoscaler_token(kube: KubeServer, namespace: str) -> Callable[[], str]:
    """Return a token of the service account that the chart makes for the autoscaler."""

    def ask() -> str:
        core = client.CoreV1Api(kube.client())
        answer = core.create_namespaced_service_account_token(
            "demo-treedraft-autoscaler",
            namespace,
            {"spec": {"audiences": ["https://treedraft.test"], "expirationSeconds": 3600}},
        )
        token: str = answer.status.token
        return token

    return ask

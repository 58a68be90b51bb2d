"""The compose files: what they tell services is read, and nobody has more rights than needed."""

import os
from pathlib import Path

import pytest
import yaml
from scripts.chart.service_settings import SERVICES

from treedraft.settings import check_environment

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
BASE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
OVER = {"services": {}}


def merged_environment(name, *files):
    environment = {}
    for file in files:
        environment |= file["services"].get(name, {}).get("environment", {})
    return {key: value.split(":-")[-1].strip("${}") for key, value in environment.items()}


@pytest.mark.parametrize("files", [(BASE,)], ids=["alone"])
@pytest.mark.parametrize("service", SERVICES)
def test_services_read_what_they_are_told(monkeypatch, service, files):
    environment = merged_environment(service, *files)
    for name in list(os.environ):
        if name.startswith("TREEDRAFT_"):
            monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    check_environment(environment, SERVICES[service])
    settings = SERVICES[service]()
    assert settings.grpc.port == 50051
    assert settings.telemetry.otlp_endpoint == ("http://collector:4317" if OVER in files else "")


@pytest.mark.parametrize(
    ("name", "service"),
    [*BASE["services"].items(), *((n, s) for n, s in OVER["services"].items() if "image" in s)],
)
def test_containers_have_no_rights_and_a_read_only_root(name, service):
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "privileged" not in service
    for port in service.get("ports", []):
        assert port.startswith("127.0.0.1:")


def test_images_are_named_exactly():
    for service in [*BASE["services"].values(), *OVER["services"].values()]:
        if "image" in service:
            tag = service["image"].rpartition(":")[2]
            assert tag[:1].isdigit() or tag[:1] == "v"

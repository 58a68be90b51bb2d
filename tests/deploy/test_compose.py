"""The compose files: what they tell services is read, and nobody has more rights than needed."""

import os
from pathlib import Path

import pytest
import yaml
from scripts.chart.service_settings import SERVICES

from treedraft.environment import check_environment

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
BASE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
OVER = yaml.safe_load((DEPLOY / "compose.observability.yaml").read_text())


def merged_environment(name, *files):
    environment = {}
    for file in files:
        environment |= file["services"].get(name, {}).get("environment", {})
    return {key: value.split(":-")[-1].strip("${}") for key, value in environment.items()}


@pytest.mark.parametrize("files", [(BASE,), (BASE, OVER)], ids=["alone", "observed"])
@pytest.mark.parametrize("service", [name for name in SERVICES if name in BASE["services"]])
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
            tag = service["image"].partition("@")[0].rpartition(":")[2]
            assert tag[:1].isdigit() or tag[:1] == "v"


def test_files_that_are_mounted_exist():
    mounted = [
        volume.split(":")[0]
        for service in OVER["services"].values()
        for volume in service.get("volumes", [])
        if volume.startswith("./")
    ]
    assert len(mounted) >= 5
    for path in mounted:
        assert (DEPLOY / path).exists(), path


def test_prometheus_looks_where_the_services_serve_metrics():
    config = yaml.safe_load((DEPLOY / "observability/compose/prometheus.yaml").read_text())
    ((job,),) = [job["dns_sd_configs"] for job in config["scrape_configs"]]
    for name in job["names"]:
        environment = merged_environment(name, BASE, OVER)
        key = f"TREEDRAFT_{name.upper()}__TELEMETRY__METRICS_PORT"
        assert environment[key] == str(job["port"])

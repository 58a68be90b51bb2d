"""Dashboards, alerts and who is scraped: the very files of deploy/observability."""

import json

import yaml
from scripts.chart.__main__ import OBSERVABILITY, RULES
from tests.chart.manifests import container, of_kind, workloads


def test_dashboards_are_those_that_are_tested(rendered):
    maps = of_kind(rendered("keda"), "ConfigMap")
    found = {name: json.loads(text) for item in maps for name, text in item["data"].items()}
    assert found == {
        path.name: json.loads(path.read_text()) for path in OBSERVABILITY.glob("dashboards/*.json")
    }
    assert all(item["metadata"]["labels"]["grafana_dashboard"] == "1" for item in maps)


def test_alerts_are_those_that_are_tested(rendered):
    (rule,) = of_kind(rendered("keda"), "PrometheusRule")
    assert rule["spec"] == yaml.safe_load(RULES.read_text())
    assert rule["metadata"]["labels"]["release"] == "prometheus"


def test_every_pod_with_metrics_is_scraped_once(rendered):
    objects = rendered("keda")
    (monitor,) = of_kind(objects, "ServiceMonitor")
    (endpoint,) = monitor["spec"]["endpoints"]
    wanted = monitor["spec"]["selector"]["matchLabels"]
    services = [
        service["spec"]["selector"]
        for service in of_kind(objects, "Service")
        if wanted.items() <= service["metadata"]["labels"].items()
        and any(port["name"] == endpoint["port"] for port in service["spec"]["ports"])
    ]
    for item in workloads(objects):
        template = item["spec"]["template"]
        ports = {port["name"] for port in container(template)["ports"]}
        selecting = [s for s in services if s.items() <= template["metadata"]["labels"].items()]
        assert len(selecting) == (1 if endpoint["port"] in ports else 0), item["metadata"]["name"]


def test_there_is_nothing_of_it_unless_asked_for(rendered):
    kinds = {item["kind"] for item in rendered("defaults")}
    assert not kinds & {"ConfigMap", "PrometheusRule", "ServiceMonitor"}


def test_services_serve_no_metrics_where_none_are_wanted(helm):
    objects = helm.template({"metrics": {"enabled": False}})
    for item in workloads(objects):
        pod = container(item["spec"]["template"])
        assert "metrics" not in {port["name"] for port in pod["ports"]}
        assert not any("METRICS_PORT" in variable["name"] for variable in pod["env"])

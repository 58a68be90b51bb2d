"""What the chart asks of operators: every field is one that their definitions know.

The models are made from the operators' own definitions: cert-manager 1.17, KEDA 2.16,
prometheus-operator 0.80.
"""

import copy
import json

import pytest
from cloudcoil.models.cert_manager.v1 import Certificate, Issuer
from cloudcoil.models.keda.v1alpha1 import ScaledObject
from cloudcoil.models.prometheus_operator.v1 import PrometheusRule, ServiceMonitor
from pydantic import ValidationError
from tests.chart.conftest import EXAMPLE_NAMES
from tests.chart.manifests import of_kind

MODELS = {
    model.__name__: model
    for model in (Certificate, Issuer, PrometheusRule, ScaledObject, ServiceMonitor)
}


def check(item):
    MODELS[item["kind"]].model_validate_json(json.dumps(item), strict=True, extra="forbid")


@pytest.mark.parametrize("name", EXAMPLE_NAMES)
def test_objects_of_operators_are_valid(rendered, name):
    for item in of_kind(rendered(name), *MODELS):
        check(item)


def test_every_kind_of_an_operator_is_in_an_example(rendered):
    kinds = {
        item["kind"]
        for name in EXAMPLE_NAMES
        for item in rendered(name)
        if "." in item["apiVersion"] and ".k8s.io/" not in item["apiVersion"]
    }
    assert kinds == set(MODELS)


def test_an_issuer_of_ones_own_is_valid(helm):
    values = {"tls": {"enabled": True, "certManager": {"issuer": {"name": "x", "kind": "Issuer"}}}}
    objects = helm.template(values)
    assert of_kind(objects, "Certificate")
    for item in of_kind(objects, *MODELS):
        check(item)


@pytest.mark.parametrize(
    ("name", "kind", "path", "value"),
    [
        ("keda", "ServiceMonitor", ["spec", "endpoints", 0, "intervall"], "30s"),
        ("keda", "ServiceMonitor", ["spec", "endpoints", 0, "interval"], "soon"),
        ("keda", "PrometheusRule", ["spec", "groups", 0, "rules", 0, "for"], 300),
        ("keda", "ScaledObject", ["spec", "triggers", 0, "metadata", "threshold"], 3),
        ("keda", "ScaledObject", ["spec", "minReplicas"], 3),
        ("tls", "Certificate", ["spec", "usages", 0], "client"),
        ("tls", "Certificate", ["spec", "privateKey", "rotationPolicy"], "always"),
        ("tls", "Issuer", ["spec", "selfsigned"], {}),
    ],
)
def test_what_an_operator_would_not_take_is_found(rendered, name, kind, path, value):
    item = copy.deepcopy(of_kind(rendered(name), kind)[-1])
    at = item
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = value
    with pytest.raises(ValidationError, match=str(path[-1])):
        check(item)

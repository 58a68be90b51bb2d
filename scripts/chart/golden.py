"""Golden manifests: what each example renders to, in a form that is short and reads well.

Labels and selectors are the same for all objects of a component, and tested by
themselves: they are left out, as are probes and security contexts.
"""

from pathlib import Path
from typing import Any

import yaml
from scripts.chart.helm import Helm

_LEFT_OUT = frozenset(
    (
        "labels",
        "namespace",
        "selector",
        "labelSelector",
        "securityContext",
        "startupProbe",
        "readinessProbe",
        "livenessProbe",
        "topologySpreadConstraints",
    )
)
# What they hold is a copy of files that are tested where they lie.
_COPIED = ("ConfigMap", "PrometheusRule")
_KUBERNETES = "--kube-version=1.37.0"


def golden_text(helm: Helm, example: Path) -> str:
    """Return the golden manifests of an example's values."""
    head = (
        f"# {example.name}, rendered; written by `make chart-files`, see scripts/chart/golden.py\n"
    )
    objects = [_shortened(item) for item in helm.template({}, [example], _KUBERNETES)]
    return head + yaml.dump_all(
        objects, default_flow_style=None, width=160, sort_keys=False, allow_unicode=True
    )


def _shortened(node: Any) -> Any:
    if isinstance(node, list):
        return [_shortened(item) for item in node]
    if not isinstance(node, dict):
        return node
    if set(node) == {"name", "value"} and isinstance(node["value"], str):
        return f"{node['name']}={node['value']}"
    if "podSelector" in node:
        labels = node["podSelector"].get("matchLabels", {})
        node = {**node, "podSelector": labels.get("app.kubernetes.io/component", labels)}
    if node.get("kind") in _COPIED:
        return {"kind": node["kind"], "metadata": {"name": node["metadata"]["name"]}}
    return {key: _shortened(value) for key, value in node.items() if key not in _LEFT_OUT}

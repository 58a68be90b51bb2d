"""What lies in deploy/observability, read for tests."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import yaml

from treedraft.telemetry.aliases import ALIASES
from treedraft.telemetry.catalogue import METRICS, MetricKind
from treedraft.telemetry.scaling import SCALING_METRICS

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "deploy" / "observability"
RULES = FOLDER / "prometheus" / "treedraft.rules.yaml"
RULES_TEST = FOLDER / "prometheus" / "treedraft.rules.test.yaml"
DASHBOARDS = sorted((FOLDER / "dashboards").glob("*.json"))

_HISTOGRAM_PARTS = ("_bucket", "_sum", "_count")


def rules() -> list[dict]:
    """Return all recording and alert rules."""
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def alerts() -> dict[str, dict]:
    """Return the alert rules by name."""
    return {rule["alert"]: rule for rule in rules() if "alert" in rule}


def dashboard_queries() -> Iterator[tuple[str, str]]:
    """Yield where each query of a dashboard stands, and the query."""
    for path in DASHBOARDS:
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel["targets"]:
                yield f"{path.stem}: {panel['title']}", target["expr"]


def exported_names() -> set[str]:
    """Return the names that samples have, and those that rules record."""
    found = {rule["record"] for rule in rules() if "record" in rule}
    for spec in (*METRICS, *SCALING_METRICS):
        parts = _HISTOGRAM_PARTS if spec.kind is MetricKind.HISTOGRAM else ("",)
        found.update(spec.name + part for part in parts)
    for alias in ALIASES:
        parts = _HISTOGRAM_PARTS if alias.name.endswith("_seconds") else ("",)
        found.update(alias.name + part for part in parts)
    return found


def labels_of(name: str) -> set[str]:
    """Return the labels of a metric of ours, given the name of a sample."""
    base = re.sub("_(bucket|sum|count)$", "", name)
    for spec in (*METRICS, *SCALING_METRICS):
        if spec.name in (name, base):
            return {"role", *spec.labels, *(["le"] if name.endswith("_bucket") else [])}
    for alias in ALIASES:
        if alias.name in (name, base):
            return {"model_name", "engine", *alias.labels}
    return {"role"}


def names_in(query: str) -> set[str]:
    """Return the names of metrics that a query asks for."""
    without_strings = re.sub(r'"[^"]*"', '""', query)
    return set(re.findall(r"\b(?:treedraft|vllm|process)[_:][a-zA-Z0-9_:]+", without_strings))


def labels_in(query: str) -> set[str]:
    """Return the names of labels that a query asks for or groups by."""
    without_strings = re.sub(r'"[^"]*"', '""', query)
    groups = re.findall(r"\b(?:by|on|group_left|without) *\(([^)]*)\)", without_strings)
    matchers = re.findall(r"\{([^}]*)\}", without_strings)
    words = [word for group in groups for word in group.split(",")]
    words += [re.split("[=!]", part)[0] for matcher in matchers for part in matcher.split(",")]
    return {word.strip() for word in words if word.strip()}

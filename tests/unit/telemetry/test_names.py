import ast
import re
from pathlib import Path

import treedraft
from treedraft.telemetry import names
from treedraft.telemetry.aliases import ALIASES
from treedraft.telemetry.catalogue import METRICS, ROLES, MetricKind

PACKAGE = Path(treedraft.__file__).parent
CONSTANTS = {
    name: value for name, value in vars(names).items() if name.isupper() and isinstance(value, str)
}


def of_kind(prefix: str) -> list[str]:
    return [value for name, value in CONSTANTS.items() if name.startswith(prefix)]


def source_files():
    for path in PACKAGE.rglob("*.py"):
        if path.parent.name != "v1" and path != Path(names.__file__):
            yield path


def test_no_name_is_given_twice():
    for prefix in ("SPAN_", "EVENT_", "ATTR_", "METRIC_", "ALIAS_", "LABEL_"):
        values = of_kind(prefix)
        assert len(values) == len(set(values))


def test_names_keep_the_conventions():
    for value in of_kind("ATTR_") + of_kind("EVENT_"):
        assert re.fullmatch(r"(specdec|gen_ai|service|error)(\.[a-z][a-z0-9_]*)+", value), value
    for value in of_kind("METRIC_"):
        assert re.fullmatch(r"treedraft_[a-z_]+", value), value
    for value in of_kind("SPAN_"):
        assert re.fullmatch(r"[a-z]+( [a-z]+)?", value), value


def test_exactly_the_named_metrics_are_described():
    assert sorted(spec.name for spec in METRICS) == sorted(of_kind("METRIC_"))
    assert sorted(spec.name for spec in ALIASES) == sorted(of_kind("ALIAS_"))
    assert {alias.of for alias in ALIASES} <= set(of_kind("METRIC_"))


def test_labels_are_named_and_kinds_follow_the_names():
    labels = set(of_kind("LABEL_"))
    for spec in METRICS:
        assert set(spec.labels) <= labels
        assert (spec.kind is MetricKind.COUNTER) == spec.name.endswith("_total")
        assert (spec.kind is MetricKind.HISTOGRAM) == bool(spec.buckets)
        assert set(spec.roles) <= set(ROLES)
        assert spec.text.endswith(".") or spec.text.endswith("1")


def test_names_are_written_in_one_file_only():
    strays = []
    for path in source_files():
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Constant)
                and isinstance(node.value, str)
                and re.fullmatch(
                    r"(specdec|gen_ai)\.[a-z_.]+|treedraft_[a-z_]+_\w+|vllm:\w+", node.value
                )
            ):
                strays.append(f"{path.relative_to(PACKAGE)}:{node.lineno} {node.value}")
    assert strays == []


def test_spans_are_named_by_constants():
    strays = []
    for path in source_files():
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and node.args):
                continue
            function, first = node.func, node.args[0]
            is_tracing = (
                isinstance(function, ast.Attribute)
                and function.attr in {"start", "record", "event"}
                and "trac" in ast.unparse(function.value)
            )
            is_child = isinstance(function, ast.Name) and function.id == "ChildSpan"
            if (is_tracing or is_child) and isinstance(first, ast.Constant):
                strays.append(f"{path.relative_to(PACKAGE)}:{node.lineno} {first.value}")
    assert strays == []

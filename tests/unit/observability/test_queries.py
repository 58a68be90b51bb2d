"""Dashboards and rules ask for nothing that the services do not export."""

import importlib.util
import json
import re
import sys

import pytest
from tests.observability import (
    DASHBOARDS,
    FOLDER,
    ROOT,
    alerts,
    dashboard_queries,
    exported_names,
    labels_in,
    labels_of,
    names_in,
    rules,
)

from treedraft.coordinator.failures import MOVABLE_REASONS
from treedraft.telemetry import names
from treedraft.telemetry.catalogue import METRICS

QUERIES = [*dashboard_queries(), *((rule.get("alert", ""), rule["expr"]) for rule in rules())]
FROM_THE_SCRAPER = {"instance", "job"}


def test_there_is_a_dashboard_for_each_question():
    titles = {json.loads(path.read_text())["title"] for path in DASHBOARDS}
    assert {title.removeprefix("treedraft: ") for title in titles} == {
        "is it fast?",
        "is speculation paying?",
        "where does the time go?",
        "what will break next?",
    }


@pytest.mark.parametrize(("place", "query"), QUERIES)
def test_a_query_asks_for_what_is_exported(place, query):
    asked = names_in(query)
    assert asked, place
    ours = {name for name in asked if not name.startswith("process_")}
    assert ours <= exported_names()
    known = set.union(FROM_THE_SCRAPER, *(labels_of(name) for name in asked))
    assert labels_in(query) <= known


def test_a_renamed_metric_would_be_found():
    assert not names_in("rate(treedraft_gone_total[5m])") <= exported_names()
    assert names_in('sum by (part) (rate(treedraft_x_sum{a="treedraft_y"}[1m]))') == {
        "treedraft_x_sum"
    }
    assert labels_in('sum by (part, le) (x{a="1", b!~"2,c=3"}) / on () y') == {
        "part", "le", "a", "b",
    }  # fmt: skip


def test_panels_say_what_they_show_and_do_not_overlap():
    for path in DASHBOARDS:
        places = set()
        for panel in json.loads(path.read_text())["panels"]:
            assert panel["title"]
            assert panel["description"].endswith(".")
            place = panel["gridPos"]
            cells = {
                (x, y)
                for x in range(place["x"], place["x"] + place["w"])
                for y in range(place["y"], place["y"] + place["h"])
            }
            assert not cells & places
            places |= cells


def test_every_alert_has_an_entry_in_the_runbook():
    headings = re.findall(r"^## (\w+)$", (ROOT / "docs" / "runbook.md").read_text(), re.MULTILINE)
    assert set(alerts()) <= set(headings)
    for name, alert in alerts().items():
        assert alert["annotations"]["runbook"] == f"docs/runbook.md#{name.lower()}"
        assert alert["annotations"]["summary"].endswith(".")
        assert alert["labels"]["severity"] in ("critical", "warning", "info")


def test_the_runbook_knows_no_alert_that_is_gone():
    headings = re.findall(r"^## (Treedraft\w+)$", (ROOT / "docs/runbook.md").read_text(), re.M)
    assert set(headings) == set(alerts())


def test_reasons_that_are_there_from_the_start_are_those_of_the_code():
    known = {spec.name: {value for (value,) in spec.known} for spec in METRICS}
    assert known[names.METRIC_FAILOVERS] == MOVABLE_REASONS


def test_files_made_from_code_are_what_the_code_says(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    spec = importlib.util.spec_from_file_location(
        "generate_docs", ROOT / "scripts/generate_docs.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    stale = [name for name, text in module.pages().items() if module.read(name) != text]
    assert stale == []
    for name in [name for name in sys.modules if name.startswith("dashboards")]:
        del sys.modules[name]


def test_the_folder_says_how_to_use_it():
    text = (FOLDER / "README.md").read_text()
    for path in (*DASHBOARDS, *(FOLDER / "prometheus").iterdir()):
        assert path.name in text or path.parent.name in text

"""Panels as data, and Grafana's own files made of them."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
WIDTH, HEIGHT, STAT_HEIGHT = 8, 8, 4
COLUMNS = 24


@dataclass(frozen=True)
class Panel:
    """One panel: what it shows, in which unit, and the queries with their legends."""

    title: str
    text: str
    unit: str
    queries: Sequence[tuple[str, str]]
    kind: str = "timeseries"
    is_stacked: bool = False


@dataclass(frozen=True)
class Dashboard:
    """One question and the panels that answer it."""

    name: str
    title: str
    text: str
    panels: Sequence[Panel]


def as_json(dashboard: Dashboard) -> str:
    """Return a dashboard as Grafana imports it."""
    document = {
        "uid": f"treedraft-{dashboard.name}",
        "title": dashboard.title,
        "description": dashboard.text,
        "tags": ["treedraft"],
        "schemaVersion": 39,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "links": [
            {
                "type": "dashboards",
                "title": "treedraft",
                "tags": ["treedraft"],
                "asDropdown": False,
                "keepTime": True,
                "includeVars": True,
            }
        ],
        "templating": {
            "list": [{"name": "datasource", "type": "datasource", "query": "prometheus"}]
        },
        "panels": list(placed(dashboard.panels)),
    }
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def placed(panels: Sequence[Panel]) -> Iterator[dict[str, Any]]:
    """Yield panels from left to right, line by line."""
    x = y = last_height = 0
    for number, panel in enumerate(panels, start=1):
        height = STAT_HEIGHT if panel.kind == "stat" else HEIGHT
        if x + WIDTH > COLUMNS:
            x, y = 0, y + last_height
        last_height = height
        yield as_panel(panel, number, {"x": x, "y": y, "w": WIDTH, "h": height})
        x += WIDTH


def as_panel(panel: Panel, number: int, place: Mapping[str, int]) -> dict[str, Any]:
    """Return a panel as Grafana has it."""
    drawing = {"fillOpacity": 25, "stacking": {"mode": "normal"}} if panel.is_stacked else {}
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.text,
        "datasource": DATASOURCE,
        "gridPos": dict(place),
        "fieldConfig": {
            "defaults": {"unit": panel.unit, "min": 0, "custom": drawing},
            "overrides": [],
        },
        "targets": [
            {
                "refId": "ABCDEFGH"[index],
                "datasource": DATASOURCE,
                "expr": expr,
                "legendFormat": legend,
            }
            for index, (expr, legend) in enumerate(panel.queries)
        ],
    }

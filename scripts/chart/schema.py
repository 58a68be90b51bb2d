"""Makes `values.schema.json`: a misspelt value or setting is refused, and why is said."""

import json
from typing import Any

from scripts.chart.service_settings import SERVICES, settings_schema
from scripts.chart.values import ChartValues


def make_schema() -> dict[str, Any]:
    """Return the schema of the chart's values."""
    schema = ChartValues.model_json_schema()
    for service in SERVICES:
        schema["$defs"][_definition(service)] = settings_schema(service)
    schema = _tidied(schema)
    # Helm itself puts values of parent charts there.
    schema["properties"]["global"] = {"type": "object"}
    return {"$schema": "http://json-schema.org/draft-07/schema#", **schema}


def schema_text() -> str:
    """Return the content of the file."""
    return json.dumps(make_schema(), indent=1, ensure_ascii=False) + "\n"


def _definition(service: str) -> str:
    return f"{service.title()}Settings"


def _tidied(node: Any) -> Any:
    """Return a schema without titles and defaults, with the settings in their places."""
    if isinstance(node, list):
        return [_tidied(item) for item in node]
    if not isinstance(node, dict):
        return node
    if service := node.get("settings_of"):
        return {"$ref": f"#/$defs/{_definition(service)}"}
    kept = {}
    for key, value in node.items():
        if key == "properties":
            kept[key] = {name: _tidied(field) for name, field in value.items()}
        elif key not in ("title", "default"):
            kept[key] = _tidied(value)
    if "patternProperties" in kept:
        kept["additionalProperties"] = False
    if "$ref" in kept:  # draft 7 knows nothing beside a reference
        return {"$ref": kept["$ref"]}
    return kept

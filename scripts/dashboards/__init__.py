"""The Grafana dashboards: four questions of an operator, as data.

Written here because Grafana's own files are ten lines of layout for each line of
meaning; the files are made by `make docs` and are what is imported.
"""

from collections.abc import Mapping

from dashboards.grafana import as_json
from dashboards.health import HEALTH
from dashboards.speculation import SPECULATION
from dashboards.speed import FAST, TIME


def dashboards() -> Mapping[str, str]:
    """Return the text of each file by its name."""
    questions = (FAST, SPECULATION, TIME, HEALTH)
    return {f"treedraft-{one.name}.json": as_json(one) for one in questions}

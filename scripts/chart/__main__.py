"""Writes the generated files of the chart, or checks them: `python -m scripts.chart`."""

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from scripts.chart.document import readme_text, values_text
from scripts.chart.golden import golden_text
from scripts.chart.helm import HELM_4, Helm, fetch
from scripts.chart.schema import schema_text

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "helm" / "treedraft"
OBSERVABILITY = ROOT / "deploy" / "observability"
RULES = OBSERVABILITY / "prometheus" / "treedraft.rules.yaml"
EXAMPLES = CHART / "examples"
GOLDEN = ROOT / "tests" / "chart" / "golden"


def generated() -> dict[Path, Callable[[], str]]:
    """Return what makes the content of each generated file."""
    readme = CHART / "README.md"
    return {
        CHART / "values.yaml": values_text,
        CHART / "values.schema.json": schema_text,
        readme: lambda: readme_text(readme),
        **copies(),
        **goldens(),
    }


def copies() -> dict[Path, Callable[[], str]]:
    """Return what the chart carries of deploy/observability: Helm reads nothing outside of it."""
    sources = [*sorted(OBSERVABILITY.glob("dashboards/*.json")), RULES]
    return {
        CHART / "files" / source.name: partial(source.read_text, encoding="utf-8")
        for source in sources
    }


def goldens() -> dict[Path, Callable[[], str]]:
    """Return what makes the golden manifests; they show the chart as it is then."""
    helm = Helm(fetch(HELM_4), CHART)
    return {
        GOLDEN / example.name: partial(golden_text, helm, example)
        for example in sorted(EXAMPLES.glob("*.yaml"))
    }


def outdated() -> list[Path]:
    """Return the files whose content is not what would be written now."""
    return [
        path
        for path, make in generated().items()
        if not path.exists() or path.read_text(encoding="utf-8") != make()
    ]


def main() -> int:
    """Write, or with --check only look; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="only look whether all is up to date")
    if parser.parse_args().check:
        stale = outdated()
        for path in stale:
            print(f"out of date: {path.relative_to(ROOT)} (make chart-files)", file=sys.stderr)
        return 1 if stale else 0
    for path, make in generated().items():  # goldens last: they render what was just written
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(make(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""A real Helm, and what the examples render to."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scripts.chart.__main__ import CHART, EXAMPLES
from scripts.chart.helm import HELM_3, HELM_4, Helm, fetch

Objects = list[dict[str, Any]]

EXAMPLE_NAMES = tuple(sorted(path.stem for path in EXAMPLES.glob("*.yaml")))


@pytest.fixture(scope="session")
def helm() -> Helm:
    return Helm(fetch(HELM_4), CHART)


@pytest.fixture(scope="session")
def older_helm() -> Helm:
    return Helm(fetch(HELM_3), CHART)


@pytest.fixture(scope="session")
def rendered(helm: Helm) -> Callable[[str], Objects]:
    """Return what an example renders to; the name `defaults` is no example's values at all."""
    known: dict[str, Objects] = {}

    def render(name: str) -> Objects:
        if name not in known:
            files = [] if name == "defaults" else [example(name)]
            known[name] = helm.template({}, files)
        return known[name]

    return render


def example(name: str) -> Path:
    return EXAMPLES / f"{name}.yaml"

"""A table of every statistical test's figures, printed at the end of the run."""

from collections.abc import Callable

import pytest

_LINES = pytest.StashKey[list[str]]()


@pytest.fixture
def report(request) -> Callable[[str], None]:
    """Add a line to the table."""
    return request.config.stash.setdefault(_LINES, []).append


def pytest_terminal_summary(terminalreporter, config):
    lines = config.stash.get(_LINES, [])
    if lines:
        terminalreporter.section("the law")
        for line in lines:
            terminalreporter.write_line(line)

"""Alert rules fire when they should and not otherwise; promtool is the judge."""

import re
import shutil
import subprocess

import pytest
import yaml
from tests.observability import RULES, RULES_TEST, alerts

pytestmark = pytest.mark.skipif(
    not shutil.which("promtool"), reason="needs promtool (Debian: prometheus)"
)


def promtool(*arguments, cwd):
    return subprocess.run(
        ["promtool", *arguments], cwd=cwd, capture_output=True, text=True, check=False
    )


def test_the_rules_are_well_formed():
    result = promtool("check", "rules", RULES.name, cwd=RULES.parent)
    assert result.returncode == 0, result.stdout + result.stderr


def test_alerts_fire_and_are_silent_as_they_should():
    result = promtool("test", "rules", RULES_TEST.name, cwd=RULES.parent)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("expr", ["vector(1) > 2", "vector(1) < 2"])
def test_an_alert_that_never_or_always_fires_would_be_found(tmp_path, expr):
    """All are broken at once; promtool says of each by its name what was expected."""
    document = yaml.safe_load(RULES.read_text())
    for group in document["groups"]:
        for rule in group["rules"]:
            if "alert" in rule:
                rule["expr"] = expr
    (tmp_path / RULES.name).write_text(yaml.safe_dump(document))
    shutil.copy(RULES_TEST, tmp_path)
    result = promtool("test", "rules", RULES_TEST.name, cwd=tmp_path)
    assert result.returncode != 0
    found = set(re.findall(r"alertname: (\w+)", result.stdout + result.stderr))
    assert found == set(alerts())

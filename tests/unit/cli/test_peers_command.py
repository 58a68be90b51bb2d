import json
import sys

import pytest
from typer.testing import CliRunner

from treedraft.bench.peers import run as peers_run
from treedraft.bench.peers.plan import PeersPlan
from treedraft.bench.peers.report import BEGIN_MARK, END_MARK
from treedraft.bench.peers.result import Outcome, PeersResult
from treedraft.cli.app import make_app
from treedraft.inference.stamp import Stamp
from treedraft.inference.toy import make_toy_model

STAMP = Stamp("2026-01-02T03:04", "abc", "0", "3.11", "Linux", "A processor", 2, 8.0, 0.1)


@pytest.fixture
def run():
    runner = CliRunner()
    return lambda *arguments: runner.invoke(make_app(), [str(one) for one in arguments])


@pytest.fixture
def asked(monkeypatch):
    """Return what the command asks for, in place of measuring it."""
    calls = []

    async def never_measured(plan: PeersPlan, python, source, files, progress):
        calls.append((plan, python, source, files))
        outcomes = tuple(Outcome(row, failure="not today") for row in plan.rows)
        return PeersResult(STAMP, plan, 2, outcomes)

    monkeypatch.setattr(peers_run, "run_peers", never_measured)
    return calls


def test_the_command_measures_and_writes_what_was_asked_for(run, asked, tmp_path, monkeypatch):
    target = make_toy_model(tmp_path / "toy")
    document = tmp_path / "page.md"
    document.write_text(f"before\n{BEGIN_MARK}\n{END_MARK}\nafter\n")
    options = ["bench", "peers", "--target", target, "--only", "flashspec", "--prompts", 1]
    options += ["--json", tmp_path / "all.json", "--update", document]
    options += ["--picture", tmp_path / "drawn.svg", "--peers-python", "/some/python"]
    monkeypatch.setattr(sys, "argv", ["treedraft", *map(str, options)])
    result = run(*options)
    assert result.exit_code == 0, result.stderr
    plan, python, source, files = asked[0]
    assert {row.system for row in plan.rows} == {"treedraft", "flashspec"}
    assert (python, source, files.folder) == ("/some/python", str(target), target)
    assert "not today" in result.stdout
    assert json.loads((tmp_path / "all.json").read_text())["plan"]["num_prompts"] == 1
    page = document.read_text()
    assert "](drawn.svg)" in page
    assert page.startswith("before\n")
    assert "bench peers --target" in page
    assert "/some/python" not in page


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--only", "nothing"), "UNKNOWN_SYSTEM"),
        (("--json", "no/such/folder/x.json"), "NO_FOLDER"),
        (("--picture", "no/such/folder/x.svg"), "NO_FOLDER"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_runs(run, asked, options, reason):
    result = run("bench", "peers", *options)
    assert result.exit_code == 1
    assert reason in result.stderr
    assert asked == []


def test_bench_alone_still_measures(run):
    result = run("bench", "--target", "no such model")
    assert result.exit_code == 1
    assert "MODEL_NOT_FOUND" in result.stderr

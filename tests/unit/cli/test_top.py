import io
import json

import pytest
from rich.console import Console
from typer.testing import CliRunner

from treedraft.cli.app import make_app
from treedraft.cli.top import as_object, screen, tokens_per_round
from treedraft.core.generation import ServedModel
from treedraft.core.worker import (
    ClusterDescription,
    LoadSignals,
    WorkerRegistration,
    WorkerReport,
    WorkerRole,
)

MODELS = [ServedModel("big", 2048, 2, 1)]


def worker(name, role, report):
    return WorkerRegistration(name, "i", role, "host:1", "big"), report


def target(name, rate, tau, **more):
    signals = LoadSignals(
        utilisation=0.5, tokens_per_second=rate, tokens_per_round=tau, late_draft_share=0.25
    )
    report = WorkerReport(
        num_sessions=3, free_kv_blocks=25, total_kv_blocks=100, signals=signals, **more
    )
    return worker(name, WorkerRole.TARGET, report)


CLUSTER = ClusterDescription(
    workers=(
        target("t-0", 30.0, 3.0),
        target("t-1", 10.0, 1.0, is_draining=True),
        worker("d-0", WorkerRole.DRAFT, WorkerReport(num_sessions=3)),
    ),
    num_sessions=6,
)


def test_tokens_a_round_are_weighed_by_the_tokens():
    assert tokens_per_round(CLUSTER) == pytest.approx(2.5)
    assert tokens_per_round(ClusterDescription()) == 0.0


def test_the_screen_shows_what_an_operator_asks():
    console = Console(file=io.StringIO(), width=160)
    console.print(screen("host:50050", MODELS, CLUSTER))
    shown = console.file.getvalue()
    for words in ("host:50050", "big", "6 sessions", "40.0 tok/s", "τ 2.50", "t-0", "d-0"):
        assert words in shown
    assert "target (draining)" in shown
    assert "75%" in shown  # of its KV
    assert "25%" in shown  # late


def test_a_cluster_without_workers_says_so():
    console = Console(file=io.StringIO(), width=160)
    console.print(screen("host:50050", [], ClusterDescription()))
    assert "no model is served yet" in console.file.getvalue()
    assert "no rounds lately" in console.file.getvalue()


def test_the_object_for_scripts_has_the_promised_names():
    document = json.loads(json.dumps(as_object("host:1", MODELS, CLUSTER)))
    assert document["sessions"] == 6
    assert document["tokens_per_second"] == 40.0
    assert document["tokens_per_round"] == 2.5
    assert document["models"] == [
        {"model": "big", "context_length": 2048, "targets": 2, "drafters": 1}
    ]
    first = document["workers"][0]
    assert (first["worker_id"], first["role"], first["state"]) == ("t-0", "target", "ready")
    assert (first["free_kv_blocks"], first["total_kv_blocks"]) == (25, 100)
    assert (first["busy_share"], first["late_draft_share"]) == (0.5, 0.25)
    assert document["workers"][1]["state"] == "draining"


def test_a_dead_endpoint_is_told_in_plain_words():
    result = CliRunner().invoke(make_app(), ["top", "--once", "--endpoint", "127.0.0.1:1"])
    assert result.exit_code == 1
    assert "nobody listens at 127.0.0.1:1 (UNAVAILABLE)" in result.stderr
    assert "treedraft up" in result.stderr
    assert "last error" not in result.stderr

import json
import time

import pytest
from typer.testing import CliRunner

from treedraft.bench.answer import Answer
from treedraft.cli.app import make_app
from treedraft.cli.demo import Comparison, describe_identity, speed_table, time_table
from treedraft.cli.generate import as_object, describe
from treedraft.core.generation import Finished, Started
from treedraft.core.sampling import SamplingParameters
from treedraft.core.session import FinishReason, RoundTimes, SessionStatistics
from treedraft.settings import TelemetrySettings
from treedraft.telemetry.tracing import Tracing

NOWHERE = "127.0.0.1:1"


@pytest.fixture
def run():
    runner = CliRunner()
    return lambda *arguments: runner.invoke(make_app(), list(arguments))


def answer(token_ids=(5, 6, 7), decode_ms=100.0):
    statistics = SessionStatistics(
        rounds=2,
        emitted_tokens=len(token_ids),
        drafted_nodes=9,
        admitted_nodes=8,
        accepted_nodes=1,
        hits=1,
        misses=1,
        decode_ms=decode_ms,
        round_ms=RoundTimes(draft=1, wire=2, queue=3, forward=4, walk=5, commit=6),
    )
    return Answer(
        Started("session", 2**64 - 1, (1, 2), "abcdef0123", "model"),
        Finished(FinishReason.LENGTH, statistics, 12.5),
        tuple(token_ids),
        (),
        "text",
    )


def test_the_json_object_has_the_promised_names():
    document = json.loads(json.dumps(as_object(answer())))
    assert document["text"] == "text"
    assert document["token_ids"] == [5, 6, 7]
    assert document["prompt_token_ids"] == [1, 2]
    assert document["finish_reason"] == "length"
    assert document["seed"] == 2**64 - 1
    assert (document["session_id"], document["trace_id"]) == ("session", "abcdef0123")
    statistics = document["stats"]
    assert statistics["tokens_per_round"] == 1.5
    assert statistics["tokens_per_second"] == pytest.approx(20.0)
    assert statistics["time_to_first_token_ms"] == 12.5
    counts = ("rounds", "drafted_nodes", "admitted_nodes", "accepted_nodes", "hits", "misses")
    assert [statistics[name] for name in counts] == [2, 9, 8, 1, 1, 1]
    assert list(statistics["round_ms"]) == ["draft", "wire", "queue", "forward", "walk", "commit"]


def test_nobody_listening_is_a_line_with_a_hint_and_status_1(run):
    result = run("generate", "hello", "--endpoint", NOWHERE, "--json")
    assert result.exit_code == 1
    assert result.stdout == ""
    error, hint = result.stderr.splitlines()
    assert error == "error: nobody listens at 127.0.0.1:1 (UNAVAILABLE)"
    assert hint.startswith("hint: ")


def test_a_seed_is_told_where_it_made_a_difference():
    assert "seed" in describe(answer(), SamplingParameters(temperature=0.7))
    assert "seed" not in describe(answer(), SamplingParameters(temperature=0.0))


def test_a_value_out_of_range_is_refused_before_anything_starts(run):
    result = run("generate", "hello", "--temperature", "-1")
    assert result.exit_code == 1
    assert "temperature" in result.stderr


@pytest.mark.parametrize("option", ["--target", "--draft", "--redis"])
def test_an_endpoint_and_a_cluster_of_ones_own_exclude_each_other(run, option):
    result = run("generate", "hello", "--endpoint", NOWHERE, option, "x")
    assert result.exit_code == 2


def test_an_endpoint_goes_with_a_target_in_the_environment(run, monkeypatch):
    monkeypatch.setenv("TREEDRAFT_TARGET__MODEL", "x")
    assert run("generate", "hello", "--endpoint", NOWHERE).exit_code == 1


def test_trace_draws_what_was_recorded(run, tmp_path):
    store = str(tmp_path / "spans.sqlite")
    tracing = Tracing("coordinator", TelemetrySettings(store_path=store, sample_ratio=1.0))
    span = tracing.start("generate")
    span.end()
    tracing.shutdown()
    assert "generate" in run("trace", span.trace_id[:12], "--store", store).stdout
    # The list is as wide as the terminal: the beginning of the id is enough.
    assert span.trace_id[:8] in run("trace", "--store", store).stdout


def test_a_trace_that_is_not_there_is_an_error(run, tmp_path):
    result = run("trace", "abc", "--store", str(tmp_path / "none"))
    assert result.exit_code == 1
    assert "no trace abc" in result.stderr


def test_an_unknown_setting_of_a_service_is_an_error(run):
    result = run("coordinator", "--set", "no.such=1")
    assert result.exit_code == 1
    assert "UNKNOWN_SETTING" in result.stderr
    assert run("coordinator", "--set", "nonsense").exit_code == 1


def test_help_and_version_start_at_once(run):
    started = time.monotonic()
    assert run("--help").exit_code == 0
    assert run("version").stdout.startswith("treedraft ")
    assert time.monotonic() - started < 5


def test_identity_says_where_texts_part():
    assert describe_identity((1, 2), (1, 2)) == "yes"
    assert describe_identity((1, 2, 3), (1, 9, 3)) == "no, from token 1 on"
    assert describe_identity((1, 2), (1, 2, 3)) == "no, from token 2 on"


def test_the_demo_compares_and_says_where_time_went():
    same = Comparison("prose", answer(decode_ms=200.0), answer(decode_ms=100.0))
    other = Comparison("code", answer((5, 6, 7)), answer((5, 9, 7)))
    assert same.is_identical
    assert same.ratio == pytest.approx(2.0)
    assert speed_table([same]).caption == "identical: yes"
    assert speed_table([same, other]).caption == "identical: no"
    cells = [list(column.cells) for column in time_table([same, other]).columns]
    assert [column[1] for column in cells[1:]] == [
        "1.00", "2.00", "3.00", "4.00", "5.00", "6.00", "4",
    ]  # fmt: skip


def test_a_trace_becomes_a_page(run, tmp_path):
    store, page = str(tmp_path / "spans.sqlite"), tmp_path / "trace.html"
    tracing = Tracing("coordinator", TelemetrySettings(store_path=store, sample_ratio=1.0))
    span = tracing.start("generate")
    span.end()
    tracing.shutdown()
    result = run("trace", span.trace_id, "--store", store, "--html", str(page))
    assert result.exit_code == 0
    assert result.stdout == ""
    assert span.trace_id in page.read_text()
    nowhere = str(tmp_path / "none" / "x.html")
    assert run("trace", span.trace_id, "--store", store, "--html", nowhere).exit_code == 1
    assert run("trace", "--store", store, "--html", str(page)).exit_code == 2

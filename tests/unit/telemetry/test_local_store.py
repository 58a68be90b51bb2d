import sqlite3
import stat
import subprocess
import sys
from contextlib import closing

import pytest
import structlog
from opentelemetry.sdk.trace.export import SpanExportResult

from treedraft.core.errors import InvalidRequestError, UnavailableError
from treedraft.settings import TelemetrySettings
from treedraft.telemetry import names
from treedraft.telemetry.exporters import LocalSpanExporter, make_exporter
from treedraft.telemetry.local_store import (
    load_trace,
    recent_traces,
    spans_below,
    store_path,
    wait_for_trace,
)
from treedraft.telemetry.span_database import insert, open_for_writing
from treedraft.telemetry.tracing import Tracing


def row(trace: str, span: int, *, parent: str = "", name: str = "round", start_ns: int = 0):
    return (
        *(trace.rjust(32, "0"), f"{span:016x}", parent, name, "target", "i1"),
        *(start_ns, start_ns + 1_000_000, "", "{}", ""),
    )


def write(path, rows, *, max_spans=1000):
    with closing(open_for_writing(path)) as database:
        insert(database, rows, max_spans=max_spans)


def count(path) -> int:
    return sum(trace.num_spans for trace in recent_traces(path, 1000))


def test_an_absent_store_is_empty(tmp_path):
    assert load_trace(tmp_path / "none.sqlite", "ab") == []
    assert recent_traces(tmp_path / "none.sqlite") == []
    assert not (tmp_path / "none.sqlite").exists()


def test_a_store_without_its_table_yet_is_empty(tmp_path):
    path = tmp_path / "s.sqlite"
    path.touch()
    assert load_trace(path, "ab") == []


def test_a_file_that_is_no_store_is_named(tmp_path):
    path = tmp_path / "s.sqlite"
    path.write_text("this is no database" * 100)
    with pytest.raises(UnavailableError, match=r"s\.sqlite") as caught:
        recent_traces(path)
    assert caught.value.reason == "TRACE_STORE_UNREADABLE"


def test_a_beginning_of_the_id_is_enough_if_it_is_one_traces_only(tmp_path):
    path = tmp_path / "s.sqlite"
    write(path, [row("aaa1", 1), row("aaa2", 2), row("aaa2", 3, start_ns=-5)])
    assert [span.span_id for span in load_trace(path, "0" * 28 + "AAA2")] == [
        "0000000000000003",
        "0000000000000002",
    ]
    with pytest.raises(InvalidRequestError) as caught:
        load_trace(path, "0")
    assert caught.value.reason == "AMBIGUOUS_TRACE"
    assert load_trace(path, "f") == []


@pytest.mark.parametrize("trace_id", ["", "xyz", "a%", "0" * 33])
def test_what_is_no_trace_id_is_refused(tmp_path, trace_id):
    with pytest.raises(InvalidRequestError) as caught:
        load_trace(tmp_path / "s.sqlite", trace_id)
    assert caught.value.reason == "INVALID_TRACE_ID"


def test_of_a_trace_each_request_has_what_lies_below_it_alone(tmp_path):
    path = tmp_path / "s.sqlite"
    generate = names.SPAN_GENERATE
    write(
        path,
        [
            row("aa", 1, name="caller"),
            row("aa", 2, parent=f"{1:016x}", name=generate),
            row("aa", 3, parent=f"{2:016x}"),
            row("aa", 4, parent=f"{3:016x}"),
            # Somebody else names the first request as the one above his.
            row("aa", 5, parent=f"{3:016x}", name=generate),
            row("aa", 6, parent=f"{5:016x}"),
            row("aa", 7, parent=f"{9:016x}"),
        ],
    )
    spans = load_trace(path, "aa".rjust(32, "0"))

    def below(*ids: int) -> set[int]:
        own = {f"{number:016x}" for number in ids}
        return {int(span.span_id, 16) for span in spans_below(spans, own)}

    assert below(2) == {2, 3, 4}
    assert below(5) == {5, 6}
    assert below(2, 5) == {2, 3, 4, 5, 6}
    assert below(9) == {7}  # its own span has not ended yet
    assert below(8) == set()


def test_recent_traces_come_newest_first_with_the_name_of_their_root(tmp_path):
    path = tmp_path / "s.sqlite"
    write(
        path,
        [
            row("a", 1, start_ns=10),
            row("b", 2, parent="00ff", name="round", start_ns=20),
            row("b", 3, name="generate", start_ns=21),
            row("c", 4, start_ns=30),
        ],
    )
    newest, second = recent_traces(path, 2)
    assert newest.trace_id.endswith("c")
    assert (second.name, second.num_spans, second.services) == ("generate", 2, ("target",))
    assert second.start_ns == 20
    assert second.duration_ms == pytest.approx(1.000001)


def test_the_oldest_traces_go_first(tmp_path):
    path = tmp_path / "s.sqlite"
    for trace in range(20):
        spans = [row(f"{trace:x}", trace * 10 + i, start_ns=trace) for i in range(10)]
        write(path, spans, max_spans=100)
    kept = recent_traces(path, 1000)
    assert [int(trace.trace_id, 16) for trace in kept] == list(range(19, 9, -1))
    assert {trace.num_spans for trace in kept} == {10}


def test_a_trace_without_end_keeps_its_newer_half(tmp_path):
    path = tmp_path / "s.sqlite"
    for batch in range(30):
        write(path, [row("a", batch * 10 + i, start_ns=batch) for i in range(10)], max_spans=100)
        assert count(path) <= 100
    spans = load_trace(path, "0" * 31 + "a")
    assert len(spans) >= 50
    assert spans[-1].span_id == f"{299:016x}"


def test_a_failed_batch_leaves_nothing_behind(tmp_path):
    path = tmp_path / "s.sqlite"
    bad = (*row("a", 2)[:3], None, *row("a", 2)[4:])
    with closing(open_for_writing(path)) as database:
        with pytest.raises(sqlite3.IntegrityError):
            insert(database, [row("a", 1), bad], max_spans=100)
        insert(database, [row("b", 3)], max_spans=100)
    assert count(path) == 1


def test_only_the_owner_may_read_the_file(tmp_path):
    path = tmp_path / "s.sqlite"
    write(path, [row("a", 1)])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


_WRITER = """
import sys
from contextlib import closing
from pathlib import Path
from treedraft.telemetry.span_database import insert, open_for_writing

name, path = int(sys.argv[1]), Path(sys.argv[2])
with closing(open_for_writing(path)) as database:
    for batch in range(20):
        rows = [
            (f"{name:032x}", f"{batch * 5 + i:016x}", "", "round", "draft", "", 1, 2, "", "{}", "")
            for i in range(5)
        ]
        insert(database, rows, max_spans=10_000)
"""


def test_processes_that_start_together_all_write(tmp_path):
    path = tmp_path / "s.sqlite"
    writers = [
        subprocess.Popen([sys.executable, "-c", _WRITER, str(name), str(path)])
        for name in range(1, 4)
    ]
    assert [writer.wait(120) for writer in writers] == [0, 0, 0]
    assert {trace.num_spans for trace in recent_traces(path)} == {100}
    assert len(recent_traces(path)) == 3


def test_the_default_place_is_the_cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TREEDRAFT_CACHE", str(tmp_path))
    assert store_path(TelemetrySettings()).parent == tmp_path
    assert store_path(TelemetrySettings(store_path="x/y.sqlite")).name == "y.sqlite"


def test_waiting_ends_when_the_request_has_ended(tmp_path):
    path = tmp_path / "s.sqlite"
    write(path, [row("a", 1)])
    naps = []

    def sleep(seconds):
        naps.append(seconds)
        if len(naps) == 3:
            write(path, [row("a", 2, name=names.SPAN_GENERATE)])
        if seconds == 0.5:
            write(path, [row("a", 3, name=names.SPAN_GROW)])

    spans = wait_for_trace(path, "0" * 31 + "a", settle_seconds=0.5, sleep=sleep)
    assert len(spans) == 3
    assert naps[-1] == 0.5
    assert len(naps) == 4


def test_waiting_gives_up(tmp_path):
    naps = []
    path = tmp_path / "none.sqlite"
    assert wait_for_trace(path, "ab", timeout_seconds=1.0, sleep=naps.append) == []
    assert 19 <= len(naps) <= 23


def spans_of(tracing_exporter, count=1):
    tracing = Tracing("target", TelemetrySettings(sample_ratio=1.0), exporter=tracing_exporter)
    for _ in range(count):
        tracing.start(names.SPAN_GENERATE).end()
    tracing.shutdown()


def test_a_deleted_store_is_made_anew(tmp_path):
    path = tmp_path / "s.sqlite"
    exporter = LocalSpanExporter(path)
    spans_of(exporter)
    write(path, [])
    exporter = LocalSpanExporter(path)
    tracing = Tracing("target", TelemetrySettings(sample_ratio=1.0), exporter=exporter)
    tracing.start(names.SPAN_GENERATE).end()
    tracing.flush()
    for file in tmp_path.iterdir():
        file.unlink()
    tracing.start(names.SPAN_ADMIT).end()
    tracing.flush()
    assert [trace.name for trace in recent_traces(path)] == [names.SPAN_ADMIT]
    tracing.shutdown()


def test_a_store_that_cannot_be_written_costs_a_warning_a_minute_and_nothing_else(tmp_path):
    (tmp_path / "file").touch()
    now = 0.0
    exporter = LocalSpanExporter(tmp_path / "file" / "s.sqlite", clock=lambda: now)
    with structlog.testing.capture_logs() as logs:
        for now in (0.0, 30.0, 59.0, 61.0):  # noqa: B007  the clock reads it
            assert exporter.export([]) is SpanExportResult.FAILURE
    assert [line["event"] for line in logs] == ["spans lost"] * 2
    exporter.shutdown()


def test_the_settings_choose_the_exporter(tmp_path):
    local = make_exporter(TelemetrySettings(store_path=str(tmp_path / "s.sqlite")))
    assert isinstance(local, LocalSpanExporter)
    collector = make_exporter(TelemetrySettings(otlp_endpoint="http://127.0.0.1:4317"))
    assert not isinstance(collector, LocalSpanExporter)
    collector.shutdown()

"""The local store of spans, to be read: one SQLite file that all services of a machine share.

It stands in for a collector where there is none, so that `treedraft trace`
works on a first try. Write-ahead logging lets many processes write while
others read. It is a cache: bounded, safe to delete at any time, and holds no
prompts and no tokens. Each machine has its own, so a trace that spans machines
is complete only in a collector.
"""

import json
import sqlite3
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from treedraft.core.errors import InvalidRequestError, UnavailableError
from treedraft.settings import TelemetrySettings, cache_dir
from treedraft.telemetry import names
from treedraft.telemetry.span_database import BUSY_SECONDS, COLUMNS, Row

# The number is that of the schema: a new one gets a new file.
_FILE_NAME = "spans-1.sqlite"
_POLL_SECONDS = 0.05

_Record = TypeVar("_Record")


@dataclass(frozen=True, slots=True)
class SpanEvent:
    """Something that happened during a span."""

    name: str
    time_ns: int
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SpanRecord:
    """One span as it was stored. `parent_id` is empty for the root of a trace."""

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    service: str
    instance: str
    start_ns: int
    end_ns: int
    error: str = ""
    attributes: Mapping[str, Any] = field(default_factory=dict)
    events: tuple[SpanEvent, ...] = ()

    @property
    def duration_ms(self) -> float:
        """How long it took, in milliseconds."""
        return (self.end_ns - self.start_ns) / 1e6


@dataclass(frozen=True, slots=True)
class TraceSummary:
    """One line of a list of traces. `name` is that of the root once it has ended."""

    trace_id: str
    name: str
    start_ns: int
    end_ns: int
    num_spans: int
    services: tuple[str, ...]

    @property
    def duration_ms(self) -> float:
        """From its first to its last moment, in milliseconds."""
        return (self.end_ns - self.start_ns) / 1e6


def store_path(settings: TelemetrySettings) -> Path:
    """Return the file of the store, by default in the cache folder."""
    if settings.store_path:
        return Path(settings.store_path).expanduser()
    return cache_dir() / _FILE_NAME


def load_trace(path: Path | str, trace_id: str) -> list[SpanRecord]:
    """Return the spans of one trace by start time; empty if there is none.

    Args:
        path: file of the store.
        trace_id: in hexadecimal, or the beginning of one.

    Raises:
        InvalidRequestError: reason AMBIGUOUS_TRACE, several traces begin so;
            reason INVALID_TRACE_ID, it is no hexadecimal number.
        UnavailableError: reason TRACE_STORE_UNREADABLE, the file is not a store.
    """
    prefix = trace_id.strip().lower()
    if not prefix or prefix.strip("0123456789abcdef") or len(prefix) > 32:
        raise InvalidRequestError(
            f"{trace_id!r} is no trace id", field="trace_id", reason="INVALID_TRACE_ID"
        )
    return _read(path, lambda database: _select_trace(database, prefix))


def _select_trace(database: sqlite3.Connection, prefix: str) -> list[SpanRecord]:
    found = database.execute(
        "SELECT DISTINCT trace_id FROM spans WHERE trace_id BETWEEN ? AND ? LIMIT 2",
        (prefix, prefix + "g"),
    ).fetchall()
    if len(found) > 1:
        raise InvalidRequestError(
            f"several traces begin with {prefix}", field="trace_id", reason="AMBIGUOUS_TRACE"
        )
    rows = database.execute(
        f"SELECT {COLUMNS} FROM spans WHERE trace_id = ? ORDER BY start_ns, number",
        found[0] if found else (prefix,),
    )
    return [_to_record(row) for row in rows]


def spans_below(spans: Sequence[SpanRecord], own_ids: Collection[str]) -> list[SpanRecord]:
    """Return of a trace the spans of some requests, and all that lies below those.

    What lies below a request of somebody else is not of them: the span above a request is
    named by whoever asks.
    """
    children: dict[str, list[SpanRecord]] = defaultdict(list)
    for span in spans:
        children[span.parent_id].append(span)
    found, ways = set(own_ids), list(own_ids)
    while ways:
        for child in children[ways.pop()]:
            if child.name != names.SPAN_GENERATE and child.span_id not in found:
                found.add(child.span_id)
                ways.append(child.span_id)
    return [span for span in spans if span.span_id in found]


def recent_traces(path: Path | str, limit: int = 20) -> list[TraceSummary]:
    """Return the traces that began last, newest first.

    Raises:
        UnavailableError: as in `load_trace`.
    """
    return _read(path, lambda database: _select_recent(database, limit))


def _select_recent(database: sqlite3.Connection, limit: int) -> list[TraceSummary]:
    rows = database.execute(
        "SELECT trace_id, min(start_ns), max(end_ns), count(*) FROM spans "
        "GROUP BY trace_id ORDER BY min(start_ns) DESC LIMIT ?",
        (limit,),
    ).fetchall()
    return [_summarise(database, *row) for row in rows]


def wait_for_trace(
    path: Path | str,
    trace_id: str,
    *,
    timeout_seconds: float = 2.0,
    settle_seconds: float = 0.5,
    sleep: Callable[[float], None] = time.sleep,
) -> list[SpanRecord]:
    """Return a trace that has ended just now, once all services have written it.

    Blocks until the span of the request is there, and then once more for as
    long as the exporters of the other services may lag behind it. Returns what
    there is when the time is up.

    Args:
        path: file of the store.
        trace_id: as in `load_trace`.
        timeout_seconds: how long to wait for the span of the request.
        settle_seconds: how much longer to wait for the others.
        sleep: waits; for tests.
    """
    waited = 0.0
    spans = load_trace(path, trace_id)
    while waited < timeout_seconds and not any(s.name == names.SPAN_GENERATE for s in spans):
        sleep(_POLL_SECONDS)
        waited += _POLL_SECONDS
        spans = load_trace(path, trace_id)
    sleep(settle_seconds)
    return load_trace(path, trace_id)


def _read(path: Path | str, select: Callable[[sqlite3.Connection], list[_Record]]) -> list[_Record]:
    # Not "mode=ro": a reader of a WAL file may have to recover its index.
    uri = f"{Path(path).absolute().as_uri()}?mode=rw"
    try:
        if not Path(path).exists():
            return []
        with closing(sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS)) as database:
            database.execute("PRAGMA query_only=ON")
            return select(database)
    except sqlite3.Error as error:
        if "no such table" in str(error):  # just being created
            return []
        raise UnavailableError(
            f"cannot read the traces in {path}: {error}", reason="TRACE_STORE_UNREADABLE"
        ) from error


def _summarise(
    database: sqlite3.Connection, trace_id: str, start_ns: int, end_ns: int, num_spans: int
) -> TraceSummary:
    services = database.execute(
        "SELECT DISTINCT service FROM spans WHERE trace_id = ? ORDER BY service", (trace_id,)
    )
    root = database.execute(
        "SELECT name FROM spans WHERE trace_id = ? ORDER BY parent_id <> '', start_ns LIMIT 1",
        (trace_id,),
    ).fetchone()
    return TraceSummary(
        trace_id=trace_id,
        name=root[0],
        start_ns=start_ns,
        end_ns=end_ns,
        num_spans=num_spans,
        services=tuple(service for (service,) in services),
    )


def _to_record(row: Row) -> SpanRecord:
    return SpanRecord(
        *row[:9],
        attributes=json.loads(row[9]),
        events=tuple(SpanEvent(**event) for event in json.loads(row[10] or "[]")),
    )

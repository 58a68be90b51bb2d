"""The SQLite file behind the local store of spans: schema, writing, bounds.

Many processes write the same file at once. Write-ahead logging keeps them out
of the way of readers, and each batch is one transaction.
"""

import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

BUSY_SECONDS: Final = 5.0
_RETRY_SECONDS = 0.05

_SCHEMA = """
CREATE TABLE IF NOT EXISTS spans (
  number INTEGER PRIMARY KEY AUTOINCREMENT,
  trace_id TEXT NOT NULL,
  span_id TEXT NOT NULL,
  parent_id TEXT NOT NULL,
  name TEXT NOT NULL,
  service TEXT NOT NULL,
  instance TEXT NOT NULL,
  start_ns INTEGER NOT NULL,
  end_ns INTEGER NOT NULL,
  error TEXT NOT NULL,
  attributes TEXT NOT NULL,
  events TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS spans_by_trace ON spans (trace_id, start_ns, end_ns);
"""
COLUMNS = (
    "trace_id, span_id, parent_id, name, service, instance, start_ns, end_ns, error, "
    "attributes, events"
)

Row = tuple[str, str, str, str, str, str, int, int, str, str, str]
"""One span in the order of `COLUMNS`; attributes and events as JSON."""


def open_for_writing(path: Path) -> sqlite3.Connection:
    """Open the store, creating it if need be; for use under a lock by any thread.

    Only the owner may read the file: it tells who asked when.

    Raises:
        OSError, sqlite3.Error: the file cannot be used.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    database = sqlite3.connect(
        path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
    )
    try:
        # Processes that start together race for the switch to WAL, which fails
        # at once where other statements would wait for the lock.
        _with_patience(lambda: database.execute("PRAGMA journal_mode=WAL"))
        database.execute("PRAGMA synchronous=NORMAL")
        database.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT;")
    except BaseException:
        database.close()
        raise
    return database


def _with_patience(action: Callable[[], object]) -> None:
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            action()
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(_RETRY_SECONDS)
        else:
            return


def insert(database: sqlite3.Connection, rows: Sequence[Row], *, max_spans: int) -> None:
    """Add spans in one transaction, and drop the oldest traces beyond `max_spans`.

    Raises:
        sqlite3.Error: nothing was written.
    """
    database.execute("BEGIN IMMEDIATE")
    try:
        database.executemany(f"INSERT INTO spans ({COLUMNS}) VALUES ({', '.join('?' * 11)})", rows)
        _prune(database, max_spans)
    except BaseException:
        if database.in_transaction:
            database.execute("ROLLBACK")
        raise
    database.execute("COMMIT")


def _prune(database: sqlite3.Connection, max_spans: int) -> None:
    # Numbers only count up, so first and last bound the count at no cost. What
    # is among the newer half stays even of the oldest trace: one trace that
    # never ends loses its beginning and not its end.
    while True:
        # Two queries: only a single min or max is answered without a scan.
        first, last = database.execute(
            "SELECT (SELECT min(number) FROM spans), (SELECT max(number) FROM spans)"
        ).fetchone()
        if first is None or last - first < max_spans:
            return
        database.execute(
            "DELETE FROM spans WHERE number <= ? AND trace_id = "
            "(SELECT trace_id FROM spans WHERE number = ?)",
            (max(first, last - max_spans // 2), first),
        )

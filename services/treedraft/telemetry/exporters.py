"""Where spans go: a collector if one is configured, else the local store.

The local exporter writes batches into the SQLite file of the local store from
the export thread of OpenTelemetry. A full disk or a locked file costs the
batch and one log line a minute, never a request.
"""

import json
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import structlog
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.trace import StatusCode

from treedraft.settings import TelemetrySettings
from treedraft.telemetry import local_store, names, span_database

EXPORT_TIMEOUT_SECONDS: Final = 3.0
MAX_STORED_SPANS: Final = 200_000
_WARN_INTERVAL_SECONDS = 60.0

_log = structlog.get_logger(__name__)


def make_exporter(settings: TelemetrySettings) -> SpanExporter:
    """Return the exporter that the settings name.

    An OTLP endpoint without a scheme, or with `http`, is reached in plain text.
    """
    if not settings.otlp_endpoint:
        return LocalSpanExporter(local_store.store_path(settings))
    return OTLPSpanExporter(
        endpoint=settings.otlp_endpoint,
        insecure=urlsplit(settings.otlp_endpoint).scheme != "https",
        timeout=EXPORT_TIMEOUT_SECONDS,
    )


class LocalSpanExporter(SpanExporter):
    """Writes spans into the local store, which many processes share.

    The store is bounded: beyond `max_spans`, the traces that were begun first
    go, but for what is among the newer half of all spans.
    """

    def __init__(
        self,
        path: Path,
        *,
        max_spans: int = MAX_STORED_SPANS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Remember the file; it is opened with the first batch."""
        self._path = path
        self._max_spans = max_spans
        self._clock = clock
        self._database: sqlite3.Connection | None = None
        self._opened: tuple[int, int] | None = None
        self._last_warning = -_WARN_INTERVAL_SECONDS
        # Flush and export thread may meet.
        self._lock = threading.Lock()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Write a batch in one transaction."""
        rows = [_to_row(span) for span in spans]
        try:
            with self._lock:
                span_database.insert(self._open(), rows, max_spans=self._max_spans)
        except (sqlite3.Error, OSError) as error:
            self.shutdown()
            self._warn(error, num_lost=len(rows))
            return SpanExportResult.FAILURE
        return SpanExportResult.SUCCESS

    def _open(self) -> sqlite3.Connection:
        # The store may be deleted at any time; a connection would go on
        # writing into the deleted file without an error.
        if self._database is not None and _identity(self._path) != self._opened:
            self._database.close()
            self._database = None
        if self._database is None:
            self._database = span_database.open_for_writing(self._path)
            self._opened = _identity(self._path)
        return self._database

    def shutdown(self) -> None:
        """Close the file; another batch would open it again."""
        with self._lock:
            if self._database is not None:
                self._database.close()
                self._database = None

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Return True: a batch is written when `export` returns."""
        return True

    def _warn(self, error: Exception, *, num_lost: int) -> None:
        now = self._clock()
        if now - self._last_warning >= _WARN_INTERVAL_SECONDS:
            self._last_warning = now
            _log.warning("spans lost", path=str(self._path), error=str(error), spans=num_lost)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _to_row(span: ReadableSpan) -> span_database.Row:
    context, resource = span.get_span_context(), span.resource.attributes
    assert context is not None
    is_error = span.status.status_code is StatusCode.ERROR
    events = [
        {"name": event.name, "time_ns": event.timestamp, "attributes": dict(event.attributes or {})}
        for event in span.events
    ]
    return (
        f"{context.trace_id:032x}",
        f"{context.span_id:016x}",
        f"{span.parent.span_id:016x}" if span.parent else "",
        span.name,
        str(resource.get(names.ATTR_SERVICE_NAME, "")),
        str(resource.get(names.ATTR_SERVICE_INSTANCE, "")),
        span.start_time or 0,
        span.end_time or 0,
        (span.status.description or "ERROR") if is_error else "",
        json.dumps(dict(span.attributes or {}), separators=(",", ":")),
        json.dumps(events, separators=(",", ":")) if events else "",
    )

"""Who used how much: one line of JSON for each request that ended, never its text.

The file is opened for each line, so that whoever rotates it may do so at any
time. A log that cannot be written harms no request; the first failure is said.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import structlog

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class RequestSummary:
    """A request that ended. Counts of drafts are None where the target did not report them.

    `outcome` is why the text ended, or the reason of the error that ended it.
    """

    tenant: str
    session_id: str
    trace_id: str
    model: str
    drafters: tuple[str, ...]
    outcome: str
    prompt_tokens: int
    output_tokens: int
    drafted_tokens: int | None
    accepted_tokens: int | None
    rejected_tokens: int | None
    seconds: float


class AuditLog:
    """Appends summaries to a file."""

    def __init__(
        self, path: Path, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        """Write to `path`, which need not exist."""
        self._path = path
        self._now = now
        self._is_failing = False

    def write(self, summary: RequestSummary) -> None:
        """Append a line."""
        time = self._now().isoformat(timespec="milliseconds")
        line = json.dumps({"time": time, **asdict(summary)}, ensure_ascii=False)
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError as error:
            if not self._is_failing:
                _log.error("audit log not written", path=str(self._path), why=str(error))
            self._is_failing = True
        else:
            self._is_failing = False

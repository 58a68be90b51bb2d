import json
from datetime import UTC, datetime

import structlog

from treedraft.coordinator.audit import AuditLog, RequestSummary

SUMMARY = RequestSummary(
    tenant="acme",
    session_id="s1",
    trace_id="t1",
    model="toy",
    drafters=("d1", "d2"),
    outcome="stop",
    prompt_tokens=3,
    output_tokens=5,
    drafted_tokens=9,
    accepted_tokens=4,
    rejected_tokens=2,
    seconds=0.5,
)


def now():
    return datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def test_each_summary_is_a_line_even_after_the_file_was_taken_away(tmp_path):
    path = tmp_path / "audit.jsonl"
    log = AuditLog(path, now=now)
    log.write(SUMMARY)
    log.write(SUMMARY)
    path.rename(tmp_path / "audit.1")
    log.write(SUMMARY)
    assert len((tmp_path / "audit.1").read_text().splitlines()) == 2
    (line,) = path.read_text().splitlines()
    written = json.loads(line)
    assert written["time"] == "2026-01-02T03:04:05.000+00:00"
    assert (written["tenant"], written["drafters"]) == ("acme", ["d1", "d2"])
    assert (written["drafted_tokens"], written["rejected_tokens"]) == (9, 2)


def test_a_log_that_cannot_be_written_is_said_once_and_harms_nobody(tmp_path):
    log = AuditLog(tmp_path / "none" / "audit.jsonl")
    with structlog.testing.capture_logs() as logs:
        log.write(SUMMARY)
        log.write(SUMMARY)
    assert len(logs) == 1
    (tmp_path / "none").mkdir()
    log.write(SUMMARY)
    assert len((tmp_path / "none" / "audit.jsonl").read_text().splitlines()) == 1

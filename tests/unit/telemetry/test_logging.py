import io
import json
import logging

import pytest
import structlog

from treedraft.settings import TelemetrySettings
from treedraft.telemetry.logging import configure_logging


@pytest.fixture(autouse=True)
def _restore_logging():
    """Logging is global to a process: put it back as it was."""
    root = logging.getLogger()
    loggers = [root, logging.getLogger("treedraft"), logging.getLogger("__main__")]
    levels, handlers = [logger.level for logger in loggers], list(root.handlers)
    yield
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
    root.handlers[:] = handlers
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


def configured(**settings) -> io.StringIO:
    stream = io.StringIO()
    configure_logging("target", TelemetrySettings(**settings), "i1", stream=stream)
    return stream


def json_lines(stream: io.StringIO) -> list[dict]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_json_line_has_all_fields():
    stream = configured(log_format="json")
    structlog.contextvars.bind_contextvars(session_id="s1")
    structlog.get_logger("treedraft.target").info("pass finished", num_rows=3)
    (line,) = json_lines(stream)
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "pass finished",
        "level": "info",
        "logger": "treedraft.target",
        "service": "target",
        "incarnation": "i1",
        "session_id": "s1",
        "num_rows": 3,
    }


def test_libraries_are_heard_from_warning_on_in_the_same_format():
    stream = configured(log_format="json", log_level="debug")
    logging.getLogger("some.library").info("chatter")
    logging.getLogger("some.library").warning("trouble with %s", "x", extra={"code": 5})
    (line,) = json_lines(stream)
    assert (line["event"], line["service"], line["code"]) == ("trouble with x", "target", 5)


@pytest.mark.parametrize("name", ["treedraft.draft.drafter", "__main__"])
def test_the_level_is_that_of_the_settings(name):
    stream = configured(log_format="json", log_level="debug")
    structlog.get_logger(name).debug("seen")
    stream_of_errors = configured(log_format="json", log_level="error")
    structlog.get_logger(name).warning("not seen")
    logging.getLogger("some.library").warning("not seen either")
    assert [line["event"] for line in json_lines(stream)] == ["seen"]
    assert stream_of_errors.getvalue() == ""


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_a_traceback_shows_no_local_variables(log_format):
    stream = configured(log_format=log_format)
    prompt = "a secret prompt"[:15]
    try:
        raise ValueError(len(prompt))
    except ValueError:
        structlog.get_logger("treedraft.x").exception("it broke", session_id="s")
    assert "ValueError: 15" in stream.getvalue()
    assert "raise ValueError" in stream.getvalue()
    assert "a secret prompt'" not in stream.getvalue().replace('"a secret prompt"[:15]', "")


def test_nothing_goes_to_stdout(capsys):
    configure_logging("target", TelemetrySettings())
    structlog.get_logger("treedraft.x").warning("hello")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "hello" in captured.err
    assert "\x1b" not in captured.err  # no colours where there is no terminal


def test_configuring_twice_does_not_double_the_lines():
    configured(log_format="json")
    stream = configured(log_format="json")
    structlog.get_logger("treedraft.x").warning("once")
    assert len(json_lines(stream)) == 1

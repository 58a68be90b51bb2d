"""Logs: structured, on stderr, one format for our lines and those of libraries.

stdout belongs to what a command was asked for (`treedraft generate --json`
prints one object and nothing else). Lines carry the service and whatever the
caller binds; they never carry prompts, tokens or local variables, which is why
tracebacks are plain.
"""

import logging
import sys
from typing import Final, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from treedraft.settings import TelemetrySettings

# `python -m treedraft.target` logs under `__main__`.
_OWN_LOGGERS: Final = ("treedraft", "__main__")


def configure_logging(
    service_name: str,
    settings: TelemetrySettings,
    incarnation: str = "",
    *,
    stream: TextIO | None = None,
) -> None:
    """Set up logging for this process; to be called once, by its main function.

    Libraries are heard from `warning` on, our own code from the level of the
    settings.

    Args:
        service_name: named in each line.
        settings: level and format.
        incarnation: tells this process from others of the service; optional.
        stream: where to write; stderr by default.
    """
    stream = stream or sys.stderr
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    shared = _shared_processors(service_name, incarnation)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_render(settings.log_format, is_terminal=stream.isatty()),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(level, logging.WARNING))
    for name in _OWN_LOGGERS:
        logging.getLogger(name).setLevel(level)


def _shared_processors(service_name: str, incarnation: str) -> list[Processor]:
    def add_service(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        event.setdefault("service", service_name)
        if incarnation:
            event.setdefault("incarnation", incarnation)
        return event

    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        add_service,
    ]


def _render(log_format: str, *, is_terminal: bool) -> list[Processor]:
    if log_format == "json":
        return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    return [
        structlog.dev.ConsoleRenderer(
            colors=is_terminal, exception_formatter=structlog.dev.plain_traceback
        )
    ]

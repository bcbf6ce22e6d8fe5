"""Logs in one format, for our loggers and those of libraries. structlog formats what the standard library collects."""

import logging
import sys

import structlog
from structlog.types import EventDict, Processor, WrappedLogger

from service.names import escape
from service.settings import LogFormat, LogLevel


def configure_logs(log_format: LogFormat | None, level: LogLevel) -> None:
    """Sends logs to stderr.

    Args:
        log_format: if None, console on a terminal, otherwise json.
        level: lowest level to log.
    """
    terminal = sys.stderr.isatty()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(make_formatter(log_format or ("console" if terminal else "json"), terminal))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(True)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # otherwise it logs each event that is sent, and its address


def make_formatter(log_format: LogFormat, colors: bool = False) -> logging.Formatter:
    """A formatter for log entries with their request's context: as JSON, one object per line, or for people."""
    write: list[Processor]
    if log_format == "console":
        plain = structlog.dev.plain_traceback  # rich ones show the values of variables
        renderer = structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=plain, repr_native_str=True)
        write = [_escape_event, renderer]
    else:
        write = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(ensure_ascii=False)]
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[
            structlog.contextvars.merge_contextvars,
            structlog.stdlib.add_log_level,
            structlog.stdlib.add_logger_name,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.stdlib.ExtraAdder(),
        ],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _drop_repetitions, *write],
    )


def _escape_event(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Escapes text from clients and files, so that it cannot control the terminal."""
    event["event"] = escape(str(event["event"]))
    return event


def _drop_repetitions(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Drops the second copies of messages that uvicorn and other formatters leave in the record."""
    event.pop("color_message", None)
    event.pop("message", None)
    return event

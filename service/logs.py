"""Logs: one format for all loggers, ours and libraries'; structlog writes what the standard library collects."""

import logging
import sys
from typing import Literal

import structlog
from structlog.types import EventDict, Processor, WrappedLogger

LogFormat = Literal["json", "console"]
LogLevel = Literal["debug", "info", "warning", "error"]


def configure_logs(log_format: LogFormat | None, level: LogLevel) -> None:
    """Sends what is logged to stderr, with what is known of the request that it is logged for.

    Args:
        log_format: json has one object a line, console is for people, as is a terminal if it is None.
        level: the least that is logged.
    """
    terminal = sys.stderr.isatty()
    write: list[Processor]
    if log_format == "console" or (log_format is None and terminal):
        plain = structlog.dev.plain_traceback  # as rich ones show the values of variables
        write = [structlog.dev.ConsoleRenderer(colors=terminal, exception_formatter=plain)]
    else:
        write = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(ensure_ascii=False)]
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[
            structlog.contextvars.merge_contextvars,
            structlog.stdlib.add_log_level,
            structlog.stdlib.add_logger_name,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.stdlib.ExtraAdder(),
        ],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _drop_color_message, *write],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(True)


def _drop_color_message(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Uvicorn says some of its messages twice."""
    event.pop("color_message", None)
    return event

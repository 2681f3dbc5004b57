"""Logs: one JSON object a line on standard error, or coloured text for people."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any, Literal

import structlog

Fields = Mapping[str, Any]
Words = Callable[[str, Fields], str]

_words: dict[str, Words] = {}


def put_plainly(event: str, words: Words) -> None:
    """In the console format, `words(line, fields)` is written in place of the line about `event`. For whoever
    starts a server at a terminal and has more to say there."""
    _words[event] = words


def configure_logs(log_format: Literal["json", "console"], **context: object) -> None:
    """Set up this process's logs; `context` is on every line."""
    renderer: structlog.typing.Processor
    if log_format == "json":
        renderer = structlog.processors.JSONRenderer()
    else:
        renderer = _Console(
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty() and not os.environ.get("NO_COLOR"),
                # Plain: rich tracebacks would print local variables, and secrets with them.
                exception_formatter=structlog.dev.plain_traceback,
            )
        )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info if log_format == "json" else _unchanged,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(**context)
    logging.basicConfig(handlers=[_IntoStructlog()], level=logging.WARNING, force=True)
    logging.captureWarnings(True)


class _Console:
    """Lines for people, with what `put_plainly` was told."""

    def __init__(self, renderer: structlog.dev.ConsoleRenderer) -> None:
        self._renderer = renderer

    def __call__(self, logger: object, method: str, event: structlog.typing.EventDict) -> str:
        fields = dict(event)
        line = self._renderer(logger, method, event)
        words = _words.get(str(fields.get("event")))
        return words(line, fields) if words else line


class _IntoStructlog(logging.Handler):
    """What libraries (uvicorn, asyncio) log by Python's own means comes out like our own lines."""

    def emit(self, record: logging.LogRecord) -> None:
        logger = structlog.get_logger(record.name)
        logger.log(record.levelno, record.getMessage(), logger=record.name, exc_info=record.exc_info)


def _unchanged(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    return event

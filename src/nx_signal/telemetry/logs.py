"""Structured logs on stderr: an event name and fields. Tokens, keys and message contents are not logged; the
local variables of a traceback's frames, which hold them, are left out in both formats."""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import MutableMapping
from contextlib import suppress
from typing import Any, TextIO, cast

import structlog
from structlog.tracebacks import ExceptionDictTransformer

from nx_signal.model.terminal import visible, visible_json, visible_lines
from nx_signal.telemetry.redaction import redacted, redacted_value

log = structlog.get_logger()

EXCEPTION = "exception"
"""The field of a log line that has the traceback."""


def configure_logs(level: str, format: str) -> None:
    """`level`: debug, info, warning or error. `format`: json, console, or auto by the terminal."""
    console = format == "console" or (format == "auto" and sys.stderr.isatty())
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *(_console() if console else _json()),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(cast(TextIO, _Output(sys.stderr))),
    )
    # Libraries log through the standard library. Only their warnings matter.
    logging.basicConfig(handlers=[_Library()], level=logging.WARNING)
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # reported as SourceUnavailable, once


def shown_error(error: BaseException) -> str:
    """The traceback of an error that was not foreseen, for a terminal."""
    return visible_lines(redacted("".join(traceback.format_exception(error))))


def _json() -> list[structlog.typing.Processor]:
    render = structlog.processors.JSONRenderer(ensure_ascii=False)
    without_locals = ExceptionDictTransformer(show_locals=False)
    return [
        structlog.processors.ExceptionRenderer(without_locals),
        _redacted,
        lambda logger, name, event: visible_json(str(render(logger, name, event))),
    ]


def _console() -> list[structlog.typing.Processor]:
    return [
        structlog.processors.format_exc_info,  # by the standard library: without local variables
        _redacted,
        _visible,
        structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback),
    ]


def _redacted(logger: Any, name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    fields: dict[str, Any] = redacted_value(event)
    return fields


def _visible(logger: Any, name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """The lines of an exception are indented, so that no text in it looks like a line of the log."""
    for field, value in event.items():
        if field == EXCEPTION:
            event[field] = "  " + visible_lines(str(value)).replace("\n", "\n  ")
        elif isinstance(value, str):
            event[field] = visible(value)
    return event


class _Output:
    """A line that cannot be written is lost, as where the reader of a pipe has exited or a disk is full; the
    work that logged it goes on."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, text: str) -> None:
        with suppress(OSError, ValueError):  # ValueError: it is closed
            self._file.write(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._file.flush()


class _Library(logging.Handler):
    """Passes what libraries log on, in the same format."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            write = log.error if record.levelno >= logging.ERROR else log.warning
            write("library", logger=record.name, message=record.getMessage(), exc_info=record.exc_info)
        except Exception as error:  # as for a wrong format; handleError would print the arguments
            log.error("library", logger=record.name, message=f"not shown: {type(error).__name__}")

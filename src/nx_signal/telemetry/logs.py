"""Structured logs on stderr: an event name and fields. Tokens, keys and message contents are no fields."""

from __future__ import annotations

import logging
import sys

import structlog


def configure_logs(level: str, format: str) -> None:
    """`level`: debug, info, warning or error. `format`: json, console, or auto by the terminal."""
    console = format == "console" or (format == "auto" and sys.stderr.isatty())
    render: list[structlog.typing.Processor] = (
        [structlog.dev.ConsoleRenderer()]
        if console
        else [structlog.processors.dict_tracebacks, structlog.processors.JSONRenderer(ensure_ascii=False)]
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    # Libraries log through the standard library. Their warnings matter; their chatter does not.
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(name)s: %(message)s")
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # reported as SourceUnavailable, once

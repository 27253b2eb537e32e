"""Log lines about what others may cause at any rate."""

from __future__ import annotations

from typing import Any, Literal

import structlog
import trio

log = structlog.get_logger()

EVERY_S = 60.0


class Tally:
    """A line at once, then at most one a minute, each with how many there were since the one before. Its
    fields are those of the latest."""

    def __init__(self, event: str, level: Literal["info", "warning"] = "warning") -> None:
        self._event = event
        self._level = level
        self._count = 0
        self._next_s = -EVERY_S

    def count(self, **fields: Any) -> None:
        self._count += 1
        if trio.current_time() >= self._next_s:
            self._next_s = trio.current_time() + EVERY_S
            getattr(log, self._level)(self._event, count=self._count, **fields)
            self._count = 0

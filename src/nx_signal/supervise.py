"""Run a part again when what it depends on went away, or let its error end the process. Knows no domain."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import TypeAlias

import structlog
import trio

from nx_signal.errors import Unavailable
from nx_signal.telemetry.health import Health

log = structlog.get_logger()

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0
STEADY_S = 10.0
"""A part that held this long starts its back-off anew."""

Part: TypeAlias = Callable[[trio.TaskStatus[None]], Awaitable[None]]


class StoppedUnasked(Exception):
    """A part returned although nobody had asked it to stop: a bug."""


class Backoff:
    """Pauses that double from `first_s` up to `longest_s`, each shortened by up to half at random so
    that instances do not return in step."""

    def __init__(self, first_s: float = FIRST_PAUSE_S, longest_s: float = LONGEST_PAUSE_S) -> None:
        self._first_s = self._next_s = first_s
        self._longest_s = longest_s

    def reset(self) -> None:
        self._next_s = self._first_s

    async def pause(self) -> None:
        pause_s = self._next_s
        self._next_s = min(pause_s * 2, self._longest_s)
        await trio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - no secret


async def supervise(name: str, part: Part, health: Health) -> None:
    """Run `part` for ever: after `Unavailable` again, with back-off; any other error, and a return,
    end the process. `part` reports `started()` when it works; `health` knows it under `name`."""
    backoff = Backoff()
    while True:
        began = trio.current_time()
        try:
            await _once(name, part, health)
        except* Unavailable as group:
            if trio.current_time() - began >= STEADY_S:
                backoff.reset()
            health.fail(name, sentence(group))
        await backoff.pause()


async def _once(name: str, part: Part, health: Health) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(_unasked, name, part)
        health.up(name)


async def _unasked(name: str, part: Part, *, task_status: trio.TaskStatus[None]) -> None:
    await part(task_status)
    raise StoppedUnasked(f"{name} stopped by itself")


def sentence(error: BaseException) -> str:
    """The first message inside an error or a group of errors."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return str(error) or type(error).__name__

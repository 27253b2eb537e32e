"""Run a part again after its dependency was unavailable, or let its error end the process."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import TypeAlias, TypeVar, TypeVarTuple

import structlog
import trio

from nx_signal.errors import Unavailable
from nx_signal.telemetry.health import Health

log = structlog.get_logger()

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0
STEADY_S = 10.0
"""After running for this long a part starts its back-off anew."""
CHECK_EVERY_S = 5.0
"""Of what is watched, while it is available."""

REMIND_S = 60.0
"""How often a part that stays down is logged again."""

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

Part: TypeAlias = Callable[[trio.TaskStatus[None]], Awaitable[None]]


class StoppedUnexpectedly(Exception):
    """A part returned without being cancelled: a bug."""


class Backoff:
    """Pauses that double from `first_s` up to `longest_s`, each shortened by up to half at random, so
    that instances do not retry in step."""

    def __init__(self, first_s: float = FIRST_PAUSE_S, longest_s: float = LONGEST_PAUSE_S) -> None:
        self._first_s = self._next_s = first_s
        self._longest_s = longest_s

    def reset(self) -> None:
        self._next_s = self._first_s

    async def pause(self) -> None:
        pause_s = self._next_s
        self._next_s = min(pause_s * 2, self._longest_s)
        await trio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - no secret


async def retry_until_available(call: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> T:
    """Call again, with back-off, for as long as it raises Unavailable."""
    backoff = Backoff()
    while True:
        try:
            return await call(*args)
        except Unavailable:
            await backoff.pause()


async def supervise(name: str, part: Part, health: Health) -> None:
    """Run `part` for ever: after `Unavailable` again, with back-off; any other error, and a return,
    end the process. `part` reports `started()` when it is up; `name` is its name in `health`."""
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
        health.restarted(name)


async def watch(name: str, check: Callable[[], Awaitable[None]], health: Health) -> None:
    """Run `check` for ever and report to `health`, under `name`, whether it raises Unavailable. Any other
    error ends the process."""
    backoff = Backoff()
    while True:
        try:
            await check()
        except Unavailable as error:
            health.fail(name, str(error))
            await backoff.pause()
        else:
            health.up(name)
            backoff.reset()
            await trio.sleep(CHECK_EVERY_S)


async def remind(health: Health) -> None:
    """Log again, with the reason, what has been down for a minute; each further minute as well."""
    logged_at: dict[str, float] = {}
    while True:
        now, down = trio.current_time(), health.outages
        logged_at = {part: logged_at.get(part, now) for part in down}
        for part, why in down.items():
            if now - logged_at[part] >= REMIND_S:
                log.warning("part_still_down", part=part, why=why)
                logged_at[part] = now
        await trio.sleep(CHECK_EVERY_S)


async def _once(name: str, part: Part, health: Health) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(_run_until_cancelled, name, part)
        health.up(name)


async def _run_until_cancelled(name: str, part: Part, *, task_status: trio.TaskStatus[None]) -> None:
    await part(task_status)
    raise StoppedUnexpectedly(f"{name} returned without being cancelled")


def sentence(error: BaseException) -> str:
    """The first message inside an error or a group of errors."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return str(error) or type(error).__name__

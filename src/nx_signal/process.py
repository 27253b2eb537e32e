"""What concerns the process as a whole: the signals to stop, its deadline, files and memory."""

from __future__ import annotations

import gc
import os
import resource
import signal
import threading
import time
from collections.abc import Callable
from typing import Self

import structlog
import trio

from nx_signal.errors import SettingsError

log = structlog.get_logger()

OTHER_FILES = 256
FEW_OTHER_FILES = 64
"""Open files beside the clients' sockets: databases, brokers, logs; at least, where a quarter of the limit is
less than OTHER_FILES."""


async def stop_on_signal(leave: Callable[[], None], stop: trio.Event, lame_duck_s: float) -> None:
    """The first signal calls `leave`, then sets `stop`: SIGTERM after `lame_duck_s` or at a second signal,
    Ctrl-C at once. A signal after that ends the process."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        first = await anext(signals)
        delay_s = lame_duck_s if first == signal.SIGTERM else 0
        log.info("stopping", signal=signal.Signals(first).name, accepting_for_s=delay_s)
        leave()
        with trio.move_on_after(delay_s):
            await anext(signals)
        stop.set()


class Watchdog:
    """Ends the process `budget_s` after `start`, even when a call blocks that cannot be cancelled. Leaving
    the block stops it."""

    def __init__(self, budget_s: float) -> None:
        self._budget_s = budget_s
        self._timer: threading.Timer | None = None
        self._ends_at = 0.0

    def start(self) -> None:
        """The first call counts."""
        if self._timer is None:
            self._ends_at = time.monotonic() + self._budget_s
            self._timer = threading.Timer(self._budget_s, self._overrun)
            self._timer.daemon = True
            self._timer.start()

    @property
    def left_s(self) -> float:
        """Once it was started."""
        return self._ends_at - time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _overrun(self) -> None:
        log.error("drain_overran", budget_s=self._budget_s)
        os._exit(1)


def allow_connections(wanted: int, more: int) -> int:
    """How many connections may be open, at most `wanted`, with `more` of another kind beside them. This
    process's limit of open files is raised for that as far as allowed; most systems start it at 1,024.

    Raises SettingsError where not one is possible."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + more + OTHER_FILES
    most = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    others = min(OTHER_FILES, max(FEW_OTHER_FILES, most // 4))
    allowed = min(wanted, most - more - others)
    if allowed < 1:
        raise SettingsError(
            f"Only {most} files may be open, too few to serve; raise that limit (ulimit -n) to {needed}."
        )
    if allowed < wanted:
        log.warning(
            "fewer_connections",
            allowed=allowed,
            wanted=wanted,
            open_files=most,
            advice=f"raise the hard limit of open files (ulimit -Hn) to {needed}, or lower "
            "APP_ENV_MAX_CONNECTIONS",
        )
    return allowed


def tune_gc() -> None:
    """Exempt the objects made at start-up from garbage collection, which would walk them for every burst of
    connections. A small youngest generation keeps each collection, and so each pause, to milliseconds."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 50, 50)

"""Accepting connections, also while the process has no file descriptor left for them."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Awaitable, Callable, Sequence

import trio

from nx_signal.telemetry.metrics import Metrics
from nx_signal.telemetry.tally import Tally

PAUSE_S = 0.1
"""Before the next attempt when no descriptor is left."""
CLOSED_AT_ONCE = 256
"""Waiting connections that are closed before each pause."""

_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


async def accept_all(
    listeners: Sequence[trio.SocketListener],
    handle: Callable[[trio.SocketStream], Awaitable[None]],
    connections: trio.Nursery,
    metrics: Metrics,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Until cancelled; the listeners are closed then. `handle` runs in `connections`."""
    async with trio.open_nursery() as accepting:
        for listener in listeners:
            await accepting.start(Acceptor(metrics).run, listener, handle, connections)
        task_status.started()


class Acceptor:
    """Passes each connection of one listening socket on. Without a descriptor for them the connections that
    wait are closed: they would wait for as long as that lasts, and a client can go elsewhere."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._tally = Tally("accept_failed")
        self._spare: int | None = None
        """A descriptor that is kept for that."""

    async def run(
        self,
        listener: trio.SocketListener,
        handle: Callable[[trio.SocketStream], Awaitable[None]],
        connections: trio.Nursery,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Until cancelled; `handle` runs in `connections`."""
        async with listener:
            self._reserve()
            task_status.started()
            try:
                while True:
                    try:
                        stream = await listener.accept()
                    except OSError as error:
                        await self._failed(listener, error)
                    else:
                        connections.start_soon(handle, stream)
            finally:
                self._give_up()

    async def _failed(self, listener: trio.SocketListener, error: OSError) -> None:
        """Errors of a single connection come from accept(2) too, such as ECONNABORTED."""
        if error.errno in _EXHAUSTED:
            self._give_up()
            closed = _close_waiting(listener.socket.fileno())
            self._reserve()
            self._metrics.refused.labels("open_files").inc(closed)
            advice = "raise the limit of open files, or lower APP_ENV_MAX_CONNECTIONS"
        else:
            advice = "none is needed if it does not go on"
        self._tally.count(why=error.strerror, advice=advice)
        await trio.sleep(PAUSE_S)

    def _reserve(self) -> None:
        with contextlib.suppress(OSError):
            self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def _give_up(self) -> None:
        if self._spare is not None:
            os.close(self._spare)
            self._spare = None


def _close_waiting(descriptor: int) -> int:
    """How many were closed."""
    listening = socket.socket(fileno=descriptor)
    try:
        listening.setblocking(False)
        for closed in range(CLOSED_AT_ONCE):
            try:
                connection, _ = listening.accept()
            except OSError:
                return closed
            connection.close()
        return CLOSED_AT_ONCE
    finally:
        listening.detach()

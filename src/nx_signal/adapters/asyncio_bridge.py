"""The bridge from Trio to asyncio, for drivers that only exist there. The only importer of trio_asyncio.

What runs in asyncio is in files called `driver.py`, which never import trio; what runs in Trio never imports
asyncio (tests/unit/test_layers.py). The rules (docs/architecture.md): cross once per unit of work; a function
that crosses is called `aio_…`, acquires, works and releases inside one call, and bounds every wait."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from contextvars import copy_context
from typing import Any, TypeVar, TypeVarTuple

import structlog
import trio
import trio_asyncio

log = structlog.get_logger()

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class DriverCancelled(ConnectionError):
    """A driver ended a call with its own CancelledError, as aiokafka does when the broker is down."""


class AsyncioBridge:
    """An asyncio loop inside this Trio run. Made by `open_asyncio_bridge`."""

    def __init__(self, loop: trio_asyncio.TrioEventLoop) -> None:
        self._loop = loop
        self._context = copy_context()

    async def call(self, fn: Callable[[*Ts], Coroutine[Any, Any, T]], *args: *Ts) -> T:
        """Run `fn` in asyncio and return its result; one crossing, 60-200 µs.

        A cancellation cancels it there and waits until it has cleaned up. Raises what `fn` raises, and
        DriverCancelled when it was cancelled without a request from here."""
        # Not in the caller's context: trio-asyncio keeps a cancelled timer, and the context that set it,
        # until the timer is due. From REST that is a whole request, for the 12 s of a driver's timeout.
        task = self._loop.create_task(fn(*args), context=self._context.copy())
        try:
            result: T = await self._loop.run_aio_future(task)
        except asyncio.CancelledError:  # Trio's own cancellation arrives as trio.Cancelled
            raise DriverCancelled("the connection was closed during a call") from None
        return result


@asynccontextmanager
async def open_asyncio_bridge() -> AsyncIterator[AsyncioBridge]:
    """Open a loop for one restartable part, so that it can end alone. Before leaving, close the driver's
    objects with `close_within`; connections that are still open then are aborted."""
    async with trio_asyncio.open_loop() as loop:
        # The default handler turns any report, even "Unclosed …" from the garbage collector, into a
        # crash of the loop.
        loop.set_exception_handler(_log_report)
        try:
            yield AsyncioBridge(loop)
        finally:
            _abort_connections(loop)


def _abort_connections(loop: asyncio.AbstractEventLoop) -> None:
    """aiokafka loses track of a connection when it is cancelled while it opens one or has just lost it, and
    an open socket outlives its loop. Only a private attribute of the loop still refers to it."""
    for transport in list(loop._transports.values()):  # type: ignore[attr-defined]
        transport.abort()


def _log_report(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    error = context.get("exception")
    log.debug("asyncio_report", message=context.get("message"), error=repr(error) if error else None)


async def close_within(
    seconds: float, bridge: AsyncioBridge, fn: Callable[[], Coroutine[Any, Any, Any]]
) -> bool:
    """Run a driver's closing call, shielded from cancellation, for at most `seconds`; its errors are logged.
    Returns False when it took longer and was cancelled."""
    with trio.move_on_after(seconds, shield=True) as scope:
        try:
            await bridge.call(fn)
        except Exception as error:  # closing what is broken already: nothing to save
            log.debug("close_failed", error=repr(error))
    return not scope.cancelled_caught

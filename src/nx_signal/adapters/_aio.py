"""The border to asyncio: the only importer of trio_asyncio.

asyncpg, aiokafka and redis-py live on the other side. The rules (docs/architecture.md): cross once per
unit of work; a function that crosses is `async def _aio_…` and acquires, works and releases inside one
call; every wait over there has a deadline of its own."""

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
    """A driver ended a call with its own CancelledError, as aiokafka does when the broker is gone."""


class Border:
    """One asyncio loop inside this Trio run. Obtain by `open_border`."""

    def __init__(self, loop: trio_asyncio.TrioEventLoop) -> None:
        self._loop = loop
        self._context = copy_context()

    async def call(self, fn: Callable[[*Ts], Coroutine[Any, Any, T]], *args: *Ts) -> T:
        """Run an asyncio function over there and wait for it; one crossing, 60-200 µs.

        Cancelling here cancels it there and waits until it has cleaned up. Raises what `fn` raises;
        DriverCancelled when it was cancelled by no request of ours."""
        # Not in the caller's context: trio-asyncio keeps a cancelled timer, and the context of who set it,
        # until it is due. With a REST caller that is the whole request, for the drivers' 12 s.
        task = self._loop.create_task(fn(*args), context=self._context.copy())
        try:
            result: T = await self._loop.run_aio_future(task)
        except asyncio.CancelledError:  # trio's own cancellation arrives as trio.Cancelled
            raise DriverCancelled("the connection went away during a call") from None
        return result


@asynccontextmanager
async def open_border() -> AsyncIterator[Border]:
    """Open a loop of its own for one restartable part, so that it can end alone. Whoever opens closes
    its driver objects before leaving, under a shield with a deadline."""
    async with trio_asyncio.open_loop() as loop:
        # The default handler turns any report, even "Unclosed …" from the garbage collector, into a
        # crash of the loop.
        loop.set_exception_handler(_report)
        try:
            yield Border(loop)
        finally:
            _abort_connections(loop)


def _abort_connections(loop: asyncio.AbstractEventLoop) -> None:
    """aiokafka forgets a connection when it is cancelled while it opens one or has just lost it, and an
    open socket outlives its loop. Only the loop still knows them, by a name of its own."""
    for transport in list(loop._transports.values()):  # type: ignore[attr-defined]
        transport.abort()


def _report(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    error = context.get("exception")
    log.debug("asyncio_report", message=context.get("message"), error=repr(error) if error else None)


async def close_within(seconds: float, border: Border, fn: Callable[[], Coroutine[Any, Any, Any]]) -> bool:
    """Run a driver's closing call even though we are being cancelled; False when it overran."""
    with trio.move_on_after(seconds, shield=True) as scope:
        try:
            await border.call(fn)
        except Exception as error:  # closing what is broken already: nothing to save
            log.debug("close_failed", error=repr(error))
    return not scope.cancelled_caught

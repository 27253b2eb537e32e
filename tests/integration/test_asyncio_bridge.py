"""The bridge to asyncio, over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import weakref
from contextvars import ContextVar

import trio

from nx_signal.adapters.asyncio_bridge import open_asyncio_bridge

PATIENCE_S = 10.0


async def test_a_connection_that_a_driver_forgot_ends_with_the_bridge() -> None:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]

    async def aio_connect_and_forget() -> None:
        forgotten = [await asyncio.open_connection("127.0.0.1", port)]
        forgotten.append(forgotten)  # type: ignore[arg-type]  # only the collector finds it, too late

    gc.disable()
    try:
        with trio.fail_after(PATIENCE_S):
            async with listeners[0]:
                async with open_asyncio_bridge() as bridge:
                    await bridge.call(aio_connect_and_forget)
                    served = await listeners[0].accept()
                async with served:
                    with contextlib.suppress(trio.BrokenResourceError):
                        assert not await served.receive_some()
    finally:
        gc.enable()
    gc.collect()  # an open socket found here is a ResourceWarning, and warnings are errors


class Request:
    """Whatever a caller has in its context."""


async def test_a_call_retains_nothing_of_its_caller_while_its_timers_wait() -> None:
    current: ContextVar[Request | None] = ContextVar("current", default=None)

    async def aio_work() -> None:
        async with asyncio.timeout(3_600):  # cancelled, and kept by the loop until it is due
            await asyncio.sleep(0)

    async with open_asyncio_bridge() as bridge:
        current.set(Request())
        request = weakref.ref(current.get())
        await bridge.call(aio_work)
        current.set(None)
        gc.collect()
        assert request() is None

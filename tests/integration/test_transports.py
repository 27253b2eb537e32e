"""The WebSocket, Server-Sent Events and the long poll of one user, beside each other: one sequence."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
import trio
from trio.testing import MockClock

from event_kit import LOG, EventInstance, principal
from gate_kit import a_listener, open_gate
from memory_relay import MemoryBroker
from nx_signal.client.stream import open_stream
from nx_signal.model import InboxFilter
from nx_signal.server.gate import Visit
from nx_signal.sse.encoding import read_place
from stream_kit import SERVER_KEY

CHANGES = 40


class Sequence:
    """What one transport showed of the log."""

    def __init__(self) -> None:
        self.changes: list[tuple[str, Any]] = []
        self.whole = trio.Event()

    def add(self, event: str, data: Any) -> None:
        if event in LOG:
            self.changes.append((event, data))
        if len(self.changes) >= CHANGES:
            self.whole.set()

    @property
    def revs(self) -> list[int]:
        return [data["rev"] for _, data in self.changes]


async def by_websocket(instance: EventInstance, seen: Sequence) -> None:
    async def http(tcp: trio.SocketStream, head: bytes, visit: Visit) -> None:
        raise AssertionError("no other request is expected")

    async with trio.open_nursery() as nursery:
        (listening,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        listener = a_listener(instance.parts.websocket.serve, http, open_gate())
        await nursery.start(listener.run, [listening])
        url = f"ws://127.0.0.1:{listening.socket.getsockname()[1]}/stream"
        async with open_stream(url, "u1", resume=0, server_keys=[SERVER_KEY]) as stream:
            while not seen.whole.is_set():
                frame = await stream.receive()
                seen.add(frame.event, frame.data)
        nursery.cancel_scope.cancel()


async def by_events(instance: EventInstance, seen: Sequence) -> None:
    """Connects anew after each 7 changes."""
    place = "0"
    while not seen.whole.is_set():
        async with instance.connect("u1", read_place(place)) as reader:
            for _ in range(7):
                event = await reader.until(*LOG)
                seen.add(event.event, event.data)
                if seen.whole.is_set():
                    break
            place = reader.last_event_id or place


async def by_polling(instance: EventInstance, seen: Sequence) -> None:
    rev, history = 0, None
    while not seen.whole.is_set():
        polled = await instance.polling.changes(principal("u1"), rev, history, wait_s=25, limit=3)
        assert not polled.reset
        for change in polled.changes:
            frame = msgspec.json.decode(change)
            seen.add(frame["event"], frame["data"])
        rev, history = polled.rev, polled.history


ROADS: tuple[Callable[[EventInstance, Sequence], Awaitable[None]], ...] = (
    by_websocket,
    by_events,
    by_polling,
)


@asynccontextmanager
async def two_instances(sweep_s: float) -> AsyncIterator[tuple[EventInstance, EventInstance, MemoryBroker]]:
    broker = MemoryBroker()
    here = EventInstance(server_id="here", broker=broker, sweep_s=sweep_s)
    there = EventInstance(server_id="there", broker=broker, database=here.database, sweep_s=sweep_s)
    async with here.running(), there.running():
        yield here, there, broker


async def write(instance: EventInstance, count: int, label: str) -> None:
    """So many changes of the log, each after a moment: every fourth marks the newest as read."""
    for n in range(count):
        await trio.sleep(0.05)
        if n % 4 == 3:
            page = await instance.parts.inbox.page("u1", InboxFilter(), 1)
            await instance.parts.inbox.mark("u1", page.rows[0].id, "read")
        else:
            await instance.notify("u1", f"{label}{n}")


async def all_roads(here: EventInstance, changes: Callable[[], Awaitable[None]]) -> list[Sequence]:
    seen = [Sequence() for _ in ROADS]
    async with trio.open_nursery() as nursery:
        for road, sequence in zip(ROADS, seen, strict=True):
            nursery.start_soon(road, here, sequence)
        await changes()
    return seen


async def test_each_transport_shows_the_same_sequence(autojump_clock: MockClock) -> None:
    async with two_instances(3600) as (here, there, _):

        async def changes() -> None:
            await write(here, CHANGES // 2, "a")
            await write(there, CHANGES // 2, "b")

        seen = await all_roads(here, changes)
    assert seen[0].revs == list(range(1, CHANGES + 1))
    assert seen[0].changes == seen[1].changes == seen[2].changes


@pytest.mark.parametrize("fault", ["the relay is cut", "announcements are lost"])
async def test_each_transport_shows_the_same_sequence_while_the_relay_fails(
    autojump_clock: MockClock, fault: str
) -> None:
    async with two_instances(5) as (here, there, broker):

        async def changes() -> None:
            await write(there, 8, "a")
            if fault == "the relay is cut":
                broker.cut("here")
            else:
                broker.drop = lambda message: message.kind == "inbox"
            await write(there, CHANGES - 16, "b")
            broker.restore("here")
            broker.drop = None
            await write(there, 8, "c")

        seen = await all_roads(here, changes)
    assert seen[0].revs == list(range(1, CHANGES + 1))
    assert seen[0].changes == seen[1].changes == seen[2].changes

"""Instances that serve Server-Sent Events and long polls in one Trio run, over a store in memory."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import trio

from gate_kit import a_visit
from memory_relay import MemoryBroker
from nx_signal.activities.content import Renderer
from nx_signal.activities.registry import Registry
from nx_signal.adapters.sqlite.memory import MemoryDatabase
from nx_signal.client.events import Event, EventParser
from nx_signal.composition import compose
from nx_signal.delivery.topics import STATE
from nx_signal.errors import TokenRejected
from nx_signal.model import Draft, Principal, RelayMessage
from nx_signal.model.wire import CREATED, DELETED, READ
from nx_signal.ports import RelayEvent
from nx_signal.sse.connection import EventConnection
from nx_signal.sse.encoding import Place
from nx_signal.supervise import supervise
from stream_kit import static_key

START = datetime(2026, 1, 1, tzinfo=UTC)
HEAD = b"HTTP/1.1 200 OK\r\n\r\n"
LOG = (CREATED, READ, DELETED)


def now() -> datetime:
    """On Trio's clock, which a test may set."""
    return START + timedelta(seconds=trio.current_time())


def principal(user: str, expires_in_s: float = 86_400.0) -> Principal:
    return Principal(user, None, now() + timedelta(seconds=expires_in_s))


async def verify(token: str) -> Principal:
    """In these tests a token is the user's id."""
    await trio.lowlevel.checkpoint()
    if not token:
        raise TokenRejected("no")
    return principal(token)


def a_draft(user: str, activity: str, bytes_each: int = 1) -> Draft:
    return Draft(
        recipient_id=user,
        activity_id=activity,
        type="T",
        organizer_id="o",
        merchant_id=None,
        subject=None,
        locale="en",
        content="c" * bytes_each,
        content_html="<p>c</p>",
        action_url=None,
        data={"n": activity},
    )


class Reader:
    """A client: its end of the connection, and what it parsed so far."""

    def __init__(self, stream: trio.SocketStream, connection: EventConnection, place: str | None) -> None:
        self.stream = stream
        self.connection = connection
        self.parser = EventParser(place)
        self.head = b""
        self.last_event_id = place
        """of the last event that was received"""
        self._waiting: list[Event] = []

    async def receive(self) -> Event:
        """Raises EndOfChannel at the end."""
        while not self._waiting:
            await self._read()
        event = self._waiting.pop(0)
        self.last_event_id = event.id
        return event

    async def until(self, *topics: str) -> Event:
        """The next event of one of these."""
        while (event := await self.receive()).event not in topics:
            pass
        return event

    async def log(self, count: int) -> list[Event]:
        """The next steps of the log."""
        return [await self.until(*LOG) for _ in range(count)]

    async def rest(self) -> list[Event]:
        """Until the end of the stream."""
        events = []
        try:
            while True:
                events.append(await self.receive())
        except trio.EndOfChannel:
            return events

    async def _read(self) -> None:
        received = bytes(await self.stream.receive_some(65_536))
        if not received:
            raise trio.EndOfChannel
        if not self.head:
            self.head, _, received = received.partition(b"\r\n\r\n")
        self._waiting += self.parser.feed(received)


class EventInstance:
    """One instance of the broker's; several may share a database."""

    def __init__(
        self,
        *,
        server_id: str = "me",
        database: MemoryDatabase | None = None,
        broker: MemoryBroker | None = None,
        sweep_s: float = 3600.0,
        client_buffer_bytes: int = 262_144,
        max_sessions_per_user: int | None = None,
        rate_factor: float = 0.0,
    ) -> None:
        self.database = database or MemoryDatabase(now)
        self.broker = broker or MemoryBroker()
        to_relay, self.outbound = trio.open_memory_channel[tuple[RelayMessage, ...]](1_000)
        self.from_relay, self.inbound = trio.open_memory_channel[RelayEvent](1)
        registry = Registry.shipped()
        self.parts = compose(
            server_id=server_id,
            database=self.database,
            relay=self.broker.relay(server_id),
            to_relay=to_relay,
            registry=registry,
            renderer=Renderer(registry, "UTC"),
            verify=verify,
            static_key=static_key,
            now=now,
            resume_limit=500,
            sweep_s=sweep_s,
            client_buffer_bytes=client_buffer_bytes,
            rate_factor=rate_factor,
            max_sessions_per_user=max_sessions_per_user,
            room_patterns=("public/*",),
        )
        self.hub, self.events, self.polling = self.parts.delivery.hub, self.parts.events, self.parts.polling

    @asynccontextmanager
    async def running(self) -> AsyncIterator[EventInstance]:
        delivery = self.parts.delivery
        async with trio.open_nursery() as nursery:
            await nursery.start(delivery.run, self.inbound)

            async def relay(task_status: trio.TaskStatus[None]) -> None:
                await delivery.run_relay(self.outbound, self.from_relay, task_status)

            async def supervised() -> None:
                await supervise("relay", relay, health=self.parts.health)

            nursery.start_soon(supervised)
            yield self
            nursery.cancel_scope.cancel()

    async def notify(self, user: str, *activities: str, bytes_each: int = 1) -> None:
        """A notification for each."""
        for activity in activities:
            draft = a_draft(user, activity, bytes_each)
            self.hub.announce(await self.database.inbox.insert([draft]))

    async def connect_and_leave(self, user: str = "u1") -> None:
        async with self.connect(user):
            pass

    @asynccontextmanager
    async def connect(
        self,
        user: str = "u1",
        place: Place | None = None,
        rooms: Sequence[str] = (),
        *,
        expires_in_s: float = 86_400.0,
        receive_buffer_bytes: int | None = None,
    ) -> AsyncIterator[Reader]:
        connection = await self.events.open(principal(user, expires_in_s), "192.0.2.1", place, rooms)
        ours, theirs = socket.socketpair()
        if receive_buffer_bytes is not None:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, receive_buffer_bytes)
        server_side = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(theirs))
        async with trio.open_nursery() as nursery, stream:
            nursery.start_soon(connection.serve, server_side, HEAD, a_visit())
            yield Reader(stream, connection, None)
            await stream.aclose()


async def first_state(reader: Reader) -> Event:
    return await reader.until(STATE)

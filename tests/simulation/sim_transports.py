"""Clients of Server-Sent Events and of the long poll, beside the WebSocket devices of the same users."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec
import trio
from sim_devices import Device
from sim_plan import rooms_of
from sim_wire import EventWire, Link, Resumed

from nx_signal.client.events import EventParser
from nx_signal.delivery.polling import Polled
from nx_signal.delivery.topics import NOTIFICATIONS, STATE, frame, state_data
from nx_signal.errors import RateExceeded, Stopping, StoreUnavailable
from nx_signal.sse.encoding import read_place

if TYPE_CHECKING:
    from sim_instance import Instance

ANSWER = b"HTTP/1.1 200 OK\r\n\r\n"
HANDED_OVER_S = (0.0, 0.0, 0.01, 1.0)
"""At most, between the admission of a connection and its first event."""
WAITS_S = (0.0, 25.0, 600.0)
"""Of polls; the longest shows who is not woken."""
LIMITS = (2, 5, 100)
LOST_ANSWERS = 0.05
UNLIMITED = 10**9


class OtherDevice(Device):
    """It resumes with its next request, not on the one that it has."""

    back = 0

    def resume(self, link: Link, back: int) -> None:
        self.back = back
        link.hang_up()

    def next_place(self) -> tuple[int, str | None] | None:
        if self.rev is None:
            return None
        rev, self.back = max(self.rev - self.back, 0), 0
        return rev, self.held.get(rev)


# --- Server-Sent Events ---


class EventLink(Link):
    """One connection of Server-Sent Events: the client sends nothing after its request."""

    def __init__(self, device: OtherDevice, instance: Instance) -> None:
        super().__init__(device, instance)
        self.resume = device.next_place()
        self.owed = self.resume is None
        self.last_event_id = _id_of(*self.resume) if self.resume else None
        self.parser = EventParser(self.last_event_id)
        self.head = b""
        """of the answer"""

    def make_wire(self) -> EventWire:
        return EventWire(self)

    async def run(self) -> None:
        """As rest.events opens it, and the HTTP server hands it over."""
        device, instance = self.device, self.instance
        world, user = device.world, device.user
        principal = await world.verify(user)
        rooms = [room for room in rooms_of(user) if device.rng.random() < 0.5]
        self.rooms.update(rooms)
        self.floor = world.head(user).rev
        place = read_place(self.last_event_id) if self.last_event_id else None
        try:
            connection = await instance.parts.events.open(principal, "192.0.2.1", place, rooms)
        except (RateExceeded, Stopping, StoreUnavailable):
            return
        await trio.sleep(device.rng.uniform(0, device.rng.choice(HANDED_OVER_S)))
        if self.lost:
            connection.abandon()
        else:
            await connection.serve(self, ANSWER, instance.visit)  # type: ignore[arg-type]

    def setsockopt(self, *option: int) -> None:
        pass

    def open(self) -> None:
        pass

    def send(self, event: str, data: object, *, sealed: bool = False) -> None:
        pass


class EventDevice(OtherDevice):
    keeps_history = True
    """it returns the ids as they are"""

    def link_to(self, instance: Instance) -> EventLink:
        return EventLink(self, instance)

    def receive(self, link: Link, raw: bytes) -> None:
        assert isinstance(link, EventLink)
        if not link.head:
            link.head, _, raw = raw.partition(b"\r\n\r\n")
        for event in link.parser.feed(raw):
            self.take(link, frame(event.event, msgspec.json.encode(event.data)))
            if event.event.startswith(NOTIFICATIONS) and self.rev is not None:
                place = _id_of(self.rev, self.history)
                self._check(event.id == place, f"the id at {place} is {event.id}")


def _id_of(rev: int, history: str | None) -> str:
    return f"{rev}.{history}" if history else str(rev)


# --- long polls ---


class PollLink(Link):
    """One request for what changed; its answer may be lost."""

    def __init__(self, device: PollDevice, instance: Instance) -> None:
        super().__init__(device, instance)
        self.client = device
        self.resume = device.next_place()
        self.owed = self.resume is None
        self.resume_limit = UNLIMITED
        self.limit = device.rng.choice(LIMITS)
        self.asked: Resumed | None = None
        """the store at the request, where the client holds something"""
        self.gone = trio.Event()
        self.connected, self.connected_s = True, trio.current_time()

    async def run(self) -> None:
        """As rest.changes does it."""
        world, device, polling = self.device.world, self.device, self.instance.parts.polling
        principal = await world.verify(device.user)
        self.floor = world.head(device.user).rev
        try:
            if self.resume is None:
                polled = await polling.head(device.user)
            else:
                self.asked = world.resumed(device.user, *self.resume)
                wait_s = device.rng.choice(WAITS_S)
                rev, history = self.resume
                polled = await polling.changes(
                    principal, rev, history, wait_s=wait_s, limit=self.limit, gone=self.gone
                )
        except StoreUnavailable:
            return
        self.ceiling = world.head(device.user).rev
        if not self.lost and device.rng.random() >= LOST_ANSWERS:
            self.client.polled(self, polled)

    def open(self) -> None:
        pass

    def hang_up(self) -> None:
        self.gone.set()
        super().hang_up()


class PollDevice(OtherDevice):
    async def converse(self, instance: Instance) -> None:
        """One request. Its link stays until the next one."""
        self.link = link = PollLink(self, instance)
        instance.nursery.start_soon(instance.serve, link)
        await link.over.wait()

    def polled(self, link: PollLink, polled: Polled) -> None:
        self.served = True
        if link.asked is not None:
            self.resumed(link, link.asked)
        asked_rev, head = self.rev or 0, polled.head
        for change in polled.changes:
            self.take(link, change)
        many = len(polled.changes)
        if self.rev is None or polled.reset or polled.rev == head.rev:
            self._check(not (polled.reset and many), "changes came with a reset")
            self.take(link, frame(STATE, state_data(head, reset=polled.reset)))
        else:
            self._check(many == link.limit, f"{many} of {head.rev - asked_rev} changes came")
            at = self.world.change(self.user, head.history)
            counts = None if at is None else (at.rev, at.unread, at.unseen, at.total)
            self._check(
                counts == (head.rev, head.unread, head.unseen, head.total),
                f"the head at {head.rev} was never the store's",
            )
        known = (self.rev, self.history or polled.history)
        self._check((polled.rev, polled.history) == known, f"{polled.rev} came as the place of {self.rev}")
        link.owed = False


CLIENTS: Mapping[str, type[Device]] = {
    "websocket": Device,
    "events": EventDevice,
    "polls": PollDevice,
}

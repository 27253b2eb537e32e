"""A relay without a server, for several instances in one Trio run."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

import msgspec
import trio

from nx_signal.adapters.subscriptions import SubscriptionSet
from nx_signal.errors import RelayLost
from nx_signal.model import RelayMessage
from nx_signal.model.channels import channel_of
from nx_signal.ports import Received, Relay, RelayEvent, Subscribed

MAX_QUEUED_EVENTS = 10_000
"""Per instance; beyond that messages are dropped, which is reported as `Subscribed` again."""


class MemoryBroker:
    """Connects the relays of several instances in one Trio run, deterministically.

    Faults: `cut` and `restore` an instance; `drop` selects messages that are lost silently."""

    def __init__(self) -> None:
        self.drop: Callable[[RelayMessage], bool] | None = None
        self._cut: set[str] = set()
        self._connected: dict[str, MemoryRelay] = {}

    def relay(self, server_id: str) -> Relay:
        return MemoryRelay(self, server_id)

    def cut(self, server_id: str) -> None:
        """Its run raises RelayLost, now and again until `restore`; what is sent meanwhile is lost."""
        self._cut.add(server_id)
        if server_id in self._connected:
            self._connected[server_id].lose()

    def restore(self, server_id: str) -> None:
        self._cut.discard(server_id)

    def connect(self, relay: MemoryRelay) -> None:
        if relay.server_id in self._cut:
            raise RelayLost(f"The broker is cut off from {relay.server_id}.")
        self._connected[relay.server_id] = relay

    def disconnect(self, relay: MemoryRelay) -> None:
        self._connected.pop(relay.server_id, None)

    def publish(self, message: RelayMessage) -> None:
        if message.server_id in self._cut or (self.drop is not None and self.drop(message)):
            return
        if message.kind == "neighbours":
            return  # there is one deployment
        for server_id, relay in self._connected.items():
            if server_id != message.server_id and server_id not in self._cut:
                relay.enqueue(message)


class MemoryRelay:
    """One instance's relay on a MemoryBroker."""

    alone = False

    def __init__(self, broker: MemoryBroker, server_id: str) -> None:
        self.server_id = server_id
        self._broker = broker
        self._subscriptions = SubscriptionSet()
        self._in_force: set[str] = set()
        """the channels that the broker has subscriptions for"""
        self._events: deque[RelayEvent] = deque()
        self._event_queued = trio.Event()
        self._overflowed = False
        self._lost = trio.Event()

    def subscribe(self, channels: Iterable[str]) -> None:
        self._subscriptions.subscribe(channels)

    def unsubscribe(self, channels: Iterable[str]) -> None:
        self._subscriptions.unsubscribe(channels)

    def enqueue(self, message: RelayMessage) -> None:
        """A message of another instance, from the broker."""
        if channel_of(message) not in self._in_force:
            return
        if len(self._events) >= MAX_QUEUED_EVENTS:
            self._overflowed = True
            return
        self._events.append(Received((message,)))
        self._event_queued.set()

    def lose(self) -> None:
        self._lost.set()

    async def run(
        self,
        outbound: trio.MemoryReceiveChannel[tuple[RelayMessage, ...]],
        inbound: trio.MemorySendChannel[RelayEvent],
        task_status: trio.TaskStatus[None],
    ) -> None:
        self._broker.connect(self)
        try:
            self._lost = trio.Event()
            self._subscriptions.start_over()
            async with trio.open_nursery() as nursery:
                self._apply_changes()
                nursery.start_soon(self._keep_subscribed)
                nursery.start_soon(self._publish, outbound)
                nursery.start_soon(self._deliver, inbound)
                task_status.started()
                await self._lost.wait()
                raise RelayLost(f"The broker is cut off from {self.server_id}.")
        finally:
            self._broker.disconnect(self)
            self._in_force.clear()
            self._events.clear()
            self._overflowed = False

    def _apply_changes(self) -> None:
        unsubscribed, subscribed = self._subscriptions.take_changes()
        self._in_force -= unsubscribed
        self._in_force |= subscribed
        if subscribed:
            self._events.append(Subscribed(subscribed))
            self._event_queued.set()

    async def _keep_subscribed(self) -> None:
        while True:
            await self._subscriptions.wait_changed()
            self._apply_changes()

    async def _publish(self, outbound: trio.MemoryReceiveChannel[tuple[RelayMessage, ...]]) -> None:
        async for batch in outbound:
            for message in batch:
                self._broker.publish(msgspec.structs.replace(message, server_id=self.server_id))

    async def _deliver(self, inbound: trio.MemorySendChannel[RelayEvent]) -> None:
        while True:
            await self._event_queued.wait()
            while self._events:
                event = self._events.popleft()
                if not isinstance(event, Received) or channel_of(event.messages[0]) in self._subscriptions:
                    await inbound.send(event)
            self._event_queued = trio.Event()
            if self._overflowed:
                self._overflowed = False
                await inbound.send(Subscribed(self._subscriptions.channels))

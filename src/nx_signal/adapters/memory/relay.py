"""Relays without a server: for one process alone, and for several instances in one Trio run."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

import trio

from nx_signal.adapters._channels import Wanted, channel_of
from nx_signal.errors import RelayLost
from nx_signal.model import Dispatch
from nx_signal.ports import Listening, Received, Relay, RelayEvent

MAX_WAITING_EVENTS = 10_000
"""Per instance; beyond that messages are dropped, which is reported as listening anew."""


class LocalRelay:
    """The Relay of a single process: there is nobody to talk to. Confirms at once, receives nothing."""

    def __init__(self) -> None:
        self._wanted = Wanted()

    def listen(self, channels: Iterable[str]) -> None:
        self._wanted.listen(channels)

    def unlisten(self, channels: Iterable[str]) -> None:
        self._wanted.unlisten(channels)

    async def run(
        self,
        outbound: trio.MemoryReceiveChannel[tuple[Dispatch, ...]],
        inbound: trio.MemorySendChannel[RelayEvent],
        task_status: trio.TaskStatus[None],
    ) -> None:
        self._wanted.start_over()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._discard, outbound)
            task_status.started()
            while True:
                await self._wanted.changed()
                _, added = self._wanted.take()
                if added:
                    await inbound.send(Listening(added))

    async def _discard(self, outbound: trio.MemoryReceiveChannel[tuple[Dispatch, ...]]) -> None:
        async for _ in outbound:
            pass


class MemoryBroker:
    """Joins the relays of several instances in one Trio run; what it does is deterministic.

    Faults: `cut` and `restore` an instance; `drop` says which messages get lost without a sign."""

    def __init__(self) -> None:
        self.drop: Callable[[Dispatch], bool] | None = None
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

    def publish(self, dispatch: Dispatch) -> None:
        if dispatch.server_id in self._cut or (self.drop is not None and self.drop(dispatch)):
            return
        for server_id, relay in self._connected.items():
            if server_id != dispatch.server_id and server_id not in self._cut:
                relay.hand(dispatch)


class MemoryRelay:
    """One instance's relay on a MemoryBroker."""

    def __init__(self, broker: MemoryBroker, server_id: str) -> None:
        self.server_id = server_id
        self._broker = broker
        self._wanted = Wanted()
        self._subscribed: set[str] = set()
        self._events: deque[RelayEvent] = deque()
        self._happened = trio.Event()
        self._overflowed = False
        self._lost = trio.Event()

    def listen(self, channels: Iterable[str]) -> None:
        self._wanted.listen(channels)

    def unlisten(self, channels: Iterable[str]) -> None:
        self._wanted.unlisten(channels)

    def hand(self, dispatch: Dispatch) -> None:
        """A message of another instance, from the broker."""
        if channel_of(dispatch) not in self._subscribed:
            return
        if len(self._events) >= MAX_WAITING_EVENTS:
            self._overflowed = True
            return
        self._events.append(Received((dispatch,)))
        self._happened.set()

    def lose(self) -> None:
        self._lost.set()

    async def run(
        self,
        outbound: trio.MemoryReceiveChannel[tuple[Dispatch, ...]],
        inbound: trio.MemorySendChannel[RelayEvent],
        task_status: trio.TaskStatus[None],
    ) -> None:
        self._broker.connect(self)
        try:
            self._lost = trio.Event()
            self._wanted.start_over()
            async with trio.open_nursery() as nursery:
                self._subscribe()
                nursery.start_soon(self._keep_subscribed)
                nursery.start_soon(self._publish, outbound)
                nursery.start_soon(self._deliver, inbound)
                task_status.started()
                await self._lost.wait()
                raise RelayLost(f"The broker is cut off from {self.server_id}.")
        finally:
            self._broker.disconnect(self)
            self._subscribed.clear()
            self._events.clear()
            self._overflowed = False

    def _subscribe(self) -> None:
        dropped, added = self._wanted.take()
        self._subscribed -= dropped
        self._subscribed |= added
        if added:
            self._events.append(Listening(added))
            self._happened.set()

    async def _keep_subscribed(self) -> None:
        while True:
            await self._wanted.changed()
            self._subscribe()

    async def _publish(self, outbound: trio.MemoryReceiveChannel[tuple[Dispatch, ...]]) -> None:
        async for batch in outbound:
            for dispatch in batch:
                self._broker.publish(_sent_by(self.server_id, dispatch))

    async def _deliver(self, inbound: trio.MemorySendChannel[RelayEvent]) -> None:
        while True:
            await self._happened.wait()
            while self._events:
                event = self._events.popleft()
                if not isinstance(event, Received) or channel_of(event.messages[0]) in self._wanted:
                    await inbound.send(event)
            self._happened = trio.Event()
            if self._overflowed:
                self._overflowed = False
                await inbound.send(Listening(self._wanted.channels))


def _sent_by(server_id: str, dispatch: Dispatch) -> Dispatch:
    return Dispatch(
        dispatch.kind, dispatch.target, dispatch.event, dispatch.data, dispatch.exclude, server_id
    )

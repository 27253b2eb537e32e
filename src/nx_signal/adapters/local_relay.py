"""The relay of a single process."""

from __future__ import annotations

from collections.abc import Iterable

import trio

from nx_signal.adapters.subscriptions import SubscriptionSet
from nx_signal.model import RelayMessage
from nx_signal.ports import RelayEvent, Subscribed


class LocalRelay:
    """The Relay of a single process, without other instances. Confirms at once, receives nothing."""

    alone = True

    def __init__(self) -> None:
        self._subscriptions = SubscriptionSet()

    def subscribe(self, channels: Iterable[str]) -> None:
        self._subscriptions.subscribe(channels)

    def unsubscribe(self, channels: Iterable[str]) -> None:
        self._subscriptions.unsubscribe(channels)

    async def run(
        self,
        outbound: trio.MemoryReceiveChannel[tuple[RelayMessage, ...]],
        inbound: trio.MemorySendChannel[RelayEvent],
        task_status: trio.TaskStatus[None],
    ) -> None:
        self._subscriptions.start_over()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._discard, outbound)
            task_status.started()
            while True:
                await self._subscriptions.wait_changed()
                _, subscribed = self._subscriptions.take_changes()
                if subscribed:
                    await inbound.send(Subscribed(subscribed))

    async def _discard(self, outbound: trio.MemoryReceiveChannel[tuple[RelayMessage, ...]]) -> None:
        async for _ in outbound:
            pass

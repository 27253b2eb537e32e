"""The channels of CONTRACT §2 that an instance subscribes to."""

from __future__ import annotations

from collections.abc import Iterable

import trio


class SubscriptionSet:
    """The channels that an instance needs, and the changes that its server has not been sent yet.

    Subscribing to a channel again is sent again, so that each `subscribe` is confirmed."""

    def __init__(self) -> None:
        self._channels: set[str] = set()
        self._to_subscribe: set[str] = set()
        self._to_unsubscribe: set[str] = set()
        self._changed = trio.Event()

    def __contains__(self, channel: str) -> bool:
        return channel in self._channels

    @property
    def channels(self) -> frozenset[str]:
        return frozenset(self._channels)

    def subscribe(self, channels: Iterable[str]) -> None:
        channels = frozenset(channels)
        self._channels |= channels
        self._to_subscribe |= channels
        # They stay in _to_unsubscribe: that is sent first, and the server confirms both.
        self._changed.set()

    def unsubscribe(self, channels: Iterable[str]) -> None:
        channels = frozenset(channels)
        self._channels -= channels
        self._to_subscribe -= channels
        self._to_unsubscribe |= channels
        self._changed.set()

    def start_over(self) -> None:
        """On a new connection: everything is to be subscribed again."""
        self._to_subscribe = set(self._channels)
        self._to_unsubscribe.clear()
        self._changed.set()

    async def wait_changed(self) -> None:
        await self._changed.wait()

    def take_changes(self) -> tuple[frozenset[str], frozenset[str]]:
        """(to unsubscribe first, to subscribe then) since the last call."""
        changes = frozenset(self._to_unsubscribe), frozenset(self._to_subscribe)
        self._to_unsubscribe.clear()
        self._to_subscribe.clear()
        self._changed = trio.Event()
        return changes

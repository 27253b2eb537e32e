"""The relay's channels that this instance needs, and which of them are in force."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import trio

from nx_signal.ports import Relay


class Subscriptions:
    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self._unconfirmed: dict[str, trio.Event] = {}

    def add(self, channels: Sequence[str]) -> None:
        for channel in channels:
            self._unconfirmed[channel] = trio.Event()
        self._relay.subscribe(channels)

    def remove(self, channels: Sequence[str]) -> None:
        self.confirm(channels)
        self._relay.unsubscribe(channels)

    def confirm(self, channels: Iterable[str]) -> None:
        """Nothing waits for these any more: the relay has subscribed, or they are not needed."""
        for channel in channels:
            waiting = self._unconfirmed.pop(channel, None)
            if waiting is not None:
                waiting.set()

    async def wait_confirmed(self, channels: Iterable[str]) -> None:
        """Until messages on all of these channels arrive here."""
        for channel in channels:
            if (waiting := self._unconfirmed.get(channel)) is not None:
                await waiting.wait()

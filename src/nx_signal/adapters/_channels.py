"""The channels of CONTRACT §2: which one a message goes to, which ones an instance wants to hear."""

from __future__ import annotations

from collections.abc import Iterable

import trio

from nx_signal.model import Dispatch

TARGETLESS = ("broadcast", "instances")


def channel_of(dispatch: Dispatch) -> str:
    """What the instances say among themselves is not below `ws:`, where sister services may listen."""
    family = "signal" if dispatch.kind in ("instance", "instances") else "ws"
    if dispatch.kind in TARGETLESS:
        return f"{family}:{dispatch.kind}"
    return f"{family}:{dispatch.kind}:{dispatch.target}"


class Wanted:
    """The channels that an instance wants to hear, and what its server is yet to be told of them.

    Asking for a channel again is told again, so that each `listen` has its confirmation."""

    def __init__(self) -> None:
        self._channels: set[str] = set()
        self._to_add: set[str] = set()
        self._to_drop: set[str] = set()
        self._changed = trio.Event()

    def __contains__(self, channel: str) -> bool:
        return channel in self._channels

    @property
    def channels(self) -> frozenset[str]:
        return frozenset(self._channels)

    def listen(self, channels: Iterable[str]) -> None:
        channels = frozenset(channels)
        self._channels |= channels
        self._to_add |= channels
        # Not taken back from _to_drop: dropped first and added then, the server confirms both.
        self._changed.set()

    def unlisten(self, channels: Iterable[str]) -> None:
        channels = frozenset(channels)
        self._channels -= channels
        self._to_add -= channels
        self._to_drop |= channels
        self._changed.set()

    def start_over(self) -> None:
        """The server knows nothing of us: all is to be told anew."""
        self._to_add = set(self._channels)
        self._to_drop.clear()
        self._changed.set()

    async def changed(self) -> None:
        await self._changed.wait()

    def take(self) -> tuple[frozenset[str], frozenset[str]]:
        """(to drop first, to add then) since the last time."""
        taken = frozenset(self._to_drop), frozenset(self._to_add)
        self._to_drop.clear()
        self._to_add.clear()
        self._changed = trio.Event()
        return taken

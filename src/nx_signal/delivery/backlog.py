"""Frames that exist nowhere else, held for clients that read them later than they come.

A client that reads gets them all, in order. One that does not loses the oldest, and gets their number. The
memory is one for all clients of an instance, and bounded."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

MAX_BYTES = 67_108_864
"""Of all clients together. One may hold half of it: 32 MiB, as much as Redis holds for a subscriber."""

FRAME_BYTES = 200
"""What a frame takes beside its text."""
PLACE_BYTES = 16
"""What it takes in the queue of each further client that holds it."""


class Pool:
    """What the clients of an instance hold together; a text counts once, however many of them hold it, and
    for each of them its place.

    Each may hold as much as is still free: so one alone gets half, and some is left for the next one whatever
    others hold (Choudhury and Hahne, Dynamic queue length thresholds, 1998)."""

    def __init__(self, count_lost: Callable[[int], object]) -> None:
        self.count_lost = count_lost
        self._free_bytes = MAX_BYTES
        self._holders: dict[int, int] = {}
        """id of a text → by how many it is held"""

    @property
    def free_bytes(self) -> int:
        return self._free_bytes

    def hold(self, payload: bytes) -> None:
        holders = self._holders.get(id(payload), 0)
        self._free_bytes -= PLACE_BYTES if holders else _cost(payload)
        self._holders[id(payload)] = holders + 1

    def release(self, payload: bytes) -> None:
        holders = self._holders.pop(id(payload)) - 1
        self._free_bytes += PLACE_BYTES if holders else _cost(payload)
        if holders:
            self._holders[id(payload)] = holders


class Backlog:
    """Of one client."""

    __slots__ = ("_bytes", "_frames", "_pool", "lost")

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._frames: deque[bytes] = deque()
        self._bytes = 0
        self.lost = 0
        """dropped, oldest first, and not reported to the client yet"""

    def __bool__(self) -> bool:
        return bool(self._frames or self.lost)

    @property
    def queued_bytes(self) -> int:
        return self._bytes

    @property
    def first(self) -> bytes:
        return self._frames[0]

    def add(self, payload: bytes) -> None:
        self._pool.hold(payload)
        self._frames.append(payload)
        self._bytes += _cost(payload)
        dropped = 0
        while self._frames and self._bytes > self._pool.free_bytes:
            self.remove_first()
            dropped += 1
        self.lost += dropped
        self._pool.count_lost(dropped)

    def remove_first(self) -> None:
        payload = self._frames.popleft()
        self._bytes -= _cost(payload)
        self._pool.release(payload)

    def clear(self) -> None:
        """The client is gone: what it was not sent is lost."""
        self._pool.count_lost(len(self._frames))
        while self._frames:
            self.remove_first()
        self.lost = 0


def _cost(payload: bytes) -> int:
    return len(payload) + FRAME_BYTES

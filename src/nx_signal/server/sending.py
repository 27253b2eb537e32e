"""What is on its way to, or from, clients that may stop: in pieces, at a least rate, in bounded memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Any, Generic, Protocol, TypeVar

import h11
import trio

PIECE_BYTES = 16_384
"""Of a body: what is copied for one connection at a time; the body itself may be shared by many."""
MIN_BYTES_PER_S = 8_192
"""A client that takes its answer more slowly than that on the average is cut off."""
HELD_BYTES = 134_217_728
"""Of all bodies that clients have not taken, or not sent whole: above it the one that has not moved for the
longest time is cut off. SharedBytes do not count."""


class SharedBytes(bytes):
    """A body that all its readers share. Taken whole it is not copied, as an ordinary `bytes` is not."""

    def __getitem__(self, key: Any) -> Any:
        whole = isinstance(key, slice) and key.indices(len(self)) == (0, len(self), 1)
        return self if whole else super().__getitem__(key)


def in_pieces(protocol: h11.Connection, events: Iterable[h11.Event]) -> Iterator[bytes]:
    """What to send for the events, a large body cut into pieces; a small answer is one piece."""
    waiting = b""
    for event in events:
        if isinstance(event, h11.Data):
            for start in range(0, len(event.data), PIECE_BYTES):
                waiting += _formatted(protocol, event.data[start : start + PIECE_BYTES])
                if len(waiting) >= PIECE_BYTES:
                    yield waiting
                    waiting = b""
        else:
            waiting += protocol.send(event) or b""
    if waiting:
        yield waiting


def _formatted(protocol: h11.Connection, body: bytes) -> bytes:
    return protocol.send(h11.Data(data=bytes(body))) or b""


def own_bytes(events: Iterable[h11.Event]) -> int:
    """Of the bodies that are held for one client alone."""
    bodies = (event.data for event in events if isinstance(event, h11.Data))
    return sum(len(body) for body in bodies if not isinstance(body, SharedBytes))


class Pace:
    """The deadlines of one answer: each piece within `piece_s`, all of them at MIN_BYTES_PER_S."""

    def __init__(self, piece_s: float) -> None:
        self._piece_s = piece_s
        self._began_s = trio.current_time()
        self._sent = 0

    def next_deadline_s(self) -> float:
        """Until when the next piece has to be taken."""
        overall_s = self._began_s + self._piece_s + self._sent / MIN_BYTES_PER_S
        return min(trio.current_time() + self._piece_s, overall_s)

    def sent(self, count: int) -> None:
        self._sent += count


class Holder(Protocol):
    def abort(self) -> None: ...


H = TypeVar("H", bound=Holder)


class Held(Generic[H]):
    """The bytes that connections hold of bodies on their way, at most `most` together."""

    def __init__(self, most: int = HELD_BYTES) -> None:
        self._most = most
        self._total = 0
        self._bytes: OrderedDict[H, int] = OrderedDict()
        """the one that moved last is last"""

    def hold(self, holder: H, count: int) -> None:
        """Others are cut off for it where that exceeds the bound; one alone may hold any number."""
        self._bytes[holder] = self._bytes.pop(holder, 0) + count
        self._total += count
        while self._total > self._most and len(self._bytes) > 1:
            stalled = next(iter(self._bytes))
            self.release(stalled)
            stalled.abort()

    def moved(self, holder: H) -> None:
        if holder in self._bytes:
            self._bytes.move_to_end(holder)

    def release(self, holder: H) -> None:
        self._total -= self._bytes.pop(holder, 0)

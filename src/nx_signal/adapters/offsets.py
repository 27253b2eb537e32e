"""Which offsets of a source's partitions are acked, and may therefore be committed; how much is not acked."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

import trio

from nx_signal.model import Record
from nx_signal.ports import Batch

Partition: TypeAlias = tuple[str, int]
"""(topic, partition)"""


@dataclass(slots=True, eq=False)
class _Batch:
    next_offset: int
    acked: bool = False


class OffsetTracker:
    """The offsets of one assignment. Batches of a partition may be acked in any order; an offset may be
    committed once everything below it is acked. After `close` (partitions revoked) acks have no effect."""

    def __init__(self, on_progress: Callable[[], None]) -> None:
        """`on_progress` is called when more may be committed; it must not raise."""
        self._on_progress = on_progress
        self._open = True
        self._in_flight: dict[Partition, deque[_Batch]] = {}
        self._committable: dict[Partition, int] = {}

    def close(self) -> None:
        self._open = False

    def track(self, partition: Partition, next_offset: int) -> Callable[[], None]:
        """The `ack` of a batch that ends right before `next_offset`; called in the order of offsets."""
        in_flight = self._in_flight.setdefault(partition, deque())
        batch = _Batch(next_offset)
        in_flight.append(batch)

        def ack() -> None:
            batch.acked = True
            current = self._open and self._in_flight.get(partition) is in_flight
            if current and in_flight and in_flight[0] is batch:
                while in_flight and in_flight[0].acked:
                    self._committable[partition] = in_flight.popleft().next_offset
                self._on_progress()

        return ack

    def forget(self, partition: Partition) -> None:
        """The partition is read from another offset: acks of what came before have no effect."""
        self._in_flight.pop(partition, None)
        self._committable.pop(partition, None)

    def committable(self) -> dict[Partition, int]:
        """Next offsets that are acked and not committed yet."""
        return dict(self._committable)

    def committed(self, offsets: Mapping[Partition, int]) -> None:
        """These next offsets, of an earlier `committable()`, are committed."""
        for partition, offset in offsets.items():
            if self._committable.get(partition) == offset:
                del self._committable[partition]


class BytesInHand:
    """The bytes of the records that a source sent and that are not acked."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._bytes = 0
        self._acked = AutoResetEvent()

    def add(self, batch: Batch) -> Batch:
        """The batch, counted until it is acked."""
        size = sum(map(_size, batch.records))
        self._bytes += size

        def ack() -> None:
            nonlocal size
            self._bytes -= size
            size = 0  # an ack may be repeated
            batch.ack()
            self._acked.set()

        return replace(batch, ack=ack)

    async def wait_for_room(self) -> None:
        """Returns while there are no more than `most`."""
        while self._bytes > self._most:
            await self._acked.wait()


def _size(record: Record) -> int:
    headers = sum(len(name) + len(value) for name, value in record.headers.items())
    return len(record.value) + len(record.key or "") + headers


class AutoResetEvent:
    """Wakes its one waiter for each `set`, also for one before the wait; waiting resets it."""

    def __init__(self) -> None:
        self._event = trio.Event()

    def set(self) -> None:
        self._event.set()

    async def wait(self) -> None:
        await self._event.wait()
        self._event = trio.Event()

"""Up to which offset each partition is dealt with: what the sources commit."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import trio

Partition: TypeAlias = tuple[str, int]
"""(topic, partition)"""


@dataclass(slots=True, eq=False)
class _Sent:
    next_offset: int
    acked: bool = False


class Acks:
    """The acks of one assignment. Batches of a partition may be acked in any order; an offset is due
    once everything below it is acked. After `close` (partitions taken away) acks change nothing."""

    def __init__(self, wake: Callable[[], None]) -> None:
        """`wake` is called when more is due; it must not raise."""
        self._wake = wake
        self._open = True
        self._sent: dict[Partition, deque[_Sent]] = {}
        self._due: dict[Partition, int] = {}

    @property
    def closed(self) -> bool:
        return not self._open

    def close(self) -> None:
        self._open = False

    def track(self, partition: Partition, next_offset: int) -> Callable[[], None]:
        """The `ack` of a batch that ends right before `next_offset`; called in the order of offsets."""
        queue = self._sent.setdefault(partition, deque())
        sent = _Sent(next_offset)
        queue.append(sent)

        def ack() -> None:
            sent.acked = True
            if self._open and queue and queue[0] is sent:
                while queue and queue[0].acked:
                    self._due[partition] = queue.popleft().next_offset
                self._wake()

        return ack

    def due(self) -> dict[Partition, int]:
        """Next offsets that are not committed yet."""
        return dict(self._due)

    def settle(self, committed: Mapping[Partition, int]) -> None:
        for partition, offset in committed.items():
            if self._due.get(partition) == offset:
                del self._due[partition]


class Bell:
    """Wakes one waiter, also when it rang before the wait."""

    def __init__(self) -> None:
        self._event = trio.Event()

    def ring(self) -> None:
        self._event.set()

    async def rung(self) -> None:
        await self._event.wait()
        self._event = trio.Event()

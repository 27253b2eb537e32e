"""A source in memory: a partitioned log that several instances of one Trio run consume as a group."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence

import trio

from nx_signal.adapters.offsets import OffsetTracker
from nx_signal.errors import SourceUnavailable
from nx_signal.model import Position, Record
from nx_signal.ports import Batch, SourcePosition

MAX_BATCH = 500
NO_HEADERS: Mapping[str, bytes] = {}


class MemoryTopic:
    """An append-only log. Each partition is assigned to one of the running sources; when one stops, its
    partitions are reassigned to the others, which start at the last ack."""

    def __init__(self, partitions: int = 1, name: str = "memory") -> None:
        self.name = name
        self._logs: list[list[Record]] = [[] for _ in range(partitions)]
        self._committed = [0] * partitions
        self._members: list[MemorySource] = []
        self._changed = trio.Event()

    def source(self, instance: str = "memory") -> MemorySource:
        return MemorySource(instance, self)

    def publish(
        self,
        messages: Iterable[tuple[str | None, bytes]],
        *,
        partition: int | None = None,
        headers: Mapping[str, bytes] = NO_HEADERS,
    ) -> None:
        """(key, value) each; without `partition` the key determines it."""
        for key, value in messages:
            at = zlib.crc32((key or "").encode()) % len(self._logs) if partition is None else partition
            log = self._logs[at]
            log.append(Record(Position(self.name, at, len(log)), key, value, headers))
        self.notify()

    def committed(self, partition: int = 0) -> int:
        """The offset that a consumer of this partition starts at."""
        return self._committed[partition]

    def commit(self, offsets: Mapping[tuple[str, int], int]) -> None:
        for (_, partition), offset in offsets.items():
            self._committed[partition] = max(self._committed[partition], offset)

    def read(self, partition: int, offset: int) -> Sequence[Record]:
        return self._logs[partition][offset : offset + MAX_BATCH]

    def join(self, source: MemorySource) -> None:
        self._members.append(source)
        self._assign()

    def leave(self, source: MemorySource) -> None:
        self._members.remove(source)
        self._assign()

    def _assign(self) -> None:
        """In turn, by the order of joining. Every member starts at the last acks again, as in Kafka."""
        count = len(self._members)
        for index, member in enumerate(self._members):
            partitions = range(len(self._logs))[index::count]
            member.assign({partition: self._committed[partition] for partition in partitions})
        self.notify()

    def notify(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    @property
    def changed(self) -> trio.Event:
        """set when there are more records, or another assignment"""
        return self._changed


class MemorySource:
    """A Source, and a Journal, over a MemoryTopic; by default over a new one with one partition.

    Faults: between `cut` and `restore` its run raises SourceUnavailable."""

    def __init__(self, name: str = "memory", topic: MemoryTopic | None = None) -> None:
        self._name = name
        self._cut = False
        self._lost = trio.Event()
        self._topic = topic or MemoryTopic(name=name)
        self._positions: dict[int, int] = {}
        self._offsets = OffsetTracker(self._commit)

    @property
    def name(self) -> str:
        return self._name

    @property
    def topic(self) -> MemoryTopic:
        return self._topic

    def publish(self, messages: Iterable[tuple[str | None, bytes]], partition: int | None = None) -> None:
        self._topic.publish(messages, partition=partition)

    async def append(self, messages: Sequence[tuple[str, bytes]]) -> None:
        await trio.lowlevel.checkpoint()
        for event_id, message in messages:
            self._topic.publish([(event_id, message)], headers={"ce_id": event_id.encode()})

    def cut(self) -> None:
        self._cut = True
        self._lost.set()

    def restore(self) -> None:
        self._cut = False

    def assign(self, positions: dict[int, int]) -> None:
        """Called by the topic: read these partitions from these offsets, and no others."""
        self._offsets.close()
        self._offsets = OffsetTracker(self._commit)
        self._positions = positions

    async def run(self, batches: trio.MemorySendChannel[Batch], task_status: trio.TaskStatus[None]) -> None:
        if self._cut:
            raise SourceUnavailable(f"The source {self._name} is cut off.")
        self._lost = trio.Event()
        self._topic.join(self)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._send, batches)
                task_status.started()
                await self._lost.wait()
                raise SourceUnavailable(f"The source {self._name} is cut off.")
        finally:
            self._topic.leave(self)
            self.assign({})

    async def _send(self, batches: trio.MemorySendChannel[Batch]) -> None:
        while True:
            changed = self._topic.changed
            batch = self._next_batch()
            if batch is not None:
                await batches.send(batch)
            else:
                await changed.wait()

    def _next_batch(self) -> Batch | None:
        for partition, offset in self._positions.items():
            records = self._topic.read(partition, offset)
            if records:
                del self._positions[partition]  # in turns: the partition just served goes last
                self._positions[partition] = end = offset + len(records)
                return Batch(tuple(records), self._offsets.track((self._topic.name, partition), end))
        return None

    def _commit(self) -> None:
        acked = self._offsets.committable()
        self._topic.commit(acked)
        self._offsets.committed(acked)


class MemoryPositions:
    """ports.SourcePositions for as long as the test runs; groups have names of their own."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str], dict[int, SourcePosition]] = {}

    async def load(self, group: str, topic: str, partitions: Iterable[int]) -> Mapping[int, SourcePosition]:
        return self._kept.setdefault((group, topic), dict.fromkeys(partitions, SourcePosition()))

    async def save(self, group: str, topic: str, positions: Mapping[int, SourcePosition]) -> None:
        self._kept[group, topic].update(positions)

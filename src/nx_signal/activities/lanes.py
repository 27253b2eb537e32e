"""Partitions that are handled by a task of their own for a while, so that no other one of their source waits:
behind a large audience, behind what a crash left suspect, or behind what the store does not finish.

The order within a partition stays: all that comes of it goes to its lane, until that is empty."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from functools import partial

import trio

from nx_signal.activities.handling import Begun, Handling
from nx_signal.activities.in_hand import SET_ASIDE, Key, is_deadly, key_of
from nx_signal.activities.progress import Progress
from nx_signal.errors import StatementBlocked, StatementFailed
from nx_signal.model import Position, Record
from nx_signal.ports import Batch
from nx_signal.store import Mark

AT_WORK = 4
"""Lanes, of all sources: each uses a connection of the store, and holds a portion of an audience."""
WAITING_RECORDS = 10_000
WAITING_BYTES = 33_554_432
"""In the lanes of one source; beyond either the source waits."""
MERGED_RECORDS = 500
"""Of one lane, handled together."""
BLOCKED_PAUSE_S = 1.0
"""Before a record that waits for a lock is tried again, so that other lanes have their turn."""


class Lanes:
    """Of one source."""

    def __init__(self, handling: Handling, nursery: trio.Nursery, at_work: trio.CapacityLimiter) -> None:
        self._handling = handling
        self._in_hand = handling.in_hand
        self._nursery = nursery
        self._at_work = at_work
        self._waiting: dict[Key, deque[Batch]] = {}
        self._suspected: dict[Key, Mark] = {}
        """by partition, what another process had in hand of it and is not through yet"""
        self._records = self._bytes = 0
        self._taken = trio.Event()

    def take(self, batch: Batch) -> bool:
        """Whether there is a lane for its partition, which has taken it then."""
        if key_of(batch) not in self._waiting.keys() | self._suspected.keys():
            return False
        self.open(batch)
        return True

    def suspect(self, found: Mapping[Key, Mark]) -> None:
        """What another process had in hand is handled in a lane."""
        self._suspected.update(found)

    def open(self, batch: Batch) -> None:
        """The batch goes to the lane of its partition, which is made if missing."""
        key = key_of(batch)
        self._count(batch, 1)
        if key in self._waiting:
            self._waiting[key].append(batch)
        else:
            self._waiting[key] = deque([batch])
            self._nursery.start_soon(self._run, key)

    async def room(self) -> None:
        """Wait until less is waiting."""
        while self._records > WAITING_RECORDS or self._bytes > WAITING_BYTES:
            await self._taken.wait()

    def _count(self, batch: Batch, sign: int) -> None:
        self._records += sign * len(batch.records)
        self._bytes += sign * sum(len(record.value) for record in batch.records)

    async def _run(self, key: Key) -> None:
        waiting = self._waiting[key]
        while waiting:
            batches = [waiting.popleft()]
            while waiting and sum(len(batch.records) for batch in batches) < MERGED_RECORDS:
                batches.append(waiting.popleft())
            await self._work(key, batches)
            for batch in batches:
                self._count(batch, -1)
            self._taken.set()
            self._taken = trio.Event()
        del self._waiting[key]  # no await since it was empty

    async def _work(self, key: Key, batches: Sequence[Batch]) -> None:
        """Handle them, and ack each when its last record is dealt with."""
        records = [record for batch in batches for record in batch.records]
        unacked = deque(batches)
        progress: dict[Position, Progress] = {}
        done, acked, at_once = 0, 0, len(records)
        if key not in self._suspected:
            await self._mark(key, records)
        while done < len(records):
            if key in self._suspected and records[done].position.offset > self._suspected[key].last_offset:
                await self._clear(key)
                await self._mark(key, records[done:])
                continue
            try:
                async with self._at_work:
                    if (found := self._suspected.get(key)) is None:
                        handled = await self._some(records[done : done + at_once], progress)
                        at_once = 2 * handled
                    else:
                        handled = await self._singly(records[done:], found, progress)
            except StatementBlocked:
                at_once = 1
                await trio.sleep(BLOCKED_PAUSE_S)
                continue
            done += handled
            while unacked and done >= acked + len(unacked[0].records):
                acked += len(unacked[0].records)
                unacked.popleft().ack()
        if (found := self._suspected.get(key)) is not None:
            await self._handling.until_available(self._in_hand.release, found)

    async def _mark(self, key: Key, records: Sequence[Record]) -> None:
        found = await self._handling.until_available(self._in_hand.mark, {key: records})
        self._suspected.update(found)

    async def _clear(self, key: Key) -> None:
        """The suspect records are dealt with."""
        await self._handling.until_available(self._in_hand.release, self._suspected[key])
        del self._suspected[key]

    async def _singly(
        self, records: Sequence[Record], found: Mark, progress: dict[Position, Progress]
    ) -> int:
        """Handle the first ones, up to the last that was in hand; how many."""
        first = records[0]
        if first.position.offset < found.first_offset:  # dealt with before that, and come again
            return await self._some([r for r in records if r.position.offset < found.first_offset], progress)
        if is_deadly(found, first):
            abandoned = await self._handling.until_available(self._in_hand.is_abandoned, found)
            if abandoned:
                await self._handling.set_aside(first, SET_ASIDE)
                return 1
        await self._handling.until_available(self._in_hand.mark_alone, found, first)
        cleared = partial(self._handling.until_available, self._in_hand.release, found)
        await self._one(first, progress.setdefault(first.position, Progress()), cleared)
        return 1

    async def _some(self, records: Sequence[Record], progress: dict[Position, Progress]) -> int:
        """Handle as many of the first ones as go together; how many that were, at least one."""
        while len(records) > 1:
            try:
                if handled := await self._handling.some(records, progress):
                    return len(handled)
                break
            except StatementFailed:
                records = records[: len(records) // 2]
        await self._one(records[0], progress.setdefault(records[0].position, Progress()))
        return 1

    async def _one(self, record: Record, progress: Progress, begun: Begun = trio.lowlevel.checkpoint) -> None:
        """`begun` is called once the process has survived a try."""
        try:
            handled = await self._handling.some([record], {record.position: progress})
        except StatementFailed:
            handled = ()
            await begun()
        if handled:
            await begun()
        else:
            await self._handling.one(record, progress, begun)

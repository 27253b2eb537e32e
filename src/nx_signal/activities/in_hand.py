"""The durable memory of what this process has in hand: what one process did not survive, the next one handles
one by one, and the one after that sets aside.

Before a batch is handled its offsets are written to the store; nothing is written after it. Where another
process has records of it in hand, that one has crashed, or has lost the partition: then handling them one by
one costs a little time and no more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

import trio

from nx_signal.model import Record
from nx_signal.ports import Batch
from nx_signal.store import InHandStore, Mark

CRASHES = 2
"""Processes that ended, one after the other, with a record in hand: the next one sets it aside."""

LOOKS, LOOK_EVERY_S = 60, 0.25
"""For a change of what a process has in hand alone: one record takes milliseconds, and a statement that does
not finish at most 12 s."""

SET_ASIDE = (
    "This record was in hand when the process ended without a stop, twice in a row: it is set aside "
    "unhandled. Look for the cause in its last lines of log and its memory limit, then replay or discard it."
)

Key: TypeAlias = tuple[str, str, int]
"""(origin, topic, partition)"""


def key_of(batch: Batch) -> Key:
    return (batch.origin, *batch.partition)


class InHand:
    """Of one process, whose name, given to no other, is `owner`. Every call may raise StoreUnavailable."""

    def __init__(self, store: InHandStore, owner: str) -> None:
        self._store = store
        self._owner = owner
        self._marked = False

    async def mark(self, records: Mapping[Key, Sequence[Record]]) -> Mapping[Key, Mark]:
        """Before these are handled. By partition, what another process had in hand of it: of these partitions
        nothing is marked."""
        self._marked = True
        marks = []
        for key, of_partition in records.items():
            offsets = [record.position.offset for record in of_partition]
            marks.append(Mark(*key, min(offsets), max(offsets)))
        found = await self._store.mark(self._owner, marks)
        return {(mark.origin, mark.topic, mark.partition): mark for mark in found}

    async def mark_alone(self, found: Mark, record: Record) -> None:
        """Before a record of what was found is handled by itself."""
        self._marked = True
        offset = record.position.offset
        ended = found.ended + 1
        await self._store.mark(
            self._owner,
            [replace(found, first_offset=offset, last_offset=offset, ended=ended)],
            force=True,
        )

    async def is_abandoned(self, found: Mark) -> bool:
        """Whether the process that had this in hand has ended: one that only lost the partition is soon
        through with it. Of a journal it has: no two read it."""
        for _ in range(0 if found.origin else LOOKS):
            await trio.sleep(LOOK_EVERY_S)
            if await self._store.get(found.origin, found.topic, found.partition) != found:
                return False
        return True

    async def release(self, found: Mark | None = None) -> None:
        """What this process has in hand of this partition, or of all, does not count when it ends."""
        if self._marked:
            await self._store.release(self._owner, found)

    async def touch(self) -> None:
        """A write: whether the store takes any."""
        await self._store.touch(self._owner)


def is_deadly(found: Mark, record: Record) -> bool:
    """Whether enough processes ended with this record alone in hand."""
    alone = found.first_offset == found.last_offset == record.position.offset
    return alone and found.ended + 1 >= CRASHES

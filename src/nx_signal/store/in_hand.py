"""Which records each process has in hand: written before they are handled, so that the next process
finds what the one before it did not survive."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

from nx_signal.store.driver import Driver, Tx


@dataclass(frozen=True, slots=True)
class Mark:
    """The records of a partition from `first_offset` through `last_offset`. `ended`: how many processes ended
    before, one after the other, with these in hand."""

    origin: str
    topic: str
    partition: int
    first_offset: int
    last_offset: int
    ended: int = 0


class InHandStore:
    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    async def mark(self, owner: str, marks: Sequence[Mark], *, force: bool = False) -> Sequence[Mark]:
        """One statement; a mark takes the place of the one before of its partition. Without `force` one of
        another owner that has a record in common stays, and is returned."""
        asked = {(mark.origin, mark.topic, mark.partition): mark for mark in marks}
        given = json.dumps([asdict(asked[key]) for key in sorted(asked)])
        marked = await self._driver.write_one(_mark, owner, given, force)
        others = asked.keys() - marked
        return await self._driver.read(_found, sorted(others)) if others else []

    async def get(self, origin: str, topic: str, partition: int) -> Mark | None:
        return await self._driver.read_one(_get, origin, topic, partition)

    async def release(self, owner: str, mark: Mark | None = None) -> None:
        """Remove the owner's mark of this partition, or all of its marks."""
        await self._driver.write(_release, owner, mark)

    async def touch(self, owner: str) -> None:
        """A durable write of no effect."""
        await self._driver.write(_touch, owner)


async def _mark(tx: Tx, owner: str, marks: str, force: bool) -> set[tuple[str, str, int]]:
    rows = await tx.all("mark_in_hand", owner=owner, marks=marks, force=force)
    return {(row["origin"], row["topic"], row["partition"]) for row in rows}


async def _found(tx: Tx, partitions: Sequence[tuple[str, str, int]]) -> list[Mark]:
    found = [await _get(tx, *partition) for partition in partitions]
    return [mark for mark in found if mark is not None]


async def _get(tx: Tx, origin: str, topic: str, partition: int) -> Mark | None:
    row = await tx.one("in_hand", origin=origin, topic=topic, partition=partition)
    return None if row is None else Mark(**{field.name: row[field.name] for field in fields(Mark)})


async def _release(tx: Tx, owner: str, mark: Mark | None) -> None:
    if mark is None:
        await tx.run("release_all_in_hand", owner=owner)
    else:
        await tx.run(
            "release_in_hand", owner=owner, origin=mark.origin, topic=mark.topic, partition=mark.partition
        )


async def _touch(tx: Tx, owner: str) -> None:
    await tx.run("touch_in_hand", owner=owner)

"""How far each group of a source has read: the store's own memory, beside the broker's offsets. The port is
ports.SourcePositions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields

from nx_signal.ports import SourcePosition
from nx_signal.store.driver import Driver, Tx

_FIELDS = tuple(field.name for field in fields(SourcePosition))


class SourcePositions:
    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    async def load(self, group: str, topic: str, partitions: Iterable[int]) -> Mapping[int, SourcePosition]:
        found = await self._driver.read_one(_load, group, topic)
        return found or await self._driver.write(_begin, group, topic, sorted(partitions))

    async def save(self, group: str, topic: str, positions: Mapping[int, SourcePosition]) -> None:
        await self._driver.write(_save, group, topic, positions)


async def _load(tx: Tx, group: str, topic: str) -> dict[int, SourcePosition]:
    rows = await tx.all("source_positions", group_id=group, topic=topic)
    return {row["partition"]: SourcePosition(*(row[name] for name in _FIELDS)) for row in rows}


async def _begin(tx: Tx, group: str, topic: str, partitions: list[int]) -> dict[int, SourcePosition]:
    """Two instances that start together record the same partitions."""
    await tx.many(
        "begin_source_position",
        [{"group_id": group, "topic": topic, "partition": each} for each in partitions],
    )
    return await _load(tx, group, topic)


async def _save(tx: Tx, group: str, topic: str, positions: Mapping[int, SourcePosition]) -> None:
    await tx.many(
        "save_source_position",
        [
            {"group_id": group, "topic": topic, "partition": partition, **asdict(positions[partition])}
            for partition in sorted(positions)
        ],
    )

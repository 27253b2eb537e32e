"""store.SourcePositions, on every database."""

from __future__ import annotations

from contract.store_suite import unique
from nx_signal.ports import SourcePosition
from nx_signal.store import Database

NOTHING = SourcePosition()


async def test_the_partitions_of_the_first_call_are_those_that_there_were(database: Database) -> None:
    group = unique("group")
    assert await database.source_positions.load(group, "t", {0, 1}) == {0: NOTHING, 1: NOTHING}
    assert await database.source_positions.load(group, "t", {0, 1, 2}) == {0: NOTHING, 1: NOTHING}
    assert await database.source_positions.load(group, "other", [5]) == {5: NOTHING}


async def test_what_was_saved_last_is_loaded(database: Database) -> None:
    group = unique("group")
    await database.source_positions.load(group, "t", {0, 1})
    await database.source_positions.save(group, "t", {1: SourcePosition("id", 3, 4), 2: SourcePosition()})
    moved = SourcePosition("id", 3, 2**40)
    await database.source_positions.save(group, "t", {1: moved})
    await database.source_positions.save(group, "t", {})
    assert await database.source_positions.load(group, "t", ()) == {0: NOTHING, 1: moved, 2: NOTHING}

"""store.InHandStore, on every database."""

from __future__ import annotations

from dataclasses import replace

from contract.store_suite import unique
from nx_signal.store import Database, Mark


def of(first: int, last: int, topic: str, partition: int = 0) -> Mark:
    return Mark("", topic, partition, first, last)


async def test_a_mark_takes_the_place_of_the_owner_s_one_before(database: Database) -> None:
    topic, store = unique("t"), database.in_hand
    assert await store.mark("a", [of(1, 5, topic), of(7, 7, topic, 1)]) == []
    assert await store.mark("a", [of(3, 9, topic)]) == []
    assert await store.get("", topic, 0) == of(3, 9, topic)
    assert await store.get("", topic, 1) == of(7, 7, topic, 1)


async def test_what_another_owner_has_in_hand_stays_and_is_returned(database: Database) -> None:
    topic, store = unique("t"), database.in_hand
    held = replace(of(3, 9, topic), ended=2)
    await store.mark("a", [held])
    for first, last in ((9, 12), (1, 3), (4, 5), (1, 20)):
        assert await store.mark("b", [of(first, last, topic), of(1, 1, topic, 1)]) == [held]
    assert await store.get("", topic, 0) == held
    assert await store.get("", topic, 1) == of(1, 1, topic, 1)


async def test_what_another_owner_has_dealt_with_is_in_no_one_s_way(database: Database) -> None:
    topic, store = unique("t"), database.in_hand
    await store.mark("a", [of(3, 9, topic)])
    assert await store.mark("b", [of(10, 12, topic)]) == []
    assert await store.mark("c", [of(1, 9, topic)]) == []
    assert await store.get("", topic, 0) == of(1, 9, topic)


async def test_a_forced_mark_takes_the_place_of_any(database: Database) -> None:
    topic, store = unique("t"), database.in_hand
    await store.mark("a", [of(3, 9, topic)])
    alone = replace(of(4, 4, topic), ended=1)
    assert await store.mark("b", [alone], force=True) == []
    assert await store.get("", topic, 0) == alone


async def test_only_an_owner_s_own_marks_are_released(database: Database) -> None:
    topic, store = unique("t"), database.in_hand
    marks = [of(n, n, topic, n) for n in range(3)]
    await store.mark("a", marks[:2])
    await store.mark("b", marks[2:])
    await store.release("b", marks[0])
    await store.release("a", marks[1])
    assert [await store.get("", topic, n) for n in range(3)] == [marks[0], None, marks[2]]
    await store.touch("a")
    await store.release("a")
    assert [await store.get("", topic, n) for n in range(3)] == [None, None, marks[2]]


async def test_journals_have_partitions_of_their_own(database: Database) -> None:
    topic, store = unique("t"), database.in_hand
    first, second = (replace(of(1, 2, topic), origin=origin) for origin in ("x", "y"))
    await store.mark("a", [first])
    assert await store.mark("b", [second]) == []
    assert await store.get("x", topic, 0) == first

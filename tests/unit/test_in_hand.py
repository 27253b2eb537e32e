"""What a process did not survive: each `running` is one process, which is killed at its end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from nx_signal.activities.in_hand import LOOK_EVERY_S, LOOKS, SET_ASIDE
from nx_signal.adapters.sqlite.memory import MemoryDatabase
from nx_signal.errors import SettingsError, StatementBlocked, StatementFailed
from nx_signal.model import Draft, Record
from nx_signal.service import letting_go
from nx_signal.store import Mark
from nx_signal.supervise import LONGEST_PAUSE_S
from pipeline_kit import ROSTER, Line, message, now, record, running

ABANDONED_AFTER_S = LOOKS * LOOK_EVERY_S + 1


async def a_database() -> MemoryDatabase:
    database = MemoryDatabase(now)
    await database.directory.load(ROSTER)
    return database


def batch(*events: str) -> list[Record]:
    return [record(message(eventId=event), n) for n, event in enumerate(events)]


async def dies(database: MemoryDatabase, owner: str, records: Sequence[Record]) -> Line:
    """A process that handles `deadly` for ever, until it is killed."""
    insert = database.inbox.insert

    async def never(drafts: Sequence[Draft]) -> Any:
        if any(draft.activity_id == "deadly" for draft in drafts):
            await trio.sleep_forever()
        return await insert(drafts)

    database.inbox.insert = never  # type: ignore[method-assign]
    async with running(database, owner) as line:
        await line.give(*records)
        await wait_all_tasks_blocked()
    database.inbox.insert = insert  # type: ignore[method-assign]
    return line


async def survives(database: MemoryDatabase, owner: str, records: Sequence[Record]) -> Line:
    async with running(database, owner) as line:
        await line.give(*records)
        await trio.sleep(ABANDONED_AFTER_S)
        await wait_all_tasks_blocked()
    return line


async def activities_of(line: Line) -> list[str]:
    return [row.activity_id for row in reversed(await line.inbox("ann"))]


async def test_a_record_in_hand_at_the_third_start_in_a_row_is_set_aside_unhandled_and_the_rest_flows(
    autojump_clock: MockClock,
) -> None:
    database, records = await a_database(), batch("a", "deadly", "b")
    first = await dies(database, "p1", records)
    assert await activities_of(first) == [] and first.acked == []
    second = await dies(database, "p2", records)
    assert await activities_of(second) == ["a"] and second.acked == []
    third = await survives(database, "p3", records)
    assert await activities_of(third) == ["a", "b"] and third.acked == [(0, 2)]
    (letter,) = await third.dead_letters()
    assert (letter.position.offset, letter.error, letter.value) == (1, SET_ASIDE, records[1].value)
    trace = await database.traces.get("t/0/1")
    assert trace is not None and (trace.outcome, trace.reason) == ("dead_letter", SET_ASIDE)


async def test_a_record_alone_in_its_batch_is_set_aside_at_the_third_start(autojump_clock: MockClock) -> None:
    database, records = await a_database(), batch("deadly")
    for owner in ("p1", "p2"):
        assert (await dies(database, owner, records)).acked == []
    third = await survives(database, "p3", records)
    assert third.acked == [(0, 0)] and len(await third.dead_letters()) == 1


async def test_a_kill_in_the_middle_of_normal_flow_sets_nothing_aside(autojump_clock: MockClock) -> None:
    database, records = await a_database(), batch("a", "deadly", "b")
    await dies(database, "p1", records)
    second = await survives(database, "p2", records)
    assert await activities_of(second) == ["a", "deadly", "b"] and second.acked == [(0, 2)]
    assert await second.dead_letters() == []
    third = await survives(database, "p3", records)  # what was acked last is often not committed
    assert await third.dead_letters() == [] and third.count("duplicate") == 3


async def test_a_process_that_only_lost_the_partition_is_through_with_its_record_soon(
    autojump_clock: MockClock,
) -> None:
    database, records = await a_database(), batch("a")
    alive = Mark("", "t", 0, 0, 0, ended=1)
    await database.in_hand.mark("p1", [alive])
    async with running(database, "p2") as line:
        await line.give(*records)
        await trio.sleep(LOOK_EVERY_S)
        assert line.acked == []
        await database.in_hand.release("p1", alive)
        await trio.sleep(ABANDONED_AFTER_S)
        assert await activities_of(line) == ["a"] and line.acked == [(0, 0)]
        assert await line.dead_letters() == []


async def test_a_store_that_is_away_through_restarts_counts_as_no_crash_of_a_record(
    autojump_clock: MockClock,
) -> None:
    database, records = await a_database(), batch("a", "b")
    await dies(database, "p1", batch("a", "deadly"))
    database.driver.unavailable = True
    for owner in ("p2", "p3", "p4"):
        async with running(database, owner) as line:
            await line.give(*records)
            await trio.sleep(30)
            assert line.acked == []
    database.driver.unavailable = False
    last = await survives(database, "p5", records)
    assert last.acked == [(0, 1)] and await last.dead_letters() == []


async def test_a_process_is_not_taken_for_ended_while_the_store_is_away(autojump_clock: MockClock) -> None:
    database = await a_database()
    alive = Mark("", "t", 0, 0, 0, ended=1)
    await database.in_hand.mark("p1", [alive])
    async with running(database, "p2") as line:
        await line.give(*batch("a"))
        await trio.sleep(LOOK_EVERY_S)
        database.driver.unavailable = True
        await trio.sleep(2 * ABANDONED_AFTER_S)
        database.driver.unavailable = False
        await database.in_hand.release("p1", alive)
        await trio.sleep(ABANDONED_AFTER_S + LONGEST_PAUSE_S)
        assert line.acked == [(0, 0)] and await line.dead_letters() == []


@pytest.mark.parametrize("error", [StatementFailed, StatementBlocked])
async def test_a_record_that_the_store_does_not_finish_ended_no_process(
    autojump_clock: MockClock, error: type[StatementFailed]
) -> None:
    database, records = await a_database(), batch("a", "b")
    insert = database.inbox.insert

    async def unfinished(drafts: Sequence[Draft]) -> Any:
        await trio.sleep(8)
        raise error("PostgreSQL did not finish a statement.")

    database.inbox.insert = unfinished  # type: ignore[method-assign]
    for owner in ("p1", "p2", "p3"):
        async with running(database, owner) as line:
            await line.give(*records)
            await trio.sleep(10)
    database.inbox.insert = insert  # type: ignore[method-assign]
    last = await survives(database, "p4", records)
    assert last.acked == [(0, 1)] and await last.dead_letters() == []


async def test_a_stop_that_does_not_wait_is_no_crash(autojump_clock: MockClock) -> None:
    database = await a_database()
    for owner in ("p1", "p2", "p3", "p4"):
        async with running(database, owner) as line:
            gate = trio.Event()
            insert = database.inbox.insert

            async def slow(drafts: Sequence[Draft], gate: trio.Event = gate, insert: Any = insert) -> Any:
                await gate.wait()
                return await insert(drafts)

            database.inbox.insert = slow  # type: ignore[method-assign]
            await line.give(*batch("a"))
            await wait_all_tasks_blocked()
            await line.pipeline.let_go()
        database.inbox.insert = insert  # type: ignore[method-assign]
    last = await survives(database, "p5", batch("a"))
    assert last.acked == [(0, 0)] and await last.dead_letters() == []


@pytest.mark.parametrize(
    ("error", "counts"),
    [(SettingsError("of another part"), False), (MemoryError(), True), (KeyError(), True)],
)
async def test_an_end_with_a_sentence_is_no_crash_of_a_record(
    autojump_clock: MockClock, error: Exception, counts: bool
) -> None:
    database = await a_database()
    line = Line(database, "p1")

    async def never(drafts: Sequence[Draft]) -> Any:
        await trio.sleep_forever()

    async def end() -> None:
        async with letting_go(line.pipeline), trio.open_nursery() as nursery:
            await nursery.start(line.pipeline.run, line.receive)
            await line.give(*batch("a"))
            await wait_all_tasks_blocked()
            raise error

    database.inbox.insert = never  # type: ignore[method-assign]
    with pytest.raises(ExceptionGroup):
        await end()
    assert (await database.in_hand.get("", "t", 0) is not None) is counts


async def test_partitions_without_a_suspect_record_go_on(autojump_clock: MockClock) -> None:
    database, records = await a_database(), batch("a", "deadly", "b")
    await dies(database, "p1", records)
    insert = database.inbox.insert

    async def never(drafts: Sequence[Draft]) -> Any:
        if any(draft.activity_id == "deadly" for draft in drafts):
            await trio.sleep_forever()
        return await insert(drafts)

    database.inbox.insert = never  # type: ignore[method-assign]
    async with running(database, "p2") as line:
        await line.give(*records)
        await line.give(record(message(eventId="other"), 0, partition=1))
        await wait_all_tasks_blocked()
        assert line.acked == [(1, 0)] and {*await activities_of(line)} == {"a", "other"}


async def test_a_large_record_is_cleared_once_its_first_rows_are_written(
    autojump_clock: MockClock,
) -> None:
    database = await a_database()
    users = [f"user{n}" for n in range(1_500)]
    records = [record(message(eventId="wide", recipientScope="users", recipientIds=users))]
    insert, calls = database.inbox.insert, 0

    async def slow(drafts: Sequence[Draft]) -> Any:
        nonlocal calls
        calls += 1
        if calls % 3 == 0:
            await trio.sleep_forever()
        return await insert(drafts)

    database.inbox.insert = slow  # type: ignore[method-assign]
    for owner in ("p1", "p2", "p3"):
        async with running(database, owner) as line:
            await line.give(*records)
            await wait_all_tasks_blocked()
            assert line.acked == []
    database.inbox.insert = insert  # type: ignore[method-assign]
    last = await survives(database, "p4", records)
    assert last.acked == [(0, 0)] and await last.dead_letters() == []
    assert (await database.inbox.rows_of("wide", None, 1))[1] == len(users)


async def test_an_offset_is_suspect_only_in_the_journal_that_had_it(autojump_clock: MockClock) -> None:
    database = await a_database()
    deadly = replace(Mark("one", "t", 0, 0, 0), ended=1)
    await database.in_hand.mark("p1", [deadly])
    async with running(database, "p2") as line:
        await line.give(*batch("a"), origin="other")
        await wait_all_tasks_blocked()
        assert line.acked == [(0, 0)]
        await line.give(*batch("b"), origin="one")
        await wait_all_tasks_blocked()
        assert line.acked == [(0, 0), (0, 0)] and len(await line.dead_letters()) == 1

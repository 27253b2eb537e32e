"""What one record can cause: bytes stored for each notification, large audiences, unfinished statements."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from nx_signal.activities import processor
from nx_signal.activities.handling import KEPT_BYTES, STORE_TRIES
from nx_signal.activities.lanes import AT_WORK
from nx_signal.activities.preview import Preview
from nx_signal.errors import MessageRejected, StatementBlocked, StatementFailed, StoreUnavailable
from nx_signal.model import Draft, Member, Roster
from pipeline_kit import REGISTRY, RENDERER, Line, message, now, record, running

Insert: TypeAlias = Callable[[Sequence[Draft]], Awaitable[Any]]

LARGE = 2_500


def large(**changes: Any) -> dict[str, Any]:
    """Whose members are `user0000`, `user0001`, …"""
    return message(recipientScope="org", organizerId="large", eventId="large", **changes)


def named(n: int) -> str:
    return f"user{n:04}"


async def load_members(line: Line, many: int = LARGE) -> None:
    members = [Member(named(n), "large", None, "staff", None) for n in range(many)]
    await line.database.directory.load(Roster((), members, ()))


def on_insert(line: Line, act: Callable[[Sequence[Draft], Insert], Awaitable[Any]]) -> None:
    original = line.database.inbox.insert

    async def insert(given: Sequence[Draft]) -> Any:
        return await act(given, original)

    line.database.inbox.insert = insert  # type: ignore


# --- bytes ---


async def test_data_beyond_the_limit_is_a_dead_letter_before_any_recipient_is_looked_up(
    autojump_clock: MockClock,
) -> None:
    async with running(notification_bytes=1_024) as line:
        await line.process(message(data={"payment": {"amount": 1}, "note": "x" * 1_000}), message())
        (letter,) = await line.dead_letters()
        assert letter.error == (
            "data has 1034 bytes as JSON, and a notification may have 1024: have less sent, such as a "
            "reference to it, or raise APP_ENV_NOTIFICATION_BYTES."
        )
        assert len(await line.inbox("ann")) == 1 and line.acked == [(0, 1)]
        trace = await line.database.traces.get("t/0/0")
        assert trace is not None and trace.recipients == 0 and trace.outcome == "dead_letter"


async def test_an_actor_beyond_the_limit_is_a_dead_letter(autojump_clock: MockClock) -> None:
    async with running(notification_bytes=1_024) as line:
        await line.process(message(actor={"id": "a", "name": "x" * 1_024, "type": "USER"}))
        (letter,) = await line.dead_letters()
        assert letter.error.startswith("actor has 1058 bytes as JSON")


async def test_texts_and_data_count_together_once_for_each_language(autojump_clock: MockClock) -> None:
    fits = {"payment": {"amount": 1, "subject": "s" * 150}, "note": "x" * 300}
    async with running(notification_bytes=1_024) as line:
        await line.process(message(data=fits), message(data=fits, subject="y" * 256))
        (letter,) = await line.dead_letters()
        assert letter.position.offset == 1
        assert letter.error.startswith("The notification in ")
        assert " of its data, and may have 1024: have less sent" in letter.error
        assert len(await line.inbox("ann")) == 1


async def test_a_preview_refuses_what_would_become_a_dead_letter() -> None:
    async with running() as line:
        preview = Preview(REGISTRY, RENDERER, line.database.directory, now, 1_024)
        for changes in ({"data": {"payment": {"amount": 1}, "x": "y" * 1_024}}, {"subject": "y" * 256}):
            near = {"data": {"payment": {"amount": 1}, "x": "y" * 700}} | changes
            with pytest.raises(MessageRejected, match="APP_ENV_NOTIFICATION_BYTES"):
                await preview.preview(record(message(**near)).value)


async def test_rows_of_many_bytes_are_written_in_several_statements(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processor, "MAX_CHUNK_BYTES", 10_000)
    sizes = []

    async def measure(given: Sequence[Draft], insert: Insert) -> Any:
        sizes.append(len(given))
        return await insert(given)

    async with running() as line:
        on_insert(line, measure)
        users = [named(n) for n in range(20)]
        data = {"payment": {"amount": 1}, "x": "y" * 2_000}
        await line.process(
            message(recipientScope="users", recipientIds=users, data=data),
            message(recipientScope="users", recipientIds=users[:3], data=data),
        )
        assert max(sizes) == 4 and sum(sizes) == 23
        assert line.acked == [(0, 1)]


# --- audiences ---


async def test_a_large_audience_is_written_in_portions_each_announced_before_the_next(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processor, "AUDIENCE_PORTION", 250)
    announced = []

    async def look(given: Sequence[Draft], insert: Insert) -> Any:
        announced.append((len(given), len(line.announced)))
        return await insert(given)

    async with running() as line:
        await load_members(line)
        on_insert(line, look)
        await line.process(large())
        assert announced[:4] == [(100, 0), (100, 100), (50, 200), (100, 250)]
        assert [change.recipient_id for change in line.announced] == [named(n) for n in range(LARGE)]
        trace = await line.database.traces.get("large")
        assert trace is not None and (trace.recipients, trace.rule, trace.outcome) == (LARGE, "org", "stored")
        assert line.acked == [(0, 0)]


async def test_other_partitions_go_on_beside_a_large_audience_and_its_own_waits(
    autojump_clock: MockClock,
) -> None:
    gate = trio.Event()

    async def stop(given: Sequence[Draft], insert: Insert) -> Any:
        if given[0].activity_id == "large":
            await gate.wait()
        return await insert(given)

    async with running() as line:
        await load_members(line)
        on_insert(line, stop)
        await line.give(record(message(eventId="a"), 0), record(large(), 1), record(message(eventId="b"), 2))
        await line.give(record(message(eventId="c"), 0, partition=1))
        await line.give(record(message(eventId="d"), 3))
        await line.give(record(message(eventId="e"), 1, partition=1))
        await wait_all_tasks_blocked()
        assert line.acked == [(1, 0), (1, 1)]
        assert [row.activity_id for row in await line.inbox("ann")] == ["e", "c", "a"]
        gate.set()
        await wait_all_tasks_blocked()
        assert line.acked == [(1, 0), (1, 1), (0, 2), (0, 3)]
        assert [row.activity_id for row in await line.inbox("ann")] == ["d", "b", "e", "c", "a"]
        await line.give(record(message(eventId="f"), 4))
        await wait_all_tasks_blocked()
        assert line.acked[-1] == (0, 4)


async def test_a_crash_between_two_portions_loses_and_doubles_nothing(autojump_clock: MockClock) -> None:
    reached, stuck = trio.Event(), trio.Event()

    async def die(given: Sequence[Draft], insert: Insert) -> Any:
        if len(line.announced) >= 1_000:
            reached.set()
            await stuck.wait()
        return await insert(given)

    async with running() as line:
        database = line.database
        await load_members(line)
        original = database.inbox.insert
        on_insert(line, die)
        await line.give(record(large()))
        await reached.wait()
        assert line.acked == [] and await database.traces.get("large") is None
    database.inbox.insert = original  # type: ignore[method-assign]
    async with running(database, "p2") as line:
        await line.process(large())
        assert line.acked == [(0, 0)] and len(line.announced) == LARGE - 1_000
        trace = await database.traces.get("large")
        assert trace is not None and (trace.recipients, trace.outcome) == (LARGE, "stored")
        assert (await database.inbox.rows_of("large", None, 1))[1] == LARGE
        assert await line.dead_letters() == []


async def test_a_large_audience_goes_on_where_the_store_went_away(autojump_clock: MockClock) -> None:
    calls = []

    async def fail_once(given: Sequence[Draft], insert: Insert) -> Any:
        calls.append(given[0].recipient_id)
        if len(calls) == 5:
            raise StoreUnavailable("it is away")
        return await insert(given)

    async with running() as line:
        await load_members(line)
        on_insert(line, fail_once)
        await line.process(large())
        await trio.sleep(10)
        assert calls[3:6] == [named(300), named(400), named(400)] and len(calls) == 26
        assert line.acked == [(0, 0)] and len(line.announced) == LARGE


# --- statements that do not finish ---


def unfinished(*events: str, below: int = 0) -> Callable[[Sequence[Draft], Insert], Awaitable[Any]]:
    async def act(given: Sequence[Draft], insert: Insert) -> Any:
        await trio.sleep(10)
        if len(given) > below and any(draft.activity_id in events for draft in given):
            raise StatementFailed("PostgreSQL did not finish a statement.")
        return await insert(given)

    return act


async def test_a_record_that_the_store_never_finishes_is_set_aside_and_the_others_flow(
    autojump_clock: MockClock,
) -> None:
    async with running() as line:
        on_insert(line, unfinished("poison"))
        await line.give(*(record(message(eventId=f"e{n}" if n != 70 else "poison"), n) for n in range(100)))
        await line.give(record(message(eventId="other"), 0, partition=1))
        await trio.sleep(60)
        assert line.acked == [(1, 0)], "the other partition does not wait"
        await trio.sleep(600)
        (letter,) = await line.dead_letters()
        assert letter.position.offset == 70
        assert letter.error.startswith(
            f"The store takes others, and did not finish this record in {STORE_TRIES}"
        )
        assert len(await line.inbox("ann")) == 100 and line.acked == [(1, 0), (0, 99)]
        assert "store" not in line.health.down


async def test_a_large_audience_that_times_out_is_written_in_smaller_statements(
    autojump_clock: MockClock,
) -> None:
    async with running() as line:
        await load_members(line)
        on_insert(line, unfinished("large", below=50))
        await line.process(large())
        await trio.sleep(3_600)
        assert line.acked == [(0, 0)] and len(line.announced) == LARGE
        assert await line.dead_letters() == []


async def test_a_lock_of_another_program_holds_up_only_the_partitions_that_need_it(
    autojump_clock: MockClock,
) -> None:
    locked = True

    async def wait_for_lock(given: Sequence[Draft], insert: Insert) -> Any:
        if locked and any(draft.recipient_id == "locked" for draft in given):
            await trio.sleep(8)
            raise StatementBlocked("PostgreSQL did not give a lock in time.")
        return await insert(given)

    def to(user: str) -> dict[str, Any]:
        return message(recipientScope="users", recipientIds=[user], eventId=f"to {user}")

    partitions = range(1, AT_WORK + 3)
    async with running() as line:
        await load_members(line)
        on_insert(line, wait_for_lock)
        for partition in partitions:
            users = ("ann", "locked", "zoe")
            await line.give(*(record(to(user), n, partition) for n, user in enumerate(users)))
        await trio.sleep(60)
        await line.give(record(large()))
        await trio.sleep(600)
        assert line.acked == [(0, 0)] and len(await line.inbox("ann")) == 1
        assert line.health.ready and "lock" in line.health.degraded["store"]
        locked = False
        await trio.sleep(60)
        assert {*line.acked[1:]} == {(partition, 2) for partition in partitions}
        assert len(await line.inbox("locked")) == len(await line.inbox("zoe")) == 1
        assert await line.dead_letters() == []


@pytest.mark.parametrize("failures", [1, 2, 3, 4])
async def test_the_actor_of_an_empty_audience_is_notified_after_statements_that_were_not_finished(
    autojump_clock: MockClock, failures: int
) -> None:
    left = [StatementFailed("PostgreSQL did not finish a statement.")] * failures

    async def fail(given: Sequence[Draft], insert: Insert) -> Any:
        if left:
            raise left.pop()
        return await insert(given)

    async with running() as line:
        on_insert(line, fail)
        await line.process(message(organizerId="empty"))
        await trio.sleep(60)
        assert line.acked == [(0, 0)] and line.count("stored") == 1
        assert len(await line.inbox("actor")) == 1


async def test_a_large_audience_is_written_in_larger_statements_again_once_the_store_finishes_them(
    autojump_clock: MockClock,
) -> None:
    sizes: list[int] = []

    async def slow_for_a_while(given: Sequence[Draft], insert: Insert) -> Any:
        sizes.append(len(given))
        if len(sizes) < 4:
            raise StatementFailed("PostgreSQL did not finish a statement.")
        return await insert(given)

    async with running() as line:
        await load_members(line)
        on_insert(line, slow_for_a_while)
        await line.process(large())
        await trio.sleep(600)
        assert sizes[:6] == [100, 12, 1, 1, 2, 3] and line.acked == [(0, 0)]


async def test_a_store_that_takes_no_other_write_either_is_waited_for(autojump_clock: MockClock) -> None:
    async with running() as line:

        async def frozen(given: Sequence[Draft], insert: Insert) -> Any:
            line.database.driver.unavailable = True
            raise StatementFailed("PostgreSQL did not finish a statement.")

        original = line.database.inbox.insert
        on_insert(line, frozen)
        await line.process(message(), message())
        await trio.sleep(600)
        assert line.acked == [] and "store" in line.health.down and not line.health.ready
        line.database.inbox.insert = original  # type: ignore[method-assign]
        line.database.driver.unavailable = False
        await trio.sleep(10)
        assert line.acked == [(0, 1)] and await line.dead_letters() == []


async def test_of_a_value_that_no_dead_letter_can_hold_the_beginning_is_kept(
    autojump_clock: MockClock,
) -> None:
    async with running() as line:
        original = line.database.dead_letters.add

        async def add(letters: Any) -> None:
            if any(len(letter.value) > KEPT_BYTES for letter in letters):
                raise StatementFailed("PostgreSQL did not finish a statement.")
            await original(letters)

        line.database.dead_letters.add = add  # type: ignore[method-assign]
        await line.process(message(), b"x" * 100_000, message())
        await trio.sleep(600)
        (letter,) = await line.dead_letters()
        assert letter.position.offset == 1 and letter.value == b"x" * KEPT_BYTES
        assert letter.error.endswith(f"Only the first {KEPT_BYTES} bytes of it are kept.")
        assert len(await line.inbox("ann")) == 2 and line.acked == [(0, 2)]

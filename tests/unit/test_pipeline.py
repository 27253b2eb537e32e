"""From records to rows to announcements, on memory adapters and Trio's mock clock."""

from __future__ import annotations

from typing import Any

import pytest
import structlog
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from nx_signal.activities.pipeline import WAITING_BATCHES
from nx_signal.activities.processor import MAX_UNKNOWN_TYPES
from nx_signal.adapters.sqlite.memory import MemoryDatabase
from nx_signal.errors import StoreRejected, StoreUnavailable
from nx_signal.model import (
    Created,
    Position,
    Record,
    Rule,
)
from nx_signal.ports import Batch
from pipeline_kit import ROSTER, Line, message, now, record, running


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"recipientScope": "org"}, {"owner", "ann", "binh"}),
        ({"recipientScope": "merchant", "merchantId": "m1"}, {"ann", "binh"}),
        ({"recipientScope": "merchant", "merchantId": "x1"}, {"actor"}),
        ({"recipientScope": "merchant"}, {"actor"}),
        ({"recipientScope": "users", "recipientIds": ["ann", "zoe", "ann"]}, {"ann", "zoe"}),
        ({"recipientScope": "users", "recipientIds": []}, {"actor"}),
        ({"recipientScope": "users"}, {"actor"}),
        ({"recipientScope": "org", "organizerId": "unknown"}, {"actor"}),
    ],
    ids=[
        "org",
        "merchant",
        "another organizer's merchant",
        "no merchant",
        "users",
        "no users",
        "null",
        "empty org",
    ],
)
async def test_a_scope_names_its_recipients_and_otherwise_the_actor(
    autojump_clock: MockClock, changes: dict[str, Any], expected: set[str]
) -> None:
    async with running() as line:
        await line.process(message(**changes))
        assert await line.recipients() == expected
        assert {change.recipient_id for change in line.announced} == expected
        assert len(line.announced) == len(expected)
        assert line.acked == [(0, 0)]


async def test_each_reader_gets_their_own_language_else_the_organization_s_else_english(
    autojump_clock: MockClock,
) -> None:
    async with running() as line:
        await line.process(message(), message(recipientScope="users", recipientIds=["zoe"], organizerId="o2"))
        rows = {user: (await line.inbox(user))[0] for user in ("ann", "binh", "zoe")}
        assert {user: row.locale for user, row in rows.items()} == {"ann": "en", "binh": "vi", "zoe": "en"}
        assert rows["binh"].content.replace("\xa0", " ").startswith("Thanh toán thành công 1.250.000 ₫")
        assert "₫1,250,000" in rows["ann"].content


INQUIRY = {"eventType": "INQUIRY_SUBMITTED", "data": {"inquiry": {"name": "Lan"}}, "merchantId": "m1"}


@pytest.mark.parametrize(
    ("changes", "pushed"),
    [
        ({"recipientScope": "org"}, [("o1", "m1", "org")]),
        ({"recipientScope": "merchant"}, [("o1", "m1", "merchant")]),
        ({"recipientScope": "merchant", "merchantId": "x1"}, []),
        ({"recipientScope": "users", "recipientIds": ["ann"]}, []),
        ({"recipientScope": "org", "eventType": "ORDER_COMPLETED"}, []),
    ],
    ids=["org", "merchant", "another organizer's merchant", "named users", "another type"],
)
async def test_an_inquiry_is_pushed_once_to_the_members_of_its_scope(
    autojump_clock: MockClock, changes: dict[str, Any], pushed: list[tuple[str, str | None, Rule]]
) -> None:
    async with running() as line:
        await line.process(message(**{**INQUIRY, **changes, "eventId": "e1"}))
        await line.process(message(**{**INQUIRY, **changes, "eventId": "e1"}))  # once more
        assert line.pushed == pushed


@pytest.mark.parametrize(("written", "pushed"), [("ann", []), ("binh", [("o1", "m1", "merchant")])])
async def test_of_two_deliveries_that_write_a_part_of_the_rows_each_the_one_with_the_first_row_pushes(
    autojump_clock: MockClock, written: str, pushed: list[tuple[str, str | None, Rule]]
) -> None:
    inquiry = {**INQUIRY, "eventId": "e1"}
    async with running() as line:
        # In the place of the other delivery: the same activity, not pushed for its scope.
        await line.process(message(**{**inquiry, "recipientScope": "users", "recipientIds": [written]}))
        await line.process(message(**{**inquiry, "recipientScope": "merchant"}))
        assert await line.recipients() == {"ann", "binh"}
        assert line.pushed == pushed


async def test_a_record_that_was_sent_again_in_the_same_batch_is_pushed_once(
    autojump_clock: MockClock,
) -> None:
    """After a rebalance, batches that wait are processed with what is sent again."""
    async with running() as line:
        once = record(message(**{**INQUIRY, "recipientScope": "merchant"}), 0)
        processed = await line.processor.process([once, once], {})
        assert [each.trace.outcome for each in processed] == ["stored", "stored"]
        assert len(line.pushed) == 1


async def test_inquiries_are_pushed_in_the_order_of_their_records(autojump_clock: MockClock) -> None:
    merchants = [f"m{n}" for n in range(8)]
    async with running() as line:
        await line.process(*(message(**{**INQUIRY, "merchantId": merchant}) for merchant in merchants))
        assert [merchant for _, merchant, _ in line.pushed] == merchants


async def test_an_unknown_event_type_is_skipped_and_counted(autojump_clock: MockClock) -> None:
    async with running() as line:
        await line.process(message(eventType="COFFEE_SPILLED"), message(eventType="X", organizerId=None))
        assert await line.recipients() == set() and await line.dead_letters() == []
        assert line.count("unknown_type") == 2 and line.acked == [(0, 1)]


@pytest.mark.parametrize(
    ("type", "why"),
    [
        ("payment_success", "is not known here; the nearest that is known is PAYMENT_SUCCESS."),
        ("PAYMNT_SUCCESS", "is not known here; the nearest that is known is PAYMENT_SUCCESS."),
        ("COFFEE_SPILLED", "The event type COFFEE_SPILLED is not known here."),
    ],
)
async def test_an_unknown_event_type_is_explained_and_logged_once_a_minute(
    autojump_clock: MockClock, type: str, why: str
) -> None:
    async with running() as line:
        with structlog.testing.capture_logs() as logs:
            for n in range(3):
                await line.give(record(message(eventType=type, eventId=f"e{n}"), n))
                await wait_all_tasks_blocked()
            await trio.sleep(61)
            await line.give(record(message(eventType=type, eventId="e3"), 3))
            await wait_all_tasks_blocked()
        reported = [each for each in logs if each["event"] == "unknown_event_type"]
        assert [(each["type"], each["count"]) for each in reported] == [(type, 1), (type, 3)]
        trace = await line.database.traces.get("e0")
        assert trace is not None and trace.outcome == "unknown_type"
        assert trace.reason is not None and trace.reason.endswith(why)


async def test_the_number_of_unknown_types_that_are_logged_is_bounded(autojump_clock: MockClock) -> None:
    async with running() as line:
        with structlog.testing.capture_logs() as logs:
            await line.process(*(message(eventType=f"T{n}") for n in range(2 * MAX_UNKNOWN_TYPES)))
        reported = [each for each in logs if each["event"] == "unknown_event_type"]
        assert len(reported) == MAX_UNKNOWN_TYPES + 1


@pytest.mark.parametrize(
    "poison",
    [
        b"",
        b"not json",
        b"[]",
        b"\xff",
        {"eventType": "PAYMENT_SUCCESS"},
        {"data": {"payment": {"amount": "abc"}}},
    ],
    ids=["tombstone", "not json", "list", "not utf-8", "fields missing", "data does not fit"],
)
async def test_a_malformed_message_becomes_a_dead_letter_with_error_and_position_and_stops_nothing(
    autojump_clock: MockClock, poison: Any
) -> None:
    async with running() as line:
        await line.process(message(), poison, message())
        (dead_letter,) = await line.dead_letters()
        assert dead_letter.position == Position("t", 0, 1) and dead_letter.error
        assert dead_letter.value == record(poison).value
        assert len(await line.inbox("ann")) == 2 and line.acked == [(0, 2)]
        assert line.count("dead_letter") == 1


async def test_a_character_that_no_store_holds_is_replaced_and_its_trace_says_so(
    autojump_clock: MockClock,
) -> None:
    async with running() as line:
        cut = {"payment": {"subject": "Order \ud83d", "amount": 1}, "note": ["\0"]}
        await line.process(message(eventId="e1", data=cut), message(eventId="e2"))
        first, second = (await line.inbox("ann"))[::-1]
        assert "for Order \ufffd succeeded" in first.content
        assert first.data == {"payment": {"subject": "Order \ufffd", "amount": 1}, "note": ["\ufffd"]}
        mended, plain = [await line.database.traces.get(id) for id in ("e1", "e2")]
        assert mended is not None and mended.outcome == "stored"
        assert mended.reason is not None and mended.reason.startswith("2 characters that no store holds")
        assert plain is not None and plain.reason is None
        assert await line.dead_letters() == [] and second.activity_id == "e2"


async def test_redelivery_makes_no_second_row_and_no_second_announcement(autojump_clock: MockClock) -> None:
    async with running() as line:
        await line.process(message(eventId="e1"), message())
        announced = len(line.announced)
        await line.process(message(eventId="e1"), message())
        await line.process(message(eventId="other"), message())
        assert len(await line.inbox("ann")) == 3
        assert len(line.announced) == announced + 3
        assert line.count("duplicate") == 3


async def test_an_unavailable_store_is_waited_for_in_place_and_nothing_is_acked_before(
    autojump_clock: MockClock,
) -> None:
    async with running() as line:
        line.database.driver.unavailable = True
        await line.process(message())
        await trio.sleep(60)
        assert line.acked == [] and "store" in line.health.down
        line.database.driver.unavailable = False
        await trio.sleep(10)
        assert line.acked == [(0, 0)] and len(await line.inbox("ann")) == 1
        assert line.health.ready


async def test_a_write_whose_answer_was_lost_is_repeated_harmlessly(autojump_clock: MockClock) -> None:
    async with running() as line:
        original = line.database.inbox.insert
        answers = iter([StoreUnavailable("the answer is lost")])

        async def insert(drafts: Any) -> Any:
            changes = await original(drafts)
            for error in answers:
                raise error
            return changes

        line.database.inbox.insert = insert  # type: ignore[method-assign]
        await line.process(message())
        await trio.sleep(10)
        assert len(await line.inbox("ann")) == 1 and line.acked == [(0, 0)]


async def test_one_source_does_not_wait_for_another(autojump_clock: MockClock) -> None:
    async with running() as line, trio.open_nursery() as nursery:
        gate = trio.Event()
        original = line.database.inbox.insert

        async def insert(drafts: Any) -> Any:
            if any(draft.activity_id == "slow" for draft in drafts):
                await gate.wait()
            return await original(drafts)

        async def give_many() -> None:
            for n in range(WAITING_BATCHES + 10):
                await line.give(record(message(eventId="slow" if n == 0 else f"e{n}"), n))

        line.database.inbox.insert = insert  # type: ignore[method-assign]
        nursery.start_soon(give_many)
        await wait_all_tasks_blocked()
        send, receive = trio.open_memory_channel[Batch](0)
        await nursery.start(line.pipeline.run, receive)
        done = trio.Event()
        await send.send(Batch((record(message(eventId="fast"), 0, topic="other"),), done.set))
        await wait_all_tasks_blocked()
        assert done.is_set() and line.acked == []
        gate.set()
        await wait_all_tasks_blocked()
        assert len(line.acked) == WAITING_BATCHES + 10
        await line.pipeline.finish()


async def test_waiting_batches_are_processed_as_one_and_acked_one_by_one(autojump_clock: MockClock) -> None:
    async with running() as line:
        gate, calls = trio.Event(), 0
        original = line.database.inbox.insert

        async def insert(drafts: Any) -> Any:
            nonlocal calls
            calls += 1
            await gate.wait()
            return await original(drafts)

        line.database.inbox.insert = insert  # type: ignore[method-assign]
        for n in range(6):
            await line.give(record(message(eventId=f"e{n}"), n // 2, partition=n % 2))
        await wait_all_tasks_blocked()
        gate.set()
        await wait_all_tasks_blocked()
        assert calls == 2, "the first alone, then all that waited"
        assert line.acked == [(0, 0), (1, 0), (0, 1), (1, 1), (0, 2), (1, 2)]
        assert len(await line.inbox("ann")) == 6


async def test_a_row_that_the_store_refuses_fails_only_its_own_activity(autojump_clock: MockClock) -> None:
    async with running() as line:
        original = line.database.inbox.insert

        async def insert(drafts: Any) -> Any:
            if any(draft.activity_id == "unstorable" for draft in drafts):
                raise StoreRejected("a value cannot be stored")
            return await original(drafts)

        line.database.inbox.insert = insert  # type: ignore[method-assign]
        await line.process(message(eventId="a"), message(eventId="unstorable"), message(eventId="b"))
        assert len(await line.inbox("ann")) == 2
        (dead_letter,) = await line.dead_letters()
        assert dead_letter.position.offset == 1 and dead_letter.error == "a value cannot be stored"


async def test_an_audience_beyond_one_statement_is_written_in_several(autojump_clock: MockClock) -> None:
    async with running() as line:
        users = [f"user{n}" for n in range(2_500)]
        await line.process(message(recipientScope="users", recipientIds=users))
        created = [change for change in line.announced if isinstance(change, Created)]
        assert [change.recipient_id for change in created] == users and line.acked == [(0, 0)]


async def test_look_ups_do_not_grow_with_the_number_of_activities(autojump_clock: MockClock) -> None:
    async with running() as line:
        calls = 0

        async def count() -> None:
            nonlocal calls
            calls += 1
            await trio.lowlevel.checkpoint()

        line.database.driver.delay = count
        await line.process(*(message(eventId=f"e{n}") for n in range(100)))
        assert line.acked == [(0, 99)]
        assert calls == 6, "in hand, corrections, recipients, languages, rows, traces"


async def test_each_activity_leaves_one_trace_of_its_outcome(autojump_clock: MockClock) -> None:
    async with running() as line:
        await line.process(
            message(eventId="a"),
            message(eventId="a"),
            message(eventType="COFFEE_SPILLED", eventId="b"),
            message(eventId="c", organizerId=None),
            b"no json",
            message(recipientScope="merchant", merchantId="x1", eventId="d"),
            message(eventId="e", data={"payment": {"amount": "abc"}}),
        )
        traces = {
            id: await line.database.traces.get(id) for id in ("a", "b", "c", "t/0/4", "d", "e", "t/0/0")
        }
        assert {id: trace and (trace.position, trace.type, trace.rule, trace.recipients, trace.outcome)
                for id, trace in traces.items()} == {
            "a": ("t/0/0", "PAYMENT_SUCCESS", "org", 3, "stored"),
            "b": ("t/0/2", "COFFEE_SPILLED", None, 0, "unknown_type"),
            "c": ("t/0/3", "PAYMENT_SUCCESS", None, 0, "dead_letter"),
            "t/0/4": ("t/0/4", None, None, 0, "dead_letter"),
            "d": ("t/0/5", "PAYMENT_SUCCESS", "actor", 1, "stored"),
            "e": ("t/0/6", "PAYMENT_SUCCESS", "org", 3, "dead_letter"),
            "t/0/0": None,
        }  # fmt: skip
        reasons = {dead_letter.position: dead_letter.error for dead_letter in await line.dead_letters()}
        assert {t.position: t.reason for t in traces.values() if t and t.reason} == {
            "t/0/2": "The event type COFFEE_SPILLED is not known here.",
            **{str(position): error for position, error in reasons.items()},
        }
        counted = ("stored", "duplicate", "unknown_type", "dead_letter")
        assert [line.count(outcome) for outcome in counted] == [2, 1, 1, 3]


async def test_a_batch_repeated_because_its_traces_failed_counts_as_stored_and_not_as_a_duplicate(
    autojump_clock: MockClock,
) -> None:
    async with running() as line:
        original = line.database.traces.add
        answers = iter([StoreUnavailable("unavailable for a moment")])

        async def add(traces: Any) -> Any:
            for error in answers:
                raise error
            return await original(traces)

        line.database.traces.add = add  # type: ignore[method-assign]
        await line.process(message(eventId="a"))
        await trio.sleep(10)
        trace = await line.database.traces.get("a")
        assert trace is not None and trace.outcome == "stored"
        assert (line.count("stored"), line.count("duplicate")) == (1, 0)
        assert line.acked == [(0, 0)] and len(await line.inbox("ann")) == 1


async def test_finish_processes_the_batches_already_taken_and_takes_no_more(
    autojump_clock: MockClock,
) -> None:
    database = MemoryDatabase(now)
    await database.directory.load(ROSTER)
    line = Line(database)
    async with trio.open_nursery() as nursery:
        await nursery.start(line.pipeline.run, line.receive)
        gate = trio.Event()
        database.driver.delay = gate.wait
        await line.give(record(message(), 0))
        await wait_all_tasks_blocked()
        nursery.start_soon(line.pipeline.finish)
        await wait_all_tasks_blocked()
        await line.give(record(message(), 1))
        assert line.acked == []
        gate.set()
    assert line.acked == [(0, 0)]


# --- identity -------------------------------------------------------------------------------------


def other(**changes: Any) -> dict[str, Any]:
    """The same people, another payment."""
    return message(data={"payment": {"subject": "Order 43", "amount": 7, "currency": "VND"}}, **changes)


async def test_the_same_id_of_two_sources_is_two_activities(autojump_clock: MockClock) -> None:
    async with running() as line:
        await line.process(
            message(eventId="42", eventSource="/orders"),
            other(eventId="42", eventSource="/payments"),
            message(eventId="42", eventSource="/orders"),
        )
        assert (line.count("stored"), line.count("duplicate"), line.count("conflict")) == (2, 1, 0)
        assert len(await line.inbox("ann")) == 2


@pytest.mark.parametrize("together", [True, False])
async def test_a_second_activity_with_the_same_id_and_other_content_is_visible(
    autojump_clock: MockClock, together: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    async with running() as line:
        first, second = record(message(eventId="42"), 0), record(other(eventId="42"), 1)
        for batch in [(first, second)] if together else [(first,), (second,)]:
            await line.give(*batch)
            await wait_all_tasks_blocked()
        assert (line.count("stored"), line.count("conflict"), len(await line.inbox("ann"))) == (1, 1, 1)
        kept, conflict = [await line.database.traces.get(id) for id in ("42", "t/0/1")]
        assert kept is not None and kept.outcome == "stored"
        assert kept.reason == (
            "Another activity with this identity and other content came at t/0/1, which made no second "
            "notification."
        )
        assert conflict is not None and conflict.outcome == "conflict"
        assert "Its identity 42 is that of another activity" in (conflict.reason or "")
        for offset in range(2, 9):
            await line.give(record(message(eventId="42", occurredAt=f"2026-01-01T10:0{offset}:00Z"), offset))
        await wait_all_tasks_blocked()
        again = await line.database.traces.get("42")
        assert again is not None and again.reason == kept.reason
        assert line.count("conflict") == 8
        assert capsys.readouterr().out.count("conflicting_activities") == 1
        await trio.sleep(60)
        await line.give(record(other(eventId="42"), 9))
        await wait_all_tasks_blocked()
        assert "many=8" in capsys.readouterr().out.replace("\x1b[0m", "").replace("\x1b[35m", "")


async def test_a_producers_retry_with_its_fields_in_another_order_is_no_conflict(
    autojump_clock: MockClock,
) -> None:
    async with running() as line:
        await line.process(message(eventId="42"))
        await line.give(record(dict(reversed(message(eventId="42").items())), 1))
        await wait_all_tasks_blocked()
        assert (line.count("duplicate"), line.count("conflict")) == (1, 0)


async def test_a_topic_that_was_made_anew_has_activities_of_its_own_at_the_same_positions(
    autojump_clock: MockClock,
) -> None:
    async with running() as line:
        await line.process(message(), message())
        await line.process(other(), message())  # the second is the same record, delivered again
        assert (line.count("stored"), line.count("duplicate")) == (3, 1)
        await line.process(other(), message())
        assert (line.count("stored"), line.count("duplicate"), len(await line.inbox("ann"))) == (3, 3, 3)


async def test_an_id_that_looks_like_a_position_never_hides_the_record_there(
    autojump_clock: MockClock,
) -> None:
    async with running() as line:
        await line.give(record(message(eventId="t/0/1"), 0, topic="journal"))
        await line.give(record(other(), 1))
        await wait_all_tasks_blocked()
        assert (line.count("stored"), len(await line.inbox("ann"))) == (2, 2)


async def test_two_dead_letters_at_one_position_are_both_kept(autojump_clock: MockClock) -> None:
    async with running() as line:
        await line.process(b"of the old topic")
        await line.process(b"of the new one")
        await line.process(b"of the new one")
        assert {letter.value for letter in await line.dead_letters()} == {
            b"of the old topic",
            b"of the new one",
        }


async def test_a_tombstone_is_counted_and_is_no_dead_letter(autojump_clock: MockClock) -> None:
    async with running() as line:
        await line.give(Record(Position("t", 0, 5), "key", b"", is_tombstone=True), record(message(), 6))
        await wait_all_tasks_blocked()
        assert (line.count("tombstone"), line.count("stored")) == (1, 1)
        assert await line.dead_letters() == [] and line.acked == [(0, 6)]

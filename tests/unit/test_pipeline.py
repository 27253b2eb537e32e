"""From records to rows to announcements, on memory adapters and Trio's mock clock."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from nx_signal.activities.content import Renderer
from nx_signal.activities.pipeline import Pipeline
from nx_signal.activities.registry import Registry
from nx_signal.adapters.memory.store import MemoryDatabase
from nx_signal.errors import StoreRejected, StoreUnavailable
from nx_signal.model import (
    Activity,
    Change,
    Created,
    DeadLetter,
    InboxFilter,
    Member,
    Organizer,
    Position,
    Record,
    Roster,
    Rule,
)
from nx_signal.ports import Batch
from nx_signal.telemetry.health import Health
from nx_signal.telemetry.metrics import Metrics

REGISTRY = Registry.shipped()
RENDERER = Renderer(REGISTRY, "UTC")
ROSTER = Roster(
    organizers=[Organizer("o1", "vi", ("m1", "m2")), Organizer("o2", None, ("x1",))],
    members=[
        Member("owner", "o1", None, "owner", "en"),
        Member("ann", "o1", "m1", "staff", "en"),
        Member("binh", "o1", "m1", "staff", None),
        Member("binh", "o1", "m2", "staff", None),
        Member("xavier", "o2", "x1", "staff", None),
    ],
    grants=[],
)


def now() -> datetime:
    return datetime(2026, 1, 1, tzinfo=UTC)


def message(**changes: Any) -> dict[str, Any]:
    return {
        "eventType": "PAYMENT_SUCCESS",
        "recipientScope": "org",
        "actorId": "actor",
        "actor": {"id": "actor", "name": "Mai", "type": "USER"},
        "organizerId": "o1",
        "data": {"payment": {"subject": "Order 42", "amount": 1250000, "currency": "VND"}},
        "occurredAt": "2026-01-01T10:00:00Z",
        **changes,
    }


def record(value: Any, offset: int = 0, partition: int = 0, topic: str = "t") -> Record:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return Record(Position(topic, partition, offset), None, raw)


class Line:
    """One running pipeline: send batches in, look at what became of them."""

    def __init__(self, database: MemoryDatabase) -> None:
        self.database = database
        self.metrics = Metrics()
        self.health = Health(("store",), self.metrics)
        self.acked: list[tuple[int, int]] = []
        self.announced: list[Change] = []
        self.shown: list[tuple[str, str | None, Rule]] = []
        self.send, self.receive = trio.open_memory_channel[Batch](2)
        self.pipeline = Pipeline(
            registry=REGISTRY,
            renderer=RENDERER,
            database=database,
            announce=self.announced.extend,
            health=self.health,
            metrics=self.metrics,
            show=self.show,
        )

    async def show(self, activity: Activity, rule: Rule) -> None:
        await trio.lowlevel.checkpoint()
        self.shown.append((activity.organizer_id, activity.merchant_id, rule))

    async def give(self, *records: Record) -> None:
        last = records[-1].position
        await self.send.send(Batch(records, lambda: self.acked.append((last.partition, last.offset))))

    async def process(self, *values: Any) -> None:
        await self.give(*(record(value, n) for n, value in enumerate(values)))
        await wait_all_tasks_blocked()

    async def inbox(self, user: str) -> Sequence[Any]:
        return (await self.database.inbox.page(user, InboxFilter(), 100, None, 0)).rows

    async def recipients(self) -> set[str]:
        users = ("owner", "ann", "binh", "xavier", "actor", "zoe")
        return {user for user in users if await self.inbox(user)}

    async def letters(self) -> Sequence[DeadLetter]:
        return await self.database.dead_letters.page(100, None)

    def count(self, outcome: str) -> float:
        return self.metrics.activities.labels(outcome)._value.get()


@asynccontextmanager
async def running() -> AsyncIterator[Line]:
    database = MemoryDatabase(now)
    await database.directory.load(ROSTER)
    line = Line(database)
    async with trio.open_nursery() as nursery:
        await nursery.start(line.pipeline.run, line.receive)
        yield line
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("changes", "hear"),
    [
        ({"recipientScope": "org"}, {"owner", "ann", "binh"}),
        ({"recipientScope": "merchant", "merchantId": "m1"}, {"ann", "binh"}),
        ({"recipientScope": "merchant", "merchantId": "x1"}, {"actor"}),
        ({"recipientScope": "merchant"}, {"actor"}),
        ({"recipientScope": "users", "recipientIds": ["ann", "zoe", "ann"]}, {"ann", "zoe"}),
        ({"recipientScope": "users", "recipientIds": []}, {"actor"}),
        ({"recipientScope": "users"}, {"actor"}),
        ({"recipientScope": "org", "organizerId": "nobody's"}, {"actor"}),
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
    autojump_clock: MockClock, changes: dict[str, Any], hear: set[str]
) -> None:
    async with running() as line:
        await line.process(message(**changes))
        assert await line.recipients() == hear
        assert {change.recipient_id for change in line.announced} == hear
        assert len(line.announced) == len(hear)
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
    ("changes", "shown"),
    [
        ({"recipientScope": "org"}, [("o1", "m1", "org")]),
        ({"recipientScope": "merchant"}, [("o1", "m1", "merchant")]),
        ({"recipientScope": "merchant", "merchantId": "x1"}, []),
        ({"recipientScope": "users", "recipientIds": ["ann"]}, []),
        ({"recipientScope": "org", "eventType": "ORDER_COMPLETED"}, []),
    ],
    ids=["org", "merchant", "another organizer's merchant", "named users", "another type"],
)
async def test_an_inquiry_is_shown_once_to_the_members_whom_it_is_for(
    autojump_clock: MockClock, changes: dict[str, Any], shown: list[tuple[str, str | None, Rule]]
) -> None:
    async with running() as line:
        await line.process(message(**{**INQUIRY, **changes, "eventId": "e1"}))
        await line.process(message(**{**INQUIRY, **changes, "eventId": "e1"}))  # once more
        assert line.shown == shown


async def test_inquiries_are_shown_in_the_order_of_their_records(autojump_clock: MockClock) -> None:
    merchants = [f"m{n}" for n in range(8)]
    async with running() as line:
        await line.process(*(message(**{**INQUIRY, "merchantId": merchant}) for merchant in merchants))
        assert [merchant for _, merchant, _ in line.shown] == merchants


async def test_an_unknown_event_type_is_skipped_and_counted(autojump_clock: MockClock) -> None:
    async with running() as line:
        await line.process(message(eventType="COFFEE_SPILLED"), message(eventType="X", organizerId=None))
        assert await line.recipients() == set() and await line.letters() == []
        assert line.count("unknown_type") == 2 and line.acked == [(0, 1)]


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
async def test_a_malformed_message_is_set_aside_with_error_and_position_and_stops_nothing(
    autojump_clock: MockClock, poison: Any
) -> None:
    async with running() as line:
        await line.process(message(), poison, message())
        (letter,) = await line.letters()
        assert letter.position == Position("t", 0, 1) and letter.error
        assert letter.value == record(poison).value
        assert len(await line.inbox("ann")) == 2 and line.acked == [(0, 2)]
        assert line.count("dead_letter") == 1


async def test_redelivery_makes_no_second_row_and_no_second_announcement(autojump_clock: MockClock) -> None:
    async with running() as line:
        await line.process(message(eventId="e1"), message())
        announced = len(line.announced)
        await line.process(message(eventId="e1"), message())
        await line.process(message(eventId="other"), message())
        assert len(await line.inbox("ann")) == 3
        assert len(line.announced) == announced + 3
        assert line.count("duplicate") == 3


async def test_a_store_that_is_away_is_waited_for_in_place_and_nothing_is_acked_before(
    autojump_clock: MockClock,
) -> None:
    async with running() as line:
        line.database.unavailable = True
        await line.process(message())
        await trio.sleep(60)
        assert line.acked == [] and "store" in line.health.down
        line.database.unavailable = False
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
    async with running() as line:
        gate = trio.Event()
        original = line.database.inbox.insert

        async def insert(drafts: Any) -> Any:
            if drafts[0].activity_id == "slow":
                await gate.wait()
            return await original(drafts)

        line.database.inbox.insert = insert  # type: ignore[method-assign]
        await line.give(record(message(eventId="slow"), 0, partition=0))
        await line.give(record(message(eventId="fast"), 0, partition=1, topic="other"))
        await wait_all_tasks_blocked()
        assert line.acked == [(1, 0)]
        gate.set()
        await wait_all_tasks_blocked()
        assert line.acked == [(1, 0), (0, 0)]


async def test_batches_that_wait_are_handled_as_one_and_acked_each(autojump_clock: MockClock) -> None:
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


async def test_what_the_store_refuses_takes_only_its_own_activity_with_it(autojump_clock: MockClock) -> None:
    async with running() as line:
        original = line.database.inbox.insert

        async def insert(drafts: Any) -> Any:
            if any(draft.activity_id == "unstorable" for draft in drafts):
                raise StoreRejected("a value cannot be stored")
            return await original(drafts)

        line.database.inbox.insert = insert  # type: ignore[method-assign]
        await line.process(message(eventId="a"), message(eventId="unstorable"), message(eventId="b"))
        assert len(await line.inbox("ann")) == 2
        (letter,) = await line.letters()
        assert letter.position.offset == 1 and letter.error == "a value cannot be stored"


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

        line.database.delay = count
        await line.process(*(message(eventId=f"e{n}") for n in range(100)))
        assert line.acked == [(0, 99)]
        assert calls == 4, "recipients, languages, rows, traces"


async def test_each_activity_leaves_one_trace_of_what_became_of_it(autojump_clock: MockClock) -> None:
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
        reasons = {letter.position: letter.error for letter in await line.letters()}
        assert {t.position: t.reason for t in traces.values() if t and t.reason} == {
            str(position): error for position, error in reasons.items()
        }
        counted = ("stored", "duplicate", "unknown_type", "dead_letter")
        assert [line.count(outcome) for outcome in counted] == [2, 1, 1, 3]


async def test_a_batch_repeated_because_its_traces_failed_was_stored_and_no_duplicate(
    autojump_clock: MockClock,
) -> None:
    async with running() as line:
        original = line.database.traces.add
        answers = iter([StoreUnavailable("gone for a moment")])

        async def add(traces: Any) -> None:
            for error in answers:
                raise error
            await original(traces)

        line.database.traces.add = add  # type: ignore[method-assign]
        await line.process(message(eventId="a"))
        await trio.sleep(10)
        trace = await line.database.traces.get("a")
        assert trace is not None and trace.outcome == "stored"
        assert (line.count("stored"), line.count("duplicate")) == (1, 0)
        assert line.acked == [(0, 0)] and len(await line.inbox("ann")) == 1


async def test_finish_works_off_what_is_in_hand_and_takes_no_more(autojump_clock: MockClock) -> None:
    database = MemoryDatabase(now)
    await database.directory.load(ROSTER)
    line = Line(database)
    async with trio.open_nursery() as nursery:
        await nursery.start(line.pipeline.run, line.receive)
        gate = trio.Event()
        database.delay = gate.wait
        await line.give(record(message(), 0))
        await wait_all_tasks_blocked()
        nursery.start_soon(line.pipeline.finish)
        await wait_all_tasks_blocked()
        await line.give(record(message(), 1))
        assert line.acked == []
        gate.set()
    assert line.acked == [(0, 0)]

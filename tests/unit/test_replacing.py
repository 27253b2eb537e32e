"""Activities with a collapse key, an expiry or a priority, through a running pipeline."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import trio
from trio.testing import MockClock

import pipeline_kit
from nx_signal.activities import drafts, processor
from nx_signal.activities.progress import Progress
from nx_signal.adapters.sqlite.memory import MemoryDatabase
from nx_signal.model import Created
from nx_signal.model.timestamps import format_timestamp
from pipeline_kit import ROSTER, Line, explain_of, message, now, record, running

SOON = format_timestamp(now() + timedelta(minutes=5))


def keyed(minute: int, **changes: Any) -> dict[str, Any]:
    return message(
        eventId=f"e{minute}", collapseKey="k", occurredAt=f"2026-01-01T10:{minute:02}:00Z", **changes
    )


async def outcome_of(line: Line, activity_id: str) -> str | None:
    trace = await line.database.traces.get(activity_id)
    return None if trace is None else trace.outcome


async def test_a_newer_activity_takes_the_place_of_the_older_one_for_each_recipient(
    autojump_clock: MockClock,
) -> None:
    async with running() as line:
        await line.process(keyed(1))
        await line.process(keyed(2))
        for user in ("owner", "ann", "binh"):
            assert [row.activity_id for row in await line.inbox(user)] == ["e2"]
        replacing = line.announced[3:]
        assert len(replacing) == 3
        assert all(isinstance(each, Created) and len(each.replaces) == 1 for each in replacing)
        assert [await outcome_of(line, id) for id in ("e1", "e2")] == ["stored", "stored"]


async def test_a_late_older_activity_makes_nothing_and_its_trace_states_it(autojump_clock: MockClock) -> None:
    async with running() as line:
        await line.process(keyed(2), keyed(1))
        assert [row.activity_id for row in await line.inbox("ann")] == ["e2"]
        trace = await line.database.traces.get("e1")
        assert trace is not None and (trace.outcome, trace.recipients) == ("superseded", 3)
        assert trace.reason == "Each recipient had a newer notification with its collapseKey k."
        assert line.count("superseded") == 1


async def test_a_redelivered_older_activity_is_a_duplicate(autojump_clock: MockClock) -> None:
    async with running() as line:
        await line.process(keyed(1), keyed(2))
        await line.process(keyed(1), keyed(2))
        assert line.count("duplicate") == 2
        assert len(line.announced) == 6


async def test_one_that_is_late_for_some_of_its_recipients_is_stored_for_the_others(
    autojump_clock: MockClock,
) -> None:
    async with running() as line:
        await line.process(keyed(2, recipientScope="users", recipientIds=["ann"]), keyed(1))
        assert [row.activity_id for row in await line.inbox("ann")] == ["e2"]
        assert [row.activity_id for row in await line.inbox("owner")] == ["e1"]
        assert await outcome_of(line, "e1") == "stored"


async def test_explain_states_the_newer_one_also_where_newer_ones_came_since(
    autojump_clock: MockClock,
) -> None:
    time = now()
    database = MemoryDatabase(lambda: time)
    await database.directory.load(ROSTER)
    async with running(database) as line:
        await line.process(keyed(2, recipientScope="users", recipientIds=["ann"]), keyed(1))
        time += timedelta(minutes=1)
        await line.process(keyed(3))
        found = await explain_of(line).explain("e1", "ann")
        assert found is not None
        (ann,) = found.recipients
        assert ann.why.endswith(": a newer notification with its collapseKey k was there already.")


async def test_a_large_audience_is_replaced_in_portions(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (processor, drafts):
        monkeypatch.setattr(module, "MAX_DRAFTS", 2)
    async with running() as line:
        for minute, outcome in ((2, "stored"), (3, "stored"), (1, "superseded")):
            done = await line.processor.process_alone(
                record(keyed(minute)), Progress(), trio.lowlevel.checkpoint
            )
            assert done.trace.outcome == outcome
        assert [row.activity_id for row in await line.inbox("ann")] == ["e3"]


async def test_what_is_handled_at_its_expiry_or_later_makes_nothing(autojump_clock: MockClock) -> None:
    at = format_timestamp(now())
    async with running() as line:
        await line.process(
            message(eventId="late", expiresAt=at),
            message(eventId="past", expiresAt="2020-01-01T00:00:00Z"),
            message(eventId="in time", expiresAt=SOON),
        )
        (row,) = await line.inbox("ann")
        assert (row.activity_id, row.expires_at) == ("in time", now() + timedelta(minutes=5))
        trace = await line.database.traces.get("late")
        assert trace is not None and (trace.outcome, trace.recipients) == ("expired", 0)
        assert trace.reason == f"It was handled after its expiresAt, {at}."
        assert line.count("expired") == 2
        assert await line.dead_letters() == []


async def test_an_audience_whose_activity_expires_halfway_is_written_no_further(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its next portion is not begun."""
    for module in (processor, drafts):
        monkeypatch.setattr(module, "MAX_DRAFTS", 1)
    time = now()
    monkeypatch.setattr(pipeline_kit, "now", lambda: time)
    async with running() as line:

        async def begun() -> None:
            nonlocal time
            time += timedelta(hours=1)
            await trio.lowlevel.checkpoint()

        done = await line.processor.process_alone(
            record(message(eventId="e", expiresAt=SOON)), Progress(), begun
        )
        assert (done.trace.outcome, done.trace.recipients) == ("stored", 1)
        late = await line.processor.process_alone(
            record(message(eventId="f", expiresAt=SOON)), Progress(), begun
        )
        assert late.trace.outcome == "expired"


async def test_a_priority_is_in_the_notification_and_normal_where_none_is_stated(
    autojump_clock: MockClock,
) -> None:
    async with running() as line:
        await line.process(message(priority="high"), message(), message(priority=None))
        assert [row.priority for row in await line.inbox("ann")] == ["normal", "normal", "high"]

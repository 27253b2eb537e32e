"""Batches of CloudEvents on Kafka: each event is an activity by itself."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from nx_signal.activities import batches
from nx_signal.activities.batches import unbatched
from nx_signal.activities.replay import Replay
from nx_signal.adapters.sqlite.memory import MemoryDatabase
from nx_signal.model import Position, Record
from nx_signal.ports import Batch
from pipeline_kit import Line, message, now, record, running

BATCH = {"content-type": b"application/cloudevents-batch+json; charset=utf-8"}


def event(id: str, **changes: Any) -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "id": id,
        "source": "/s",
        "type": "PAYMENT_SUCCESS",
        "time": "2026-01-01T10:00:00Z",
        "recipientscope": "users",
        "recipientids": "ann",
        "organizerid": "o1",
        "actorid": "actor",
        "data": {"payment": {"amount": 1}},
        **changes,
    }


def batched(value: Any, offset: int = 0, headers: dict[str, bytes] | None = None) -> Record:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return Record(Position("t", 0, offset), "key", raw, BATCH | (headers or {}))


def parts_of(*records: Record) -> list[Batch]:
    return list(unbatched(Batch(records, lambda: None, "o")))


def members_of(value: Any, **headers: bytes) -> list[Record]:
    return [each for part in parts_of(batched(value, headers=headers)) for each in part.records]


async def give(line: Line, *records: Record) -> None:
    await line.give(*records)
    await wait_all_tasks_blocked()


# --- taken apart ---


def test_a_batch_becomes_a_record_for_each_event_with_a_position_of_its_own() -> None:
    members = members_of([event("1"), event("2")])
    assert [str(each.position) for each in members] == ["t/0/0#0", "t/0/0#1"]
    assert [json.loads(each.value)["id"] for each in members] == ["1", "2"]


def test_other_records_and_their_order_stay_as_they_are() -> None:
    plain, tombstone = record(message(), 4), Record(Position("t", 0, 6), None, b"", is_tombstone=True)
    without = Batch((plain, tombstone), lambda: None)
    assert list(unbatched(without)) == [without]
    (part,) = parts_of(plain, batched([event("1")], 5), tombstone)
    assert [str(each.position) for each in part.records] == ["t/0/4", "t/0/5#0", "t/0/6"]
    assert part.origin == "o"


def test_a_large_batch_is_handed_over_in_parts_and_acked_with_the_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(batches, "PART_RECORDS", 3)
    acks: list[str] = []
    records = [batched([event(f"{n}-{m}") for m in range(2)], n) for n in range(5)]
    parts = list(unbatched(Batch(tuple(records), lambda: acks.append("acked"))))
    assert [len(part.records) for part in parts] == [4, 4, 2]
    for part in parts[:-1]:
        part.ack()
    assert acks == []
    parts[-1].ack()
    assert acks == ["acked"]


def test_a_member_keeps_the_trace_context_of_its_record_and_no_other_header() -> None:
    parent = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    (member,) = members_of([event("1")], traceparent=parent, ce_id=b"other", x=b"y" * 100_000)
    assert member.headers == {"content-type": b"application/cloudevents+json", "traceparent": parent}


def test_what_a_member_keeps_of_its_record_is_bounded() -> None:
    flood = Record(Position("t", 0, 0), "k" * 1_000_000, b"[{},{}]", BATCH | {"tracestate": b"x" * 1_000_000})
    members = [each for part in parts_of(flood) for each in part.records]
    assert all(len(each.key or "") == 256 and "tracestate" not in each.headers for each in members)


def test_an_empty_batch_is_nothing_to_do() -> None:
    (member,) = members_of([])
    assert member.is_tombstone and str(member.position) == "t/0/0"


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"{}",
        b"[",
        b"null",
        b"[" * 100_000,
        json.dumps([{}] * 1_001).encode(),
        b"[" + b" " * 1_048_576 + b"]",
    ],
)
def test_a_list_that_cannot_be_taken_apart_stays_one_record(value: bytes) -> None:
    assert members_of(value) == [batched(value)]


@given(st.binary() | st.lists(st.dictionaries(st.text(max_size=5), st.text(max_size=5)), max_size=5))
def test_whatever_a_batch_holds_it_becomes_records(value: Any) -> None:
    members = members_of(value)
    assert members and len({each.position for each in members}) == len(members)


# --- handled ---


async def test_each_event_is_an_activity_and_an_invalid_one_a_dead_letter_by_itself(
    autojump_clock: MockClock,
) -> None:
    broken, foreign = event("2", specversion="0.3"), {"hello": 1}
    async with running() as line:
        await give(
            line, batched([event("1"), broken, foreign, [event("4")], event("5")]), record(message(), 1)
        )
        rows = [row.activity_id for row in await line.inbox("ann")]
        assert sorted(rows) == ['["1","/s"]', '["5","/s"]', "t/0/1"]
        letters = {str(each.position): each for each in await line.dead_letters()}
        assert sorted(letters) == ["t/0/0#1", "t/0/0#2", "t/0/0#3"]
        assert json.loads(letters["t/0/0#1"].value) == broken
        assert "CloudEvents 0.3" in letters["t/0/0#1"].error
        assert "without a version" in letters["t/0/0#2"].error
        assert "a list where one message is expected" in letters["t/0/0#3"].error
        assert line.acked == [(0, 1)]
        trace = await line.database.traces.get('["5","/s"]')
        assert trace is not None and trace.position == "t/0/0#4"


async def test_a_batch_that_is_delivered_again_makes_no_second_notification(
    autojump_clock: MockClock,
) -> None:
    async with running() as line:
        for offset in (0, 0, 1):
            await give(line, batched([event("1"), event("1"), event("2"), {"x": 1}], offset))
        assert len(await line.inbox("ann")) == 2
        assert {str(each.position) for each in await line.dead_letters()} == {"t/0/0#3", "t/0/1#3"}


async def test_the_dead_letter_of_a_member_is_replayed_as_that_event(autojump_clock: MockClock) -> None:
    large = event("2", data={"payment": {"amount": 1}, "note": "x" * 2_000})
    database = MemoryDatabase(now)
    async with running(database, notification_bytes=1_024) as line:
        await give(line, batched([event("1"), large]))
        (letter,) = await line.dead_letters()
        assert len(await line.inbox("ann")) == 1
    async with running(database, "p2") as line:
        replay = Replay(line.processor, database.dead_letters, line.metrics)
        trace = await replay.replay(letter.id)
        assert trace is not None and (trace.activity_id, trace.position) == ('["2","/s"]', "t/0/0#1")
        assert len(await line.inbox("ann")) == 2 and not await line.dead_letters()


async def test_an_event_of_a_batch_with_a_large_audience_goes_on_alone_and_the_others_follow(
    autojump_clock: MockClock,
) -> None:
    ids = ",".join(f"u{n:04}" for n in range(2_500))
    async with running() as line:
        await give(
            line, batched([event("1"), event("2", recipientids=ids), event("3")]), record(message(), 1)
        )
        assert len(await line.inbox("ann")) == 3 and len(await line.inbox("u2499")) == 1
        assert line.acked == [(0, 1)]


async def test_an_empty_batch_and_one_that_is_no_list_stop_nothing(autojump_clock: MockClock) -> None:
    async with running() as line:
        await give(line, batched([]), batched(b'{"a":', 1), record(message(), 2))
        (letter,) = await line.dead_letters()
        assert letter.error == "message: a batch of CloudEvents is a list of at most 1000 events."
        assert line.count("tombstone") == 1 and line.acked == [(0, 2)]


async def test_a_thousand_events_are_a_thousand_activities(autojump_clock: MockClock) -> None:
    async with running() as line:
        await give(line, batched([event(str(n)) for n in range(1_000)]))
        assert line.count("stored") == 1_000 and line.acked == [(0, 0)]


def test_many_batches_of_many_small_events_are_held_a_part_at_a_time() -> None:
    value = json.dumps([{}] * 1_000).encode()
    flood = Batch(tuple(batched(value, n) for n in range(40)), lambda: None)
    tracemalloc.start()
    try:
        members = sum(len(part.records) for part in unbatched(flood))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert members == 40_000 and peak < 8_000_000, peak

"""store.Traces, and the rows of an activity, sentence by sentence, on every database."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import trio

from contract.store_suite import Clock, a_draft, unique
from nx_signal.model import ActivityContext, ActivityRow, Created, Handled, Reach, Trace
from nx_signal.store import Database, Traces


@pytest.fixture
def traces(database: Database) -> Traces:
    return database.traces


def a_trace(activity_id: str, **changes: Any) -> Trace:
    values: dict[str, Any] = {
        "activity_id": activity_id,
        "position": "t/0/1",
        "type": "PAYMENT_SUCCESS",
        "scope": "org",
        "rule": "org",
        "recipients": 3,
        "outcome": "stored",
    }
    return Trace(**(values | changes))


FAILED: dict[str, Any] = {
    "type": None, "scope": None, "rule": None, "recipients": 0, "outcome": "dead_letter", "reason": "no JSON",
}  # fmt: skip


async def test_a_trace_is_read_back_as_it_was_with_its_time(traces: Traces, clock: Clock) -> None:
    one, two = a_trace(unique("e")), a_trace(unique("e"), **FAILED)
    await traces.add([one, two])
    assert await traces.get(one.activity_id) == replace(one, handled_at=clock())
    assert await traces.get(two.activity_id) == replace(two, handled_at=clock())
    await traces.add([])


@pytest.mark.parametrize("outcome", ["stored", "duplicate"])
async def test_the_first_trace_of_an_activity_stays(traces: Traces, clock: Clock, outcome: str) -> None:
    first = a_trace(unique("e"), outcome=outcome)
    await traces.add([first, replace(first, position="in/the/same")])
    stored = await traces.get(first.activity_id)
    assert stored is not None
    clock.tick()
    await traces.add([replace(first, outcome="duplicate", position="t/0/2")])
    await traces.add([replace(first, outcome="dead_letter", reason="later")])
    assert await traces.get(first.activity_id) == stored == replace(first, handled_at=stored.handled_at)


@pytest.mark.parametrize("outcome", ["unknown_type", "dead_letter"])
async def test_a_fruitless_trace_gives_way_to_the_next(traces: Traces, clock: Clock, outcome: str) -> None:
    first = a_trace(unique("e"), **(FAILED | {"outcome": outcome}))
    again, mended = replace(first, reason="again"), a_trace(first.activity_id, position="t/0/9")
    await traces.add([first])
    await traces.add([again])
    assert await traces.get(first.activity_id) == replace(again, handled_at=clock())
    clock.tick()
    await traces.add([first, mended, again])
    assert await traces.get(first.activity_id) == replace(mended, handled_at=clock())


@pytest.mark.parametrize("text", ["a\0b", "\ud800", "x" * 300_000, ""])
async def test_whatever_the_reason_says_it_is_kept_legibly(traces: Traces, text: str) -> None:
    trace = a_trace(unique("e"), **(FAILED | {"reason": text}))
    await traces.add([trace])
    stored = await traces.get(trace.activity_id)
    assert stored is not None and stored.reason is not None
    stored.reason.encode()
    assert "\0" not in stored.reason and len(stored.reason) >= len(text)


@pytest.mark.parametrize("activity_id", ["", "nothing", "a\0b", "\ud800"])
async def test_an_activity_never_handled_has_no_trace(traces: Traces, activity_id: str) -> None:
    assert await traces.get(activity_id) is None


async def test_old_traces_are_pruned_by_portions(traces: Traces, clock: Clock) -> None:
    clock.time -= timedelta(days=400)  # before anything that another test wrote
    old = [a_trace(unique("old")) for _ in range(3)]
    await traces.add(old)
    edge = clock.tick()
    kept = a_trace(unique("kept"))
    await traces.add([kept])
    assert [await traces.prune(edge, 2), await traces.prune(edge, 2), await traces.prune(edge)] == [2, 1, 0]
    assert [await traces.get(trace.activity_id) for trace in old] == [None] * 3
    assert await traces.get(kept.activity_id) is not None


async def test_two_writers_of_the_same_traces_do_not_block_each_other(traces: Traces) -> None:
    ids = [unique("e") for _ in range(50)]

    async def write(ordered: list[str]) -> None:
        for _ in range(5):
            await traces.add([a_trace(id, **FAILED) for id in ordered])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write, ids)
        nursery.start_soon(write, ids[::-1])
    assert all([await traces.get(id) for id in ids])


async def test_the_rows_of_an_activity_are_those_of_all_its_recipients(
    database: Database, clock: Clock
) -> None:
    activity, users = unique("e"), [unique(f"user{n}") for n in range(4)]
    await database.inbox.insert([a_draft(users[1])])
    changes = await database.inbox.insert([a_draft(user, activity_id=activity) for user in users])
    created = {change.recipient_id: change for change in changes if isinstance(change, Created)}
    await database.inbox.mark(users[2], created[users[2]].notification.id, "read", None)
    await database.inbox.mark(users[3], created[users[3]].notification.id, "read", None)
    await database.inbox.delete(users[3], created[users[3]].notification.id)
    rows, total = await database.inbox.rows_of(activity, None, 10)
    scope = (a_draft(users[0]).organizer_id, a_draft(users[0]).merchant_id)
    assert total == 4
    assert list(rows) == [
        ActivityRow(users[0], created[users[0]].notification.id, 1, clock(), False, False, *scope),
        ActivityRow(users[1], created[users[1]].notification.id, 2, clock(), False, False, *scope),
        ActivityRow(users[2], created[users[2]].notification.id, 1, clock(), True, False, *scope),
        ActivityRow(users[3], created[users[3]].notification.id, 1, clock(), True, True, *scope),
    ]
    assert await database.inbox.rows_of(activity, None, 2) == (rows[:2], 4)
    assert await database.inbox.rows_of(activity, users[3], 2) == (rows[3:], 4)


async def test_an_activity_without_rows_has_none(database: Database) -> None:
    activity, user = unique("e"), unique("user")
    await database.inbox.insert([a_draft(user, activity_id=activity)])
    for asked in ("nothing", "a\0b", "\ud800", ""):
        rows, total = await database.inbox.rows_of(asked, None, 10)
        assert (list(rows), total) == ([], 0)
        rows, total = await database.inbox.rows_of(activity, asked, 10)
        assert (list(rows), total) == ([], 1)


async def test_traces_beyond_a_number_or_an_age_go_the_oldest_first_and_by_portions(
    traces: Traces, clock: Clock
) -> None:
    clock.tick(10 * 366 * 86_400_000)  # later than those of the other tests
    ids = []
    for _ in range(7):
        clock.tick(86_400_000)
        ids.append(unique("e"))
        await traces.add([a_trace(ids[-1])])
    upto = await traces.excess(None, 5)
    assert upto is not None
    while await traces.remove_up_to(upto, 1_000):
        pass
    assert [await traces.get(id) is None for id in ids] == [True] * 2 + [False] * 5
    assert await traces.excess(None, 5) is None
    upto = await traces.excess(clock() - timedelta(days=3), 100)
    assert upto is not None
    assert [await traces.remove_up_to(upto, 1), await traces.remove_up_to(upto, 1)] == [1, 0]
    assert [await traces.get(id) is None for id in ids] == [True] * 3 + [False] * 4
    while await traces.remove_up_to(clock(), 1_000):
        pass


async def test_an_activity_whose_trace_is_gone_is_still_told_from_another_at_its_position(
    traces: Traces, clock: Clock
) -> None:
    position = f"{unique('topic')}/0/1"
    await traces.add([a_trace(position, position=position, digest="d1")])
    before = await traces.handled([position])
    assert await traces.remove_up_to(clock(), 10_000) >= 1
    assert await traces.get(position) is None
    assert await traces.handled([position]) == before == {position: Handled(position, "d1")}
    await traces.prune(clock.tick(), 10_000)
    assert await traces.handled([position]) == {}


# --- what came with an activity ---

CONTEXT = ActivityContext(
    traceparent="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    tracestate="a=1",
    dataschema="https://acme.example/é.json",
    audience=(Reach("org", "o1"), Reach("merchant", "o1", "m1"), Reach("users", "o1", None, 3)),
    excluded_actor="ann",
)


async def test_what_came_with_an_activity_is_read_back_with_its_trace(traces: Traces, clock: Clock) -> None:
    whole = a_trace(unique("e"), scope="audience", rule="audience", context=CONTEXT)
    part = a_trace(unique("e"), context=ActivityContext(dataschema="x"))
    await traces.add([whole, part])
    for trace in (whole, part):
        assert await traces.get(trace.activity_id) == replace(trace, handled_at=clock())


async def test_what_came_with_the_first_delivery_of_an_activity_stays(traces: Traces) -> None:
    first = a_trace(unique("e"), context=CONTEXT)
    await traces.add([first])
    await traces.add([replace(first, outcome="duplicate", context=ActivityContext(dataschema="later"))])
    stored = await traces.get(first.activity_id)
    assert stored is not None and stored.context == CONTEXT


async def test_what_came_with_a_fruitless_delivery_gives_way_to_the_next(traces: Traces) -> None:
    first = a_trace(unique("e"), **FAILED, context=ActivityContext(dataschema="first"))
    await traces.add([first])
    await traces.add([a_trace(first.activity_id, context=CONTEXT)])
    stored = await traces.get(first.activity_id)
    assert stored is not None and stored.context == CONTEXT


async def test_what_came_with_a_conflicting_activity_is_in_its_own_trace(traces: Traces) -> None:
    first = a_trace(unique("e"), digest="one", context=ActivityContext(dataschema="first"))
    position = unique("t/0/")
    await traces.add([first])
    await traces.add([replace(first, digest="two", position=position, context=CONTEXT)])
    stored, other = await traces.get(first.activity_id), await traces.get(position)
    assert stored is not None and stored.context == ActivityContext(dataschema="first")
    assert other is not None and other.outcome == "conflict" and other.context == CONTEXT


async def test_what_came_with_an_activity_goes_with_its_trace(traces: Traces, clock: Clock) -> None:
    trace = a_trace(unique("e"), context=CONTEXT)
    await traces.add([trace])
    while await traces.remove_up_to(clock(), 1_000):
        pass
    assert await traces.get(trace.activity_id) is None
    clock.tick()
    await traces.add([replace(trace, context=None)])
    stored = await traces.get(trace.activity_id)
    assert stored is not None and stored.context is None

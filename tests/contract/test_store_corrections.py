"""store.Corrections, sentence by sentence, on every database; and two instances at one activity."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from decimal import Decimal
from typing import Any, TypeVar, TypeVarTuple

import pytest
import trio

from contract.store_suite import SOME, Clock, OpenDatabase, a_draft, unique, written
from nx_signal.activities.compose import compose_activities
from nx_signal.activities.progress import Progress
from nx_signal.adapters.sqlite.memory import MemoryDatabase
from nx_signal.errors import StoreRejected
from nx_signal.model import (
    Change,
    Correction,
    Deleted,
    InboxFilter,
    InboxSummary,
    Position,
    Record,
    Updated,
)
from nx_signal.store import Content, Corrections, Database
from nx_signal.store.corrections import MAX_KEPT
from nx_signal.store.driver import Driver, Tx
from nx_signal.telemetry.metrics import Metrics
from pipeline_kit import REGISTRY, RENDERER, message, now

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

NEW = Content("Payment of 7", "<p>Payment of 7</p>", "/payments/7")
DATA = {"payment": {"amount": 7}}


@pytest.fixture
def corrections(database: Database) -> Corrections:
    return database.corrections


def a_correction(activity_id: str, **changes: Any) -> Correction:
    values: dict[str, Any] = {
        "activity_id": activity_id,
        "action": "update",
        "data": DATA,
        "occurred_at": None,
        "position": "t/0/1",
        "digest": "d",
    }
    return Correction(**(values | changes))


async def corrected(
    database: Database, activity_id: str, content: Content = NEW, **changes: Any
) -> Sequence[Change]:
    _, standing = await database.corrections.add(a_correction(activity_id, **changes))
    rows = await database.corrections.rows(activity_id, "", 100)
    applied = await database.corrections.apply(standing, rows, [content] * len(rows))
    assert applied is not None
    return applied


async def head_of(database: Database, user: str) -> InboxSummary:
    return (await database.inbox.summaries([user]))[user]


# --- which one stands ---


async def test_a_correction_is_read_back_as_it_was(corrections: Corrections, clock: Clock) -> None:
    id, data = unique("a"), {"amount": Decimal("1.10"), "note": "é"}
    own, standing = await corrections.add(a_correction(id, data=data))
    assert own == standing and (await corrections.standing([id, unique("b")])) == {id: own}
    assert (own.activity_id, own.action, own.data, own.position) == (id, "update", data, "t/0/1")
    assert own.occurred_at == own.handled_at == clock() and own.changed == 0


async def test_the_newest_by_its_moment_stands_and_of_one_moment_the_later_handled(
    corrections: Corrections, clock: Clock
) -> None:
    id, now = unique("a"), clock()
    added = []
    for n, ago in enumerate((5, 1, 1, 3)):
        moment = now - timedelta(hours=ago)
        added.append((await corrections.add(a_correction(id, occurred_at=moment, position=f"t/0/{n}")))[0])
    assert [kept.position for kept in await corrections.of(id)] == ["t/0/2", "t/0/1", "t/0/3", "t/0/0"]
    assert (await corrections.standing([id]))[id] == added[2]


async def test_a_retraction_stands_whatever_comes(corrections: Corrections, clock: Clock) -> None:
    id = unique("a")
    retraction, _ = await corrections.add(
        a_correction(id, action="retract", data={}, occurred_at=clock() - timedelta(days=9))
    )
    _, standing = await corrections.add(a_correction(id, position="t/0/2"))
    assert standing == retraction


async def test_a_correction_that_comes_again_stays_as_it_was_first_handled(
    corrections: Corrections, clock: Clock
) -> None:
    id = unique("a")
    first, _ = await corrections.add(a_correction(id, position="t/0/1"))
    clock.tick()
    second, _ = await corrections.add(a_correction(id, position="t/0/2"))
    clock.tick()
    assert await corrections.add(a_correction(id, position="t/0/1")) == (first, second)
    own, standing = await corrections.add(a_correction(id, position="t/0/1", digest="of a topic made anew"))
    assert own == standing != first


async def test_a_bounded_number_is_kept_of_one_activity_and_the_standing_one_is_among_them(
    corrections: Corrections, clock: Clock
) -> None:
    id, newest = unique("a"), clock() + timedelta(days=1)
    first, _ = await corrections.add(a_correction(id, occurred_at=newest))
    for n in range(MAX_KEPT + 5):
        await corrections.add(a_correction(id, position=f"t/1/{n}"))
    kept = await corrections.of(id)
    assert len(kept) == MAX_KEPT and kept[0] == first


@pytest.mark.parametrize("id", ["", "nothing", "a\0b", "\ud800"])
async def test_an_activity_without_corrections_has_none(corrections: Corrections, id: str) -> None:
    assert await corrections.standing([id]) == {} and list(await corrections.of(id)) == []


async def test_what_no_store_holds_is_refused(corrections: Corrections) -> None:
    with pytest.raises(StoreRejected, match="activityId"):
        await corrections.add(a_correction("a\0b"))
    with pytest.raises(StoreRejected, match="data"):
        await corrections.add(a_correction(unique("a"), data={"a": "\ud800"}))


async def test_one_that_is_withdrawn_is_no_longer_there(corrections: Corrections) -> None:
    id = unique("a")
    own, _ = await corrections.add(a_correction(id))
    await corrections.withdraw(own)
    assert await corrections.standing([id]) == {}


# --- rows ---


async def test_an_update_changes_the_content_alone_with_the_next_revision(
    database: Database, clock: Clock
) -> None:
    ann, id = unique("ann"), unique("a")
    (row,) = await written(database.inbox, ann, activity_id=id)
    await written(database.inbox, ann)
    (change,) = await corrected(database, id)
    assert change == Updated(
        *(ann, 3, 2, 2, 2, SOME, SOME),
        ids=(row.id,),
        up_to_rev=None,
        at=clock(),
        origin=None,
        content=NEW.content,
        content_html=NEW.content_html,
        action_url=NEW.action_url,
        data=DATA,
    )
    stored = await database.inbox.get(ann, row.id)
    assert stored is not None
    assert (stored.content, stored.content_html, stored.action_url, stored.data) == (
        NEW.content,
        NEW.content_html,
        NEW.action_url,
        DATA,
    )
    assert (stored.rev, stored.locale, stored.subject, stored.created_at, stored.is_read) == (
        row.rev,
        row.locale,
        row.subject,
        row.created_at,
        False,
    )
    head = await head_of(database, ann)
    assert (head.rev, head.total, head.unread, head.history) == (3, 2, 2, change.history)
    assert (await database.corrections.of(id))[0].changed == 1


async def test_a_row_that_has_its_content_stays_as_it_is(database: Database) -> None:
    ann, id = unique("ann"), unique("a")
    await written(database.inbox, ann, activity_id=id)
    await corrected(database, id)
    assert list(await corrected(database, id)) == []
    assert (await head_of(database, ann)).rev == 2 and (await database.corrections.of(id))[0].changed == 1


async def test_numbers_of_the_data_keep_their_digits_in_rows_and_in_the_log(database: Database) -> None:
    ann, id = unique("ann"), unique("a")
    (row,) = await written(database.inbox, ann, activity_id=id)
    data = {"a": Decimal("1.10"), "b": 2**70, "c": Decimal("1E-8"), "d": "\u2028é"}
    (change,) = await corrected(database, id, data=data)
    stored = await database.inbox.get(ann, row.id)
    assert stored is not None and stored.data == data and str(stored.data["a"]) == "1.10"
    since = (await database.inbox.changes_since({ann: 1}, 10))[ann]
    assert since.changes == (change,)
    assert isinstance(change, Updated) and str((change.data or {})["a"]) == "1.10"


async def test_the_log_has_the_corrections_in_their_order(database: Database) -> None:
    ann, id = unique("ann"), unique("a")
    (row,) = await written(database.inbox, ann, activity_id=id)
    (first,) = await corrected(database, id)
    await database.inbox.mark(ann, row.id, "read", None)
    (last,) = await corrected(database, id, position="t/0/2", action="retract", data={})
    found = (await database.inbox.changes_since({ann: 0}, 10))[ann]
    assert [change.rev for change in found.changes] == [1, 2, 3, 4]
    assert found.changes[1] == first and found.changes[3] == last
    assert isinstance(last, Deleted) and (last.unread, last.total) == (0, 0)
    assert [after.after for after in found.changes[1:]] == [each.history for each in found.changes[:-1]]


async def test_a_retraction_removes_read_and_unread_rows_with_right_counts(database: Database) -> None:
    id, users = unique("a"), sorted(unique("u") for _ in range(3))
    rows = {user: (await written(database.inbox, user, activity_id=id))[0] for user in users}
    for user in users:
        await written(database.inbox, user, type="ORDER_COMPLETED")
    await database.inbox.mark(users[0], rows[users[0]].id, "read", None)
    await database.inbox.mark_all_read(users[1], None, None, None, None)
    changes = await corrected(database, id, action="retract", data={})
    assert [(change.recipient_id, change.unread, change.total) for change in changes] == [
        (users[0], 1, 1),
        (users[1], 0, 1),
        (users[2], 1, 1),
    ]
    assert list(await corrected(database, id, action="retract", data={})) == []
    audit = await database.maintenance.audit(users[0][:-1], 1_000, 100_000)
    assert not [drift for drift in audit.drifts if drift.recipient_id in users]


async def test_a_retracted_row_counts_as_read_where_an_unapplied_read_all_covers_it(
    database: Database,
) -> None:
    ann, id = unique("ann"), unique("a")
    await written(database.inbox, ann, activity_id=id)
    await written(database.inbox, ann, n=1_000)
    await written(database.inbox, ann)
    _, head, _, _ = await database.inbox.mark_all_read(ann, 1_001, None, None, None)
    assert head.unread == 1
    (change,) = await corrected(database, id, action="retract", data={})
    assert (change.unread, change.total) == (1, 1_001)
    while await database.maintenance.apply_read_all(1_000):
        pass
    audit = await database.maintenance.audit(ann[:-1], 10, 100_000)
    assert not [drift for drift in audit.drifts if drift.recipient_id == ann]


async def test_an_archived_row_stays_unread_where_a_later_read_all_is_not_applied_yet(
    database: Database,
) -> None:
    ann, id = unique("ann"), unique("a")
    (row,) = await written(database.inbox, ann, activity_id=id)
    await database.inbox.mark(ann, row.id, "archive", None)
    await written(database.inbox, ann, n=1_000)
    await written(database.inbox, ann)
    await database.inbox.mark_all_read(ann, None, None, None, None)
    await corrected(database, id)
    stored = await database.inbox.get(ann, row.id)
    assert stored is not None and stored.content == NEW.content
    assert (stored.is_read, stored.read_at) == (False, None)


async def test_deleted_rows_are_not_corrected(database: Database) -> None:
    ann, id = unique("ann"), unique("a")
    (row,) = await written(database.inbox, ann, activity_id=id)
    await database.inbox.delete(ann, row.id)
    assert list(await corrected(database, id)) == []
    assert (await head_of(database, ann)).rev == 2


async def test_a_row_that_is_deleted_between_its_look_up_and_its_correction_stays_deleted(
    database: Database,
) -> None:
    ann, id = unique("ann"), unique("a")
    (row,) = await written(database.inbox, ann, activity_id=id)
    rows = await database.corrections.rows(id, "", 100)
    await database.inbox.delete(ann, row.id)
    for action in ("update", "retract"):
        _, standing = await database.corrections.add(a_correction(id, action=action, position=action))
        assert list(await database.corrections.apply(standing, rows, [NEW]) or ()) == []
    assert (await head_of(database, ann)).rev == 2


async def test_nothing_is_changed_for_a_correction_that_stands_no_longer(database: Database) -> None:
    ann, id = unique("ann"), unique("a")
    await written(database.inbox, ann, activity_id=id)
    _, older = await database.corrections.add(a_correction(id))
    rows = await database.corrections.rows(id, "", 100)
    await database.corrections.add(a_correction(id, position="t/0/2", action="retract"))
    assert await database.corrections.apply(older, rows, [NEW]) is None
    assert (await head_of(database, ann)).rev == 1


async def test_rows_are_found_in_portions_by_recipient(database: Database) -> None:
    id, users = unique("a"), sorted(unique("u") for _ in range(5))
    for user in users:
        await written(database.inbox, user, activity_id=id)
    first = await database.corrections.rows(id, "", 3)
    rest = await database.corrections.rows(id, first[-1].recipient_id, 3)
    assert [row.recipient_id for row in (*first, *rest)] == users


async def test_a_row_has_what_it_was_rendered_from(database: Database, clock: Clock) -> None:
    ann, id = unique("ann"), unique("a")
    await database.inbox.insert([a_draft(ann, activity_id=id, rendered_from='{"actorId":"x"}')])
    (row,) = await database.corrections.rows(id, "", 10)
    assert (row.recipient_id, row.activity_id, row.type, row.organizer_id, row.merchant_id) == (
        ann,
        id,
        "PAYMENT_SUCCESS",
        "o1",
        "m1",
    )
    assert (row.locale, row.subject, row.rendered_from) == ("en", "order/1", '{"actorId":"x"}')
    assert row.created_at == clock()


async def test_a_trace_states_that_its_activity_was_corrected(database: Database) -> None:
    from contract.test_store_traces import a_trace

    id, other = unique("a"), unique("b")
    await database.corrections.add(a_correction(id))
    traces = await database.traces.add([a_trace(id, digest="d1"), a_trace(other, digest="d2")])
    assert [trace.corrected for trace in traces] == [True, False]
    assert set(await database.traces.handled([id, other, unique("c")])) == {id, other}


# --- removal ---


async def test_old_corrections_are_removed_and_the_newest_stay(database: Database, clock: Clock) -> None:
    corrections, now = database.corrections, clock()
    clock.time = now - timedelta(days=400)  # before anything that another test wrote
    old = [unique("old") for _ in range(3)]
    for id in old:
        await corrections.add(a_correction(id))
    clock.time = now
    young = unique("young")
    await corrections.add(a_correction(young))
    upto = await corrections.excess(now - timedelta(days=90), 10**9)
    assert upto is not None
    removed = [await corrections.remove_up_to(upto, 2) for _ in range(3)]
    assert removed == [2, 1, 0]
    assert set(await corrections.standing([*old, young])) == {young}
    assert await corrections.excess(now - timedelta(days=90), 10**9) is None


# --- two instances ---


class Interrupted:
    """A driver that awaits `before` ahead of each of its transactions."""

    def __init__(self, driver: Driver, before: Callable[[], Awaitable[None]]) -> None:
        self._driver = driver
        self._before = before
        self.dialect, self.place, self.now = driver.dialect, driver.place, driver.now
        self.migrates_itself = False

    async def write(
        self, script: Callable[[Tx, *Ts], Awaitable[T]], *arguments: *Ts, takes_ids: bool = False
    ) -> T:
        await self._before()
        return await self._driver.write(script, *arguments, takes_ids=takes_ids)

    async def write_one(self, script: Callable[[Tx, *Ts], Awaitable[T]], *arguments: *Ts) -> T:
        await self._before()
        return await self._driver.write_one(script, *arguments)

    async def read(self, script: Callable[[Tx, *Ts], Awaitable[T]], *arguments: *Ts) -> T:
        await self._before()
        return await self._driver.read(script, *arguments)

    async def read_one(self, script: Callable[[Tx, *Ts], Awaitable[T]], *arguments: *Ts) -> T:
        await self._before()
        return await self._driver.read_one(script, *arguments)


class Instance:
    def __init__(self, driver: Driver) -> None:
        self.announced: list[Change] = []
        self.processor = compose_activities(
            registry=REGISTRY,
            renderer=RENDERER,
            database=Database(driver),
            announce=self.announced.extend,
            metrics=Metrics(),
            now=now,
        ).processor

    async def handle(self, value: dict[str, Any], position: Position) -> None:
        record = Record(position, None, json.dumps(value).encode())
        processed = await self.processor.process([record], {}) or [
            await self.processor.process_alone(record, Progress(), trio.lowlevel.checkpoint)
        ]
        await self.processor.conclude([processed[0].trace])


@asynccontextmanager
async def two(open_database: OpenDatabase, database: Database) -> AsyncIterator[tuple[Driver, Driver]]:
    """Of two processes, each with connections of its own."""
    if isinstance(database, MemoryDatabase):
        yield database.driver, database.driver
        return
    async with open_database() as other:
        yield database.driver, other.driver


@pytest.mark.parametrize("action", ["update", "retract"])
@pytest.mark.parametrize("first", ["activity", "correction"])
async def test_two_instances_interleaved_at_each_step_leave_the_corrected_rows(
    open_database: OpenDatabase, database: Database, action: str, first: str
) -> None:
    """One handles the activity, the other the correction, whole, between two steps of the first."""
    users = [unique("u") for _ in range(3)]
    async with two(open_database, database) as (one, other):
        step, met = 0, True
        while met:
            id, partition = unique("e"), step
            activity = message(eventId=id, recipientScope="users", recipientIds=users)
            correction = {"action": action, "eventId": id, "data": DATA}
            earlier, later = (activity, correction) if first == "activity" else (correction, activity)
            calls, met = 0, False

            async def before() -> None:
                nonlocal calls, met
                calls += 1
                if calls == step + 1:  # noqa: B023
                    met = True
                    await Instance(other).handle(later, Position(id, partition, 1))  # noqa: B023

            await Instance(Interrupted(one, before)).handle(earlier, Position(id, partition, 0))
            if met:
                for user in users:
                    rows = (await database.inbox.page(user, InboxFilter(), 100, None, 0)).rows
                    mine = [row.data for row in rows if row.activity_id == id]
                    assert mine == ([DATA] if action == "update" else []), (step, user)
            step += 1
        assert step > 4


async def test_two_instances_that_handle_both_at_once_leave_the_corrected_rows(
    open_database: OpenDatabase, database: Database
) -> None:
    users = sorted(unique("u") for _ in range(20))
    async with two(open_database, database) as (one, other):
        for n in range(10):
            id, action = unique("e"), ("update", "retract")[n % 2]
            activity = message(eventId=id, recipientScope="users", recipientIds=users)
            correction = {"action": action, "eventId": id, "data": DATA}
            async with trio.open_nursery() as nursery:
                nursery.start_soon(Instance(one).handle, activity, Position(id, 0, 0))
                nursery.start_soon(Instance(other).handle, correction, Position(id, 1, 0))
            for user in users:
                rows = (await database.inbox.page(user, InboxFilter(), 100, None, 0)).rows
                mine = [row.data for row in rows if row.activity_id == id]
                assert mine == ([DATA] if action == "update" else [])
    audit = await database.maintenance.audit(users[0][:-1], 10_000, 1_000_000)
    assert not [drift for drift in audit.drifts if drift.recipient_id in users]


async def test_two_instances_that_apply_two_updates_at_once_leave_the_newer_one(
    open_database: OpenDatabase, database: Database
) -> None:
    users = sorted(unique("u") for _ in range(20))
    async with two(open_database, database) as (one, other):
        for _ in range(10):
            id = unique("e")
            activity = message(eventId=id, recipientScope="users", recipientIds=users)
            await Instance(one).handle(activity, Position(id, 0, 0))
            updates = [
                {"action": "update", "eventId": id, "data": {"payment": {"amount": n}}, "occurredAt": moment}
                for n, moment in ((1, "2026-01-01T00:00:00Z"), (2, "2026-01-02T00:00:00Z"))
            ]
            async with trio.open_nursery() as nursery:
                nursery.start_soon(Instance(one).handle, updates[0], Position(id, 1, 0))
                nursery.start_soon(Instance(other).handle, updates[1], Position(id, 2, 0))
            for user in users:
                rows = (await database.inbox.page(user, InboxFilter(), 100, None, 0)).rows
                (mine,) = [row for row in rows if row.activity_id == id]
                assert mine.data == {"payment": {"amount": 2}}

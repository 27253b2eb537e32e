"""Notifications with an expiry or a priority, on every database."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import pytest

from contract.store_suite import Clock, unique, written
from nx_signal.model import Deleted, InboxFilter, InboxSummary
from nx_signal.store import Database, InboxStore, read_all


@pytest.fixture
def inbox(database: Database) -> InboxStore:
    return database.inbox


@pytest.fixture
def user() -> str:
    return unique("user")


@pytest.fixture(autouse=True)
async def nothing_has_expired(database: Database, clock: Clock) -> None:
    """The tests of a module share one server, and each begins at the same time."""
    time, clock.time = clock.time, clock.time + timedelta(days=1)
    while (await database.maintenance.remove_expired(500))[0]:
        pass
    clock.time = time


async def removed(database: Database, limit: int = 500) -> Sequence[Deleted]:
    many, changes = await database.maintenance.remove_expired(limit)
    assert many == sum(len(change.ids) for change in changes)
    return changes


async def require_clean(database: Database, user: str) -> None:
    audit = await database.maintenance.audit("", 1_000_000, 1_000_000)
    assert [drift for drift in audit.drifts if drift.recipient_id == user] == []


async def test_what_expired_is_taken_out_as_a_deletion(
    database: Database, inbox: InboxStore, user: str, clock: Clock
) -> None:
    (kept,) = await written(inbox, user)
    (row,) = await written(inbox, user, expires_at=clock() + timedelta(minutes=1))
    (later,) = await written(inbox, user, expires_at=clock() + timedelta(minutes=2))
    assert row.expires_at == clock() + timedelta(minutes=1)
    clock.tick(59_999)
    assert await removed(database) == ()
    clock.tick()
    (change,) = await removed(database)
    assert (change.recipient_id, change.rev, change.unread, change.total, change.ids) == (
        user,
        4,
        2,
        2,
        (row.id,),
    )
    assert await inbox.get(user, row.id) is None
    assert [each.id for each in (await inbox.page(user, InboxFilter(), 10, None, 0)).rows] == [
        later.id,
        kept.id,
    ]
    head = InboxSummary(user, 4, 2, 2, change.history, unseen=2)
    assert (await inbox.summaries([user]))[user] == head
    assert (await inbox.changes_since({user: 3}, 10))[user].changes == (change,)
    assert await removed(database) == ()
    await require_clean(database, user)


async def test_counts_are_right_whatever_was_read(
    database: Database, inbox: InboxStore, user: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_all, "PORTION", 2)
    soon = clock() + timedelta(seconds=1)
    first, *_ = await written(inbox, user, 4, type="A", expires_at=soon)
    await inbox.mark_all_read(user, first.rev + 2, None, None, None)  # the third one's is recorded alone
    await written(inbox, user, 1, type="B", expires_at=soon)
    await written(inbox, user, 2, type="B")
    clock.tick(1_000)
    (change,) = await removed(database)
    assert (len(change.ids), change.unread, change.total) == (5, 2, 2)
    while await database.maintenance.apply_read_all(2):
        pass
    for type, many in (("A", 0), ("B", 2)):
        assert (await inbox.count(user, InboxFilter.of(type=type)))[0] == many
        assert (await inbox.count(user, InboxFilter.of(type=type, is_read=False)))[0] == many
    await require_clean(database, user)


async def test_archived_ones_expire_too_and_change_no_count(
    database: Database, inbox: InboxStore, user: str, clock: Clock
) -> None:
    first, _ = await written(inbox, user, 2, expires_at=clock() + timedelta(seconds=1))
    await written(inbox, user)
    await inbox.mark(user, first.id, "archive", None)
    clock.tick(1_000)
    (change,) = await removed(database)
    assert (len(change.ids), change.unread, change.total, change.unseen) == (2, 1, 1, 1)
    assert await inbox.get(user, first.id) is None
    assert await removed(database) == ()
    await require_clean(database, user)


async def test_several_inboxes_have_one_change_each(
    database: Database, inbox: InboxStore, clock: Clock
) -> None:
    users = [unique(f"user{n}") for n in range(3)]
    for user in users:
        await written(inbox, user, 2, expires_at=clock() + timedelta(seconds=1))
    clock.tick(1_000)
    changes = await removed(database)
    assert sorted(change.recipient_id for change in changes) == sorted(users)
    assert all(change.rev == 3 and change.total == 0 and len(change.ids) == 2 for change in changes)
    for user in users:
        await require_clean(database, user)


async def test_a_call_removes_a_bounded_number_and_what_expired_first(
    database: Database, inbox: InboxStore, user: str, clock: Clock
) -> None:
    second = await written(inbox, user, 2, expires_at=clock() + timedelta(seconds=2))
    first = await written(inbox, user, 2, expires_at=clock() + timedelta(seconds=1))
    clock.tick(5_000)
    (change,) = await removed(database, 2)
    assert change.ids == tuple(row.id for row in first)
    (change,) = await removed(database, 2)
    assert change.ids == tuple(row.id for row in second)


async def test_what_was_deleted_or_replaced_before_does_not_expire_again(
    database: Database, inbox: InboxStore, user: str, clock: Clock
) -> None:
    soon = clock() + timedelta(seconds=1)
    (deleted,) = await written(inbox, user, expires_at=soon)
    await inbox.delete(user, deleted.id)
    for expires_at in (soon, None):
        await written(inbox, user, expires_at=expires_at, collapse_key="k", occurred_at=clock())
    clock.tick(1_000)
    assert await removed(database) == ()


async def test_one_with_a_key_that_expired_still_leaves_older_ones_out(
    database: Database, inbox: InboxStore, user: str, clock: Clock
) -> None:
    await written(
        inbox, user, expires_at=clock() + timedelta(seconds=1), collapse_key="k", occurred_at=clock()
    )
    clock.tick(1_000)
    assert len(await removed(database)) == 1
    older = clock() - timedelta(hours=1)
    assert await written(inbox, user, collapse_key="k", occurred_at=older) == []


async def test_a_priority_is_kept_and_filtered_by(inbox: InboxStore, user: str) -> None:
    (normal,) = await written(inbox, user)
    (high,) = await written(inbox, user, priority="high")
    for priority, row in (("normal", normal), ("high", high)):
        where = InboxFilter.of(priority=priority)
        assert (await inbox.page(user, where, 10, None, 0)).rows == (row,)
        assert (await inbox.count(user, where))[0] == 1
    assert row.priority == "high"

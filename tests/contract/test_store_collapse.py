"""Notifications with a collapse key, on every database: the newer one takes the place of the older ones."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import trio

from contract.store_suite import SOME, Clock, OpenDatabase, Sql, a_draft, row_of, unique, written
from nx_signal.model import Created, Draft, InboxFilter, InboxSummary, Notification
from nx_signal.store import Database, InboxStore, collapse, read_all

START = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture
def inbox(database: Database) -> InboxStore:
    return database.inbox


@pytest.fixture
def user() -> str:
    return unique("user")


def keyed(user: str, minute: int = 0, key: str = "k", **changes: Any) -> Draft:
    """Of an activity that happened at this minute."""
    return a_draft(user, collapse_key=key, occurred_at=START + timedelta(minutes=minute), **changes)


async def made(inbox: InboxStore, *drafts: Draft) -> list[Created]:
    return list(await inbox.insert(drafts))


async def listed(inbox: InboxStore, user: str) -> list[Notification]:
    return list((await inbox.page(user, InboxFilter(), 100, None, 0)).rows)


async def head_of(inbox: InboxStore, user: str) -> InboxSummary:
    return (await inbox.summaries([user]))[user]


async def require_clean(database: Database, user: str) -> None:
    audit = await database.maintenance.audit("", 1_000_000, 1_000_000)
    assert [drift for drift in audit.drifts if drift.recipient_id == user] == []


async def test_the_newer_one_takes_the_place_of_the_older_one_in_one_change(
    database: Database, inbox: InboxStore, user: str
) -> None:
    (old,) = await made(inbox, keyed(user, 1))
    (new,) = await made(inbox, keyed(user, 2))
    assert new == Created(user, 2, 1, 1, 1, SOME, old.history, row_of(new), (row_of(old).id,))
    assert await listed(inbox, user) == [row_of(new)]
    assert await inbox.get(user, row_of(old).id) is None
    assert await head_of(inbox, user) == InboxSummary(user, 2, 1, 1, new.history, unseen=1)
    await require_clean(database, user)


async def test_a_replay_shows_what_was_replaced(inbox: InboxStore, user: str) -> None:
    changes = [*(await made(inbox, keyed(user, 1))), *(await made(inbox, keyed(user, 2)))]
    found = await inbox.changes_since({user: 0}, 10)
    assert list(found[user].changes) == changes


async def test_the_count_of_unread_is_right_where_the_older_one_was_read(
    database: Database, inbox: InboxStore, user: str
) -> None:
    await written(inbox, user)
    (old,) = await made(inbox, keyed(user, 1))
    await inbox.mark(user, row_of(old).id, "read", None)
    (new,) = await made(inbox, keyed(user, 2))
    assert (new.rev, new.unread, new.total) == (4, 2, 2)
    await require_clean(database, user)


async def test_the_count_of_unread_is_right_where_a_read_all_is_not_yet_in_the_rows(
    database: Database, inbox: InboxStore, user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_all, "PORTION", 2)
    await written(inbox, user, 3)
    (old,) = await made(inbox, keyed(user, 1))
    await inbox.mark_all_read(user, None, None, None, None)
    (new,) = await made(inbox, keyed(user, 2))
    assert (new.unread, new.total, new.replaces) == (1, 4, (row_of(old).id,))
    while await database.maintenance.apply_read_all(2):
        pass
    assert [row.is_read for row in await listed(inbox, user)] == [False, True, True, True]
    await require_clean(database, user)


async def test_the_count_of_unseen_is_right_whatever_was_seen(
    database: Database, inbox: InboxStore, user: str
) -> None:
    await made(inbox, keyed(user, 1, "a"), keyed(user, 1, "b"))
    await inbox.mark_all_seen(user, 1, None)
    for key, unseen in (("a", 2), ("b", 2)):
        (new,) = await made(inbox, keyed(user, 2, key))
        assert (new.unread, new.total, new.unseen) == (2, 2, unseen)
    (seen, _) = await listed(inbox, user)
    await inbox.mark_ids(user, [seen.id], "seen", None)
    (new,) = await made(inbox, keyed(user, 3, "b"))
    assert (new.unread, new.total, new.unseen, new.replaces) == (2, 2, 2, (seen.id,))
    await require_clean(database, user)


async def test_an_archived_one_stays_archived_and_is_replaced_once_it_is_back(
    database: Database, inbox: InboxStore, user: str
) -> None:
    (first,) = await made(inbox, keyed(user, 1))
    id = row_of(first).id
    await inbox.mark(user, id, "archive", None)
    (second,) = await made(inbox, keyed(user, 2))
    assert (second.total, second.replaces) == (1, ())
    await inbox.mark(user, id, "unarchive", None)
    assert len(await listed(inbox, user)) == 2
    (third,) = await made(inbox, keyed(user, 3))
    assert (third.unread, third.total, third.replaces) == (1, 1, (id, row_of(second).id))
    await require_clean(database, user)


async def test_the_counts_of_both_types_are_right(database: Database, inbox: InboxStore, user: str) -> None:
    await made(inbox, keyed(user, 1, type="A"))
    await made(inbox, keyed(user, 2, type="B"))
    for type, many in (("A", 0), ("B", 1)):
        for is_read in (None, False):
            assert (await inbox.count(user, InboxFilter.of(type=type, is_read=is_read)))[0] == many
    await require_clean(database, user)


async def test_one_that_happened_earlier_and_comes_later_changes_nothing(
    inbox: InboxStore, user: str
) -> None:
    (new,) = await made(inbox, keyed(user, 2))
    assert await made(inbox, keyed(user, 1)) == []
    assert await listed(inbox, user) == [row_of(new)]
    assert (await head_of(inbox, user)).rev == 1


async def test_one_that_happened_earlier_changes_nothing_also_where_the_newer_one_was_deleted(
    inbox: InboxStore, user: str
) -> None:
    (new,) = await made(inbox, keyed(user, 2))
    await inbox.delete(user, row_of(new).id)
    assert await made(inbox, keyed(user, 1)) == []
    assert await listed(inbox, user) == []


async def test_of_two_that_happened_at_once_the_later_one_stays(inbox: InboxStore, user: str) -> None:
    (old,) = await made(inbox, keyed(user, 1))
    (new,) = await made(inbox, keyed(user, 1))
    assert new.replaces == (row_of(old).id,)


async def test_after_a_deletion_nothing_is_replaced(inbox: InboxStore, user: str) -> None:
    (old,) = await made(inbox, keyed(user, 1))
    await inbox.delete(user, row_of(old).id)
    (new,) = await made(inbox, keyed(user, 2))
    assert (new.rev, new.unread, new.total, new.replaces) == (3, 1, 1, ())


async def test_a_redelivery_of_either_changes_nothing(inbox: InboxStore, user: str) -> None:
    old, new = keyed(user, 1), keyed(user, 2)
    await made(inbox, old)
    await made(inbox, new)
    for drafts in ([old], [new], [new, old], [old, new]):
        assert await made(inbox, *drafts) == []
    assert (await head_of(inbox, user)).rev == 2


async def test_of_several_in_one_call_each_has_its_revision(
    database: Database, inbox: InboxStore, user: str
) -> None:
    drafts = [keyed(user, 1), keyed(user, 3), keyed(user, 2), keyed(user, 4)]
    changes = await made(inbox, *drafts)
    ids = [row_of(change).id for change in changes]
    assert [row_of(change).activity_id for change in changes] == [drafts[n].activity_id for n in (0, 1, 3)]
    assert [(c.rev, c.unread, c.total, c.replaces) for c in changes] == [
        (1, 1, 1, ()),
        (2, 1, 1, (ids[0],)),
        (3, 1, 1, (ids[1],)),
    ]
    found = await inbox.changes_since({user: 0}, 10)
    assert list(found[user].changes) == changes
    assert await made(inbox, *drafts) == []
    await require_clean(database, user)


async def test_others_in_the_same_call_keep_their_order(database: Database, inbox: InboxStore) -> None:
    a, b = unique("a"), unique("b")
    await written(inbox, a)
    drafts = [a_draft(a), keyed(a, 1), a_draft(b), keyed(b, 1), a_draft(a), keyed(a, 2)]
    changes = await made(inbox, *drafts, drafts[0])
    assert [row_of(change).activity_id for change in changes] == [draft.activity_id for draft in drafts]
    assert [(c.recipient_id, c.rev, c.unread, c.total) for c in changes] == [
        (a, 2, 2, 2),
        (a, 3, 3, 3),
        (b, 1, 1, 1),
        (b, 2, 2, 2),
        (a, 4, 4, 4),
        (a, 5, 4, 4),
    ]
    assert [change.after for change in changes[2:4]] == ["", changes[2].history]
    for user in (a, b):
        await require_clean(database, user)


async def test_a_key_is_its_recipients_alone(inbox: InboxStore, user: str) -> None:
    other = unique("other")
    await made(inbox, keyed(user, 1), keyed(other, 1))
    (new,) = await made(inbox, keyed(user, 2))
    assert len(new.replaces) == 1
    assert len(await listed(inbox, other)) == 1


async def test_a_key_is_its_organizers_alone(inbox: InboxStore, user: str) -> None:
    await made(inbox, keyed(user, 5, organizer_id="o2"), keyed(user, 5, organizer_id=None))
    (old,) = await made(inbox, keyed(user, 1, organizer_id="o1"))
    (new,) = await made(inbox, keyed(user, 2, organizer_id="o1"))
    assert new.replaces == (row_of(old).id,)
    assert len(await listed(inbox, user)) == 3
    (new,) = await made(inbox, keyed(user, 6, organizer_id=None))
    assert len(new.replaces) == 1


async def test_another_key_replaces_nothing(inbox: InboxStore, user: str) -> None:
    await made(inbox, keyed(user, 1, "a"), keyed(user, 1, "b"), a_draft(user))
    assert len(await listed(inbox, user)) == 3


async def test_two_calls_at_once_leave_one(open_database: OpenDatabase, user: str) -> None:
    """Of two instances, where the database allows that."""
    async with open_database() as one, open_database() as other:
        await one.migrate()
        second = one if one.driver.place == "memory" else other
        made_by: list[list[Created]] = []

        async def insert(database: Database, minute: int) -> None:
            made_by.append(await made(database.inbox, keyed(user, minute)))

        for minute in range(0, 20, 2):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(insert, one, minute)
                nursery.start_soon(insert, second, minute + 1)
        (left,) = await listed(one.inbox, user)
        created = [change for changes in made_by for change in changes]
        replaced = [id for change in created for id in change.replaces]
        assert sorted([*replaced, left.id]) == sorted(row_of(change).id for change in created)
        assert sorted(change.rev for change in created) == list(range(1, len(created) + 1))
        head = await head_of(one.inbox, user)
        assert (head.rev, head.unread, head.total) == (len(created), 1, 1)
        await require_clean(one, user)


async def test_what_a_release_of_before_creates_after_it_is_counted_from_there(
    inbox: InboxStore, user: str, sql: Sql
) -> None:
    """Its rows have no counts of their own."""
    for minute in (1, 2, 3):
        await made(inbox, keyed(user, minute))
    first, second = await written(inbox, user, 2)
    of_before = "unread_after = NULL, unseen_after = NULL, total_after = NULL"
    sql(f"UPDATE activity_notification SET {of_before} WHERE id IN ({first.id}, {second.id})")  # noqa: S608
    found = (await inbox.changes_since({user: 3}, 10))[user].changes
    assert [(c.rev, c.unread, c.total, c.unseen) for c in found] == [(4, 2, 2, 2), (5, 3, 3, 3)]
    await inbox.mark(user, first.id, "read", None)
    (third,) = await written(inbox, user)
    sql(f"UPDATE activity_notification SET {of_before} WHERE id = {third.id}")  # noqa: S608
    (change,) = (await inbox.changes_since({user: 6}, 10))[user].changes
    assert (change.rev, change.unread, change.total, change.unseen) == (7, 3, 4, 3)


async def test_one_row_takes_the_place_of_a_bounded_number(
    inbox: InboxStore, user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several are there only where archived ones came back."""
    monkeypatch.setattr(collapse, "MAX_REPLACED", 0)
    await made(inbox, keyed(user, 1), keyed(user, 2), keyed(user, 3))
    monkeypatch.setattr(collapse, "MAX_REPLACED", 2)
    (first,) = await made(inbox, keyed(user, 4))
    assert (first.total, len(first.replaces)) == (2, 2)
    (second,) = await made(inbox, keyed(user, 5))
    assert (second.total, len(second.replaces)) == (1, 2)


async def test_a_draft_with_a_key_needs_its_time(inbox: InboxStore, user: str) -> None:
    with pytest.raises(ValueError, match="needs its occurred_at"):
        await inbox.insert([a_draft(user, collapse_key="k")])


async def test_whether_a_newer_one_was_there_at_a_time_is_known(
    inbox: InboxStore, user: str, clock: Clock
) -> None:
    early = clock()
    clock.tick()
    await made(inbox, keyed(user, 2), keyed(user, 9, organizer_id="o2"))
    then = clock()
    clock.tick()
    await made(inbox, keyed(user, 3))

    async def had_newer(key: str, minute: int, at: datetime) -> bool:
        return await inbox.had_newer(user, "o1", key, START + timedelta(minutes=minute), at)

    assert await had_newer("k", 1, then)
    assert not await had_newer("k", 2, then)
    assert not await had_newer("k", 1, early)
    assert not await had_newer("\0", 1, then)


async def test_which_activities_have_rows_is_known(inbox: InboxStore, user: str) -> None:
    (row,) = await written(inbox, user)
    await inbox.delete(user, row.id)
    assert await inbox.written([row.activity_id, "unknown", "\ud800"]) == {row.activity_id}

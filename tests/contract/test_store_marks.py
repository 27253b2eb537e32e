"""What a reader does to rows, on every database: seen, unread again, archived; several at once, all in
portions."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from functools import partial

import pytest
import trio

from contract.store_suite import SOME, Clock, OpenDatabase, a_draft, row_of, unique, written
from nx_signal.errors import HistoryLost
from nx_signal.model import Change, Deleted, InboxFilter, Mark, Notification, Read, Updated
from nx_signal.store import Database, InboxStore, read_all
from nx_signal.store.marks import MAX_IDS, MarkAll, MarkOfAll

PORTION = 3


@pytest.fixture(autouse=True)
def small_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read_all, "PORTION", PORTION)


@pytest.fixture
def inbox(database: Database) -> InboxStore:
    return database.inbox


@pytest.fixture
def user() -> str:
    return unique("user")


async def counts(inbox: InboxStore, user: str) -> tuple[int, int, int]:
    """(total, unread, unseen)"""
    head = (await inbox.summaries([user]))[user]
    return head.total, head.unread, head.unseen


async def listed(inbox: InboxStore, user: str, **where: object) -> list[Notification]:
    """Oldest first."""
    return list((await inbox.page(user, InboxFilter.of(**where), 1_000, None, 0)).rows)[::-1]


async def log(inbox: InboxStore, user: str, rev: int = 0) -> list[Change]:
    return list((await inbox.changes_since({user: rev}, 1_000))[user].changes)


async def mark_all(inbox: InboxStore, covers: MarkAll) -> list[Change | None]:
    """The changes of the portions."""
    changes: list[Change | None] = []
    rest: MarkAll | None = covers
    while rest is not None:
        portion = await inbox.mark_portion(rest)
        changes.append(portion.change)
        rest = portion.rest
    return changes


async def without_drift(database: Database, user: str) -> None:
    audit = await database.maintenance.audit("", 1_000_000, 10**9)
    assert [drift for drift in audit.drifts if drift.recipient_id == user] == []


# --- seen ----------------------------------------------------------------------------------------


async def test_a_new_row_is_unseen(inbox: InboxStore, user: str) -> None:
    (row,) = await written(inbox, user)
    assert row.is_seen is False
    assert await counts(inbox, user) == (1, 1, 1)
    assert (await log(inbox, user))[0].unseen == 1


async def test_seeing_all_is_one_change_and_touches_no_row(
    inbox: InboxStore, user: str, clock: Clock
) -> None:
    rows = await written(inbox, user, 3)
    at = clock.tick()
    updated, head, change = await inbox.mark_all_seen(user, None, "phone")
    expected = Updated(user, 4, 3, 3, 0, SOME, SOME, None, 3, at, "phone", seen=True)
    assert (updated, change, await log(inbox, user, 3)) == (3, expected, [change])
    assert (head.rev, head.total, head.unread, head.unseen, head.seen_rev) == (4, 3, 3, 0, 3)
    seen = await listed(inbox, user)
    assert [(row.is_seen, row.is_read, row.changed_rev) for row in seen] == [
        (True, False, row.rev) for row in rows
    ]


async def test_seeing_up_to_a_revision_leaves_what_came_after_unseen(inbox: InboxStore, user: str) -> None:
    await written(inbox, user, 4)
    assert (await inbox.mark_all_seen(user, 3, None))[0] == 3
    assert await counts(inbox, user) == (4, 4, 1)
    assert [row.is_seen for row in await listed(inbox, user)] == [True, True, True, False]


async def test_what_is_seen_never_becomes_unseen(inbox: InboxStore, user: str) -> None:
    await written(inbox, user, 3)
    await inbox.mark_all_seen(user, 3, None)
    for up_to_rev in (1, 0, -5):
        assert (await inbox.mark_all_seen(user, up_to_rev, None))[2] is None
    assert await counts(inbox, user) == (3, 3, 0)


async def test_seeing_nothing_new_is_no_change(inbox: InboxStore, user: str) -> None:
    (row,) = await written(inbox, user)
    await inbox.mark(user, row.id, "read", None)
    updated, head, change = await inbox.mark_all_seen(user, None, None)
    assert (updated, head.rev, change) == (0, 2, None)
    assert (await inbox.summaries([user]))[user] == head


async def test_reading_a_row_is_seeing_it(inbox: InboxStore, user: str) -> None:
    first, second = await written(inbox, user, 2)
    read = await inbox.mark(user, first.id, "read", None)
    assert read is not None and read[0].is_seen
    assert await counts(inbox, user) == (2, 1, 1)
    await inbox.mark_all_seen(user, 2, None)
    await inbox.mark(user, second.id, "read", None)
    assert await counts(inbox, user) == (2, 0, 0)


async def test_seeing_a_change_that_is_lost_is_refused(inbox: InboxStore, user: str) -> None:
    first, last = await written(inbox, user, 2)
    with pytest.raises(HistoryLost):
        await inbox.mark_all_seen(user, 2, None, str(first.id))
    assert (await inbox.mark_all_seen(user, 2, None, str(last.id)))[0] == 2


async def test_a_deleted_row_takes_its_counts_along(database: Database, inbox: InboxStore, user: str) -> None:
    rows = await written(inbox, user, 3)
    await inbox.mark_all_seen(user, 1, None)
    for row, expected in zip(rows, [(2, 2, 2), (1, 1, 1), (0, 0, 0)], strict=True):
        await inbox.delete(user, row.id)
        assert await counts(inbox, user) == expected
    await without_drift(database, user)


@pytest.mark.parametrize("type", [None, "A"])
@pytest.mark.parametrize("up_to_rev", [None, 8])
async def test_reading_more_than_a_portion_counts_each_row_that_was_unseen_once(
    database: Database, inbox: InboxStore, user: str, type: str | None, up_to_rev: int | None
) -> None:
    rows = await written(inbox, user, 4 * PORTION, type="A")
    await inbox.mark_all_seen(user, 2, None)
    await inbox.mark_ids(user, [rows[4].id, rows[10].id], "seen", None)
    before = await counts(inbox, user)
    assert before == (12, 12, 8)
    await inbox.mark_all_read(user, up_to_rev, type, None, None)
    assert await counts(inbox, user) == (12, 0, 0) if up_to_rev is None else (12, 4, 3)
    await without_drift(database, user)
    while await database.maintenance.apply_read_all(PORTION):
        await without_drift(database, user)


# --- unread again --------------------------------------------------------------------------------


async def test_a_row_that_is_unread_again_stays_seen(inbox: InboxStore, user: str, clock: Clock) -> None:
    (row,) = await written(inbox, user)
    await inbox.mark(user, row.id, "read", None)
    at = clock.tick()
    marked = await inbox.mark(user, row.id, "unread", "phone")
    assert marked is not None
    unread, change = marked
    assert (unread.is_read, unread.read_at, unread.is_seen, unread.changed_rev) == (False, None, True, 3)
    assert change == Updated(user, 3, 1, 1, 0, SOME, SOME, (row.id,), None, at, "phone", is_read=False)
    assert await inbox.get(user, row.id) == unread
    assert await counts(inbox, user) == (1, 1, 0)
    assert await inbox.mark(user, row.id, "unread", None) == (unread, None)


async def test_what_a_recorded_read_all_covers_may_be_unread_again(
    database: Database, inbox: InboxStore, user: str
) -> None:
    rows = await written(inbox, user, 4 * PORTION)
    await inbox.mark_all_read(user, None, None, None, None)  # not in all its rows yet
    await inbox.mark(user, rows[-1].id, "unread", None)
    await inbox.mark(user, rows[0].id, "unread", None)
    assert await database.maintenance.apply_read_all(PORTION) is False
    assert [row.rev for row in await listed(inbox, user, is_read=False)] == [1, 4 * PORTION]
    assert await counts(inbox, user) == (4 * PORTION, 2, 0)
    await without_drift(database, user)


# --- the archive ---------------------------------------------------------------------------------


async def test_an_archived_row_leaves_lists_and_counts_and_stays_reachable(
    inbox: InboxStore, user: str, clock: Clock
) -> None:
    first, last = await written(inbox, user, 2)
    at = clock.tick()
    marked = await inbox.mark(user, first.id, "archive", "phone")
    assert marked is not None
    archived, change = marked
    assert (archived.archived_at, archived.archived, archived.is_read, archived.is_seen) == (
        at,
        True,
        False,
        False,
    )
    assert change == Updated(user, 3, 1, 1, 1, SOME, SOME, (first.id,), None, at, "phone", archived=True)
    assert await counts(inbox, user) == (1, 1, 1)
    assert [row.id for row in await listed(inbox, user)] == [last.id]
    assert await listed(inbox, user, archived=True) == [archived]
    assert await inbox.get(user, first.id) == archived
    assert (await inbox.count(user, InboxFilter.of(archived=True, is_read=False)))[0] == 1
    assert await inbox.mark(user, first.id, "archive", None) == (archived, None)


async def test_a_row_comes_back_from_the_archive_read_and_seen_as_it_was(
    database: Database, inbox: InboxStore, user: str
) -> None:
    unseen, unread, read = await written(inbox, user, 3)
    await inbox.mark_ids(user, [unread.id], "seen", None)
    await inbox.mark(user, read.id, "read", None)
    before = await listed(inbox, user)
    for row in (unseen, unread, read):
        await inbox.mark(user, row.id, "archive", None)
    assert await counts(inbox, user) == (0, 0, 0)
    for row in (read, unseen, unread):
        await inbox.mark(user, row.id, "unarchive", None)
    after = await listed(inbox, user)
    states = [(row.id, row.rev, row.is_read, row.read_at, row.is_seen) for row in before]
    assert [(row.id, row.rev, row.is_read, row.read_at, row.is_seen) for row in after] == states
    assert await counts(inbox, user) == (3, 2, 1)
    await without_drift(database, user)


@pytest.mark.parametrize(
    ("mark", "is_read", "is_seen"), [("read", True, True), ("unread", False, True), ("seen", False, True)]
)
async def test_an_archived_row_may_be_marked_and_counts_stay(
    inbox: InboxStore, user: str, mark: Mark, is_read: bool, is_seen: bool
) -> None:
    row, _ = await written(inbox, user, 2)
    if mark == "unread":
        await inbox.mark(user, row.id, "read", None)
    await inbox.mark(user, row.id, "archive", None)
    before = await counts(inbox, user)
    marked = await inbox.mark(user, row.id, mark, None)
    assert marked is not None
    assert (marked[0].is_read, marked[0].is_seen, marked[0].archived) == (is_read, is_seen, True)
    assert marked[1] is not None
    assert await counts(inbox, user) == before == (1, 1, 1)


async def test_an_archived_row_may_be_deleted_and_counts_stay(inbox: InboxStore, user: str) -> None:
    row, _ = await written(inbox, user, 2)
    await inbox.mark(user, row.id, "archive", None)
    change = await inbox.delete(user, row.id)
    assert change == Deleted(user, 4, 1, 1, 1, SOME, SOME, (row.id,))
    assert await inbox.get(user, row.id) is None
    assert await listed(inbox, user, archived=True) == []
    assert await inbox.mark(user, row.id, "unarchive", None) is None


async def test_reading_all_leaves_the_archive_as_it_is(
    database: Database, inbox: InboxStore, user: str
) -> None:
    rows = await written(inbox, user, 4 * PORTION)
    await inbox.mark(user, rows[-1].id, "archive", None)
    await inbox.mark_all_read(user, None, None, None, None)  # not in all its rows yet
    assert [row.is_read for row in await listed(inbox, user, archived=True)] == [False]
    await inbox.mark(user, rows[-1].id, "unarchive", None)
    assert await counts(inbox, user) == (4 * PORTION, 1, 1)
    assert await database.maintenance.apply_read_all(PORTION) is False
    await without_drift(database, user)


async def test_what_a_recorded_read_all_covers_is_read_in_the_archive(
    database: Database, inbox: InboxStore, user: str
) -> None:
    rows = await written(inbox, user, 4 * PORTION)
    marked = await inbox.mark_all_read(user, None, None, None, None)  # not in all its rows yet
    await inbox.mark(user, rows[-1].id, "archive", None)
    (archived,) = await listed(inbox, user, archived=True)
    assert (archived.is_read, archived.read_at) == (True, marked[2])
    while await database.maintenance.apply_read_all(PORTION):
        pass
    await inbox.mark(user, rows[-1].id, "unarchive", None)
    assert await counts(inbox, user) == (4 * PORTION, 0, 0)
    await without_drift(database, user)


async def test_seeing_all_covers_the_archive_and_is_a_change_where_it_alone_was_unseen(
    inbox: InboxStore, user: str
) -> None:
    first, last = await written(inbox, user, 2)
    await inbox.mark(user, last.id, "archive", None)
    assert (await inbox.mark_all_seen(user, 1, None))[0] == 1
    updated, _, change = await inbox.mark_all_seen(user, None, None)
    assert updated == 0 and isinstance(change, Updated) and change.seen
    await inbox.mark(user, last.id, "unarchive", None)
    assert await counts(inbox, user) == (2, 2, 0)
    assert first.rev == 1


# --- several at once -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mark", "kind", "after"),
    [
        ("read", Read, (3, 1, 1)),
        ("seen", Updated, (3, 3, 1)),
        ("archive", Updated, (1, 1, 1)),
        ("delete", Deleted, (1, 1, 1)),
    ],
)
async def test_rows_of_some_ids_change_together_by_one_revision(
    database: Database, inbox: InboxStore, user: str, mark: Mark, kind: type, after: tuple[int, int, int]
) -> None:
    rows = await written(inbox, user, 3)
    marked = await inbox.mark_ids(user, [rows[2].id, rows[0].id, rows[2].id], mark, None)
    assert (marked.updated, marked.unknown, marked.head.rev) == (2, (), 4)
    (change,) = await log(inbox, user, 3)
    assert isinstance(change, Read | Updated | Deleted) and type(change) is kind
    assert change == marked.change
    assert change.ids == (rows[2].id, rows[0].id)
    assert (await inbox.summaries([user]))[user] == marked.head
    assert await counts(inbox, user) == after
    await without_drift(database, user)


async def test_ids_that_one_does_not_reach_are_named_alike(inbox: InboxStore, user: str) -> None:
    mine, deleted = await written(inbox, user, 2)
    (theirs,) = await written(inbox, unique("other"))
    await inbox.delete(user, deleted.id)
    ids = [theirs.id, deleted.id, mine.id, 0, 2**63, 2**80]
    marked = await inbox.mark_ids(user, ids, "read", None)
    assert (marked.updated, marked.unknown) == (1, (theirs.id, deleted.id, 0, 2**63, 2**80))
    assert (await inbox.get(theirs.recipient_id, theirs.id)) == theirs


async def test_rows_that_are_so_already_make_no_revision(inbox: InboxStore, user: str) -> None:
    (row,) = await written(inbox, user)
    for mark in ("unread", "unarchive"):
        marked = await inbox.mark_ids(user, [row.id], mark, None)
        assert (marked.updated, marked.unknown, marked.change, marked.head.rev) == (0, (), None, 1)


async def test_a_hundred_ids_may_be_given_and_no_more(inbox: InboxStore, user: str) -> None:
    rows = await written(inbox, user, MAX_IDS + 1)
    ids = [row.id for row in rows]
    assert (await inbox.mark_ids(user, ids[1:], "archive", None)).updated == MAX_IDS
    with pytest.raises(ValueError, match="At most 100 ids a call, not 101"):
        await inbox.mark_ids(user, ids, "archive", None)


async def test_under_a_text_that_no_store_holds_nothing_is_marked(inbox: InboxStore) -> None:
    for hostile in ("a\x00b", "\ud800"):
        assert await inbox.mark(hostile, 1, "archive", None) is None
        assert (await inbox.mark_ids(hostile, [1], "archive", None)).unknown == (1,)
        assert (await inbox.mark_all_seen(hostile, None, None))[2] is None
        assert await mark_all(inbox, MarkAll(hostile, "archive", None, None)) == [None]


# --- all, in portions ----------------------------------------------------------------------------


def bounds(changes: Sequence[Change | None]) -> list[int | None]:
    return [change.up_to_rev for change in changes if isinstance(change, Updated)]


async def test_up_to_a_portion_is_one_change(inbox: InboxStore, user: str, clock: Clock) -> None:
    await written(inbox, user, PORTION)
    at = clock.tick()
    changes = await mark_all(inbox, MarkAll(user, "archive", None, "phone"))
    expected = Updated(user, 4, 0, 0, 0, SOME, SOME, None, PORTION, at, "phone", archived=True)
    assert changes == [expected] == await log(inbox, user, PORTION)


async def test_more_are_a_change_for_each_portion_that_covers_all_below_it(
    database: Database, inbox: InboxStore, user: str
) -> None:
    many = 2 * PORTION + 2
    await written(inbox, user, many)
    await inbox.mark_all_seen(user, 4, None)
    changes = await mark_all(inbox, MarkAll(user, "archive", None, None))
    assert bounds(changes) == [PORTION, 2 * PORTION, many + 1]
    assert [change.total for change in changes if change] == [many - PORTION, many - 2 * PORTION, 0]
    assert await log(inbox, user, many + 1) == changes
    changes = await mark_all(inbox, MarkAll(user, "unarchive", 4, None))
    assert bounds(changes) == [PORTION, 4]
    assert await counts(inbox, user) == (4, 4, 0)
    await without_drift(database, user)


async def test_only_what_is_read_is_archived_where_that_is_asked_for(inbox: InboxStore, user: str) -> None:
    rows = await written(inbox, user, 4)
    for row in (rows[0], rows[2]):
        await inbox.mark(user, row.id, "read", None)
    (change,) = await mark_all(inbox, MarkAll(user, "archive", 3, None, only_read=True))
    assert isinstance(change, Updated)
    assert (change.only_read, change.archived, change.up_to_rev) == (True, True, 3)
    assert [row.rev for row in await listed(inbox, user)] == [2, 4]


async def test_all_become_unread_in_portions_and_stay_seen(
    database: Database, inbox: InboxStore, user: str
) -> None:
    many = 3 * PORTION
    await written(inbox, user, many)
    await inbox.mark_all_read(user, None, None, None, None)  # not in all its rows yet
    changes = await mark_all(inbox, MarkAll(user, "unread", None, None))
    assert bounds(changes) == [PORTION, 2 * PORTION, many + 1]
    assert await counts(inbox, user) == (many, many, 0)
    await without_drift(database, user)


async def test_a_row_that_changed_between_two_portions_is_covered_by_the_next(
    database: Database, inbox: InboxStore, user: str
) -> None:
    """So that what a portion states, all up to its revision, is true."""
    rows = await written(inbox, user, 2 * PORTION + 1)
    first = await inbox.mark_portion(MarkAll(user, "archive", None, None))
    await inbox.mark(user, rows[0].id, "unarchive", None)
    assert first.rest is not None
    second = await inbox.mark_portion(first.rest)
    assert isinstance(second.change, Updated)
    assert second.change.up_to_rev == rows[PORTION + 1].rev
    assert [row.rev for row in await listed(inbox, user)] == [rows[-2].rev, rows[-1].rev]
    await without_drift(database, user)


async def test_what_comes_during_the_portions_is_left(inbox: InboxStore, user: str) -> None:
    await written(inbox, user, PORTION + 1)
    first = await inbox.mark_portion(MarkAll(user, "archive", None, None))
    (late,) = await written(inbox, user)
    assert first.rest is not None
    await mark_all(inbox, first.rest)
    assert await listed(inbox, user) == [late]


@pytest.mark.parametrize("mark", ["unread", "archive", "unarchive"])
async def test_all_up_to_a_change_that_is_lost_is_refused(
    inbox: InboxStore, user: str, mark: MarkOfAll
) -> None:
    first, _ = await written(inbox, user, 2)
    with pytest.raises(HistoryLost):
        await inbox.mark_portion(MarkAll(user, mark, 2, None, str(first.id)))


async def test_nothing_to_mark_is_no_change(inbox: InboxStore, user: str) -> None:
    await written(inbox, user)
    for mark in ("unread", "unarchive"):
        covers = MarkAll(user, mark, None, None)
        assert await mark_all(inbox, covers) == [None]
    assert await mark_all(inbox, MarkAll(user, "archive", 0, None)) == [None]


# --- at once, and by age -------------------------------------------------------------------------


async def test_two_instances_that_mark_at_once_agree_with_the_rows(
    open_database: OpenDatabase, database: Database, user: str
) -> None:
    rows = await written(database.inbox, user, 4 * PORTION)
    ids = [row.id for row in rows]
    other = database if database.driver.place == "memory" else None

    async def device(inbox: InboxStore, marks: Sequence[Mark]) -> None:
        for turn in range(6):
            await inbox.mark_ids(user, ids[turn::2], marks[turn % len(marks)], None)
            await inbox.mark_all_read(user, None, None, None, None)
            await inbox.mark_all_seen(user, turn, None)
            await mark_all(inbox, MarkAll(user, "unarchive", None, None))

    async def apply(one: Database) -> None:
        for _ in range(20):
            await one.maintenance.apply_read_all(2)

    async with open_database() as opened:
        second = other or opened
        async with trio.open_nursery() as nursery:
            nursery.start_soon(device, database.inbox, ("unread", "archive"))
            nursery.start_soon(device, second.inbox, ("seen", "unread", "archive"))
            nursery.start_soon(apply, database)
            nursery.start_soon(apply, second)
    await without_drift(database, user)
    while await database.maintenance.apply_read_all(100):
        pass
    await without_drift(database, user)


async def test_archived_rows_are_removed_by_age_too_and_named(
    database: Database, inbox: InboxStore, user: str, clock: Clock
) -> None:
    clock.tick(24 * 3_600_000)
    expire = partial(database.maintenance.expire, limit=1_000)
    while (await expire(clock()))[0]:
        pass  # what other tests left
    clock.tick(24 * 3_600_000)
    kept, archived = await written(inbox, user, 2)
    await inbox.mark(user, archived.id, "archive", None)
    clock.tick(1_000)
    many, change = await expire(clock())
    assert (many, change) == (2, Deleted(user, 4, 0, 0, 0, SOME, SOME, (kept.id, archived.id)))
    await without_drift(database, user)


@pytest.mark.parametrize("other", ["mark_ids", "remove_expired", "replace", "expire"])
async def test_a_read_all_is_applied_beside_others_that_take_its_rows_in_another_order(
    database: Database, inbox: InboxStore, clock: Clock, other: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None of them waits for the other in a circle."""
    monkeypatch.setattr(read_all, "PORTION", 1)
    keys = [f"key-{n}" for n in range(MAX_IDS)]
    clock.tick(24 * 3_600_000)
    while (await database.maintenance.expire(clock(), 1_000))[0]:
        pass  # what other tests left
    clock.tick(24 * 3_600_000)
    for _ in range(12):
        user, expires_at = unique("user"), clock() + timedelta(milliseconds=1)
        drafts = [a_draft(user, collapse_key=key, occurred_at=clock(), expires_at=expires_at) for key in keys]
        ids = [row_of(change).id for change in await inbox.insert(drafts)]
        await inbox.mark_all_read(user, None, None, None, None)
        clock.tick()
        newer = [a_draft(user, collapse_key=key, occurred_at=clock()) for key in reversed(keys)]
        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "mark_ids": partial(inbox.mark_ids, user, ids[::-1], "archive", None),
            "remove_expired": partial(database.maintenance.remove_expired, MAX_IDS),
            "replace": partial(inbox.insert, newer),
            "expire": partial(database.maintenance.expire, clock(), MAX_IDS),
        }
        async with trio.open_nursery() as nursery:
            nursery.start_soon(database.maintenance.apply_read_all, 2 * MAX_IDS)
            nursery.start_soon(calls[other])
        while await database.maintenance.apply_read_all(1_000):
            pass
        await without_drift(database, user)

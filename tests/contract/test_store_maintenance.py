"""store.Maintenance on every database: read-alls in portions, removal by age, the audit."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import count
from typing import Any

import pytest
import trio

from contract.store_suite import SOME, Clock, OpenDatabase, Sql, a_draft, row_of, unique, written
from nx_signal.model import Condition, Created, Deleted, Drift, InboxFilter, InboxSummary, Notification, Read
from nx_signal.store import Database, InboxStore, read_all
from nx_signal.store.driver import Tx

ANY = InboxFilter()
UNREAD, READ = InboxFilter.of(is_read=False), InboxFilter.of(is_read=True)
PORTION = 3
DAY_MS = 24 * 3_600_000
_days = count(2, 2)
"""Tests share a database, and each one's clock starts at the same time: ids are made later and later."""


@pytest.fixture(autouse=True)
def small_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read_all, "PORTION", PORTION)


@pytest.fixture
def inbox(database: Database) -> InboxStore:
    return database.inbox


@pytest.fixture
def user() -> str:
    return unique("user")


async def rows(inbox: InboxStore, user: str, where: InboxFilter = ANY) -> list[Notification]:
    return list((await inbox.page(user, where, 10_000, None, 0)).rows)[::-1]


async def head_of(inbox: InboxStore, user: str) -> InboxSummary:
    return (await inbox.summaries([user]))[user]


async def drifts_of(database: Database, user: str) -> list[Drift]:
    found, after = [], ""
    while True:
        audit = await database.maintenance.audit(after, 7, 100)
        found += [drift for drift in audit.drifts if drift.recipient_id == user]
        if audit.next_after is None:
            return found
        assert audit.next_after > after
        after = audit.next_after


# --- a read-all of more rows than one statement may mark ----------------------------------------


async def every_answer_agrees(inbox: InboxStore, user: str, read: list[int], unread: list[int]) -> None:
    """Which revisions are read, by every way of asking."""
    listed = await rows(inbox, user)
    assert [row.rev for row in listed if row.is_read] == read
    assert [row.rev for row in listed if not row.is_read] == unread
    for row in listed:
        assert await inbox.get(user, row.id) == row
        assert (row.read_at is not None) == row.is_read
    for where, expected in (
        (READ, read),
        (UNREAD, unread),
        (InboxFilter((Condition("is_read", "neq", True),)), unread),
        (InboxFilter((Condition("is_read", "in", (True,)),)), read),
        (InboxFilter.of(is_read=True, type="PAYMENT_SUCCESS"), read),
        (InboxFilter.of(is_read=False, organizer_id="o1"), unread),
    ):
        assert [row.rev for row in await rows(inbox, user, where)] == expected, where
        assert (await inbox.count(user, where))[0] == len(expected), where
    assert (await head_of(inbox, user)).unread == len(unread)


@pytest.mark.parametrize("many", [PORTION - 1, PORTION, PORTION + 1, 4 * PORTION])
async def test_a_read_all_of_any_size_is_one_change_that_every_reader_sees_at_once(
    inbox: InboxStore, user: str, clock: Clock, many: int
) -> None:
    await written(inbox, user, many + 2)
    read_at = clock.tick()
    updated, head, time, change = await inbox.mark_all_read(user, many, None, None, "c")
    assert (updated, head, time) == (many, InboxSummary(user, many + 3, many + 2, 2, SOME, unseen=2), read_at)
    assert isinstance(change, Read)
    assert (change.rev, change.up_to_rev, change.unread) == (many + 3, many, 2)
    await every_answer_agrees(inbox, user, list(range(1, many + 1)), [many + 1, many + 2])
    read = await rows(inbox, user, READ)
    assert {(row.read_at, row.changed_rev) for row in read} == {(read_at, many + 3)}


async def test_a_crash_between_portions_changes_no_answer_and_what_is_left_is_written_later(
    open_database: OpenDatabase, user: str, clock: Clock, request: pytest.FixtureRequest
) -> None:
    if "memory" in request.node.name:
        pytest.skip("Nothing of the store in memory outlives it.")
    async with open_database() as database:
        await database.migrate()
        made = await written(database.inbox, user, 8)
        read_at = clock.tick()
        await database.inbox.mark_all_read(user, None, None, None, None)
        await written(database.inbox, user, 1)
    before: list[Notification] | None = None
    for _ in range(10):  # each time another process
        async with open_database() as database:
            await every_answer_agrees(database.inbox, user, list(range(1, 9)), [10])
            now = await rows(database.inbox, user)
            assert before in (None, now)
            before = now
            assert await drifts_of(database, user) == []
            clock.tick()
            if not await database.maintenance.apply_read_all(PORTION):
                break
    else:
        pytest.fail("There is no end to it.")
    assert [row.id for row in before or ()][:8] == [row.id for row in made]
    assert {row.read_at for row in before or () if row.is_read} == {read_at}


@pytest.mark.parametrize(
    ("type", "subject", "read", "unread"),
    [
        ("A", None, [1, 3, 5, 7, 9], [2, 4, 6, 8, 10]),
        (None, "s", [1, 2, 4, 5, 7, 8, 10], [3, 6, 9]),
        ("A", "s", [1, 5, 7], [2, 3, 4, 6, 8, 9, 10]),
    ],
)
async def test_a_read_all_of_a_type_or_subject_leaves_the_others_unread_in_every_answer(
    database: Database, user: str, type: str | None, subject: str | None, read: list[int], unread: list[int]
) -> None:
    inbox = database.inbox
    await inbox.insert(
        [
            a_draft(user, type="A" if rev % 2 else "B", subject=None if rev % 3 == 0 else "s")
            for rev in range(1, 11)
        ]
    )
    assert (await inbox.mark_all_read(user, None, type, subject, None))[0] == len(read)
    listed = await rows(inbox, user)
    assert [row.rev for row in listed if row.is_read] == read
    for where, expected in ((READ, read), (UNREAD, unread)):
        assert [row.rev for row in await rows(inbox, user, where)] == expected
    of_type = InboxFilter.of(Condition("type", "eq", "A"), is_read=False)
    assert (await inbox.count(user, of_type))[0] == len([rev for rev in unread if rev % 2])
    without_subject = InboxFilter.of(Condition("subject", "eq", None), is_read=False)
    assert (await inbox.count(user, without_subject))[0] == len([rev for rev in unread if rev % 3 == 0])
    while await database.maintenance.apply_read_all(2):
        pass
    assert await rows(inbox, user) == listed
    assert await drifts_of(database, user) == []


async def test_a_row_that_counts_as_read_is_not_read_again_and_keeps_its_time(
    database: Database, user: str, clock: Clock
) -> None:
    inbox = database.inbox
    made = await written(inbox, user, 8)
    _, head, read_at, _ = await inbox.mark_all_read(user, None, None, None, None)
    clock.tick(1000)
    for row in made:
        result = await inbox.mark(user, row.id, "read", None)
        assert result is not None
        assert (result[0].is_read, result[0].read_at, result[1]) == (True, read_at, None)
    assert (await inbox.mark_all_read(user, None, None, None, None))[::3] == (0, None)
    assert await head_of(inbox, user) == head
    assert await drifts_of(database, user) == []


async def test_deleting_a_row_that_counts_as_read_leaves_the_unread_count(
    database: Database, user: str
) -> None:
    inbox = database.inbox
    made = await written(inbox, user, 8)
    await inbox.mark_all_read(user, 7, None, None, None)
    for n, row in enumerate(made[:7], 1):
        change = await inbox.delete(user, row.id)
        assert change is not None
        assert (change.unread, change.total) == (1, 8 - n)
    while await database.maintenance.apply_read_all(PORTION):
        pass
    assert await head_of(inbox, user) == InboxSummary(user, 16, 1, 1, SOME, unseen=1)
    found, _ = await inbox.rows_of(made[6].activity_id, user, 1)
    assert [(row.is_read, row.deleted) for row in found] == [(True, True)]
    assert await drifts_of(database, user) == []


async def test_for_an_operator_too_a_row_is_read_at_once(inbox: InboxStore, user: str) -> None:
    made = await written(inbox, user, 8)
    await inbox.mark_all_read(user, None, None, None, None)
    for row in made:
        found, _ = await inbox.rows_of(row.activity_id, user, 1)
        assert [one.is_read for one in found] == [True]


async def test_one_read_all_follows_another_whatever_is_left_of_the_first(
    database: Database, user: str, clock: Clock
) -> None:
    inbox = database.inbox
    await inbox.insert([a_draft(user, type="A" if n < 10 else "B") for n in range(20)])
    first = await inbox.mark_all_read(user, None, "A", None, None)
    clock.tick()
    second = await inbox.mark_all_read(user, None, None, None, None)
    assert (first[0], second[0]) == (10, 10)
    assert second[1] == InboxSummary(user, 22, 20, 0, SOME)
    listed = await rows(inbox, user)
    assert [row.changed_rev for row in listed] == [21] * 10 + [22] * 10
    assert [row.read_at for row in listed] == [first[2]] * 10 + [second[2]] * 10
    assert await drifts_of(database, user) == []


async def test_read_alls_inserts_and_portions_at_once_agree_in_the_end(database: Database) -> None:
    inbox, users = database.inbox, [unique("u") for _ in range(3)]
    marked = dict.fromkeys(users, 0)
    done = False

    async def write(user: str) -> None:
        for _ in range(4):
            made = await written(inbox, user, 10)
            updated, *_ = await inbox.mark_all_read(user, None, None, None, None)
            marked[user] += updated
            await inbox.delete(user, made[0].id)

    async def settle() -> None:
        while not done:
            if not await database.maintenance.apply_read_all(2):
                await trio.lowlevel.checkpoint()

    with trio.fail_after(60):
        async with trio.open_nursery() as settling:
            settling.start_soon(settle)
            settling.start_soon(settle)
            async with trio.open_nursery() as nursery:
                for user in users:
                    nursery.start_soon(write, user)
            done = True
    for user in users:
        assert await head_of(inbox, user) == InboxSummary(user, 48, 36, 0, SOME)
        assert marked[user] == 40
        assert await rows(inbox, user, UNREAD) == []
        assert await drifts_of(database, user) == []


async def test_nothing_is_left_to_settle_after_a_read_all_of_one_portion(
    database: Database, user: str
) -> None:
    while await database.maintenance.apply_read_all(1000):
        pass
    await written(database.inbox, user, PORTION)
    await database.inbox.mark_all_read(user, None, None, None, None)
    assert await database.maintenance.apply_read_all(1000) is False


# --- removal by age ------------------------------------------------------------------------------


async def expired(database: Database, before: datetime, limit: int = 100) -> list[Deleted]:
    """All that is that old; the changes."""
    changes = []
    while True:
        many, change = await database.maintenance.expire(before, limit)
        if change is not None:
            changes.append(change)
        if not many:
            return changes
        assert many <= limit


@pytest.fixture
async def empty(database: Database, clock: Clock) -> Database:
    """Without what other tests left in it, and none of its ids in the time that follows."""
    clock.tick(next(_days) * DAY_MS)
    await expired(database, clock(), 10_000)
    clock.tick(DAY_MS)
    return database


async def test_rows_of_an_age_are_gone_for_good_and_their_reader_is_told(
    empty: Database, user: str, clock: Clock
) -> None:
    inbox = empty.inbox
    old = await written(inbox, user, 3)
    await inbox.mark(user, old[1].id, "read", None)
    before = clock.tick(1000)
    kept = await written(inbox, user, 2)
    (change,) = await expired(empty, before)
    assert change == Deleted(user, 7, 2, 2, 2, SOME, SOME, ids=tuple(row.id for row in old))
    assert await head_of(inbox, user) == InboxSummary(user, 7, 2, 2, SOME, unseen=2)
    assert [row.id for row in await rows(inbox, user)] == [row.id for row in kept]
    assert [await inbox.get(user, row.id) for row in old] == [None] * 3
    assert await inbox.rows_of(old[0].activity_id, None, 10) == ([], 0)
    assert await drifts_of(empty, user) == []


async def test_a_row_exactly_that_old_is_kept(empty: Database, user: str, clock: Clock) -> None:
    await written(empty.inbox, user)
    assert await expired(empty, clock()) == []
    assert len(await expired(empty, clock.tick())) == 1


async def test_before_the_first_of_all_ids_nothing_is_old(empty: Database, user: str) -> None:
    await written(empty.inbox, user)
    assert await expired(empty, datetime(1970, 1, 1, tzinfo=UTC)) == []


async def test_it_goes_in_portions_one_inbox_at_a_time_the_oldest_first(
    empty: Database, clock: Clock
) -> None:
    a, b = unique("a"), unique("b")
    for _ in range(3):
        for name in (b, a):
            clock.tick()
            await written(empty.inbox, name)
    changes = await expired(empty, clock.tick(1000), limit=2)
    assert [(c.recipient_id, len(c.ids), c.total) for c in changes] == [
        (b, 2, 1),
        (a, 2, 1),
        (b, 1, 0),
        (a, 1, 0),
    ]
    assert await empty.inbox.summaries([a, b]) == {
        a: InboxSummary(a, 5, 0, 0, SOME),
        b: InboxSummary(b, 5, 0, 0, SOME),
    }


async def test_softly_deleted_rows_go_silently(empty: Database, user: str, clock: Clock) -> None:
    made = await written(empty.inbox, user, 3)
    for row in made:
        await empty.inbox.delete(user, row.id)
    head = await head_of(empty.inbox, user)
    assert await expired(empty, clock.tick(1000)) == []
    assert await head_of(empty.inbox, user) == head == InboxSummary(user, 6, 0, 0, SOME)
    assert (await empty.inbox.rows_of(made[0].activity_id, None, 10))[1] == 0
    assert await drifts_of(empty, user) == []


async def test_a_replay_is_complete_or_shows_that_it_is_not(empty: Database, user: str, clock: Clock) -> None:
    """From each revision: what the writers returned, right after it, or from where the log is kept on."""
    inbox = empty.inbox
    log: list[Any] = []
    for n in range(6):
        clock.tick()
        log += await inbox.insert([a_draft(user), a_draft(user)])
        last = row_of(log[-1])
        result = await inbox.mark(user, last.id, "read", None)
        assert result is not None
        log.append(result[1])
        if n % 2:
            log.append(await inbox.delete(user, last.id))
        if n == 2:
            before = clock.tick()
    kept_from = next(c.rev for c in log if isinstance(c, Created) and c.notification.created_at >= before)
    while True:
        many, change = await empty.maintenance.expire(before, 2)
        log += [change] if change else []
        head = await head_of(inbox, user)
        assert head.rev == len(log)
        starts = []
        for rev in range(head.rev):
            changes = (await inbox.changes_since({user: rev}, 100))[user].changes
            assert changes, "below the head there is always something"
            starts.append(changes[0].rev)
            assert list(changes) == log[changes[0].rev - 1 :]
        kept_after = starts[0] - 1
        assert starts == [max(rev, kept_after) + 1 for rev in range(head.rev)]
        assert await drifts_of(empty, user) == []
        if not many:
            break
    assert kept_after == kept_from - 1


async def test_an_inbox_of_which_nothing_is_kept_goes_on_with_its_revisions(
    empty: Database, user: str, clock: Clock
) -> None:
    inbox = empty.inbox
    made = await written(inbox, user, 2)
    await inbox.mark(user, made[0].id, "read", None)
    await expired(empty, clock.tick(1000))
    assert await head_of(inbox, user) == InboxSummary(user, 4, 0, 0, SOME)
    for rev in range(4):
        assert [c.rev for c in (await inbox.changes_since({user: rev}, 10))[user].changes] == [4]
    (change,) = await inbox.insert([a_draft(user)])
    assert (change.rev, change.unread, change.total) == (5, 1, 1)
    assert list((await inbox.changes_since({user: 4}, 10))[user].changes) == [change]
    assert await drifts_of(empty, user) == []


async def test_rows_that_only_count_as_read_expire_as_read_ones(
    empty: Database, user: str, clock: Clock
) -> None:
    inbox = empty.inbox
    await written(inbox, user, 3 * PORTION)
    await inbox.mark_all_read(user, 2 * PORTION, None, None, None)
    (change,) = await expired(empty, clock.tick(1000))
    assert (change.total, change.unread) == (0, 0)
    assert await empty.maintenance.apply_read_all(100) in (True, False)
    assert await drifts_of(empty, user) == []


async def test_several_at_it_and_writers_too_leave_counts_and_log_right(
    empty: Database, clock: Clock
) -> None:
    inbox, users = empty.inbox, [unique("u") for _ in range(4)]
    for user in users:
        await written(inbox, user, 15)
    before = clock.tick(1000)

    async def write(user: str) -> None:
        for _ in range(5):
            (row,) = await written(inbox, user)
            await inbox.mark_all_read(user, None, None, None, None)
            await inbox.delete(user, row.id)

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(expired, empty, before, 4)
            for user in users:
                nursery.start_soon(write, user)
    await expired(empty, before)
    for user in users:
        head = await head_of(inbox, user)
        assert (head.total, head.unread) == (0, 0)
        changes = (await inbox.changes_since({user: 0}, 1000))[user].changes
        assert [c.rev for c in changes] == list(range(changes[0].rev, head.rev + 1))
        assert await drifts_of(empty, user) == []


async def test_of_the_changes_below_the_kept_log_the_last_one_stays(
    empty: Database, user: str, clock: Clock
) -> None:
    async def revisions(tx: Tx) -> list[int]:
        wanted = {"recipient_ids": [user], "revs": [0], "limit": 1000}
        return sorted(row["rev"] for row in await tx.all("changed_since", **wanted))

    for row in await written(empty.inbox, user, 7):
        await empty.inbox.mark(user, row.id, "read", None)
    before = clock.tick()
    await written(empty.inbox, user)
    assert await empty.driver.read(revisions) == list(range(8, 15))
    await empty.maintenance.expire(before, 7)
    assert await empty.driver.read(revisions) == [14, 16]
    await written(empty.inbox, user)


async def test_more_changes_than_one_portion_are_removed(empty: Database, user: str, clock: Clock) -> None:
    async def many(tx: Tx) -> int:
        wanted = {"recipient_ids": [user], "revs": [0], "limit": 1000}
        return len(await tx.all("changed_since", **wanted))

    (_row,) = await written(empty.inbox, user)
    for n in range(8):
        await empty.inbox.mark_all_read(user, None, None, None, None)
        if n < 7:
            await written(empty.inbox, user)
    assert await empty.driver.read(many) == 8
    await expired(empty, clock.tick(1000), 2)
    assert await empty.driver.read(many) <= 2
    assert await drifts_of(empty, user) == []


# --- the audit -----------------------------------------------------------------------------------


async def test_an_audit_goes_through_all_inboxes_once_in_portions(database: Database) -> None:
    users = sorted(unique("audited") for _ in range(9))
    for n, user in enumerate(users):
        await written(database.inbox, user, n + 1)
    for max_inboxes, max_rows in ((1, 10**6), (4, 10**6), (100, 1), (100, 12), (10**6, 10**6)):
        inboxes = total = 0
        after = "audited"
        while True:
            audit = await database.maintenance.audit(after, max_inboxes, max_rows)
            inboxes += audit.inboxes
            total += audit.rows
            assert audit.inboxes <= max_inboxes
            assert audit.drifts == ()
            if audit.next_after is None or audit.next_after >= users[-1]:
                break
            after = audit.next_after
        assert inboxes >= len(users)
        assert total >= 45


async def test_the_largest_inbox_is_a_portion_by_itself(database: Database) -> None:
    small, large = sorted([unique("z"), unique("z")])
    await written(database.inbox, small)
    await written(database.inbox, large, 20)
    assert (await database.maintenance.audit(small, 100, 5)).inboxes == 1


async def test_a_portion_ends_with_the_inbox_that_fills_it(database: Database) -> None:
    users = [f"|{n}-{unique('z')}" for n in range(3)]  # after most others
    for user in users:
        await written(database.inbox, user, 5)
    for max_rows, inboxes in ((5, 1), (6, 2), (10, 2), (11, 3)):
        assert (await database.maintenance.audit("|", 3, max_rows)).inboxes == inboxes


async def test_an_inbox_of_exactly_the_largest_size_is_compared(database: Database) -> None:
    user = "}" + unique("z")  # after most others
    await written(database.inbox, user, 10)
    assert (await database.maintenance.audit("}", 1, 100, largest=10)).inboxes == 1
    assert (await database.maintenance.audit("}", 1, 100, largest=9)).inboxes == 0


async def test_inboxes_above_a_size_are_passed_over(database: Database) -> None:
    users = [f"~{n}-{unique('z')}" for n in range(5)]  # after all others
    for n, user in enumerate(users):
        await written(database.inbox, user, 30 if n in (0, 2, 3) else 5)
    found, after = 0, "~"
    for _ in range(10):
        audit = await database.maintenance.audit(after, 100, 100, largest=10)
        found += audit.inboxes
        if audit.next_after is None:
            break
        assert audit.next_after in users
        after = audit.next_after
    assert found == 2
    assert (await database.maintenance.audit("~", 100, 1000)).inboxes == 5


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("UPDATE recipient_head SET total = total + 1 WHERE {u}", {("total", 6, 5)}),
        ("UPDATE recipient_head SET unread = 1 WHERE {u}", {("unread", 1, 3)}),
        ("UPDATE recipient_head SET unseen = 1 WHERE {u}", {("unseen", 1, 3)}),
        (
            "UPDATE recipient_head SET rev = rev + 1 WHERE {u}",
            {("rev", 9, 8), ("revisions", 9, 8)},
        ),
        (
            "DELETE FROM activity_notification WHERE {u} AND rev = 6",
            {
                ("total", 5, 4),
                ("unread", 3, 2),
                ("unseen", 3, 2),
                ("revisions", 8, 7),
                ("total of PAYMENT_SUCCESS", 5, 4),
                ("unread of PAYMENT_SUCCESS", 3, 2),
            },
        ),
        ("DELETE FROM recipient_change WHERE {u} AND rev = 7", {("revisions", 8, 7)}),
        (
            "UPDATE recipient_type SET unread = unread - 1 WHERE {u}",
            {("unread of PAYMENT_SUCCESS", 2, 3)},
        ),
        (
            "UPDATE recipient_type SET type = 'T' WHERE {u}",
            {
                ("total of PAYMENT_SUCCESS", 0, 5),
                ("unread of PAYMENT_SUCCESS", 0, 3),
                ("total of T", 5, 0),
                ("unread of T", 3, 0),
            },
        ),
        (
            "UPDATE activity_notification SET rev = 7 WHERE {u} AND rev = 6",
            {("revisions", 8, 7), ("doubled revisions", 0, 1)},
        ),
        (
            "DELETE FROM recipient_head WHERE {u}",
            {("total", 0, 5), ("unread", 0, 3), ("unseen", 0, 3), ("rev", 0, 8), ("revisions", 0, 8)},
        ),
    ],
)
async def test_an_audit_names_what_differs(
    database: Database, user: str, sql: Sql, statement: str, expected: set[tuple[str, int, int]]
) -> None:
    made = await written(database.inbox, user, 6)
    await database.inbox.mark_all_read(user, 2, None, None, None)
    await database.inbox.delete(user, made[3].id)
    assert await drifts_of(database, user) == []
    sql(statement.format(u=f"recipient_id = '{user}'"))
    found = await drifts_of(database, user)
    assert {(drift.what, drift.held, drift.counted) for drift in found} == expected
    sql(f"DELETE FROM activity_notification WHERE recipient_id = '{user}'")  # noqa: S608
    sql(f"DELETE FROM recipient_change WHERE recipient_id = '{user}'")  # noqa: S608
    sql(f"DELETE FROM recipient_head WHERE recipient_id = '{user}'")  # noqa: S608
    sql(f"DELETE FROM recipient_type WHERE recipient_id = '{user}'")  # noqa: S608


async def test_a_store_without_counts_of_types_gets_them_by_its_migration(
    database: Database, user: str, sql: Sql
) -> None:
    made = await written(database.inbox, user, 4 * PORTION)
    await database.inbox.delete(user, made[0].id)
    await database.inbox.mark_all_read(user, 3 * PORTION, None, None, None)  # not in all its rows yet
    sql("DROP TABLE recipient_type")
    table = "signal_schema" if database.driver.dialect.name == "postgres" else "schema_version"
    sql(f"DELETE FROM {table} WHERE name = 'type_counts'")  # noqa: S608
    assert len(await database.migrate()) == 1
    assert await drifts_of(database, user) == []
    unread, head = await database.inbox.count(user, InboxFilter.of(is_read=False, type="PAYMENT_SUCCESS"))
    assert unread == head.unread == PORTION


async def test_a_read_all_that_is_not_written_yet_is_no_drift(database: Database, user: str) -> None:
    await written(database.inbox, user, 4 * PORTION)
    await database.inbox.mark_all_read(user, None, None, None, None)
    assert await drifts_of(database, user) == []


async def test_an_audit_beside_writers_sees_one_state(database: Database, clock: Clock) -> None:
    users = [unique("u") for _ in range(3)]
    done = False

    async def write() -> None:
        nonlocal done
        for _ in range(15):
            for user in users:
                made = await written(database.inbox, user, 4)
                await database.inbox.mark_all_read(user, None, None, None, None)
                await database.inbox.delete(user, made[0].id)
        done = True

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        while not done:
            assert (await database.maintenance.audit("", 1000, 10**6)).drifts == ()
            await trio.lowlevel.checkpoint()

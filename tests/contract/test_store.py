"""store.InboxStore, sentence by sentence, on every database."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal
from typing import Any

import msgspec
import pytest
import trio

from contract.store_suite import SOME, Clock, a_draft, row_of, unique, written
from nx_signal.errors import StoreRejected
from nx_signal.model import ChangesSince, Created, Deleted, InboxFilter, InboxSummary, Notification, Read
from nx_signal.store import Database, InboxStore

ANY = InboxFilter()
LONE_SURROGATE = "\ud800"


@pytest.fixture
def inbox(database: Database) -> InboxStore:
    return database.inbox


@pytest.fixture
def user() -> str:
    return unique("user")


async def everything(inbox: InboxStore, user: str, where: InboxFilter = ANY) -> list[Notification]:
    return list((await inbox.page(user, where, 10_000, None, 0)).rows)


async def since(inbox: InboxStore, user: str, rev: int, limit: int = 10_000) -> ChangesSince:
    return (await inbox.changes_since({user: rev}, limit))[user]


# --- insert --------------------------------------------------------------------------------------


async def test_a_written_draft_is_read_back_as_it_was(inbox: InboxStore, user: str, clock: Clock) -> None:
    draft = a_draft(user, content="Xin chào 👋 \u202e", data={"a": [1, -2.5, None, True, {"é": "\n"}]})
    (change,) = await inbox.insert([draft])
    row = row_of(change)
    assert change == Created(user, 1, 1, 1, 1, str(row.id), "", row)
    assert row == Notification(
        id=row.id,
        recipient_id=user,
        rev=1,
        changed_rev=1,
        activity_id=draft.activity_id,
        type=draft.type,
        organizer_id="o1",
        merchant_id="m1",
        subject="order/1",
        locale="en",
        content=draft.content,
        content_html=draft.content_html,
        action_url="/payments/1",
        data=draft.data,
        priority="normal",
        expires_at=None,
        collapse_key=None,
        is_read=False,
        read_at=None,
        is_seen=False,
        archived_at=None,
        created_at=clock(),
    )
    assert await inbox.get(user, row.id) == row


async def test_what_a_draft_leaves_out_stays_out(inbox: InboxStore, user: str) -> None:
    (row,) = await written(
        inbox, user, organizer_id=None, merchant_id=None, subject=None, action_url=None, data={}
    )
    read = await inbox.get(user, row.id)
    assert read == row
    assert (row.organizer_id, row.merchant_id, row.subject, row.action_url, row.data) == ((None,) * 4 + ({},))


async def test_a_stamp_has_milliseconds(inbox: InboxStore, user: str, clock: Clock) -> None:
    exact = clock()
    clock.time += timedelta(microseconds=999)
    (row,) = await written(inbox, user)
    assert row.created_at == exact
    assert row.created_at.utcoffset() == timedelta(0)


async def test_each_row_takes_its_recipients_next_revision_in_the_order_of_the_drafts(
    inbox: InboxStore,
) -> None:
    a, b = unique("a"), unique("b")
    drafts = [a_draft(b), a_draft(a), a_draft(b), a_draft(b), a_draft(a)]
    changes = await inbox.insert(drafts)
    assert [(c.recipient_id, c.rev, c.unread, c.total) for c in changes] == [
        (b, 1, 1, 1),
        (a, 1, 1, 1),
        (b, 2, 2, 2),
        (b, 3, 3, 3),
        (a, 2, 2, 2),
    ]
    assert [row_of(c).activity_id for c in changes] == [d.activity_id for d in drafts]


async def test_nothing_to_write_is_nothing_written(inbox: InboxStore) -> None:
    assert list(await inbox.insert([])) == []


async def test_a_redelivered_activity_makes_no_second_row(inbox: InboxStore, user: str) -> None:
    first, second = a_draft(user), a_draft(user)
    await inbox.insert([first])
    changes = await inbox.insert([first, second])
    assert [(c.rev, row_of(c).activity_id) for c in changes] == [(2, second.activity_id)]
    assert list(await inbox.insert([second, first])) == []
    assert (await inbox.summaries([user]))[user] == InboxSummary(user, 2, 2, 2, SOME, unseen=2)


async def test_a_draft_twice_in_one_call_is_written_once(inbox: InboxStore, user: str) -> None:
    draft, other = a_draft(user), a_draft(user)
    changes = await inbox.insert([draft, draft, other, draft])
    assert [row_of(c).activity_id for c in changes] == [draft.activity_id, other.activity_id]
    assert (await inbox.summaries([user]))[user] == InboxSummary(user, 2, 2, 2, SOME, unseen=2)


async def test_one_activity_gives_each_recipient_a_row(inbox: InboxStore) -> None:
    a, b = unique("a"), unique("b")
    changes = await inbox.insert([a_draft(a, activity_id="one"), a_draft(b, activity_id="one")])
    assert [c.recipient_id for c in changes] == [a, b]


async def test_a_redelivery_does_not_bring_a_deleted_row_back(inbox: InboxStore, user: str) -> None:
    draft = a_draft(user)
    (change,) = await inbox.insert([draft])
    await inbox.delete(user, row_of(change).id)
    assert list(await inbox.insert([draft])) == []
    assert await everything(inbox, user) == []


async def test_a_thousand_drafts_are_one_call(inbox: InboxStore) -> None:
    users = [unique("u") for _ in range(10)]
    changes = await inbox.insert([a_draft(users[n % 10]) for n in range(1000)])
    assert len(changes) == 1000
    heads = await inbox.summaries(users)
    assert all(heads[u] == InboxSummary(u, 100, 100, 100, SOME, unseen=100) for u in users)


async def test_ids_ascend_and_none_repeats_when_the_clock_steps_back(
    inbox: InboxStore, user: str, clock: Clock
) -> None:
    ids = []
    for step_ms in (0, 5, -60_000, -1, 70_000):
        clock.tick(step_ms)
        ids += [row.id for row in await written(inbox, user, 3)]
    assert ids == sorted(set(ids))


HOSTILE_TEXT = [
    pytest.param("a\0b", id="nul"),
    pytest.param("a" + LONE_SURROGATE, id="lone-surrogate"),
    pytest.param("%s {} '; DROP TABLE recipient_head; --", id="sql"),
    pytest.param("x" * 300_000, id="long"),
    pytest.param("\\u0000 \\ud800 \\", id="written-escapes"),
]
HOSTILE_DATA = [
    pytest.param({"a": "x\0"}, id="nul"),
    pytest.param({"a\0": 1}, id="nul-key"),
    pytest.param({"a": [LONE_SURROGATE]}, id="lone-surrogate"),
    pytest.param({"a": 10**30}, id="huge-int"),
    pytest.param({"a": Decimal("1E+308")}, id="huge-fraction"),
    pytest.param({"a": float("inf")}, id="infinity"),
    pytest.param({"a": "\\u0000 \\\\u0000"}, id="written-escapes"),
]


async def stored_faithfully_or_refused_whole(inbox: InboxStore, user: str, **hostile: Any) -> None:
    innocent, bystander = a_draft(user), a_draft(user)
    draft = a_draft(hostile.pop("recipient_id", user), **hostile)
    (before,) = await written(inbox, user)
    try:
        _, change, _ = await inbox.insert([innocent, draft, bystander])
    except StoreRejected as error:
        assert str(error).endswith(".")
        assert await everything(inbox, user) == [before]
        assert (await inbox.summaries([user]))[user] == InboxSummary(user, 1, 1, 1, SOME, unseen=1)
        expected = 1
    else:
        row = row_of(change)
        stored = await inbox.get(row.recipient_id, row.id)
        assert stored == row
        assert all(getattr(row, name) == value for name, value in hostile.items())
        expected = (await inbox.summaries([user]))[user].rev
    # nothing is left behind that would disturb the next call
    (after,) = await inbox.insert([a_draft(user)])
    assert after.rev == expected + 1


@pytest.mark.parametrize(
    "name",
    [
        "recipient_id",
        "activity_id",
        "type",
        "organizer_id",
        "merchant_id",
        "subject",
        "locale",
        "content",
        "content_html",
        "action_url",
    ],
)
@pytest.mark.parametrize("text", HOSTILE_TEXT)
async def test_a_hostile_text_is_stored_faithfully_or_refused(
    inbox: InboxStore, user: str, name: str, text: str
) -> None:
    if name == "recipient_id":
        text = unique(text)
    await stored_faithfully_or_refused_whole(inbox, user, **{name: text})


@pytest.mark.parametrize("data", HOSTILE_DATA)
async def test_hostile_data_is_stored_faithfully_or_refused(
    inbox: InboxStore, user: str, data: dict[str, Any]
) -> None:
    await stored_faithfully_or_refused_whole(inbox, user, data=data)


@pytest.mark.parametrize("text", ["a\0b", LONE_SURROGATE, ""])
async def test_a_hostile_key_finds_nothing_or_is_refused(inbox: InboxStore, text: str) -> None:
    async def nothing(call: Any) -> None:
        try:
            found = await call
        except StoreRejected:
            return
        assert not found

    await nothing(inbox.get(text, 1))
    await nothing(inbox.mark(text, 1, "read", None))
    await nothing(inbox.delete(text, 1))
    for where in (ANY, InboxFilter.of(type=text), InboxFilter.of(subject=text)):
        await nothing(_rows(inbox, text, where))
    await nothing(_updated(inbox, text, text))


async def test_heads_and_backlogs_of_hostile_ids_are_empty_beside_true_ones(
    inbox: InboxStore, user: str
) -> None:
    await written(inbox, user)
    hostile = [user + "\0", user + LONE_SURROGATE, "\0", ""]
    heads = await inbox.summaries([user, *hostile])
    assert heads == {
        user: InboxSummary(user, 1, 1, 1, SOME, unseen=1),
        **{id: InboxSummary(id, 0, 0, 0) for id in hostile},
    }
    changes_since = await inbox.changes_since(dict.fromkeys([user, *hostile], 0), 10)
    assert len(changes_since[user].changes) == 1
    assert all(changes_since[id] == ChangesSince(InboxSummary(id, 0, 0, 0), ()) for id in hostile)


async def _rows(inbox: InboxStore, user: str, where: InboxFilter) -> Sequence[Notification]:
    return (await inbox.page(user, where, 10, None, 0)).rows


async def _updated(inbox: InboxStore, user: str, text: str) -> int:
    return (await inbox.mark_all_read(user, None, text, text, text))[0]


# --- heads and changes_since --------------------------------------------------------------------------


async def test_an_inbox_never_written_has_a_head_of_zeros(inbox: InboxStore, user: str) -> None:
    assert await inbox.summaries([user]) == {user: InboxSummary(user, 0, 0, 0)}
    assert await inbox.summaries([]) == {}


async def test_heads_answer_for_every_id_asked(inbox: InboxStore) -> None:
    users = [unique("u") for _ in range(1500)]
    await written(inbox, users[3], 2)
    heads = await inbox.summaries([*users, users[3]])
    assert sorted(heads) == sorted(users)
    assert heads[users[3]] == InboxSummary(users[3], 2, 2, 2, SOME, unseen=2)
    assert heads[users[4]] == InboxSummary(users[4], 0, 0, 0)


async def a_history(inbox: InboxStore, user: str, clock: Clock) -> list[Any]:
    """One of everything, interleaved; the changes as the writing calls returned them."""
    log: list[Any] = []

    async def create(**changes: Any) -> Notification:
        clock.tick()
        log.extend(await inbox.insert([a_draft(user, **changes)]))
        return row_of(log[-1])

    first = await create()
    second = await create(type="ORDER_COMPLETED")
    clock.tick()
    log.append((await inbox.mark(user, first.id, "read", "client-1"))[1])  # type: ignore[index]
    third = await create(subject=None)
    log.append(await inbox.delete(user, second.id))
    log.append(await inbox.delete(user, first.id))
    await create()
    await create(type="ORDER_COMPLETED")
    clock.tick()
    log.append((await inbox.mark_all_read(user, 6, None, "order/1", None))[3] or "nothing")
    assert log.pop() == "nothing"
    log.append((await inbox.mark_all_read(user, 7, "PAYMENT_SUCCESS", None, "client-2"))[3])
    await create()
    log.append((await inbox.mark_all_read(user, None, None, None, None))[3])
    log.append(await inbox.delete(user, third.id))
    await create()
    assert [change.rev for change in log] == list(range(1, 14))
    return log


async def test_a_replay_from_any_revision_is_exactly_what_the_writers_returned(
    inbox: InboxStore, user: str, clock: Clock
) -> None:
    log = await a_history(inbox, user, clock)
    for rev in range(len(log) + 1):
        assert list((await since(inbox, user, rev)).changes) == log[rev:]


async def test_a_backlog_stops_at_its_limit_and_knows_the_head(
    inbox: InboxStore, user: str, clock: Clock
) -> None:
    log = await a_history(inbox, user, clock)
    head = InboxSummary(user, log[-1].rev, log[-1].total, log[-1].unread, SOME, unseen=log[-1].unseen)
    for rev in range(len(log)):
        for limit in (0, 1, 2, 5):
            assert await since(inbox, user, rev, limit) == ChangesSince(head, tuple(log[rev : rev + limit]))


async def test_each_recipients_backlog_is_its_own(inbox: InboxStore, clock: Clock) -> None:
    a, b, nobody = unique("a"), unique("b"), unique("nobody")
    log_a, log_b = await a_history(inbox, a, clock), await a_history(inbox, b, clock)
    changes_since = await inbox.changes_since({a: 2, b: 9, nobody: 0}, 4)
    assert set(changes_since) == {a, b, nobody}
    assert list(changes_since[a].changes) == log_a[2:6]
    assert list(changes_since[b].changes) == log_b[9:]
    assert changes_since[nobody] == ChangesSince(InboxSummary(nobody, 0, 0, 0), ())
    assert await inbox.changes_since({}, 4) == {}


@pytest.mark.parametrize("rev", [3, 4, 2**31, 2**63, 10**30])
async def test_a_cursor_at_or_above_the_head_gives_no_changes(inbox: InboxStore, user: str, rev: int) -> None:
    await written(inbox, user, 3)
    assert await since(inbox, user, rev) == ChangesSince(InboxSummary(user, 3, 3, 3, SOME, unseen=3), ())


@pytest.mark.parametrize("rev", [-1, -(2**63), -(10**30)])
async def test_a_cursor_below_zero_gives_all(inbox: InboxStore, user: str, rev: int) -> None:
    await written(inbox, user, 3)
    assert [c.rev for c in (await since(inbox, user, rev, 2)).changes] == [1, 2]


async def test_a_backlog_is_one_snapshot(inbox: InboxStore) -> None:
    users = [unique("u"), unique("v")]
    done = False

    async def write() -> None:
        nonlocal done
        for n in range(40):
            rows = [row_of(c) for c in await inbox.insert([a_draft(u) for u in users])]
            if n % 3 == 0:
                await inbox.mark(users[0], rows[0].id, "read", None)
                await inbox.delete(users[1], rows[1].id)
        done = True

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        while not done:
            for backlog in (await inbox.changes_since(dict.fromkeys(users, 0), 1000)).values():
                revs = [c.rev for c in backlog.changes]
                assert revs == list(range(1, backlog.head.rev + 1))
                if backlog.changes:
                    last, head = backlog.changes[-1], backlog.head
                    assert (last.unread, last.total) == (head.unread, head.total)


# --- page, count, get ----------------------------------------------------------------------------


async def test_an_empty_inbox_is_one_empty_page(inbox: InboxStore, user: str) -> None:
    page = await inbox.page(user, ANY, 20, None, 0)
    assert (page.rows, page.matching, page.head, page.next_before_rev) == (
        (),
        0,
        InboxSummary(user, 0, 0, 0),
        None,
    )


async def test_pages_run_from_the_newest_to_the_oldest_each_row_once(inbox: InboxStore, user: str) -> None:
    rows = await written(inbox, user, 7)
    seen: list[Notification] = []
    before_rev, sizes = None, []
    while True:
        page = await inbox.page(user, ANY, 3, before_rev, 0)
        assert page.matching == 7
        seen += page.rows
        sizes.append(len(page.rows))
        before_rev = page.next_before_rev
        if before_rev is None:
            break
    assert seen == rows[::-1]
    assert sizes == [3, 3, 1]


async def test_a_page_that_ends_with_the_oldest_row_is_the_last(inbox: InboxStore, user: str) -> None:
    await written(inbox, user, 4)
    page = await inbox.page(user, ANY, 4, None, 0)
    assert (len(page.rows), page.next_before_rev) == (4, None)


async def test_new_rows_do_not_shift_the_next_page(inbox: InboxStore, user: str) -> None:
    rows = await written(inbox, user, 4)
    first = await inbox.page(user, ANY, 2, None, 0)
    await written(inbox, user, 3)
    await inbox.delete(user, rows[3].id)
    second = await inbox.page(user, ANY, 2, first.next_before_rev, 0)
    assert [*first.rows, *second.rows] == rows[::-1]


async def test_skip_leaves_out_the_newest(inbox: InboxStore, user: str) -> None:
    rows = await written(inbox, user, 5)
    page = await inbox.page(user, ANY, 2, None, 1)
    assert (list(page.rows), page.matching) == ([rows[3], rows[2]], 5)
    assert page.next_before_rev == rows[2].rev
    beyond = await inbox.page(user, ANY, 2, None, 2**70)
    assert (beyond.rows, beyond.matching, beyond.next_before_rev) == ((), 5, None)


@pytest.mark.parametrize(("before_rev", "found"), [(10**30, 2), (2**63, 2), (0, 0), (-(10**30), 0)])
async def test_a_wild_cursor_is_harmless(inbox: InboxStore, user: str, before_rev: int, found: int) -> None:
    await written(inbox, user, 2)
    assert len((await inbox.page(user, ANY, 20, before_rev, 0)).rows) == found


async def test_a_page_and_its_head_are_one_snapshot(inbox: InboxStore, user: str) -> None:
    done = False

    async def write() -> None:
        nonlocal done
        for _ in range(30):
            await written(inbox, user)
        done = True

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        while not done:
            page = await inbox.page(user, ANY, 100, None, 0)
            assert page.head.rev == page.head.total == page.matching == len(page.rows)
            counted, head = await inbox.count(user, InboxFilter.of(type="PAYMENT_SUCCESS"))
            assert counted == head.total


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (InboxFilter(), {0, 1, 2, 3}),
        (InboxFilter.of(is_read=True), {1}),
        (InboxFilter.of(is_read=False), {0, 2, 3}),
        (InboxFilter.of(type="ORDER_COMPLETED"), {1, 2}),
        (InboxFilter.of(type="order_completed"), set()),
        (InboxFilter.of(organizer_id="o2"), {2}),
        (InboxFilter.of(merchant_id="m2"), {3}),
        (InboxFilter.of(subject="order/2"), {0}),
        (InboxFilter.of(subject="order/%"), set()),
        (InboxFilter.of(type="ORDER_COMPLETED", is_read=False), {2}),
        (InboxFilter.of(type="ORDER_COMPLETED", organizer_id="o1", merchant_id="m1", subject="order/1"), {1}),
    ],
    ids=repr,
)
async def test_a_filter_holds_for_pages_and_counts(
    inbox: InboxStore, user: str, where: InboxFilter, expected: set[int]
) -> None:
    drafts = [
        a_draft(user, subject="order/2"),
        a_draft(user, type="ORDER_COMPLETED"),
        a_draft(user, type="ORDER_COMPLETED", organizer_id="o2", merchant_id=None, subject=None),
        a_draft(user, merchant_id="m2", organizer_id=None),
    ]
    ids = [row_of(c).id for c in await inbox.insert(drafts)]
    await inbox.mark(user, ids[1], "read", None)
    (gone,) = await written(inbox, user)
    await inbox.delete(user, gone.id)

    page = await inbox.page(user, where, 10, None, 0)
    assert [row.id for row in page.rows] == [ids[n] for n in sorted(expected, reverse=True)]
    assert page.matching == len(expected)
    assert page.head == InboxSummary(user, 7, 4, 3, SOME, unseen=3)
    assert await inbox.count(user, where) == (len(expected), page.head)
    paged = await inbox.page(user, where, 1, None, 0)
    assert (paged.next_before_rev is not None) == (len(expected) > 1)


async def test_a_span_of_time_includes_its_start_and_not_its_end(
    inbox: InboxStore, user: str, clock: Clock
) -> None:
    times = []
    for _ in range(3):
        times.append(clock.tick())
        await written(inbox, user)

    async def between(start: Any, end: Any) -> list[int]:
        rows = await everything(inbox, user, InboxFilter.of(created_from=start, created_to=end))
        return [row.rev for row in reversed(rows)]

    us = timedelta(microseconds=1)
    assert await between(times[1], None) == [2, 3]
    assert await between(None, times[1]) == [1]
    assert await between(times[0], times[2]) == [1, 2]
    assert await between(times[0] + us, times[2] + us) == [2, 3]
    assert await between(times[2], times[0]) == []


async def test_what_is_deleted_is_in_no_page_and_no_count(inbox: InboxStore, user: str) -> None:
    rows = await written(inbox, user, 3)
    await inbox.delete(user, rows[1].id)
    assert await everything(inbox, user) == [rows[2], rows[0]]
    assert await inbox.count(user, ANY) == (2, InboxSummary(user, 4, 2, 2, SOME, unseen=2))


async def test_nobody_reaches_another_users_rows(inbox: InboxStore, user: str) -> None:
    other = unique("other")
    (row,) = await written(inbox, user)
    head = (await inbox.summaries([user]))[user]
    assert await inbox.get(other, row.id) is None
    assert await inbox.mark(other, row.id, "read", None) is None
    assert await inbox.delete(other, row.id) is None
    assert (await inbox.mark_all_read(other, None, None, None, None))[0] == 0
    assert await everything(inbox, other) == []
    assert await inbox.count(other, ANY) == (0, InboxSummary(other, 0, 0, 0))
    assert (await since(inbox, other, 0)).changes == ()
    assert await inbox.get(user, row.id) == row
    assert (await inbox.summaries([user, other])) == {user: head, other: InboxSummary(other, 0, 0, 0)}


@pytest.mark.parametrize("id", [0, 1, -1, 2**63, -(2**63) - 1, 10**40])
async def test_an_id_that_is_nobodys_gives_none(inbox: InboxStore, user: str, id: int) -> None:
    await written(inbox, user)
    assert await inbox.get(user, id) is None
    assert await inbox.mark(user, id, "read", None) is None
    assert await inbox.delete(user, id) is None
    assert (await inbox.summaries([user]))[user].rev == 1


# --- read ----------------------------------------------------------------------------------------


async def test_reading_a_row_is_a_change_with_the_next_revision(
    inbox: InboxStore, user: str, clock: Clock
) -> None:
    rows = await written(inbox, user, 2)
    read_at = clock.tick()
    result = await inbox.mark(user, rows[0].id, "read", "client-1")
    assert result is not None
    row, change = result
    assert change == Read(
        user,
        3,
        unread=1,
        total=2,
        unseen=1,
        history=SOME,
        after=SOME,
        ids=(row.id,),
        up_to_rev=None,
        type=None,
        subject=None,
        read_at=read_at,
        origin="client-1",
    )
    assert (row.id, row.is_read, row.read_at, row.rev, row.changed_rev) == (rows[0].id, True, read_at, 1, 3)
    assert await inbox.get(user, row.id) == row
    assert (await inbox.summaries([user]))[user] == InboxSummary(user, 3, 2, 1, SOME, unseen=1)


async def test_a_row_read_again_keeps_its_first_time(inbox: InboxStore, user: str, clock: Clock) -> None:
    (row,) = await written(inbox, user)
    first = await inbox.mark(user, row.id, "read", None)
    assert first is not None
    clock.tick(5000)
    assert await inbox.mark(user, row.id, "read", None) == (first[0], None)
    assert (await inbox.mark_all_read(user, None, None, None, None))[0] == 0
    assert await inbox.get(user, row.id) == first[0]
    assert (await inbox.summaries([user]))[user] == InboxSummary(user, 2, 1, 0, SOME)


async def test_a_deleted_row_cannot_be_read(inbox: InboxStore, user: str) -> None:
    (row,) = await written(inbox, user)
    await inbox.delete(user, row.id)
    assert await inbox.get(user, row.id) is None
    assert await inbox.mark(user, row.id, "read", None) is None
    assert (await inbox.mark_all_read(user, None, None, None, None))[0] == 0


async def test_reading_all_is_one_revision(inbox: InboxStore, user: str, clock: Clock) -> None:
    rows = await written(inbox, user, 4)
    await inbox.delete(user, rows[0].id)
    await inbox.mark(user, rows[1].id, "read", None)
    read_at = clock.tick()
    updated, head, time, change = await inbox.mark_all_read(user, None, None, None, "client-1")
    assert (updated, head, time) == (2, InboxSummary(user, 7, 3, 0, SOME), read_at)
    assert change == Read(
        user,
        7,
        unread=0,
        total=3,
        unseen=0,
        history=SOME,
        after=SOME,
        ids=None,
        up_to_rev=6,
        type=None,
        subject=None,
        read_at=read_at,
        origin="client-1",
    )
    listed = await everything(inbox, user)
    assert [(r.is_read, r.changed_rev) for r in listed] == [(True, 7), (True, 7), (True, 6)]
    assert listed[0].read_at == read_at


async def test_reading_all_of_nothing_is_no_change(inbox: InboxStore, user: str, clock: Clock) -> None:
    nothing = (0, InboxSummary(user, 0, 0, 0), clock(), None)
    assert await inbox.mark_all_read(user, None, None, None, None) == nothing
    await written(inbox, user)
    await inbox.mark_all_read(user, None, None, None, None)
    again = (0, InboxSummary(user, 2, 1, 0, SOME), clock.tick(), None)
    assert await inbox.mark_all_read(user, None, None, None, None) == again


@pytest.mark.parametrize(
    ("up_to_rev", "updated", "effective"), [(2, 2, 2), (3, 3, 3), (99, 3, 3), (10**30, 3, 3)]
)
async def test_reading_up_to_a_revision_leaves_what_came_later(
    inbox: InboxStore, user: str, up_to_rev: int, updated: int, effective: int
) -> None:
    await written(inbox, user, 3)
    count, _, _, change = await inbox.mark_all_read(user, up_to_rev, None, None, None)
    assert isinstance(change, Read)
    assert (count, change.up_to_rev, change.unread) == (updated, effective, 3 - updated)
    assert [r.is_read for r in reversed(await everything(inbox, user))] == [n < updated for n in range(3)]


@pytest.mark.parametrize("up_to_rev", [0, -1, -(10**30)])
async def test_reading_up_to_before_the_first_revision_is_no_change(
    inbox: InboxStore, user: str, up_to_rev: int
) -> None:
    await written(inbox, user, 2)
    assert (await inbox.mark_all_read(user, up_to_rev, None, None, None))[::3] == (0, None)


@pytest.mark.parametrize(
    ("type", "subject", "read"),
    [("A", None, {1, 3}), (None, "s", {1, 2}), ("A", "s", {1}), ("C", None, set())],
)
async def test_reading_all_of_a_type_and_subject_leaves_the_others(
    inbox: InboxStore, user: str, type: str | None, subject: str | None, read: set[int]
) -> None:
    await inbox.insert(
        [
            a_draft(user, type="A", subject="s"),
            a_draft(user, type="B", subject="s"),
            a_draft(user, type="A", subject=None),
        ]
    )
    updated, head, _, change = await inbox.mark_all_read(user, None, type, subject, None)
    assert {r.rev for r in await everything(inbox, user) if r.is_read} == read
    assert (updated, head.unread) == (len(read), 3 - len(read))
    if read:
        assert isinstance(change, Read)
        assert (change.type, change.subject, change.up_to_rev) == (type, subject, 3)
    else:
        assert change is None


# --- delete --------------------------------------------------------------------------------------


async def test_deleting_is_a_change_and_counts_an_unread_row_out(inbox: InboxStore, user: str) -> None:
    unread, read = await written(inbox, user, 2)
    await inbox.mark(user, read.id, "read", None)
    assert await inbox.delete(user, read.id) == Deleted(user, 4, 1, 1, 1, SOME, SOME, ids=(read.id,))
    assert await inbox.delete(user, unread.id) == Deleted(user, 5, 0, 0, 0, SOME, SOME, ids=(unread.id,))
    assert (await inbox.summaries([user]))[user] == InboxSummary(user, 5, 0, 0, SOME)


async def test_deleting_twice_is_no_second_change(inbox: InboxStore, user: str) -> None:
    (row,) = await written(inbox, user)
    assert await inbox.delete(user, row.id) is not None
    assert await inbox.delete(user, row.id) is None
    assert (await inbox.summaries([user]))[user] == InboxSummary(user, 2, 0, 0, SOME)


# --- at the same time ----------------------------------------------------------------------------


async def test_concurrent_writers_leave_no_gap_and_do_not_deadlock(inbox: InboxStore) -> None:
    users = [unique("u") for _ in range(5)]
    revs: dict[str, list[int]] = {user: [] for user in users}

    async def write(seed: int) -> None:
        for n in range(6):
            order = users[seed % 5 :] + users[: seed % 5]
            if (seed + n) % 2:
                order.reverse()
            for change in await inbox.insert([a_draft(user) for user in order]):
                revs[change.recipient_id].append(change.rev)
            result = await inbox.mark(order[0], row_of(change).id, "read", None)
            assert result is None or result[1] is not None
            updated = await inbox.mark_all_read(order[1], 3, None, None, None)
            for done in (result and result[1], updated[3]):
                if done:
                    revs[done.recipient_id].append(done.rev)

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            for seed in range(8):
                nursery.start_soon(write, seed)
    heads = await inbox.summaries(users)
    for user in users:
        assert sorted(revs[user]) == list(range(1, heads[user].rev + 1))
        assert heads[user].total == 48
        assert heads[user].unread == (await inbox.count(user, InboxFilter.of(is_read=False)))[0]


async def test_one_activity_inserted_by_many_at_once_is_one_row_each(inbox: InboxStore) -> None:
    users = [unique("u") for _ in range(4)]
    drafts = [a_draft(user, activity_id="the same") for user in users]
    made: list[str] = []

    async def write(order: Sequence[Any]) -> None:
        made.extend(change.recipient_id for change in await inbox.insert(order))

    async with trio.open_nursery() as nursery:
        for n in range(8):
            nursery.start_soon(write, drafts if n % 2 else drafts[::-1])
    assert sorted(made) == sorted(users)
    assert all(head.rev == 1 for head in (await inbox.summaries(users)).values())


async def test_a_call_cancelled_at_any_point_leaves_the_store_consistent(inbox: InboxStore) -> None:
    users = [unique("u") for _ in range(3)]
    for checkpoints in range(25):
        drafts = [a_draft(user) for user in users]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(inbox.insert, drafts)
            nursery.start_soon(inbox.mark_all_read, users[0], checkpoints, None, None, None)
            nursery.start_soon(inbox.page, users[0], ANY, 10, None, 0)
            nursery.start_soon(inbox.changes_since, dict.fromkeys(users, 0), 10)
            for _ in range(checkpoints):
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        # all of the call was written, or nothing; repeating it is safe
        missing = await inbox.insert(drafts)
        assert len(missing) in (0, 3)
    for user, backlog in (await inbox.changes_since(dict.fromkeys(users, 0), 1000)).items():
        assert [c.rev for c in backlog.changes] == list(range(1, backlog.head.rev + 1))
        assert backlog.head.total == 25 == len(await everything(inbox, user))
        assert backlog.head.unread == (await inbox.count(user, InboxFilter.of(is_read=False)))[0]


async def test_of_equal_drafts_in_one_call_the_first_is_written(inbox: InboxStore, user: str) -> None:
    first = a_draft(user, content="first")
    changes = await inbox.insert([first, msgspec.structs.replace(first, content="second")])
    assert [row_of(change).content for change in changes] == ["first"]


async def test_more_drafts_than_one_call_takes_are_refused(inbox: InboxStore, user: str) -> None:
    with pytest.raises(ValueError, match="At most 1000 drafts a call, not 1001"):
        await inbox.insert([a_draft(user)] * 1001)


async def test_a_cursor_below_the_log_begins_at_its_first_revision(inbox: InboxStore, user: str) -> None:
    made = await inbox.insert([a_draft(user), a_draft(user)])
    assert list((await inbox.changes_since({user: -5}, 2))[user].changes) == list(made)


async def test_a_limit_of_any_size_is_a_limit(inbox: InboxStore, user: str) -> None:
    made = await inbox.insert([a_draft(user), a_draft(user)])
    for limit, expected in ((2**63 - 1, made[1:]), (2**70, made[1:]), (0, [])):
        assert list((await inbox.changes_since({user: 1}, limit))[user].changes) == list(expected)


@pytest.mark.parametrize("nowhere", ["nul\0", "half \ud83d"])
async def test_under_a_text_that_no_store_holds_nothing_is_found(inbox: InboxStore, nowhere: str) -> None:
    empty = InboxSummary(nowhere, 0, 0, 0)
    assert await inbox.mark(nowhere, 1, "read", None) is None
    assert (await inbox.mark_all_read(nowhere, None, None, None, None))[:2] == (0, empty)
    assert await inbox.delete(nowhere, 1) is None
    assert await inbox.get(nowhere, 1) is None
    assert await inbox.summaries([nowhere]) == {nowhere: empty}
    assert (await inbox.changes_since({nowhere: 0}, 1))[nowhere].head == empty
    assert (await inbox.page(nowhere, InboxFilter(), 1, None, 0)).head == empty
    assert await inbox.count(nowhere, InboxFilter()) == (0, empty)
    assert await inbox.rows_of(nowhere, None, 1) == ((), 0)


@pytest.mark.parametrize("nowhere", ["nul\0", "half \ud83d"])
async def test_a_read_all_of_a_type_that_no_store_holds_marks_nothing(
    inbox: InboxStore, user: str, nowhere: str
) -> None:
    (row,) = await written(inbox, user)
    assert (await inbox.mark_all_read(user, None, nowhere, None, None))[0] == 0
    assert (await inbox.mark_all_read(user, None, None, nowhere, None))[0] == 0
    assert await inbox.get(user, row.id) == row


async def test_inboxes_are_listed_and_counted_each_by_itself(inbox: InboxStore, user: str) -> None:
    other = unique("other")
    for _ in range(3):
        await inbox.insert([a_draft(user), a_draft(other)])
    for recipient, limit in ((user, 2), (other, 3)):
        page = await inbox.page(recipient, ANY, limit, None, 0)
        assert [row.rev for row in page.rows] == [3, 2, 1][:limit]
        assert {row.recipient_id for row in page.rows} == {recipient}
        of_subject = InboxFilter.of(subject="order/1")
        assert (await inbox.count(recipient, of_subject))[0] == 3

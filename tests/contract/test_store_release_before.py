"""What the release before wrote, recorded in release_before.json: its rows have no counts of their own, and
its log has times as that database's text or number. This release reads it as that one did.

`changes` and `rows` are what the release before answered."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from contract.store_suite import SOME, Sql, a_draft
from nx_signal.model import Change, Created, InboxFilter, Read, Unknown, Updated
from nx_signal.model.changes import to_log
from nx_signal.store import Database
from nx_signal.store.marks import MarkAll

USER = "recorded"
TABLES = (
    "activity_notification",
    "recipient_head",
    "recipient_type",
    "recipient_change",
    "unsettled_read",
)
ADDED = (
    *("history", "after", "unseen", "is_seen", "archived_at"),
    *("priority", "expires_at", "collapse_key", "replaces"),
)
"""What it did not have."""


@pytest.fixture
def recorded(database: Database, sql: Sql) -> dict[str, Any]:
    text = Path(__file__).with_name("release_before.json").read_text(encoding="utf-8")
    answers: dict[str, Any] = json.loads(text)[database.driver.dialect.name]
    for table in TABLES:
        sql(f"DELETE FROM {table} WHERE recipient_id = '{USER}'")  # noqa: S608 - constant texts
        for row in answers["tables"][table]:
            values = ", ".join(map(literal, row.values()))
            sql(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({values})")  # noqa: S608 - recorded texts
    return answers


def literal(value: Any) -> str:
    match value:
        case None:
            return "NULL"
        case bool() | int():
            return str(value)
        case dict():
            return literal(json.dumps(value, ensure_ascii=False))
        case _:
            return "'{}'".format(value.replace("'", "''"))


def plain(value: Any) -> Any:
    """As it is recorded."""
    match value:
        case msgspec.Struct():
            names = [name for name in value.__struct_fields__ if name not in ADDED]
            fields = {name: plain(getattr(value, name)) for name in names}
            return {"is": type(value).__name__, **fields}
        case datetime():
            return value.isoformat()
        case tuple():
            return [plain(each) for each in value]
        case _:
            return value


async def log(database: Database, rev: int = 0) -> list[Change]:
    return list((await database.inbox.changes_since({USER: rev}, 100))[USER].changes)


async def test_its_log_is_replayed_as_it_replayed_it_from_each_revision(
    database: Database, recorded: dict[str, Any]
) -> None:
    expected = recorded["changes"]
    assert [change["rev"] for change in expected] == list(range(1, 14))
    for rev in range(len(expected) + 1):
        assert [plain(change) for change in await log(database, rev)] == expected[rev:]


async def test_its_rows_are_listed_as_it_listed_them(database: Database, recorded: dict[str, Any]) -> None:
    page = await database.inbox.page(USER, InboxFilter(), 100, None, 0)
    assert [plain(row) for row in page.rows] == recorded["rows"]
    assert page.matching == page.head.total == len(recorded["rows"]) == 8


async def test_its_inbox_goes_on_with_counts_that_agree(database: Database, recorded: dict[str, Any]) -> None:
    inbox = database.inbox
    while await database.maintenance.apply_read_all(2):
        pass
    (made,) = await inbox.insert([a_draft(USER)])
    assert (made.rev, made.unread, made.total) == (14, 2, 9)
    marked = await inbox.mark(USER, made.notification.id, "read", None)
    assert marked is not None
    read = await inbox.page(USER, InboxFilter.of(is_read=True), 1, None, 0)
    deleted = await inbox.delete(USER, read.rows[0].id)
    assert (await log(database, 13)) == [made, marked[1], deleted]
    assert (await database.maintenance.audit("", 10_000, 10**6)).drifts == ()


async def test_its_inbox_is_unseen_as_far_as_it_is_unread_until_it_is_seen(
    database: Database, recorded: dict[str, Any]
) -> None:
    inbox = database.inbox
    head = (await inbox.summaries([USER]))[USER]
    assert head.unseen == head.unread > 0
    assert [change.unseen for change in await log(database)] == [
        change.unread for change in await log(database)
    ]
    updated, after, _ = await inbox.mark_all_seen(USER, None, None)
    assert (updated, after.unseen, after.unread) == (head.unread, 0, head.unread)


async def test_what_it_writes_after_this_release_counts_as_unseen_once(
    database: Database, recorded: dict[str, Any], sql: Sql
) -> None:
    """As it does: the head's revision and counts, the counts of the type, a log without the third count."""
    inbox = database.inbox
    while await database.maintenance.apply_read_all(2):
        pass
    await inbox.mark_all_seen(USER, None, None)
    first, second = (await inbox.insert([a_draft(USER)]))[0], (await inbox.insert([a_draft(USER)]))[0]
    rev, of = second.rev + 1, f"recipient_id = '{USER}'"
    sql(f"UPDATE activity_notification SET is_read = true WHERE id = {first.notification.id}")  # noqa: S608
    sql(f"UPDATE recipient_head SET rev = {rev}, unread = unread - 1 WHERE {of}")  # noqa: S608
    sql(f"UPDATE recipient_type SET unread = unread - 1 WHERE {of} AND type = 'PAYMENT_SUCCESS'")  # noqa: S608
    sql(
        "INSERT INTO recipient_change (recipient_id, rev, kind, detail, unread, total)"  # noqa: S608
        " SELECT recipient_id, rev, 'deleted', '{\"ids\": []}', unread, total FROM recipient_head"
        f" WHERE {of}"
    )
    assert (await inbox.summaries([USER]))[USER].unseen == 1
    (third,) = await inbox.insert([a_draft(USER)])
    assert (third.rev, third.unseen) == (rev + 1, 2)
    await inbox.mark(USER, second.notification.id, "read", None)
    assert (await inbox.summaries([USER]))[USER].unseen == 1
    assert (await database.maintenance.audit("", 10_000, 10**6)).drifts == ()


async def test_it_finds_in_every_change_that_is_no_deletion_what_it_expects_of_a_read(
    database: Database, recorded: dict[str, Any]
) -> None:
    inbox = database.inbox
    (row,) = (await inbox.page(USER, InboxFilter(), 1, None, 0)).rows
    changes = [
        (await inbox.mark_all_seen(USER, None, "phone"))[2],
        (await inbox.mark_ids(USER, [row.id], "archive", None)).change,
        (await inbox.mark_portion(MarkAll(USER, "unarchive", None, None))).change,
    ]
    for change in changes:
        assert isinstance(change, Updated)
        kind, detail = to_log(change)
        assert kind == "updated"
        assert {"ids", "upToRev", "readAt", "origin", "type", "subject"} <= detail.keys()
        assert isinstance(detail["readAt"], datetime)


async def test_removal_by_age_keeps_the_change_from_which_its_counts_follow(
    database: Database, recorded: dict[str, Any]
) -> None:
    last = recorded["changes"][-1]
    before = datetime.fromisoformat(last["notification"]["created_at"])
    _, change = await database.maintenance.expire(before, 100)
    replayed = await log(database)
    assert [plain(each) for each in replayed] == [last, plain(change)]
    assert change is not None
    assert (change.rev, change.unread, change.total) == (14, 1, 1)


async def test_a_change_that_a_newer_release_wrote_stands_in_the_log_as_an_unknown_one(
    database: Database, recorded: dict[str, Any], sql: Sql
) -> None:
    if database.driver.dialect.name == "postgres":
        sql("ALTER TABLE recipient_change DROP CONSTRAINT IF EXISTS recipient_change_kind_check")
    of = f"recipient_id = '{USER}'"
    sql(f"UPDATE recipient_change SET kind = 'archived' WHERE {of} AND rev = 7")  # noqa: S608
    sql(f"UPDATE recipient_change SET detail = '{{\"all\": true}}' WHERE {of} AND rev = 9")  # noqa: S608
    changes = await log(database)
    assert [change.rev for change in changes] == list(range(1, 14))
    assert changes[6] == Unknown(USER, 7, 5, 6, 5, SOME, SOME, "archived")
    assert changes[8] == Unknown(USER, 9, 3, 5, 3, SOME, SOME, "deleted")
    assert {type(change) for change in changes} == {Created, Read, Unknown}

"""Each change has a history that is never given twice; heads, lists and logs agree about it."""

from __future__ import annotations

import pytest

from contract.store_suite import Clock, Sql, a_draft, unique, written
from nx_signal.errors import HistoryLost
from nx_signal.model import Change, InboxFilter
from nx_signal.store import Database


@pytest.fixture
def user() -> str:
    return unique("user")


async def log(database: Database, user: str, rev: int = 0, limit: int = 100) -> list[Change]:
    return list((await database.inbox.changes_since({user: rev}, limit))[user].changes)


async def a_log(database: Database, user: str) -> list[Change]:
    """One change of each kind, as the calls that made them gave them."""
    inbox = database.inbox
    made: list[Change] = [*await inbox.insert([a_draft(user) for _ in range(3)])]
    rows = await inbox.page(user, InboxFilter(), 10, None, 0)
    marked = await inbox.mark(user, rows.rows[0].id, "read", None)
    assert marked is not None and marked[1] is not None
    made.append(marked[1])
    deleted = await inbox.delete(user, rows.rows[1].id)
    *_, read_all = await inbox.mark_all_read(user, None, None, None, None)
    assert deleted is not None and read_all is not None
    made += [deleted, read_all, *await inbox.insert([a_draft(user)])]
    return made


async def test_each_change_follows_the_one_before_and_the_log_repeats_what_the_calls_gave(
    database: Database, user: str
) -> None:
    made = await a_log(database, user)
    histories = [change.history for change in made]
    assert [change.after for change in made] == ["", *histories[:-1]]
    assert len(set(histories)) == len(histories)
    assert await log(database, user) == made


async def test_a_part_of_the_log_begins_with_the_history_that_it_follows(
    database: Database, user: str
) -> None:
    made = await a_log(database, user)
    for rev in range(len(made)):
        assert await log(database, user, rev, limit=2) == made[rev : rev + 2]


async def test_every_answer_has_the_history_of_its_revision(database: Database, user: str) -> None:
    inbox = database.inbox
    for change in await a_log(database, user):
        last = change
    page = await inbox.page(user, InboxFilter(), 1, None, 0)
    _, counted = await inbox.count(user, InboxFilter.of(type="A"))
    heads = [page.head, counted, (await inbox.summaries([user]))[user]]
    heads.append((await inbox.changes_since({user: 0}, 1))[user].head)
    assert {(head.rev, head.history) for head in heads} == {(last.rev, last.history)}


async def test_several_inboxes_of_one_call_have_histories_of_their_own(database: Database) -> None:
    users = [unique("user") for _ in range(3)]
    made = await database.inbox.insert([a_draft(users[n % 3]) for n in range(9)])
    for user in users:
        mine = [change for change in made if change.recipient_id == user]
        assert [change.after for change in mine] == ["", *(change.history for change in mine[:-1])]
        assert await log(database, user) == mine


async def test_what_repeats_nothing_moves_no_history(database: Database, user: str) -> None:
    (made,) = await database.inbox.insert([draft := a_draft(user)])
    await database.inbox.insert([draft])
    assert (await database.inbox.summaries([user]))[user].history == made.history


async def test_where_a_release_without_histories_moved_the_head_it_is_the_newest_change_s(
    database: Database, user: str, sql: Sql
) -> None:
    made = await a_log(database, user)
    for before in (made[-1], made[-2], made[-3]):
        sql(
            f"UPDATE recipient_head SET rev = {before.rev}, history = 'x', history_rev = 1 "  # noqa: S608
            f"WHERE recipient_id = '{user}'"
        )
        assert (await database.inbox.summaries([user]))[user].history == before.history
    sql(f"UPDATE recipient_head SET rev = {len(made)} WHERE recipient_id = '{user}'")  # noqa: S608


async def test_a_change_of_a_release_without_histories_is_identified_by_what_it_did(
    database: Database, user: str, sql: Sql
) -> None:
    made = await a_log(database, user)
    sql(f"UPDATE recipient_change SET history = NULL WHERE recipient_id = '{user}'")  # noqa: S608
    found = await log(database, user)
    histories = [change.history for change in found]
    assert histories == [change.history for change in await log(database, user)]
    assert all(histories)
    assert [change.after for change in found] == ["", *histories[:-1]]
    assert [change.history for change in found[:3]] == [change.history for change in made[:3]]


@pytest.mark.parametrize("newest", ["a row", "another change"])
async def test_where_the_log_was_removed_by_age_what_is_kept_follows_it(
    database: Database, user: str, clock: Clock, newest: str
) -> None:
    clock.tick(10_000_000_000)  # later than what the other tests write
    (row,) = await written(database.inbox, user)
    last = (await log(database, user))[-1]
    if newest != "a row":
        marked = await database.inbox.mark(user, row.id, "read", None)
        assert marked is not None and marked[1] is not None
        last = marked[1]
    before = clock.tick(1_000)
    while (await database.maintenance.expire(before, 100))[0]:
        pass
    (kept,) = await log(database, user, last.rev)
    assert (kept.rev, kept.after) == (last.rev + 1, last.history)


async def test_a_read_all_up_to_a_change_that_the_inbox_does_not_have_marks_nothing(
    database: Database, user: str
) -> None:
    made = await a_log(database, user)
    inbox, last = database.inbox, made[-1]
    for rev, history in [(7, made[5].history), (3, made[3].history), (8, last.history), (7, "")]:
        with pytest.raises(HistoryLost, match="fetch the list again"):
            await inbox.mark_all_read(user, rev, None, None, None, history)
    assert (await inbox.summaries([user]))[user].rev == 7
    assert (await inbox.mark_all_read(user, 5, None, None, None, made[4].history))[0] == 0
    assert (await inbox.mark_all_read(user, 0, None, None, None, "any"))[0] == 0
    assert (await inbox.mark_all_read(user, 7, None, None, None, last.history))[0] == 1

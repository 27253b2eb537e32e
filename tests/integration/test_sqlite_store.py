"""What only the embedded store has: a file, threads, locks between processes."""

from __future__ import annotations

import os
import sqlite3
import stat
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast
from unittest.mock import ANY

import pytest
import trio

from nx_signal.adapters.sqlite import file as sqlite_file
from nx_signal.adapters.sqlite.memory import MemoryDatabase
from nx_signal.adapters.sqlite.store import open_sqlite
from nx_signal.errors import Fatal, SchemaOutdated, SettingsError, StoreUnavailable
from nx_signal.model import (
    OPERATOR_ROLE,
    PERMISSIONS,
    Audience,
    Condition,
    Draft,
    Grant,
    InboxFilter,
    InboxSummary,
    Mark,
    Member,
    Memberships,
    Organizer,
    Roster,
)
from nx_signal.store import Database, schema
from nx_signal.store.driver import Tx
from nx_signal.store.marks import MarkAll, MarkOfAll
from nx_signal.store.snowflake import timestamp_of
from nx_signal.store.sql import Step, steps

USER = "u1"
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def now() -> datetime:
    return NOON


def a_draft(activity_id: str = "a1", **changes: str) -> Draft:
    content = changes.get("content", "text")
    return Draft(
        recipient_id=USER,
        activity_id=activity_id,
        type="A",
        organizer_id="o1",
        merchant_id="m1",
        subject="s",
        locale="en",
        content=content,
        content_html="<p>text</p>",
        action_url=None,
        data={},
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "signal.db"


@pytest.fixture
async def database(path: Path) -> AsyncIterator[Database]:
    async with open_sqlite(path, now) as database:
        await database.check()
        yield database


def worker_of(id: int) -> int:
    return (id >> 12) & 1023


async def new_id(database: Database, activity_id: str) -> int:
    (change,) = await database.inbox.insert([a_draft(activity_id)])
    return change.notification.id


async def rows_in(tx: Tx, table: str) -> int:
    (row,) = await tx.select(f"SELECT count(*) AS many FROM {table}", {})  # noqa: S608 - a constant name
    return cast(int, row["many"])


# --- the file ------------------------------------------------------------------------------------


async def test_check_makes_the_directory_for_its_owner_alone(database: Database, path: Path) -> None:
    await database.inbox.insert([a_draft()])
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    for file in path.parent.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) & 0o077 == 0, file.name


async def test_a_name_with_odd_characters_is_a_file_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / "a?b#c%20 d" / "é?mode=memory.db"
    async with open_sqlite(path, now) as database:
        await database.check()
        await database.inbox.insert([a_draft()])
    assert path.stat().st_size > 0


async def test_entering_makes_no_file(path: Path) -> None:
    async with open_sqlite(path, now):
        pass
    assert not path.parent.exists()


async def test_rows_are_written_through_to_the_disk(path: Path) -> None:
    file = sqlite_file.SqliteFile(path, now)

    async def pragmas(tx: Tx) -> list[Any]:
        return [(await tx.select(f"PRAGMA {name}", {}))[0][name] for name in ("journal_mode", "synchronous")]

    assert await file.write(pragmas) == ["wal", 2]
    await file.close()


async def test_migrate_names_its_steps_once(path: Path) -> None:
    async with open_sqlite(path, now) as database:
        assert list(await database.migrate()) == [step.name for step in steps("sqlite")]
        assert list(await database.migrate()) == []
    with closing(sqlite3.connect(path)) as connection:
        breaking = connection.execute("SELECT version, applied_at FROM schema_version").fetchall()
        additive = connection.execute("SELECT version FROM schema_addition").fetchall()
    at = int(NOON.timestamp() * 1000)
    assert breaking == [(step.version, at) for step in steps("sqlite") if not step.additive]
    assert additive == [(step.version,) for step in steps("sqlite") if step.additive]


async def test_a_newer_schema_is_refused_with_a_sentence(database: Database, path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("INSERT INTO schema_version VALUES (99, 'from_tomorrow', 0)")
    with pytest.raises(SchemaOutdated, match=r"schema version 99.*install the newer release"):
        await database.check()


async def test_a_step_that_fails_leaves_nothing_of_itself(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = steps("sqlite")
    bad = Step(len(good) + 1, "bad", "CREATE TABLE half (a);\nSELECT * FROM nowhere;\n", additive=False)
    monkeypatch.setattr(schema, "steps", lambda dialect: (*good, bad))
    async with open_sqlite(path, now) as database:
        with pytest.raises(SchemaOutdated, match="no such table: nowhere"):
            await database.check()
        monkeypatch.undo()
        await database.check()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT * FROM sqlite_master WHERE name = 'half'").fetchall() == []


async def test_a_directory_that_cannot_be_made_is_a_wrong_setting(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    async with open_sqlite(tmp_path / "file" / "signal.db", now) as database:
        with pytest.raises(SettingsError, match="APP_ENV_DATA_DIR"):
            await database.check()


async def test_a_file_that_is_no_database_stops_with_a_sentence(path: Path) -> None:
    await trio.Path(path.parent).mkdir()
    await trio.Path(path).write_bytes(b"no database at all, but long enough to be read as one" * 100)
    async with open_sqlite(path, now) as database:
        with pytest.raises(Fatal, match="damaged or not a database"):
            await database.check()


async def test_a_store_that_is_not_set_up_yet_is_unavailable_until_it_is(path: Path) -> None:
    """The port opens before the store is checked: a client may connect in that moment."""
    async with open_sqlite(path, now) as database:
        with pytest.raises(StoreUnavailable):
            await database.inbox.summaries([USER])
        with pytest.raises(StoreUnavailable, match="not set up yet"):
            await database.inbox.insert([a_draft()])
        await database.check()
        assert len(await database.inbox.insert([a_draft()])) == 1


async def test_a_file_that_goes_while_it_is_set_up_is_unavailable(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_sqlite(path, now) as database:
        with pytest.raises(StoreUnavailable):
            await database.inbox.summaries([USER])
        monkeypatch.setattr(
            sqlite_file.SqliteFile, "_open_reader", lambda self: sqlite3.connect("/dev/null/x")
        )
        with pytest.raises(StoreUnavailable, match="unable to open"):
            await database.inbox.insert([a_draft()])


async def test_a_table_that_was_dropped_ends_with_a_sentence(path: Path) -> None:
    async with open_sqlite(path, now) as database:
        await database.check()
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("DROP TABLE recipient_head")
        with pytest.raises(SchemaOutdated, match="lacks a part of its schema"):
            await database.inbox.summaries([USER])


# --- what goes wrong meanwhile -------------------------------------------------------------------


async def test_a_file_locked_by_another_process_is_unavailable_for_the_moment(
    database: Database, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        monkeypatch.setattr(sqlite_file, "BUSY_TIMEOUT_MS", 50)
        async with open_sqlite(path, now) as impatient:
            with pytest.raises(StoreUnavailable, match="database is locked"):
                await impatient.inbox.insert([a_draft()])
            # lists do not wait for writes
            assert (await impatient.inbox.page(USER, InboxFilter(), 10, None, 0)).matching == 0
            other.execute("ROLLBACK")
            assert len(await impatient.inbox.insert([a_draft()])) == 1


@pytest.mark.parametrize(("refusals", "patience_ms"), [(3, 2_000), (1, 0)])
def test_opening_waits_out_another_process_that_makes_the_file_a_wal_one(
    refusals: int, patience_ms: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Connection:
        asked = 0

        def execute(self, pragma: str) -> None:
            self.asked += 1
            if self.asked <= refusals:
                error = sqlite3.OperationalError("database is locked")
                error.sqlite_errorcode = sqlite3.SQLITE_BUSY
                raise error

    monkeypatch.setattr(sqlite_file, "BUSY_TIMEOUT_MS", patience_ms)
    connection: Any = Connection()
    if patience_ms:
        sqlite_file._use_wal(connection)
        assert connection.asked == refusals + 1
    else:
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            sqlite_file._use_wal(connection)


async def test_a_full_disk_is_unavailable_and_loses_nothing(path: Path) -> None:
    file = sqlite_file.SqliteFile(path, now)
    limit = 60

    async def full(tx: Tx) -> None:
        await tx.script(f"PRAGMA max_page_count = {limit};")
        await tx.script("INSERT INTO fill VALUES (zeroblob(1000000));")

    async def small(tx: Tx) -> None:
        await tx.script("CREATE TABLE IF NOT EXISTS fill (a);\nINSERT INTO fill VALUES (1);")

    await file.write(small)
    with pytest.raises(StoreUnavailable, match="full"):
        await file.write(full)
    await file.write(small)
    assert await file.read(rows_in, "fill") == 2
    await file.close()


async def test_a_cancelled_call_whose_thread_runs_is_finished_not_abandoned(path: Path) -> None:
    file = sqlite_file.SqliteFile(path, now)
    inside, go_on = trio.Event(), threading.Event()

    async def slow(tx: Tx) -> None:
        await tx.script("CREATE TABLE t (a);")
        trio.from_thread.run_sync(inside.set)
        assert go_on.wait(10)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(file.write, slow)
        await inside.wait()
        nursery.cancel_scope.cancel()
        go_on.set()
    assert await file.read(rows_in, "t") == 0
    await file.close()


# --- ids -----------------------------------------------------------------------------------------


async def test_two_live_instances_never_share_a_worker_id(path: Path) -> None:
    async with open_sqlite(path, now) as one:
        await one.check()
        assert worker_of(await new_id(one, "1")) == 9
        async with open_sqlite(path, now) as two:
            assert worker_of(await new_id(two, "2")) == 10
            assert worker_of(await new_id(one, "3")) == 9
        async with open_sqlite(path, now) as three:
            assert worker_of(await new_id(three, "4")) == 10


async def test_a_restart_with_the_clock_set_back_repeats_no_id(path: Path) -> None:
    async with open_sqlite(path, now) as database:
        await database.check()
        first = await new_id(database, "1")
    async with open_sqlite(path, lambda: NOON - timedelta(days=1)) as database:
        second = await new_id(database, "2")
        (row,) = (await database.inbox.page(USER, InboxFilter(), 1, None, 0)).rows
    assert second > first
    assert timestamp_of(second) == NOON + timedelta(milliseconds=1)
    assert row.created_at == NOON - timedelta(days=1)


# --- the rules that load cannot write ------------------------------------------------------------


async def test_deny_wins_over_allow(database: Database, path: Path) -> None:
    await database.directory.load(
        Roster(
            [Organizer("o1", None, ("m1",))],
            [Member(USER, "o1", "m1", "staff", None), Member("u2", "o1", None, "staff", None)],
            [Grant(USER, OPERATOR_ROLE, None), Grant("u2", OPERATOR_ROLE, None)],
        )
    )

    def deny(variant: str, subject: tuple[str, str], target: tuple[str, str], domain: str) -> None:
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute(
                "INSERT INTO policy_definition (variant, subject_type, subject_id, target_type, target_id,"
                " effect, domain) VALUES (?, ?, ?, ?, ?, 'deny', ?)",
                (variant, *subject, *target, domain),
            )

    directory = database.directory
    deny("policy", ("User", USER), ("Permission", "DeadLetter.find"), "")
    assert await directory.permissions(USER, []) == set(PERMISSIONS) - {"DeadLetter.find"}
    assert await directory.permissions("u2", []) == set(PERMISSIONS)
    deny("policy", ("Role", OPERATOR_ROLE), ("Permission", "DeadLetter.replay"), "")
    assert await directory.permissions("u2", []) == set(PERMISSIONS) - {"DeadLetter.replay"}
    deny("group", ("User", USER), ("Role", OPERATOR_ROLE), "")
    assert await directory.permissions(USER, []) == frozenset()
    deny("group", ("User", USER), ("Role", "staff"), "Merchant_m1")
    assert list((await directory.audiences([Audience("o1")]))[Audience("o1")]) == ["u2"]
    assert await directory.memberships([USER]) == {USER: Memberships(frozenset(), frozenset())}


async def test_rows_of_another_program_may_leave_out_or_null_what_is_not_essential(
    database: Database, path: Path
) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executescript(
            """
            INSERT INTO merchant (id, organizer_id) VALUES ('m1', 'o1');
            INSERT INTO policy_definition
                (variant, subject_type, subject_id, target_type, target_id, action, effect, domain)
            VALUES ('group', 'User', 'a', 'Role', 'staff', NULL, NULL, 'Merchant_m1'),
                   ('group', 'User', 'a', 'Role', 'reader', NULL, NULL, NULL),
                   ('policy', 'Role', 'reader', 'Permission', 'DeadLetter.find', NULL, NULL, NULL);
            INSERT INTO policy_definition (variant, subject_type, subject_id, target_type, target_id)
            VALUES ('policy', 'User', 'a', 'Permission', 'DeadLetter.replay');
            """
        )
    directory = database.directory
    assert list((await directory.audiences([Audience("o1")]))[Audience("o1")]) == ["a"]
    assert await directory.permissions("a", []) == {"DeadLetter.find", "DeadLetter.replay"}


async def test_a_merchant_that_nobody_placed_has_no_organizer(database: Database, path: Path) -> None:
    await database.directory.load(Roster((), [Member(USER, "o1", "m1", "staff", None)], ()))
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DELETE FROM merchant")
    assert await database.directory.memberships([USER]) == {USER: Memberships(frozenset(), frozenset({"m1"}))}
    assert list((await database.directory.audiences([Audience("o1")]))[Audience("o1")]) == []


# --- plans ---------------------------------------------------------------------------------------


SMALL = {
    "SCAN n LEFT-JOIN",  # the page itself, below its head
    "SCAN CONSTANT ROW",
    "SCAN unsettled_read",  # recorded read-alls, until they are applied
}


class Explained:
    """A connection that keeps the plan of each statement before it runs it."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self.plan: list[str] = []

    def execute(self, sql: str, values: Any = ()) -> sqlite3.Cursor:
        self.plan += [row[3] for row in self._connection.execute(f"EXPLAIN QUERY PLAN {sql}", values)]
        return self._connection.execute(sql, values)

    def executemany(self, sql: str, rows: Sequence[Any]) -> None:
        for values in rows:
            self.execute(sql, values)

    @property
    def in_transaction(self) -> bool:
        return self._connection.in_transaction


Call = Callable[[Database], Awaitable[object]]


def page(*conditions: Condition, **parameters: Any) -> Call:
    return lambda database: database.inbox.page(USER, InboxFilter.of(*conditions, **parameters), 20, None, 0)


def count(*conditions: Condition, **parameters: Any) -> Call:
    return lambda database: database.inbox.count(USER, InboxFilter.of(*conditions, **parameters))


def mark_all(type: str | None = None, subject: str | None = None) -> Call:
    return lambda database: database.inbox.mark_all_read(USER, 1, type, subject, None)


async def mark_ids(database: Database) -> None:
    page = await database.inbox.page(USER, InboxFilter(), 20, None, 0)
    await database.inbox.mark_ids(USER, [row.id for row in page.rows], "archive", None)


def mark_portion(mark: MarkOfAll) -> Call:
    covers = MarkAll(USER, mark, 1, None)
    return lambda database: database.inbox.mark_portion(covers)


@pytest.mark.parametrize(
    ("call", "index"),
    [
        (page(), "activity_notification_rev (recipient_id=? AND rev<?)"),
        (page(is_read=False), "activity_notification_unread (recipient_id=? AND rev<?)"),
        (page(type="A"), "activity_notification_type (recipient_id=? AND type=? AND rev<?)"),
        (page(subject="s"), "activity_notification_subject (recipient_id=? AND subject=? AND rev<?)"),
        (page(archived=True), "activity_notification_archived (recipient_id=? AND rev<?)"),
        (count(archived=True), "activity_notification_archived (recipient_id=?)"),
        (mark_ids, "SEARCH n USING INTEGER PRIMARY KEY (rowid=?)"),
        (mark_ids, "SEARCH activity_notification USING INTEGER PRIMARY KEY (rowid=?)"),
        (
            lambda database: database.inbox.mark_all_seen(USER, 1, None),
            "activity_notification_unread (recipient_id=? AND rev>?)",
        ),
        (mark_portion("archive"), "activity_notification_rev (recipient_id=? AND rev>? AND rev<?)"),
        (mark_portion("unread"), "activity_notification_rev (recipient_id=? AND rev>? AND rev<?)"),
        (mark_portion("unarchive"), "activity_notification_archived (recipient_id=? AND rev>? AND rev<?)"),
        (count(type="A"), "SEARCH t USING PRIMARY KEY (recipient_id=? AND type=?)"),
        (
            count(Condition("type", "in", ("A", "B")), is_read=False),
            "COVERING INDEX activity_notification_type (recipient_id=? AND type=?)",
        ),
        (count(subject="s"), "COVERING INDEX activity_notification_subject (recipient_id=? AND subject=?)"),
        (
            count(subject="s", is_read=False),
            "COVERING INDEX activity_notification_subject (recipient_id=? AND subject=?)",
        ),
        (mark_all(), "activity_notification_unread (recipient_id=? AND rev<?)"),
        (mark_all(type="A"), "activity_notification_type (recipient_id=? AND type=? AND rev<?)"),
        (mark_all(subject="s"), "activity_notification_subject (recipient_id=? AND subject=? AND rev<?)"),
        (
            lambda database: database.inbox.changes_since({USER: 0}, 10),
            "activity_notification_rev (recipient_id=? AND rev>? AND rev<?)",
        ),
        (
            lambda database: database.inbox.changes_since({USER: 0}, 10),
            "SEARCH c USING PRIMARY KEY (recipient_id=? AND rev>? AND rev<?)",
        ),
        (
            lambda database: database.inbox.changes_since({USER: 0}, 10),
            "SEARCH c USING PRIMARY KEY (recipient_id=? AND rev<?)",
        ),
        (
            lambda database: database.inbox.summaries([USER]),
            "SEARCH h USING PRIMARY KEY (recipient_id=?)",
        ),
        (
            lambda database: database.inbox.insert([a_draft("a3")]),
            "activity_notification_activity (activity_id=? AND recipient_id=?)",
        ),
        (
            lambda database: database.maintenance.expire(NOON + timedelta(days=1), 10),
            "activity_notification_rev (recipient_id=?)",
        ),
    ],
)
async def test_a_call_finds_its_rows_by_an_index_and_sorts_none(call: Call, index: str) -> None:
    plan = await plan_of(call)
    assert any(index in step for step in plan), plan
    scans = {step for step in plan if step.startswith("SCAN") and "VIRTUAL TABLE" not in step}
    assert scans - SMALL == set()
    sorts = [step for step in plan if "TEMP B-TREE" in step]
    assert len(sorts) == ("MATERIALIZE n" in plan), plan  # the rows of a page, once they are found


@pytest.mark.parametrize("mark", ["read", "unread", "seen", "archive", "unarchive", "delete"])
async def test_a_hundred_ids_take_as_many_statements_as_one(mark: Mark) -> None:
    counts = []
    for many in (1, 100):
        database = MemoryDatabase(now)
        made = await database.inbox.insert([a_draft(f"a{n}") for n in range(100)])
        ids = [change.notification.id for change in made]
        for prepare in ("read", "archive"):
            if mark == f"un{prepare}":
                await database.inbox.mark_ids(USER, ids, prepare, None)
        statements: list[str] = []
        database.driver.connection.set_trace_callback(statements.append)
        assert (await database.inbox.mark_ids(USER, ids[:many], mark, None)).updated == many
        counts.append(len(statements))
    assert counts[0] == counts[1] < 12


async def test_the_members_of_a_domain_are_found_by_its_index() -> None:
    plan = await plan_of(lambda database: database.directory.audiences([Audience("o1")]))
    assert any("policy_definition_domain (domain=? AND variant=?" in step for step in plan), plan
    assert [step for step in plan if step.startswith(("SCAN p", "SCAN merchant"))] == []


async def plan_of(call: Call) -> list[str]:
    database = MemoryDatabase(now)
    await database.inbox.insert([a_draft("a1"), a_draft("a2")])
    explained = Explained(database.driver.connection)
    database.driver.connection = cast(sqlite3.Connection, explained)
    await call(database)
    return explained.plan


async def test_heads_of_many_are_asked_in_one_query(database: Database) -> None:
    await database.inbox.insert([a_draft()])
    heads = await database.inbox.summaries([USER, *(f"nobody-{n}" for n in range(50_000))])
    assert len(heads) == 50_001
    assert heads[USER] == InboxSummary(USER, 1, 1, 1, ANY, unseen=1)


async def test_a_statement_that_is_wrong_is_not_taken_for_an_outage(path: Path) -> None:
    async def wrong(tx: Tx) -> None:
        await tx.select("SELECT FROM nothing", {})

    async with open_sqlite(path, now) as database:
        await database.check()
        with pytest.raises(sqlite3.OperationalError, match="syntax error"):
            await database.driver.write(wrong)


def back_up(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("VACUUM INTO ?", (str(path.with_name("backup.db")),))


def restore(path: Path) -> None:
    for name in (path.name + "-wal", path.name + "-shm"):
        path.with_name(name).unlink()
    path.with_name("backup.db").rename(path)


async def test_a_file_that_takes_the_place_of_the_open_one_is_opened_instead(path: Path) -> None:
    async with open_sqlite(path, now) as database:
        await database.check()
        await database.inbox.insert([a_draft("kept")])
        back_up(path)
        (lost,) = await database.inbox.insert([a_draft("lost")])
        assert (await database.inbox.summaries([USER]))[USER].rev == 2
        restore(path)
        assert (await database.inbox.summaries([USER]))[USER].rev == 1
        (again,) = await database.inbox.insert([a_draft("again")])
        assert again.rev == lost.rev
        assert again.notification.id > lost.notification.id, "the clock stands still"
    async with open_sqlite(path, now) as database:
        assert (await database.inbox.summaries([USER]))[USER].history == again.history


async def test_nothing_is_written_to_a_file_that_was_removed_and_no_new_one_is_made(path: Path) -> None:
    async with open_sqlite(path, now) as database:
        await database.check()
        await database.inbox.insert([a_draft("before")])
        away = path.with_name("away.db")
        os.rename(path, away)
        with pytest.raises(StoreUnavailable, match="was removed: put it back"):
            await database.inbox.insert([a_draft("meanwhile")])
        with pytest.raises(StoreUnavailable, match="was removed: put it back"):
            await database.inbox.summaries([USER])
        os.rename(away, path)
        await database.inbox.insert([a_draft("meanwhile")])
        assert (await database.inbox.summaries([USER]))[USER].rev == 2

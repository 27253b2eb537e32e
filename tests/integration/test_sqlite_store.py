"""What only the embedded store has: a file, threads, locks between processes."""

from __future__ import annotations

import sqlite3
import stat
import threading
from collections.abc import AsyncIterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trio

from nx_signal.adapters._read_all import IS_COVERED, with_covers
from nx_signal.adapters.snowflake import timestamp_of
from nx_signal.adapters.sqlite import file as sqlite_file
from nx_signal.adapters.sqlite.store import open_sqlite
from nx_signal.errors import Fatal, SchemaOutdated, SettingsError, StoreUnavailable
from nx_signal.model import (
    OPERATOR_ROLE,
    PERMISSIONS,
    Audience,
    Draft,
    Grant,
    Head,
    InboxFilter,
    Member,
    Memberships,
    Organizer,
    Roster,
)
from nx_signal.ports import Database
from nx_signal.sql import migrations, queries

USER = "u1"
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def now() -> datetime:
    return NOON


def a_draft(activity_id: str = "a1", **changes: str) -> Draft:
    content = changes.get("content", "text")
    return Draft(USER, activity_id, "A", "o1", "m1", "s", "en", content, "<p>text</p>", None, {})


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


# --- the file ------------------------------------------------------------------------------------


async def test_check_makes_the_directory_for_its_owner_alone(database: Database, path: Path):
    await database.inbox.insert([a_draft()])
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    for file in path.parent.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) & 0o077 == 0, file.name


async def test_a_name_with_odd_characters_is_a_file_all_the_same(tmp_path: Path):
    path = tmp_path / "a?b#c%20 d" / "é?mode=memory.db"
    async with open_sqlite(path, now) as database:
        await database.check()
        await database.inbox.insert([a_draft()])
    assert path.stat().st_size > 0


async def test_entering_makes_no_file(path: Path):
    async with open_sqlite(path, now):
        pass
    assert not path.parent.exists()


async def test_rows_are_written_through_to_the_disk(path: Path):
    file = sqlite_file.SqliteFile(path, now)
    pragmas = await file.write(
        lambda c: [c.execute(f"PRAGMA {p}").fetchone()[0] for p in ("journal_mode", "synchronous")]
    )
    await file.close()
    assert pragmas == ["wal", 2]


async def test_migrate_names_its_steps_once(path: Path):
    async with open_sqlite(path, now) as database:
        assert list(await database.migrate()) == [step.name for step in migrations("sqlite")]
        assert list(await database.migrate()) == []
    with closing(sqlite3.connect(path)) as connection:
        versions = connection.execute("SELECT version, applied_at FROM schema_version").fetchall()
    assert versions == [(n, int(NOON.timestamp() * 1000)) for n in range(1, len(versions) + 1)]


async def test_a_newer_schema_is_refused_with_a_sentence(database: Database, path: Path):
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("INSERT INTO schema_version VALUES (99, 'from_tomorrow', 0)")
    with pytest.raises(SchemaOutdated, match=r"schema 99.*Run the newer release"):
        await database.check()


async def test_a_step_that_fails_leaves_nothing_of_itself(path: Path, monkeypatch: pytest.MonkeyPatch):
    steps = migrations("sqlite")
    bad = type(steps[0])(len(steps) + 1, "bad", "CREATE TABLE half (a);\nSELECT * FROM nowhere;\n")
    monkeypatch.setattr("nx_signal.adapters.sqlite.store.migrations", lambda dialect: (*steps, bad))
    async with open_sqlite(path, now) as database:
        with pytest.raises(Fatal, match="no such table: nowhere"):
            await database.check()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT max(version) FROM schema_version").fetchone() == (len(steps),)
        assert connection.execute("SELECT * FROM sqlite_master WHERE name = 'half'").fetchall() == []


async def test_a_directory_that_cannot_be_made_is_a_wrong_setting(tmp_path: Path):
    (tmp_path / "file").touch()
    async with open_sqlite(tmp_path / "file" / "signal.db", now) as database:
        with pytest.raises(SettingsError, match="APP_ENV_DATA_DIR"):
            await database.check()


async def test_a_file_that_is_no_database_stops_with_a_sentence(path: Path):
    await trio.Path(path.parent).mkdir()
    await trio.Path(path).write_bytes(b"no database at all, but long enough to be read as one" * 100)
    async with open_sqlite(path, now) as database:
        with pytest.raises(Fatal, match="damaged or no database"):
            await database.check()


async def test_a_store_that_was_never_checked_says_that_it_lacks_its_schema(path: Path):
    async with open_sqlite(path, now) as database:
        with pytest.raises(StoreUnavailable):
            await database.inbox.heads([USER])
        with pytest.raises(SchemaOutdated, match="lacks a part of its schema"):
            await database.inbox.insert([a_draft()])


# --- what goes wrong meanwhile -------------------------------------------------------------------


async def test_a_file_locked_by_another_process_is_unavailable_for_the_moment(
    database: Database, path: Path, monkeypatch: pytest.MonkeyPatch
):
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
):
    class Connection:
        asked = 0

        def execute(self, pragma: str) -> None:
            self.asked += 1
            if self.asked <= refusals:
                error = sqlite3.OperationalError("database is locked")
                error.sqlite_errorcode = sqlite3.SQLITE_BUSY
                raise error

    monkeypatch.setattr(sqlite_file, "BUSY_TIMEOUT_MS", patience_ms)
    connection = Connection()
    if patience_ms:
        sqlite_file._use_wal(connection)
        assert connection.asked == refusals + 1
    else:
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            sqlite_file._use_wal(connection)


async def test_a_full_disk_is_unavailable_and_loses_nothing(path: Path):
    file = sqlite_file.SqliteFile(path, now)
    limit = 60

    def full(connection: sqlite3.Connection) -> None:
        connection.execute(f"PRAGMA max_page_count = {limit}")
        connection.execute("CREATE TABLE IF NOT EXISTS fill (a)")
        connection.execute("INSERT INTO fill VALUES (zeroblob(1000000))")

    def small(connection: sqlite3.Connection) -> int:
        connection.execute("CREATE TABLE IF NOT EXISTS fill (a)")
        return connection.execute("INSERT INTO fill VALUES (1)").rowcount

    assert await file.write(small) == 1
    with pytest.raises(StoreUnavailable, match="full"):
        await file.write(full)
    assert await file.write(small) == 1
    count = await file.read(lambda c: c.execute("SELECT count(*) FROM fill").fetchone()[0])
    await file.close()
    assert count == 2


async def test_a_cancelled_call_whose_thread_runs_is_finished_not_abandoned(path: Path):
    file = sqlite_file.SqliteFile(path, now)
    inside, go_on = trio.Event(), threading.Event()

    def slow(connection: sqlite3.Connection) -> None:
        connection.execute("CREATE TABLE t (a)")
        trio.from_thread.run_sync(inside.set)
        assert go_on.wait(10)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(file.write, slow)
        await inside.wait()
        nursery.cancel_scope.cancel()
        go_on.set()
    assert await file.read(lambda c: c.execute("SELECT count(*) FROM t").fetchone()[0]) == 0
    await file.close()


# --- ids -----------------------------------------------------------------------------------------


async def test_two_live_instances_never_share_a_worker_id(path: Path):
    async with open_sqlite(path, now) as one:
        await one.check()
        assert worker_of(await new_id(one, "1")) == 9
        async with open_sqlite(path, now) as two:
            assert worker_of(await new_id(two, "2")) == 10
            assert worker_of(await new_id(one, "3")) == 9
        async with open_sqlite(path, now) as three:
            assert worker_of(await new_id(three, "4")) == 10


async def test_a_restart_with_the_clock_set_back_repeats_no_id(path: Path):
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


async def test_deny_wins_over_allow(database: Database, path: Path):
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
):
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


async def test_a_merchant_that_nobody_placed_has_no_organizer(database: Database, path: Path):
    await database.directory.load(Roster((), [Member(USER, "o1", "m1", "staff", None)], ()))
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DELETE FROM merchant")
    assert await database.directory.memberships([USER]) == {USER: Memberships(frozenset(), frozenset({"m1"}))}
    assert list((await database.directory.audiences([Audience("o1")]))[Audience("o1")]) == []


# --- plans ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "where", "index"),
    [
        ("page", "", "activity_notification_rev (recipient_id=? AND rev<?)"),
        ("page", " AND n.is_read = 0", "activity_notification_unread (recipient_id=? AND rev<?)"),
        ("page", " AND n.type = :type", "activity_notification_type (recipient_id=? AND type=? AND rev<?)"),
        (
            "count",
            f" AND n.type = :type AND n.is_read = 0 AND NOT {IS_COVERED}",
            "COVERING INDEX activity_notification_type (recipient_id=? AND type=?)",
        ),
        ("count", " AND n.subject = :s", "activity_notification_subject (recipient_id=? AND subject=?)"),
        (
            "count",
            f" AND n.subject = :s AND n.is_read = 0 AND NOT {IS_COVERED}",
            "COVERING INDEX activity_notification_subject (recipient_id=? AND subject=?)",
        ),
        (
            "page",
            " AND n.subject = :s",
            "activity_notification_subject (recipient_id=? AND subject=? AND rev<?)",
        ),
        ("mark_portion", "", "activity_notification_unread (recipient_id=? AND rev<?)"),
        (
            "mark_portion",
            " AND n.subject = :subject",
            "activity_notification_subject (recipient_id=? AND subject=? AND rev<?)",
        ),
        ("created_since", "", "activity_notification_rev (recipient_id=? AND rev>? AND rev<?)"),
        ("changed_since", "", "PRIMARY KEY (recipient_id=? AND rev>? AND rev<?)"),
        ("counts_before", "", "PRIMARY KEY (recipient_id=? AND rev=?)"),
        ("heads", "", "PRIMARY KEY (recipient_id=?)"),
        ("existing_activities", "", "activity_notification_activity (activity_id=? AND recipient_id=?)"),
        ("audiences", "", "policy_definition_domain (domain=? AND variant=?"),
    ],
)
async def test_a_query_finds_its_rows_by_an_index_and_sorts_none(
    database: Database, path: Path, name: str, where: str, index: str
):
    class AnyValue(dict[str, object]):
        def __missing__(self, key: str) -> object:
            return "[]" if key in ("cursors", "keys", "recipient_ids") else 1

    values = AnyValue()
    with closing(sqlite3.connect(path)) as connection:
        text = with_covers(queries("sqlite"))[name].format(where=where)
        steps = [row[3] for row in connection.execute("EXPLAIN QUERY PLAN " + text, values)]
    assert any(index in step for step in steps), steps
    assert not any("SCAN activity_notification" in s or "SCAN recipient" in s for s in steps), steps
    if name == "page":
        assert not any("TEMP B-TREE" in step for step in steps), steps


async def test_heads_of_many_are_asked_in_one_query(database: Database):
    await database.inbox.insert([a_draft()])
    heads = await database.inbox.heads([USER, *(f"nobody-{n}" for n in range(50_000))])
    assert len(heads) == 50_001
    assert heads[USER] == Head(USER, 1, 1, 1)

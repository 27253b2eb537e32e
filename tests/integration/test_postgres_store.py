"""What is PostgreSQL's alone: cancellation, restarts, leases, plans, and what others write into it.
The behaviour that all stores share is in tests/contract."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, cast
from unittest.mock import ANY

import asyncpg
import pytest
import trio
import trio.testing

from nx_signal.adapters.asyncio_bridge import close_within, open_asyncio_bridge
from nx_signal.adapters.postgres import driver
from nx_signal.adapters.postgres.driver import CLOSE_S, RELEASE_S, PostgresTx
from nx_signal.adapters.postgres.lease import WorkerLease
from nx_signal.adapters.postgres.store import PostgresDriver, open_postgres
from nx_signal.errors import SchemaOutdated, SettingsError, StoreUnavailable
from nx_signal.model import Audience, Condition, Draft, InboxFilter, InboxSummary, Memberships
from nx_signal.store import Database
from nx_signal.store.marks import MarkAll, MarkOfAll
from nx_signal.store.snowflake import PREFERRED_WORKER, Snowflakes
from services import Postgres, ServiceFailed, fresh_database, psql

SLACK_S = 5.0
"""For a busy machine, on top of the store's own deadlines; less than its longest one."""


def now() -> datetime:
    return datetime.now(UTC)


def draft(recipient_id: str, activity_id: str, type: str = "T", subject: str | None = None) -> Draft:
    return Draft(
        recipient_id=recipient_id,
        activity_id=activity_id,
        type=type,
        organizer_id="o",
        merchant_id=None,
        subject=subject,
        locale="en",
        content="c",
        content_html="<p>c</p>",
        action_url=None,
        data={"a": 1},
    )


@pytest.fixture
def url(postgres_server: str) -> str:
    return fresh_database(postgres_server)


@pytest.fixture
async def store(url: str) -> AsyncIterator[Database]:
    async with open_postgres(url, now, pool_size=2) as store:
        await store.migrate()
        yield store


def lease(store: Database) -> WorkerLease:
    assert isinstance(store.driver, PostgresDriver)
    return store.driver._pool.lease


def worker_id(store: Database) -> int | None:
    return lease(store).worker_id


Sql = Callable[..., Awaitable[list[Any]]]


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Sql]:
    """Another program's connection: `await sql(statement, *args)` gives the rows."""
    async with open_asyncio_bridge() as bridge:
        connection = await bridge.call(asyncpg.connect, url)

        async def sql(statement: str, *args: Any) -> list[Any]:
            return [tuple(row) for row in await bridge.call(connection.fetch, statement, *args)]

        try:
            yield sql
        finally:
            await close_within(5, bridge, connection.close)


@pytest.fixture
async def sql(url: str) -> AsyncIterator[Sql]:
    async with connected(url) as sql:
        yield sql


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Ask the server until it says so."""
    with trio.fail_after(10):
        while not await condition():
            pass


# --- cancellation --------------------------------------------------------------------------------

BUSY = """
    SELECT count(*) FROM pg_stat_activity
    WHERE application_name = 'nx-signal' AND datname = current_database() AND state <> 'idle'
"""


async def test_fifty_cancelled_inserts_leave_no_lock_no_transaction_and_a_usable_store(
    store: Database, sql: Sql
) -> None:
    chance = random.Random(9)
    cancelled = 0
    for n in range(50):
        with trio.move_on_after(chance.uniform(0, 0.012)) as scope:
            await store.inbox.insert([draft(f"u{k % 7}", f"a{n}-{k}") for k in range(100)])
        cancelled += scope.cancelled_caught
    assert cancelled > 10

    async def idle() -> bool:
        return await sql(BUSY) == [(0,)]

    await until(idle)
    assert await sql("SELECT FROM pg_locks WHERE locktype IN ('transactionid', 'tuple')") == []
    heads = await store.inbox.summaries([f"u{k}" for k in range(7)])
    rows = dict(await sql("SELECT recipient_id, count(*) FROM activity_notification GROUP BY 1"))
    assert {user: head.rev for user, head in heads.items() if head.rev} == rows

    # both connections of the pool are back: calls that need them all end
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            for n in range(8):
                nursery.start_soon(store.inbox.insert, [draft("after", f"after-{n}")])
    assert (await store.inbox.summaries(["after"]))["after"].rev == 8


async def test_a_cancelled_wait_for_a_lock_stops_waiting_on_the_server_too(
    store: Database, sql: Sql, url: str
) -> None:
    await store.inbox.insert([draft("u", "first")])
    async with connected(url) as holder:
        await holder("BEGIN")
        await holder("SELECT FROM recipient_head FOR UPDATE")

        async def waiting() -> bool:
            return await sql("SELECT count(*) FROM pg_locks WHERE NOT granted") == [(1,)]

        async def settled() -> bool:
            return await sql(BUSY) == [(0,)]

        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.inbox.insert, [draft("u", "second")])
            await until(waiting)
            nursery.cancel_scope.cancel()
        await until(settled)
        await holder("COMMIT")
    assert (await store.inbox.summaries(["u"]))["u"] == InboxSummary("u", 1, 1, 1, ANY, unseen=1)
    assert len(await store.inbox.insert([draft("u", "second")])) == 1


async def test_writers_of_the_same_inboxes_in_opposite_order_do_not_block_each_other(
    store: Database, url: str
) -> None:
    users = [f"u{n}" for n in range(50)]

    async def write(database: Database, name: str, order: list[str]) -> None:
        for n in range(10):
            await database.inbox.insert([draft(user, f"{name}-{n}") for user in order])

    async with open_postgres(url, now, pool_size=2) as other:
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(write, store, "a", users)
                nursery.start_soon(write, other, "b", users[::-1])
                nursery.start_soon(write, store, "c", users[::-1])
                nursery.start_soon(write, other, "d", users)
    assert {head.rev for head in (await store.inbox.summaries(users)).values()} == {40}


# --- a server that goes away ---------------------------------------------------------------------


async def everything_is_unavailable(store: Database) -> None:
    for call in (
        lambda: store.inbox.insert([draft("u", "while away")]),
        lambda: store.inbox.summaries(["u"]),
        lambda: store.directory.memberships(["u"]),
        lambda: store.dead_letters.page(1, None),
        store.check,
    ):
        with pytest.raises(StoreUnavailable, match=r"PostgreSQL at 127\.0\.0\.1:\d+/postgres") as caught:
            await call()
        assert str(caught.value).endswith(".")


@pytest.mark.parametrize("end", ["stop", "kill"])
async def test_a_restart_of_the_server_is_unavailable_and_then_over(own_postgres: Postgres, end: str) -> None:
    async with open_postgres(own_postgres.url, now, pool_size=2) as store:
        await store.migrate()
        await store.inbox.insert([draft("u", "before")])
        await trio.to_thread.run_sync(getattr(own_postgres, end))
        await everything_is_unavailable(store)
        await trio.to_thread.run_sync(own_postgres.start)
        await store.check()
        (change,) = await store.inbox.insert([draft("u", "before"), draft("u", "after")])
        assert change.rev == 2
        assert worker_id(store) == PREFERRED_WORKER


async def test_a_server_that_is_restarted_between_two_calls_is_noticed_by_none(
    own_postgres: Postgres,
) -> None:
    async with open_postgres(own_postgres.url, now, pool_size=2) as store:
        await store.migrate()
        await store.inbox.insert([draft("u", "before")])
        await trio.to_thread.run_sync(own_postgres.stop)
        await trio.to_thread.run_sync(own_postgres.start)
        await trio.testing.wait_all_tasks_blocked()
        (change,) = await store.inbox.insert([draft("u", "after")])
        assert change.rev == 2


async def test_a_frozen_server_holds_up_neither_a_cancellation_nor_the_closing(
    own_postgres: Postgres,
) -> None:
    async with open_postgres(own_postgres.url, now, pool_size=2) as store:
        await store.migrate()
        await store.inbox.insert([draft("u", "before")])
        try:
            own_postgres.pause()
            started_s = trio.current_time()
            with trio.move_on_after(0.1):
                await store.inbox.insert([draft("u", "while frozen")])
            assert trio.current_time() - started_s < RELEASE_S + SLACK_S
            async with open_postgres(own_postgres.url, now, pool_size=2) as never_connected:
                with trio.move_on_after(0.1):
                    await never_connected.check()
            assert trio.current_time() - started_s < RELEASE_S + CLOSE_S + SLACK_S
        finally:
            own_postgres.resume()
        (change,) = await store.inbox.insert([draft("u", "after")])
        assert change.rev in (2, 3)  # the cancelled one may have been finished
        own_postgres.pause()
        closing_s = trio.current_time()
    own_postgres.resume()
    assert trio.current_time() - closing_s < CLOSE_S + SLACK_S


# --- what waiting cannot mend --------------------------------------------------------------------


async def refused(url: str) -> str:
    async with open_postgres(url, now, pool_size=2) as store:
        with pytest.raises(SettingsError, match="APP_ENV_DATABASE_URL") as caught:
            await store.check()
        with pytest.raises(SettingsError):
            await store.inbox.insert([draft("u", "a")])
    return str(caught.value)


async def test_a_database_that_does_not_exist_is_a_wrong_setting(own_postgres: Postgres) -> None:
    assert "nowhere" in await refused(f"postgresql://signal@{own_postgres.address}/nowhere")


async def test_a_user_that_does_not_exist_is_a_wrong_setting(own_postgres: Postgres) -> None:
    assert "nobody" in await refused(f"postgresql://nobody@{own_postgres.address}/postgres")


async def test_a_wrong_password_is_a_wrong_setting_and_is_not_shown(own_postgres: Postgres) -> None:
    psql(own_postgres.url, "ALTER USER signal PASSWORD 'right'")
    rules = own_postgres.directory / "data" / "pg_hba.conf"
    rules.write_text("host all all 127.0.0.1/32 scram-sha-256\n")
    psql(own_postgres.url, "SELECT pg_reload_conf()")

    async def refused_now() -> bool:
        try:
            psql(f"postgresql://signal:x@{own_postgres.address}/postgres", "SELECT 1")
        except ServiceFailed:
            return True
        return False

    await until(refused_now)
    assert "wr0ng" not in await refused(f"postgresql://signal:wr0ng@{own_postgres.address}/postgres")
    async with open_postgres(f"postgresql://signal:right@{own_postgres.address}/postgres", now, 2) as store:
        await store.migrate()


async def test_a_missing_schema_names_the_command(url: str) -> None:
    async with open_postgres(url, now, pool_size=2) as store:
        for call in (
            store.check,
            lambda: store.inbox.summaries(["u"]),
            lambda: store.inbox.insert([draft("u", "a")]),
        ):
            with pytest.raises(SchemaOutdated, match="nx-signal migrate --database-url"):
                await call()
        assert await store.migrate() != []
        await store.check()
        assert len(await store.inbox.insert([draft("u", "a")])) == 1


async def test_a_newer_schema_asks_for_the_newer_release(store: Database, sql: Sql) -> None:
    await sql("INSERT INTO signal_schema (version, name, additive) VALUES (999, 'from_the_future', false)")
    for call in (store.check, store.migrate):
        with pytest.raises(SchemaOutdated, match="newer release"):
            await call()


# --- worker ids ----------------------------------------------------------------------------------


async def test_instances_lease_different_worker_ids_and_one_that_ends_frees_its_own(
    store: Database, url: str
) -> None:
    await store.inbox.insert([draft("u", "1")])
    assert worker_id(store) == PREFERRED_WORKER
    for n in (2, 3):
        async with open_postgres(url, now, pool_size=2) as other:
            assert worker_id(other) is None
            await other.inbox.insert([draft("u", str(n))])
            assert worker_id(other) == PREFERRED_WORKER + 1


LEASES = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND database = {}"
OF_THIS_DATABASE = LEASES.format("(SELECT oid FROM pg_database WHERE datname = current_database())")


async def test_a_lost_lease_is_taken_anew_before_the_next_ids(store: Database, sql: Sql) -> None:
    await store.inbox.insert([draft("u", "1")])
    await sql(f"SELECT pg_terminate_backend(pid, 5000) FROM ({OF_THIS_DATABASE}) AS lease")  # noqa: S608
    await trio.testing.wait_all_tasks_blocked()
    assert worker_id(store) is None
    assert len(await store.inbox.insert([draft("u", "2")])) == 1
    assert worker_id(store) == PREFERRED_WORKER
    assert len(await sql(OF_THIS_DATABASE)) == 1


async def test_an_id_that_another_instance_took_meanwhile_is_given_out_anew(url: str) -> None:
    def stopped() -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC)

    async with open_postgres(url, stopped, 2) as one, open_postgres(url, stopped, 2) as two:
        await one.migrate()
        await one.inbox.insert([draft("u", "1")])
        await two.inbox.insert([draft("u", "2")])
        # as after a pause in which its lease had ended and `one` had taken it over
        lease(two)._snowflakes = Snowflakes(PREFERRED_WORKER, stopped)
        (change,) = await two.inbox.insert([draft("u", "3")])
        assert (change.rev, worker_id(two)) == (3, PREFERRED_WORKER + 1)
        lease(two)._snowflakes = Snowflakes(PREFERRED_WORKER, stopped)
        assert len(await two.inbox.insert([draft("v", "4")])) == 1
        page = await one.inbox.changes_since({"u": 0, "v": 0}, 10)
        ids = [c.notification.id for log in page.values() for c in log.changes]  # type: ignore[union-attr]
        assert len(set(ids)) == 4


# --- what others write ---------------------------------------------------------------------------


async def test_a_membership_inserted_by_another_program_counts(store: Database, sql: Sql) -> None:
    await sql("INSERT INTO merchant (id, organizer_id) VALUES ('m', 'o')")
    await sql("""
        INSERT INTO policy_definition (variant, subject_type, subject_id, target_type, target_id, domain)
        VALUES ('group', 'User', 'a', 'Role', 'staff', 'Merchant_m'),
               ('group', 'User', 'b', 'Role', 'staff', 'Organizer_o')
    """)
    await sql("""
        INSERT INTO policy_definition
            (variant, subject_type, subject_id, target_type, target_id, action, effect, domain)
        VALUES ('group', 'User', 'c', 'Role', 'staff', NULL, NULL, 'Merchant_m'),
               ('group', 'User', 'd', 'Role', 'staff', '', 'deny', 'Merchant_m')
    """)
    asked = Audience("o"), Audience("o", "m")
    found = await store.directory.audiences(asked)
    assert [list(found[key]) for key in asked] == [["a", "b", "c"], ["a", "c"]]
    assert await store.directory.memberships(["a"]) == {"a": Memberships(frozenset({"o"}), frozenset({"m"}))}


async def test_a_role_granted_by_another_program_counts_and_deny_wins(store: Database, sql: Sql) -> None:
    await sql("""
        INSERT INTO policy_definition
            (variant, subject_type, subject_id, target_type, target_id, action, effect, domain)
        VALUES ('group', 'User', 'a', 'Role', 'reader', NULL, NULL, NULL),
               ('policy', 'Role', 'reader', 'Permission', 'DeadLetter.find', NULL, NULL, NULL),
               ('policy', 'Role', 'reader', 'Permission', 'DeadLetter.replay', NULL, NULL, NULL),
               ('policy', 'User', 'a', 'Permission', 'DeadLetter.replay', '', 'deny', '')
    """)
    assert await store.directory.permissions("a", []) == {"DeadLetter.find"}
    assert await store.directory.permissions("b", ["reader"]) == {"DeadLetter.find", "DeadLetter.replay"}


# --- plans ---------------------------------------------------------------------------------------

BY_REV = "activity_notification_recipient_id_rev_key"
UNREAD = "activity_notification_unread"
ARCHIVED = "activity_notification_archived"
BY_TYPE = "activity_notification_type"
BY_SUBJECT = "activity_notification_subject"
CHANGES = "recipient_change_pkey"
DOWN = "Index Scan Backward using "
"""In the order of the list: what is read is a page, whatever the size of the inbox."""
SMALL = ("unsettled_read",)
"""Tables of a few rows; the planner may read them whole."""


class Explained:
    """A connection that keeps the plan of each statement before it runs it."""

    def __init__(self, connection: Any, plans: list[str]) -> None:
        self._connection = connection
        self._plans = plans

    async def _explain(self, sql: str, values: Sequence[Any]) -> None:
        lines = await self._connection.fetch(f"EXPLAIN {sql}", *values)
        self._plans.append("\n".join([sql, *(line for (line,) in lines)]))

    async def execute(self, sql: str, *values: Any) -> Any:
        await self._explain(sql, values)
        return await self._connection.execute(sql, *values)

    async def fetch(self, sql: str, *values: Any) -> Any:
        await self._explain(sql, values)
        return await self._connection.fetch(sql, *values)

    async def fetchrow(self, sql: str, *values: Any) -> Any:
        await self._explain(sql, values)
        return await self._connection.fetchrow(sql, *values)


Call = Callable[[Database], Awaitable[object]]


def page(where: InboxFilter, before_rev: int | None = None) -> Call:
    return lambda store: store.inbox.page("u1", where, 20, before_rev, 0)


def count(where: InboxFilter) -> Call:
    return lambda store: store.inbox.count("u1", where)


def mark_all(type: str | None = None, subject: str | None = None) -> Call:
    return lambda store: store.inbox.mark_all_read("u1", 1990, type, subject, None)


async def mark_ids(store: Database) -> None:
    page = await store.inbox.page("u2", InboxFilter(), 100, None, 0)
    await store.inbox.mark_ids("u2", [row.id for row in page.rows], "seen", None)


def mark_portion(mark: MarkOfAll, only_read: bool = False) -> Call:
    covers = MarkAll("u3", mark, 900, None, only_read=only_read)
    return lambda store: store.inbox.mark_portion(covers)


PLANS: list[tuple[str, Call, list[str]]] = [
    ("page", page(InboxFilter()), [DOWN + BY_REV]),
    ("page further down", page(InboxFilter(), 90), [DOWN + BY_REV]),
    ("page of unread", page(InboxFilter.of(is_read=False)), [DOWN + UNREAD]),
    ("page of a type", page(InboxFilter.of(type="T1")), [DOWN + BY_TYPE]),
    ("page of a subject", page(InboxFilter.of(subject="s1")), [BY_SUBJECT]),
    ("page of the archive", page(InboxFilter.of(archived=True)), [DOWN + ARCHIVED]),
    ("count of the archive", count(InboxFilter.of(archived=True)), [ARCHIVED]),
    ("count of a type", count(InboxFilter.of(type="T1")), ["recipient_type_pkey"]),
    ("count of types", count(InboxFilter((Condition("type", "in", ("T1", "T2")),))), [BY_TYPE]),
    ("count of a subject's unread", count(InboxFilter.of(subject="s1", is_read=False)), [BY_SUBJECT]),
    ("read-all", mark_all(), [UNREAD]),
    ("read-all of a type", mark_all(type="T11"), [BY_TYPE]),
    ("read-all of a subject", mark_all(subject="s11"), [BY_SUBJECT]),
    ("a portion of a read-all", lambda store: store.maintenance.apply_read_all(1000), [UNREAD]),
    ("marks by ids", mark_ids, ["activity_notification_pkey"]),
    ("all seen up to a revision", lambda store: store.inbox.mark_all_seen("u4", 1950, None), [UNREAD]),
    ("a portion of what is archived", mark_portion("archive", only_read=True), [BY_REV]),
    ("a portion of what comes back", mark_portion("unarchive"), [ARCHIVED]),
    ("a portion of what is unread again", mark_portion("unread"), [BY_REV]),
    ("changes", lambda store: store.inbox.changes_since({"u1": 0, "u2": 1900}, 100), [BY_REV, CHANGES]),
    ("heads", lambda store: store.inbox.summaries(["u1", "u2"]), ["recipient_head_pkey"]),
    ("removal by age", lambda store: store.maintenance.expire(now(), 500), [BY_REV]),
    ("audiences", lambda store: store.directory.audiences([Audience("7")]), ["policy_definition_domain"]),
]


@pytest.fixture
async def full(store: Database, sql: Sql) -> Database:
    """10,000 rows of five inboxes, thousands of other inboxes and members."""
    for n in range(10):
        await store.inbox.insert(
            [draft(f"u{k % 5}", f"a{n}-{k}", f"T{k % 50}", f"s{k % 100}") for k in range(1000)]
        )
    for k in range(5):
        await store.inbox.mark_all_read(f"u{k}", 1900, None, None, None)
    await sql("""
        INSERT INTO policy_definition (variant, subject_type, subject_id, target_type, target_id, domain)
        SELECT 'group', 'User', n, 'Role', 'staff', 'Organizer_' || n FROM generate_series(1, 5000) AS n
    """)
    await sql("INSERT INTO recipient_head SELECT 'x' || n FROM generate_series(1, 5000) AS n")
    await sql("INSERT INTO recipient_type SELECT 'x' || n, 'T', 0, 0 FROM generate_series(1, 5000) AS n")
    await sql("""
        INSERT INTO recipient_change (recipient_id, rev, kind, detail, unread, total)
        SELECT 'x' || n, 1, 'read', '{}', 0, 0 FROM generate_series(1, 5000) AS n
    """)
    await sql("INSERT INTO merchant SELECT n, n FROM generate_series(1, 5000) AS n")
    await store.inbox.mark_portion(MarkAll("u1", "archive", 600, None))
    await sql("ANALYZE")
    return store


async def test_what_grows_is_read_by_its_indexes(full: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    plans: list[str] = []

    def explained(connection: Any, *rest: Any) -> PostgresTx:
        return PostgresTx(cast(Any, Explained(connection, plans)), *rest)

    monkeypatch.setattr(driver, "PostgresTx", explained)
    for name, call, indexes in PLANS:
        plans.clear()
        await call(full)
        for plan in plans:
            scans = [line for line in plan.splitlines() if "Seq Scan" in line]
            assert [line for line in scans if not any(table in line for table in SMALL)] == [], plan
        for index in indexes:
            assert any(index in plan for plan in plans), name + "\n" + "\n\n".join(plans)

"""What is PostgreSQL's alone: cancellation, restarts, leases, plans, and what others write into it.
The behaviour that all stores share is in tests/contract."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest
import trio
import trio.testing

from nx_signal.adapters._aio import close_within, open_border
from nx_signal.adapters._read_all import IS_COVERED, with_covers
from nx_signal.adapters.postgres.session import CLOSE_S, RELEASE_S
from nx_signal.adapters.postgres.store import PostgresDatabase, open_postgres
from nx_signal.adapters.snowflake import PREFERRED_WORKER, Snowflakes
from nx_signal.errors import SchemaOutdated, SettingsError, StoreUnavailable
from nx_signal.model import Audience, Draft, Head, Memberships
from nx_signal.sql import queries
from services import Postgres, ServiceFailed, fresh_database, psql

SLACK_S = 5.0
"""For a busy machine, on top of the store's own deadlines; less than its longest one."""


def now() -> datetime:
    return datetime.now(UTC)


def draft(recipient_id: str, activity_id: str) -> Draft:
    return Draft(recipient_id, activity_id, "T", "o", None, None, "en", "c", "<p>c</p>", None, {"a": 1})


@pytest.fixture
def url(postgres_server: str) -> str:
    return fresh_database(postgres_server)


@pytest.fixture
async def store(url: str) -> AsyncIterator[PostgresDatabase]:
    async with open_postgres(url, now, pool_size=2) as store:
        await store.migrate()
        yield store


Sql = Callable[..., Awaitable[list[Any]]]


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Sql]:
    """Another program's connection: `await sql(statement, *args)` gives the rows."""
    async with open_border() as border:
        connection = await border.call(asyncpg.connect, url)

        async def sql(statement: str, *args: Any) -> list[Any]:
            return [tuple(row) for row in await border.call(connection.fetch, statement, *args)]

        try:
            yield sql
        finally:
            await close_within(5, border, connection.close)


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
    store: PostgresDatabase, sql: Sql
):
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
    heads = await store.inbox.heads([f"u{k}" for k in range(7)])
    rows = dict(await sql("SELECT recipient_id, count(*) FROM activity_notification GROUP BY 1"))
    assert {user: head.rev for user, head in heads.items() if head.rev} == rows

    # both connections of the pool are back: calls that need them all end
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            for n in range(8):
                nursery.start_soon(store.inbox.insert, [draft("after", f"after-{n}")])
    assert (await store.inbox.heads(["after"]))["after"].rev == 8


async def test_a_cancelled_wait_for_a_lock_stops_waiting_on_the_server_too(
    store: PostgresDatabase, sql: Sql, url: str
):
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
    assert (await store.inbox.heads(["u"]))["u"] == Head("u", 1, 1, 1)
    assert len(await store.inbox.insert([draft("u", "second")])) == 1


async def test_writers_of_the_same_inboxes_in_opposite_order_do_not_block_each_other(
    store: PostgresDatabase, url: str
):
    users = [f"u{n}" for n in range(50)]

    async def write(database: PostgresDatabase, name: str, order: list[str]) -> None:
        for n in range(10):
            await database.inbox.insert([draft(user, f"{name}-{n}") for user in order])

    async with open_postgres(url, now, pool_size=2) as other:
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(write, store, "a", users)
                nursery.start_soon(write, other, "b", users[::-1])
                nursery.start_soon(write, store, "c", users[::-1])
                nursery.start_soon(write, other, "d", users)
    assert {head.rev for head in (await store.inbox.heads(users)).values()} == {40}


# --- a server that goes away ---------------------------------------------------------------------


async def everything_is_unavailable(store: PostgresDatabase) -> None:
    for call in (
        lambda: store.inbox.insert([draft("u", "while away")]),
        lambda: store.inbox.heads(["u"]),
        lambda: store.directory.memberships(["u"]),
        lambda: store.dead_letters.page(1, None),
        store.check,
    ):
        with pytest.raises(StoreUnavailable, match=r"PostgreSQL at 127\.0\.0\.1:\d+/postgres") as caught:
            await call()
        assert str(caught.value).endswith(".")


@pytest.mark.parametrize("end", ["stop", "kill"])
async def test_a_restart_of_the_server_is_unavailable_and_then_over(own_postgres: Postgres, end: str):
    async with open_postgres(own_postgres.url, now, pool_size=2) as store:
        await store.migrate()
        await store.inbox.insert([draft("u", "before")])
        await trio.to_thread.run_sync(getattr(own_postgres, end))
        await everything_is_unavailable(store)
        await trio.to_thread.run_sync(own_postgres.start)
        await store.check()
        (change,) = await store.inbox.insert([draft("u", "before"), draft("u", "after")])
        assert change.rev == 2
        assert store.worker_id == PREFERRED_WORKER


async def test_a_server_that_is_restarted_between_two_calls_is_noticed_by_none(own_postgres: Postgres):
    async with open_postgres(own_postgres.url, now, pool_size=2) as store:
        await store.migrate()
        await store.inbox.insert([draft("u", "before")])
        await trio.to_thread.run_sync(own_postgres.stop)
        await trio.to_thread.run_sync(own_postgres.start)
        await trio.testing.wait_all_tasks_blocked()
        (change,) = await store.inbox.insert([draft("u", "after")])
        assert change.rev == 2


async def test_a_frozen_server_holds_up_neither_a_cancellation_nor_the_closing(own_postgres: Postgres):
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


async def test_a_database_that_does_not_exist_is_a_wrong_setting(own_postgres: Postgres):
    assert "nowhere" in await refused(f"postgresql://signal@{own_postgres.address}/nowhere")


async def test_a_user_that_does_not_exist_is_a_wrong_setting(own_postgres: Postgres):
    assert "nobody" in await refused(f"postgresql://nobody@{own_postgres.address}/postgres")


async def test_a_wrong_password_is_a_wrong_setting_and_is_not_shown(own_postgres: Postgres):
    psql(own_postgres.url, "ALTER USER signal PASSWORD 'right'")
    rules = own_postgres.directory / "data" / "pg_hba.conf"
    rules.write_text("host all all 127.0.0.1/32 scram-sha-256\n")
    psql(own_postgres.url, "SELECT pg_reload_conf()")

    async def asks() -> bool:
        try:
            psql(f"postgresql://signal:x@{own_postgres.address}/postgres", "SELECT 1")
        except ServiceFailed:
            return True
        return False

    await until(asks)
    assert "wr0ng" not in await refused(f"postgresql://signal:wr0ng@{own_postgres.address}/postgres")
    async with open_postgres(f"postgresql://signal:right@{own_postgres.address}/postgres", now, 2) as store:
        await store.migrate()


async def test_a_url_that_the_driver_does_not_understand_is_a_wrong_setting(own_postgres: Postgres):
    message = await refused(f"postgresql://signal:s3cret@{own_postgres.address}/postgres?sslmode=perhaps")
    assert "s3cret" not in message


async def test_a_missing_schema_names_the_command(url: str):
    async with open_postgres(url, now, pool_size=2) as store:
        for call in (
            store.check,
            lambda: store.inbox.heads(["u"]),
            lambda: store.inbox.insert([draft("u", "a")]),
        ):
            with pytest.raises(SchemaOutdated, match="nx-signal migrate --database-url"):
                await call()
        assert await store.migrate() != []
        await store.check()
        assert len(await store.inbox.insert([draft("u", "a")])) == 1


async def test_a_newer_schema_asks_for_the_newer_release(store: PostgresDatabase, sql: Sql):
    await sql("INSERT INTO schema_version (version, name) VALUES (999, 'from_the_future')")
    for call in (store.check, store.migrate):
        with pytest.raises(SchemaOutdated, match="newer release"):
            await call()


# --- worker ids ----------------------------------------------------------------------------------


async def test_instances_lease_different_worker_ids_and_one_that_ends_frees_its_own(
    store: PostgresDatabase, url: str
):
    await store.inbox.insert([draft("u", "1")])
    assert store.worker_id == PREFERRED_WORKER
    for n in (2, 3):
        async with open_postgres(url, now, pool_size=2) as other:
            assert other.worker_id is None
            await other.inbox.insert([draft("u", str(n))])
            assert other.worker_id == PREFERRED_WORKER + 1


LEASES = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND database = {}"
OF_THIS_DATABASE = LEASES.format("(SELECT oid FROM pg_database WHERE datname = current_database())")


async def test_a_lost_lease_is_taken_anew_before_the_next_ids(store: PostgresDatabase, sql: Sql):
    await store.inbox.insert([draft("u", "1")])
    await sql(f"SELECT pg_terminate_backend(pid, 5000) FROM ({OF_THIS_DATABASE}) AS lease")  # noqa: S608
    await trio.testing.wait_all_tasks_blocked()
    assert store.worker_id is None
    assert len(await store.inbox.insert([draft("u", "2")])) == 1
    assert store.worker_id == PREFERRED_WORKER
    assert len(await sql(OF_THIS_DATABASE)) == 1


async def test_an_id_that_another_instance_took_meanwhile_is_given_out_anew(url: str):
    def stopped() -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC)

    async with open_postgres(url, stopped, 2) as one, open_postgres(url, stopped, 2) as two:
        await one.migrate()
        await one.inbox.insert([draft("u", "1")])
        await two.inbox.insert([draft("u", "2")])
        # as after a pause in which its lease had ended and `one` had taken it over
        two._lease._snowflakes = Snowflakes(PREFERRED_WORKER, stopped)
        (change,) = await two.inbox.insert([draft("u", "3")])
        assert (change.rev, two.worker_id) == (3, PREFERRED_WORKER + 1)
        two._lease._snowflakes = Snowflakes(PREFERRED_WORKER, stopped)
        assert len(await two.inbox.insert([draft("v", "4")])) == 1
        page = await one.inbox.backlogs({"u": 0, "v": 0}, 10)
        ids = [c.notification.id for log in page.values() for c in log.changes]  # type: ignore[union-attr]
        assert len(set(ids)) == 4


# --- what others write ---------------------------------------------------------------------------


async def test_a_membership_inserted_by_another_program_counts(store: PostgresDatabase, sql: Sql):
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


async def test_a_role_granted_by_another_program_counts_and_deny_wins(store: PostgresDatabase, sql: Sql):
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
BY_TYPE = "activity_notification_type"
BY_SUBJECT = "activity_notification_subject"
STAMP = datetime(2026, 1, 1, tzinfo=UTC)
PLANS = [
    ("page", "", ("u1", 90, 20, 0), BY_REV),
    ("page", "AND NOT n.is_read", ("u1", 1999, 20, 0), UNREAD),
    ("mark_portion", "", ("u1", 1999, STAMP, 2000, None, None, 0, 1000), UNREAD),
    ("mark_portion", "", ("u1", 1999, STAMP, 2000, None, "s1", 0, 1000), BY_SUBJECT),
    ("page", "AND n.subject = 's1'", ("u1", 1999, 20, 0), BY_SUBJECT),
    ("matching", "AND n.type = 'T1'", ("u1",), BY_TYPE),
    ("matching", f"AND n.type = 'T1' AND NOT n.is_read AND NOT {IS_COVERED}", ("u1",), BY_TYPE),
    ("created_after", "", (["u1", "u2"], [0, 1900], 100), BY_REV),
    ("heads_and_bases", "", (["u1", "u2"], [0, 1900]), "recipient_change_pkey"),
    ("audiences", "", (["o"], [None]), "policy_definition_domain"),
]


async def test_what_grows_is_read_by_its_indexes(store: PostgresDatabase, sql: Sql):
    for n in range(10):
        await store.inbox.insert(
            [
                replace(draft(f"u{k % 5}", f"a{n}-{k}"), type=f"T{k % 50}", subject=f"s{k % 100}")
                for k in range(1000)
            ]
        )
    for k in range(5):
        await store.inbox.mark_all_read(f"u{k}", 1900, None, None, None)
    await sql("""
        INSERT INTO policy_definition (variant, subject_type, subject_id, target_type, target_id, domain)
        SELECT 'group', 'User', n, 'Role', 'staff', 'Organizer_' || n FROM generate_series(1, 5000) AS n
    """)
    await sql("INSERT INTO recipient_head SELECT 'x' || n FROM generate_series(1, 5000) AS n")
    await sql("""
        INSERT INTO recipient_change (recipient_id, rev, kind, detail, unread, total)
        SELECT 'x' || n, 1, 'read', '{}', 0, 0 FROM generate_series(1, 5000) AS n
    """)
    await sql("INSERT INTO merchant SELECT n, n FROM generate_series(1, 5000) AS n")
    await sql("ANALYZE")
    for name, where, args, index in PLANS:
        texts = with_covers(queries("postgres"))
        statement = texts[name].replace("{matching}", "NULL").replace("{where}", where)
        plan = "\n".join(line for (line,) in await sql(f"EXPLAIN {statement}", *args))
        assert index in plan, plan
        assert "Seq Scan" not in plan.replace("Seq Scan on unsettled_read", ""), plan

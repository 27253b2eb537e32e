"""The pool when connections are scarce, when some no longer lead anywhere, and when the server moves."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, cast

import asyncpg
import pytest
import trio

from contract.store_suite import a_draft
from faults.proxy import Proxy
from nx_signal.adapters.postgres import connect
from nx_signal.adapters.postgres.store import open_postgres
from nx_signal.errors import StoreUnavailable
from nx_signal.store import Database
from nx_signal.store.driver import Tx
from services import Postgres, psql
from standby import Standby

POOL = 4
WITHIN_S = 30.0
"""Generous, for a busy machine."""


def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture(scope="module")
def port(postgres_url: str) -> int:
    return int(postgres_url.rpartition(":")[2].partition("/")[0])


async def used_all(database: Database, name: str) -> None:
    """As many calls at once as the pool has connections, and more."""
    async with trio.open_nursery() as nursery:
        for n in range(3 * POOL):
            nursery.start_soon(database.inbox.insert, [a_draft(f"u{n}", activity_id=name)])


@pytest.fixture
async def migrated(postgres_url: str) -> str:
    async with open_postgres(postgres_url, now, 2) as database:
        await database.migrate()
    return postgres_url


async def test_a_server_without_a_connection_to_spare_is_served_by_those_that_are_open(
    own_postgres: Postgres,
) -> None:
    """One of the worker id, and two of the pool. Before and after a refusal no call fails."""
    async with open_postgres(own_postgres.url, now, 2) as database:
        await database.migrate()
    psql(own_postgres.url, "CREATE ROLE few LOGIN CONNECTION LIMIT 3")
    psql(own_postgres.url, "GRANT ALL ON ALL TABLES IN SCHEMA public TO few")
    async with open_postgres(own_postgres.url.replace("signal@", "few@"), now, POOL) as database:
        await database.inbox.insert([a_draft("u", activity_id="first")])
        with trio.fail_after(WITHIN_S):
            await used_all(database, "together")
            for _ in range(5):
                await database.check()
            await used_all(database, "again")
    assert psql(own_postgres.url, "SELECT count(*) FROM activity_notification") == str(1 + 6 * POOL)


@pytest.fixture
def proxy(port: int) -> Iterator[Proxy]:
    with Proxy("127.0.0.1", port) as proxy:
        yield proxy


async def test_connections_that_lead_nowhere_are_found_out_by_one_of_them(
    migrated: str, port: int, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a router forgot them, or a machine vanished: no reset arrives."""
    monkeypatch.setattr(connect, "COMMAND_S", 1.0)
    async with open_postgres(migrated.replace(f":{port}/", f":{proxy.port}/"), now, POOL) as database:
        await used_all(database, "before")
        await trio.to_thread.run_sync(proxy.stall)
        with trio.fail_after(WITHIN_S):
            with pytest.raises(StoreUnavailable):
                await database.check()
            await used_all(database, "after")


@pytest.fixture
def to_primary(own_postgres: Postgres) -> Iterator[Proxy]:
    with Proxy("127.0.0.1", own_postgres.port) as proxy:
        yield proxy


OURS = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'nx-signal'"


@pytest.mark.parametrize("hosts", ["one address", "two hosts"])
async def test_a_pool_is_never_connected_to_two_servers_at_once(
    own_postgres: Postgres, standby: Standby, to_primary: Proxy, hosts: str
) -> None:
    """A former primary may answer, and even take writes, beside the new one."""
    async with open_postgres(own_postgres.url, now, 2) as database:
        await database.migrate()
    with_standby = f",{standby.address}" if hosts == "two hosts" else ""
    url = f"postgresql://signal@127.0.0.1:{to_primary.port}{with_standby}/postgres"
    async with open_postgres(url, now, POOL) as database:
        await used_all(database, "before")
        assert psql(own_postgres.url, OURS) == str(POOL + 1)
        await trio.to_thread.run_sync(standby.promote)
        if with_standby:
            to_primary.refuses = True
        else:
            to_primary.target = ("127.0.0.1", standby.port)
        await trio.to_thread.run_sync(to_primary.cut, 1)
        with trio.fail_after(WITHIN_S):
            while psql(standby.url, OURS) == "0":
                try:
                    await used_all(database, "moving")
                except* StoreUnavailable:
                    pass
            await used_all(database, "after")
            while psql(own_postgres.url, OURS) != "0":
                await trio.lowlevel.checkpoint()  # it ends what was closed


async def test_an_instance_that_froze_in_a_transaction_blocks_the_others_for_a_bounded_time(
    migrated: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert connect.IDLE_IN_TRANSACTION_S <= connect.STATEMENT_S
    monkeypatch.setitem(connect.SETTINGS, "idle_in_transaction_session_timeout", "1s")
    locked, others_wrote = trio.Event(), asyncio.Event()

    async def freeze(tx: Tx) -> None:
        """As seen by the server."""
        await tx.run("lock_or_create", recipient_ids=["frozen"])
        locked.set()
        await others_wrote.wait()
        await tx.run("lock_or_create", recipient_ids=["frozen"])

    async def frozen(database: Database) -> None:
        with pytest.raises(StoreUnavailable):
            await database.driver.write(freeze)

    async with open_postgres(migrated, now, 2) as one, open_postgres(migrated, now, 2) as two:
        with trio.fail_after(WITHIN_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(frozen, one)
                await locked.wait()
                await two.inbox.insert([a_draft("frozen", activity_id="meanwhile")])
                others_wrote.set()
        await one.inbox.insert([a_draft("frozen", activity_id="afterwards")])


async def test_a_call_whose_pool_is_dropped_between_two_steps_of_the_driver_finds_the_store_unavailable(
    migrated: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """asyncpg then uses what the closed connection no longer has."""
    driver: Any = asyncpg.Connection
    prepare = driver._get_statement

    async with open_postgres(migrated, now, POOL) as database:
        await database.check()
        pool: Any = cast(Any, database.driver)._pool

        async def prepare_and_drop(*args: Any, **options: Any) -> Any:
            statement = await prepare(*args, **options)
            pool._drop(pool._pool)
            return statement

        monkeypatch.setattr(driver, "_get_statement", prepare_and_drop)
        with pytest.raises(StoreUnavailable):
            await database.check()
        monkeypatch.undo()
        await database.check()


async def test_a_connection_left_in_the_middle_of_an_operation_is_used_once_more_at_most(
    migrated: str,
) -> None:
    async with open_postgres(migrated, now, POOL) as database:
        await database.check()
        pool: Any = cast(Any, database.driver)._pool
        (holder,) = [holder for holder in pool._pool._holders if holder._con is not None]
        protocol = holder._con._protocol
        never_answered = protocol.query("SELECT pg_sleep(600)", 600)
        never_answered.send(None)
        try:
            with pytest.raises(StoreUnavailable, match="operation"):
                await database.check()
            for _ in range(3):
                await database.check()
        finally:
            never_answered.close()

"""What a switchover to the standby does to the store, while the old primary stays up read-only."""

from __future__ import annotations

import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any, cast

import pytest
import trio

from contract.store_suite import a_draft
from nx_signal.adapters.postgres.store import PostgresDriver, open_postgres
from nx_signal.errors import StoreReadOnly, StoreUnavailable, Unsupported
from nx_signal.store import Database
from nx_signal.supervise import watch
from nx_signal.telemetry.health import Health
from nx_signal.telemetry.metrics import Metrics
from services import Postgres, psql
from standby import Standby, make_read_only

QUICK = "?connect_timeout=1"
RESUME_S = 15.0
"""Generous, for a busy machine; a 5 s check and a connection are in it."""


def now() -> datetime:
    return datetime.now(UTC)


def url_of(*servers: Postgres, parameters: str = "?target_session_attrs=read-write") -> str:
    return f"postgresql://signal@{','.join(server.address for server in servers)}/postgres{parameters}"


def port_of_lease(database: Database) -> int | None:
    assert isinstance(database.driver, PostgresDriver)
    connection = database.driver._pool.lease._connection
    return None if connection is None else cast(Any, connection)._addr[1]


async def written_within(database: Database, activity_id: str, seconds: float) -> None:
    with trio.fail_after(seconds):
        while True:
            try:
                await database.inbox.insert([a_draft("u", activity_id=activity_id)])
                return
            except StoreUnavailable:
                await trio.sleep(0.05)


async def read_only_within(call: Callable[[], Awaitable[object]], seconds: float) -> None:
    """The backends of a server take a changed setting one after the other."""
    with trio.fail_after(seconds):
        while True:
            try:
                await call()
            except StoreReadOnly:
                return


async def test_writing_goes_on_at_the_new_primary_while_the_old_one_stays_up_read_only(
    own_postgres: Postgres, standby: Standby
) -> None:
    """So does the lease of the worker id; readiness changes at most once there and back."""
    changes: list[str] = []

    class Watched(Health):
        def up(self, part: str) -> None:
            if part in self.down:
                changes.append("up")
            super().up(part)

        def fail(self, part: str, why: str) -> None:
            if part not in self.down:
                changes.append("down")
            super().fail(part, why)

    async with open_postgres(url_of(own_postgres, standby), now, 4) as database:
        await database.migrate()
        await database.inbox.insert([a_draft("u", activity_id="before")])
        assert port_of_lease(database) == own_postgres.port
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch, "store", database.check, Watched(("store",), Metrics()))
            await trio.to_thread.run_sync(make_read_only, own_postgres)
            await trio.to_thread.run_sync(standby.promote)
            await written_within(database, "after", RESUME_S)
            await trio.sleep(6)  # one more check than the next
            nursery.cancel_scope.cancel()
        assert changes in (["up"], ["up", "down", "up"])
        # A check that met the old primary dropped the lease; the next write takes it again.
        await database.inbox.insert([a_draft("u", activity_id="later")])
        assert port_of_lease(database) == standby.port
        assert psql(standby.url, "SELECT count(*) FROM activity_notification") == "3"


async def test_a_store_that_only_reads_finds_out_too(own_postgres: Postgres, standby: Standby) -> None:
    """Reads would go on at the old primary, and show what is no longer true."""
    async with open_postgres(url_of(own_postgres, standby), now, 4) as database:
        await database.migrate()
        await database.check()
        await trio.to_thread.run_sync(make_read_only, own_postgres)
        await read_only_within(database.check, RESUME_S)
        with pytest.raises(StoreUnavailable, match=r"it is read-only.*it is a standby"):
            await database.check()
        await trio.to_thread.run_sync(standby.promote)
        await database.check()
        psql(standby.url, "INSERT INTO organizer (id, locale) VALUES ('o', 'vi')")
        assert await database.directory.locales([("u", "o")]) == {("u", "o"): "vi"}


async def test_one_address_that_is_read_only_is_waited_for_with_its_reason(own_postgres: Postgres) -> None:
    async with open_postgres(own_postgres.url, now, 2) as database:
        await database.migrate()
        await database.inbox.insert([a_draft("u", activity_id="1")])
        await trio.to_thread.run_sync(make_read_only, own_postgres)
        second = [a_draft("u", activity_id="2")]
        await read_only_within(partial(database.inbox.insert, second), RESUME_S)
        psql(own_postgres.url, "ALTER SYSTEM RESET default_transaction_read_only")
        psql(own_postgres.url, "SELECT pg_reload_conf()")
        await written_within(database, "2", RESUME_S)


@pytest.mark.full
async def test_an_old_primary_that_vanished_delays_the_next_connection_once(
    own_postgres: Postgres, standby: Standby
) -> None:
    """It is frozen: a connection to it takes its whole time. The host that worked last is tried first."""
    async with open_postgres(url_of(own_postgres, standby, parameters=QUICK), now, 4) as database:
        await database.migrate()
        await database.inbox.insert([a_draft("u", activity_id="1")])
        await trio.to_thread.run_sync(standby.promote)
        own_postgres.pause()
        try:
            await written_within(database, "2", 3 * RESUME_S)
            with trio.fail_after(5):
                async with trio.open_nursery() as nursery:
                    for n in range(8):
                        nursery.start_soon(database.inbox.insert, [a_draft(f"v{n}", activity_id="3")])
        finally:
            own_postgres.resume()


NAMES_NO_VERSION = b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I"
"""Authentication is complete, and the server waits for a statement."""


def logged_in(version: bytes) -> bytes:
    parameter = b"server_version\0" + version + b"\0"
    status = b"S\0\0\0" + bytes([len(parameter) + 4]) + parameter
    return NAMES_NO_VERSION[:9] + status + NAMES_NO_VERSION[9:]


@contextmanager
def silent_after_login(answer: bytes = logged_in(b"18.0")) -> Iterator[str]:
    """The address of a server that lets everybody in and answers no statement."""

    def serve(client: socket.socket) -> None:
        with client, suppress(OSError):
            client.recv(1024)
            client.sendall(answer)
            while client.recv(1024):
                pass

    def accept(server: socket.socket) -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=serve, args=[server.accept()[0]], daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=accept, args=[server], daemon=True).start()
        yield "{}:{}".format(*server.getsockname())
        server.shutdown(socket.SHUT_RDWR)


async def test_a_host_that_lets_in_and_then_does_not_answer_leaves_the_next_one_its_time(
    postgres_url: str,
) -> None:
    with silent_after_login() as silent:
        hosts = f"{silent},{postgres_url.partition('@')[2]}?sslmode=disable&connect_timeout=1"
        async with open_postgres(f"postgresql://signal@{hosts}", now, 2) as database:
            await database.migrate()
        alone = f"postgresql://signal@{silent}/postgres?sslmode=disable&connect_timeout=1"
        async with open_postgres(alone, now, 2) as database:
            with pytest.raises(StoreUnavailable, match=f"{silent}/postgres does not answer within 1 s"):
                await database.check()


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # asyncpg's half of a connection
@pytest.mark.parametrize(
    "answer", [NAMES_NO_VERSION, logged_in(b""), logged_in(b"of a proxy")], ids=["none", "empty", "no number"]
)
async def test_a_server_that_names_no_version_ends_with_a_sentence(answer: bytes) -> None:
    with silent_after_login(answer) as server:
        url = f"postgresql://signal@{server}/postgres?sslmode=disable&connect_timeout=1"
        async with open_postgres(url, now, 2) as database:
            with pytest.raises(Unsupported, match=f"{server}/postgres names no version of PostgreSQL"):
                await database.check()

"""Each store in turn: `database` is one, opened and migrated."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from pathlib import Path

import pytest

from contract.store_suite import Clock, OpenDatabase, Sql
from nx_signal.adapters.sqlite.memory import MemoryDatabase
from nx_signal.store import Database
from services import psql


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=[pytest.param("memory", marks=pytest.mark.full), "sqlite", "postgres"])
def open_database(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> OpenDatabase:
    """Opens the same database at each call; the one in memory is another object each time."""
    if request.param == "memory":
        return lambda: _in_memory(clock)
    if request.param == "sqlite":
        from nx_signal.adapters.sqlite.store import open_sqlite

        return lambda: open_sqlite(tmp_path / "data" / "signal.db", clock)
    from nx_signal.adapters.postgres.store import open_postgres

    url: str = request.getfixturevalue("postgres_url")

    def postgres() -> AbstractAsyncContextManager[Database]:
        return open_postgres(url, clock, pool_size=4)

    return postgres


@asynccontextmanager
async def _in_memory(clock: Clock) -> AsyncIterator[Database]:
    yield MemoryDatabase(clock)


@pytest.fixture
async def database(open_database: OpenDatabase) -> AsyncIterator[Database]:
    async with open_database() as database:
        await database.migrate()
        yield database


@pytest.fixture
def sql(database: Database, request: pytest.FixtureRequest, tmp_path: Path) -> Sql:
    if isinstance(database, MemoryDatabase):
        connection = database.driver.connection

        def in_memory(statement: str) -> None:
            connection.execute("PRAGMA ignore_check_constraints = ON")
            connection.execute(statement)
            connection.execute("PRAGMA ignore_check_constraints = OFF")

        return in_memory
    if database.driver.dialect.name == "sqlite":

        def in_file(statement: str) -> None:
            with closing(sqlite3.connect(tmp_path / "data" / "signal.db")) as connection, connection:
                connection.execute("PRAGMA ignore_check_constraints = ON")
                connection.execute(statement)

        return in_file
    url: str = request.getfixturevalue("postgres_url")

    def on_server(statement: str) -> None:
        psql(url, statement)

    return on_server

"""Each store in turn: `database` is one, opened and migrated."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
from store_suite import Clock, OpenDatabase

from nx_signal.adapters.memory.store import MemoryDatabase
from nx_signal.ports import Database


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["memory", "sqlite", "postgres"])
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

"""The embedded database: one SQLite file in the data directory, which migrates itself."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from nx_signal.adapters.sqlite.dead_letters import SqliteDeadLetters
from nx_signal.adapters.sqlite.directory import SqliteDirectory
from nx_signal.adapters.sqlite.file import SQL, SqliteFile
from nx_signal.adapters.sqlite.inbox import SqliteInbox
from nx_signal.adapters.sqlite.traces import SqliteTraces
from nx_signal.adapters.sqlite.upkeep import SqliteUpkeep
from nx_signal.errors import SchemaOutdated
from nx_signal.ports import Database, Now
from nx_signal.sql import Migration, migrations


@asynccontextmanager
async def open_sqlite(path: Path, now: Now) -> AsyncIterator[Database]:
    """The database in the file `path`; `check` creates the file, and its directory with mode 0700."""
    file = SqliteFile(path, now)
    try:
        yield SqliteDatabase(file)
    finally:
        await file.close()


class SqliteDatabase:
    """Accepted rows survive a power cut. Several processes may share the file."""

    def __init__(self, file: SqliteFile) -> None:
        self._file = file
        self._inbox = SqliteInbox(file)
        self._upkeep = SqliteUpkeep(file)
        self._directory = SqliteDirectory(file)
        self._dead_letters = SqliteDeadLetters(file)
        self._traces = SqliteTraces(file)

    @property
    def inbox(self) -> SqliteInbox:
        return self._inbox

    @property
    def upkeep(self) -> SqliteUpkeep:
        return self._upkeep

    @property
    def directory(self) -> SqliteDirectory:
        return self._directory

    @property
    def dead_letters(self) -> SqliteDeadLetters:
        return self._dead_letters

    @property
    def traces(self) -> SqliteTraces:
        return self._traces

    async def check(self) -> None:
        await self.migrate()

    async def migrate(self) -> Sequence[str]:
        """Raises SchemaOutdated when a newer release has been here."""
        steps = migrations("sqlite")
        done = await self._file.write(self._version)
        if done > len(steps):
            raise SchemaOutdated(
                f"The database {self._file.path} has schema {done}; this release works with {len(steps)}. "
                "Run the newer release that made it."
            )
        taken = []
        for step in steps[done:]:
            if await self._file.write(partial(self._apply, step)):
                taken.append(step.name)
        return taken

    def _version(self, connection: sqlite3.Connection) -> int:
        connection.execute(SQL["create_schema_version"])
        version: int = connection.execute(SQL["schema_version"]).fetchone()[0]
        return version

    def _apply(self, step: Migration, connection: sqlite3.Connection) -> bool:
        """False where another process was faster."""
        if self._version(connection) >= step.version:
            return False
        for statement in _statements(step.sql):
            connection.execute(statement)
        connection.execute(
            SQL["write_schema_version"],
            {"version": step.version, "name": step.name, "applied_at": self._file.now_ms()},
        )
        return True


def _statements(script: str) -> Iterator[str]:
    """One by one: sqlite3's executescript would commit the transaction it runs in."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""

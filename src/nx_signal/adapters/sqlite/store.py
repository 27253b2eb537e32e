"""The embedded database: one SQLite file in the data directory, which migrates itself."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from nx_signal.adapters.sqlite.file import SqliteFile
from nx_signal.ports import Now
from nx_signal.store import Database


@asynccontextmanager
async def open_sqlite(path: Path, now: Now) -> AsyncIterator[Database]:
    """The database in the file `path`; `check` creates the file, and its directory with mode 0700.

    Accepted rows survive a power cut. Several processes may share the file."""
    file = SqliteFile(path, now)
    try:
        yield Database(file)
    finally:
        await file.close()

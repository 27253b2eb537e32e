"""The store of the settings, for the commands that work on it directly."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from nx_signal.config import Settings
from nx_signal.ports import Database


@asynccontextmanager
async def open_database(settings: Settings) -> AsyncIterator[Database]:
    """PostgreSQL where a URL is set, else the file in the data directory, which is made if missing."""
    from nx_signal import service  # all the adapters: not before a file was read and found good

    if settings.database_url is None:
        settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    async with service.open_database(settings) as database:
        yield database

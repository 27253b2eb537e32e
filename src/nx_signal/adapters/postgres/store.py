"""PostgreSQL as the store (ports.Database)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from nx_signal.adapters._aio import open_border
from nx_signal.adapters.postgres.dead_letters import PostgresDeadLetters
from nx_signal.adapters.postgres.directory import PostgresDirectory
from nx_signal.adapters.postgres.inbox import PostgresInbox
from nx_signal.adapters.postgres.lease import WorkerLease
from nx_signal.adapters.postgres.schema import Schema
from nx_signal.adapters.postgres.session import Session
from nx_signal.adapters.postgres.traces import PostgresTraces
from nx_signal.adapters.postgres.upkeep import PostgresUpkeep
from nx_signal.ports import Now


class PostgresDatabase:
    """ports.Database. Obtain by `open_postgres`."""

    def __init__(self, session: Session, lease: WorkerLease, now: Now) -> None:
        self._schema = Schema(session)
        self._lease = lease
        self.inbox = PostgresInbox(session, lease, now)
        self.upkeep = PostgresUpkeep(session)
        self.directory = PostgresDirectory(session)
        self.dead_letters = PostgresDeadLetters(session, lease, now)
        self.traces = PostgresTraces(session, now)

    @property
    def worker_id(self) -> int | None:
        """The one leased now; none before the first row is written."""
        return self._lease.worker_id

    async def check(self) -> None:
        await self._schema.check()

    async def migrate(self) -> Sequence[str]:
        return await self._schema.migrate()


@asynccontextmanager
async def open_postgres(url: str, now: Now, pool_size: int) -> AsyncIterator[PostgresDatabase]:
    """The database at `url`, with at most `pool_size` connections and one more for the worker id.

    No I/O on entry. The connections are sessions: a pooler in front has to keep them (session mode)."""
    async with open_border() as border:
        session = Session(border, url, pool_size)
        lease = WorkerLease(session._aio_connect, now)
        try:
            yield PostgresDatabase(session, lease, now)
        finally:
            await session.close(lease._aio_close)

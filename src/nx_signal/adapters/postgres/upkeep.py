"""Upkeep of the inboxes in PostgreSQL: short transactions, one at a time."""

from __future__ import annotations

from datetime import datetime

from nx_signal.adapters._read_all import with_covers
from nx_signal.adapters._upkeep import (
    CountedLog,
    CountedRows,
    HeldInbox,
    HeldType,
    OldRow,
    audited,
    expiry,
    portion,
)
from nx_signal.adapters.postgres.inbox import _aio_lock_head, _aio_log, _aio_settle
from nx_signal.adapters.postgres.lease import NAMESPACE
from nx_signal.adapters.postgres.session import SNAPSHOT, Connection, Session, transaction
from nx_signal.adapters.snowflake import first_id_at
from nx_signal.model import Audit, Deleted
from nx_signal.sql import queries

_SQL = with_covers(queries("postgres"))


class PostgresUpkeep:
    """ports.Upkeep."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def settle(self, limit: int) -> bool:
        return await self._session.call(_aio_settle, limit)

    async def expire(self, before: datetime, limit: int) -> tuple[int, Deleted | None]:
        return await self._session.call(_aio_expire, first_id_at(before), limit)

    async def audit(self, after: str, max_inboxes: int, max_rows: int, largest: int | None = None) -> Audit:
        return await self._session.call(_aio_audit, after, max_inboxes, max_rows, largest)


async def _aio_expire(connection: Connection, before_id: int, limit: int) -> tuple[int, Deleted | None]:
    async with transaction(connection):
        recipient_id = await connection.fetchval(_SQL["owner_of_oldest"], before_id)
        if recipient_id is None or not await connection.fetchval(_SQL["expire_alone"], NAMESPACE):
            return 0, None
        head = await _aio_lock_head(connection, recipient_id)
        oldest = [OldRow(*row) for row in await connection.fetch(_SQL["oldest"], recipient_id, limit + 1)]
        done = expiry(head, oldest, before_id, limit)
        if done is None:
            return 0, None
        await connection.execute(_SQL["remove_rows"], recipient_id, done.last_rev)
        await connection.execute(_SQL["keep_after"], recipient_id, done.kept_after)
        if done.change is not None:
            await _aio_log(connection, done.head, done.change, done.loss)
    # Nobody reads this part of the log any more: what a crash leaves of it goes the next time.
    while await connection.fetchval(_SQL["remove_changes"], recipient_id, done.kept_after, limit) == limit:
        pass
    return done.rows, done.change


async def _aio_audit(
    connection: Connection, after: str, max_inboxes: int, max_rows: int, largest: int | None
) -> Audit:
    async with transaction(connection, SNAPSHOT):
        found = await connection.fetch(_SQL["audit_heads"], after, max_inboxes + 1)
        heads, last = portion([HeldInbox(*row) for row in found], max_inboxes, max_rows, largest)
        if not heads and last is not None:
            return Audit(0, 0, (), last)
        types = await connection.fetch(_SQL["audit_types"], after, last)
        rows = await connection.fetch(_SQL["audit_rows"], after, last)
        log = await connection.fetch(_SQL["audit_log"], after, last)
    return audited(
        heads,
        [HeldType(*row) for row in types],
        [CountedRows(*row) for row in rows],
        [CountedLog(*row) for row in log],
        last,
    )

"""Upkeep of the inboxes in SQLite: each transaction holds the one writer for some milliseconds."""

from __future__ import annotations

import sqlite3
from datetime import datetime
from functools import partial

from nx_signal.adapters._upkeep import (
    CountedLog,
    CountedRows,
    Expiry,
    HeldInbox,
    HeldType,
    OldRow,
    audited,
    expiry,
    portion,
)
from nx_signal.adapters.snowflake import first_id_at
from nx_signal.adapters.sqlite.file import SqliteFile
from nx_signal.adapters.sqlite.inbox import SQL, _heads, _log, _settle
from nx_signal.model import Audit, Deleted

ABOVE_ALL_TEXT = b""
"""SQLite orders every blob above every text."""


class SqliteUpkeep:
    """ports.Upkeep."""

    def __init__(self, file: SqliteFile) -> None:
        self._file = file

    async def settle(self, limit: int) -> bool:
        return await self._file.write(lambda connection: _settle(connection, limit, None))

    async def expire(self, before: datetime, limit: int) -> tuple[int, Deleted | None]:
        before_id = first_id_at(before)
        done = await self._file.write(lambda connection: _expire(connection, before_id, limit))
        if done is None:
            return 0, None
        # Nobody reads this part of the log any more: what a crash leaves of it goes the next time.
        values = {"recipient_id": done.head.recipient_id, "kept_after": done.kept_after, "limit": limit}
        while await self._file.write(lambda c: c.execute(SQL["remove_changes"], values).rowcount) == limit:
            pass
        return done.rows, done.change

    async def audit(self, after: str, max_inboxes: int, max_rows: int, largest: int | None = None) -> Audit:
        return await self._file.read(partial(_audit, after, max_inboxes, max_rows, largest))


def _expire(connection: sqlite3.Connection, before_id: int, limit: int) -> Expiry | None:
    owner = connection.execute(SQL["owner_of_oldest"], {"before_id": before_id}).fetchone()
    if owner is None:
        return None
    values = {"recipient_id": owner["recipient_id"], "limit": limit + 1}
    oldest = [OldRow(*row) for row in connection.execute(SQL["oldest"], values)]
    head = _heads(connection, [owner["recipient_id"]])[owner["recipient_id"]]
    done = expiry(head, oldest, before_id, limit)
    if done is not None:
        values |= {"last_rev": done.last_rev, "kept_after": done.kept_after}
        connection.execute(SQL["remove_rows"], values)
        connection.execute(SQL["keep_after"], values)
        if done.change is not None:
            _log(connection, done.head, done.change, done.loss)
    return done


def _audit(
    after: str, max_inboxes: int, max_rows: int, largest: int | None, connection: sqlite3.Connection
) -> Audit:
    values = {"after": after, "limit": max_inboxes + 1}
    found = [HeldInbox(*row) for row in connection.execute(SQL["audit_heads"], values)]
    heads, last = portion(found, max_inboxes, max_rows, largest)
    if not heads and last is not None:
        return Audit(0, 0, (), last)
    span = {"after": after, "last": ABOVE_ALL_TEXT if last is None else last}
    types = [HeldType(*row) for row in connection.execute(SQL["audit_types"], span)]
    rows = [CountedRows(*row) for row in connection.execute(SQL["audit_rows"], span)]
    log = [CountedLog(*row) for row in connection.execute(SQL["audit_log"], span)]
    return audited(heads, types, rows, log, last)

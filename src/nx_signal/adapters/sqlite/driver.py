"""SQLite's side of store.driver: its dialect, and a transaction that never suspends, so that a script plays
by one `send`."""

from __future__ import annotations

import json
import re
import sqlite3
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import cache
from operator import attrgetter
from typing import Any, TypeVar, TypeVarTuple

from nx_signal.model import Draft, InboxSummary
from nx_signal.model.notifications import DRAFT_FIELDS, DRAFT_TIMES
from nx_signal.model.timestamps import epoch_ms, from_epoch_ms, to_milliseconds
from nx_signal.ports import Now
from nx_signal.store.driver import NO_IDS, Dialect, Inserted, Row, Tx
from nx_signal.store.rows import HEAD_FIELDS, MAX_INTEGER, summary
from nx_signal.store.sql import query

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_AS_GLOB = {"%": "*", "_": "?", "*": "[*]", "?": "[?]", "[": "[[]"}
_GLOB_SPECIAL = re.compile(r"[%_*?\[]")
_TIME = "_at"
"""Columns that end so are times, in milliseconds."""

DIALECT = Dialect(
    name="sqlite",
    unset="{column} = 0",
    like="{column} GLOB {value}",  # LIKE takes A for a
    pattern=lambda text: _GLOB_SPECIAL.sub(lambda found: _AS_GLOB[found[0]], text),
    moment=epoch_ms,
)


_NUMBERS = ("id", "rev", "unread_after", "total_after", "unseen_after")
_INSERT_COLUMNS = (*DRAFT_FIELDS, *_NUMBERS, "changed_rev", "created_at", "modified_at", "replaces")
_INSERT = f"""
INSERT INTO activity_notification ({", ".join(_INSERT_COLUMNS)})
VALUES ({", ".join("?" for _ in _INSERT_COLUMNS)})
"""  # noqa: S608 - the columns are those of the model
_draft_values = attrgetter(*DRAFT_FIELDS)
_numbers_of = attrgetter("id", "rev", "unread", "total", "unseen")
_DATA = DRAFT_FIELDS.index("data")
_TIMES = [DRAFT_FIELDS.index(name) for name in DRAFT_TIMES]


class SqliteTx:
    """store.driver.Tx on a connection whose transaction is open."""

    dialect = DIALECT

    def __init__(
        self, connection: sqlite3.Connection, now: Now, next_id: Callable[[sqlite3.Connection], int] | None
    ) -> None:
        """`next_id`: only for a script that takes ids."""
        self._connection = connection
        self._now = now
        self._next_id = next_id

    def now(self) -> datetime:
        return to_milliseconds(self._now())

    def ids(self, count: int) -> list[int]:
        if self._next_id is None:
            raise RuntimeError(NO_IDS)
        return [self._next_id(self._connection) for _ in range(count)]

    async def run(self, name: str, /, **arguments: Any) -> int:
        bound, changed = _bound(arguments), 0
        for statement in _statements(name):
            changed = self._connection.execute(statement, bound).rowcount
        return changed

    async def one(self, name: str, /, **arguments: Any) -> Row | None:
        rows = await self.all(name, **arguments)
        return rows[0] if rows else None

    async def all(self, name: str, /, **arguments: Any) -> Sequence[Row]:
        return await self.select(query("sqlite", name), arguments)

    async def many(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        self._connection.executemany(query("sqlite", name), [_bound(row) for row in rows])

    async def select(self, sql: str, arguments: Mapping[str, Any]) -> Sequence[Row]:
        cursor = self._connection.execute(sql, _bound(arguments))
        names = [column[0] for column in cursor.description]
        times = [name for name in names if name.endswith(_TIME)]
        rows = [dict(zip(names, values, strict=True)) for values in cursor]
        for row in rows if times else ():
            for name in times:
                if row[name] is not None:
                    row[name] = from_epoch_ms(row[name])
        return rows

    async def insert(
        self, drafts: Sequence[Draft], data: Sequence[str]
    ) -> tuple[datetime, Sequence[Inserted]]:
        keys = [(draft.activity_id, draft.recipient_id) for draft in drafts]
        found = await self.all("existing_activities", keys=keys)
        existing = {(row["activity_id"], row["recipient_id"]) for row in found}
        new = [index for index, key in enumerate(keys) if key not in existing]
        recipient_ids = list({drafts[index].recipient_id for index in new})
        heads = {id: InboxSummary(id, 0, 0, 0) for id in recipient_ids}
        for row in await self.all("heads", recipient_ids=recipient_ids):
            heads[row["recipient_id"]] = summary(row)
        history = {id: head.history for id, head in heads.items()}
        created_at, inserted = self.now(), []
        for index, id in zip(new, self.ids(len(new)), strict=True):
            draft = drafts[index]
            before = heads[draft.recipient_id]
            heads[draft.recipient_id] = head = replace(
                before,
                rev=before.rev + 1,
                total=before.total + 1,
                unread=before.unread + 1,
                unseen=before.unseen + 1,
                history=str(id),
            )
            numbers = (head.rev, head.unread, head.total, head.unseen)
            inserted.append(Inserted(index, id, *numbers, history[draft.recipient_id]))
        of_rows = [row.index for row in inserted]
        await self.write_rows([drafts[n] for n in of_rows], [data[n] for n in of_rows], created_at, inserted)
        await self.many(
            "set_head", [{name: getattr(h, name) for name in HEAD_FIELDS} for h in heads.values()]
        )
        grown = Counter((drafts[index].recipient_id, drafts[index].type) for index in new)
        types = [{"recipient_id": id, "type": type, "many": many} for (id, type), many in grown.items()]
        await self.many("add_to_type", types)
        return created_at, inserted

    async def write_rows(
        self, drafts: Sequence[Draft], data: Sequence[str], created_at: datetime, rows: Sequence[Inserted]
    ) -> None:
        # By position: names cost more than the rest of a row.
        bound, created_ms = [], epoch_ms(created_at)
        for draft, text, row in zip(drafts, data, rows, strict=True):
            values = [*_draft_values(draft), *_numbers_of(row), row.rev, created_ms, created_ms]
            values.append(json.dumps(row.replaces) if row.replaces else None)
            values[_DATA] = text
            for place in _TIMES:
                if values[place] is not None:
                    values[place] = epoch_ms(values[place])
            bound.append(values)
        self._connection.executemany(_INSERT, bound)

    async def script(self, sql: str) -> None:
        for statement in split(sql):
            self._connection.execute(statement)

    async def look(self) -> None:
        pass


def play(script: Callable[[Tx, *Ts], Awaitable[T]], arguments: tuple[*Ts], tx: SqliteTx) -> T:
    """The script's result. It suspends nowhere but in `tx`, which never does: so one step finishes it."""
    steps = script(tx, *arguments).__await__()
    try:
        next(steps)
    except StopIteration as finished:
        result: T = finished.value
        return result
    raise RuntimeError("A script of the store awaits something else than its transaction.")


def split(script: str) -> Iterator[str]:
    """One statement at a time: sqlite3's executescript would commit the transaction it runs in."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


@cache
def _statements(name: str) -> tuple[str, ...]:
    return tuple(split(query("sqlite", name)))


def _bound(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _value(value) for name, value in arguments.items()}


def _value(value: Any) -> Any:
    match value:
        case None | str() | bytes():
            return value
        case int():
            return max(-MAX_INTEGER, min(value, MAX_INTEGER))
        case datetime():
            return epoch_ms(value)
        case _:
            return json.dumps(value, default=epoch_ms)

"""PostgreSQL's side of store.driver, all of it on asyncio's side of the bridge: the pool, its dialect, and a
transaction over asyncpg."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from functools import lru_cache
from operator import attrgetter
from typing import Any, TypeAlias, TypeVar, TypeVarTuple, cast

import asyncpg
from asyncpg.pool import Pool, PoolConnectionProxy

from nx_signal.adapters.postgres.connect import Connector
from nx_signal.adapters.postgres.errors import NoConnectionLeft, is_switched
from nx_signal.adapters.postgres.lease import Ids, WorkerLease
from nx_signal.errors import StoreUnavailable
from nx_signal.model import Draft
from nx_signal.model.notifications import DRAFT_FIELDS, DRAFT_TIMES
from nx_signal.model.timestamps import to_milliseconds
from nx_signal.ports import Now
from nx_signal.store.driver import NO_IDS, Dialect, Inserted, Row, Tx
from nx_signal.store.rows import MAX_INTEGER
from nx_signal.store.sql import queries, query

STEP_S = 600.0
"""For one step of the schema, or for another instance's."""
RELEASE_S = 2.0
"""For rolling back what an error or a cancellation left; then the connection is dropped."""
CLOSE_S = 2.0

DIALECT = Dialect(
    name="postgres",
    unset="NOT {column}",
    like="{column} LIKE {value} ESCAPE ''",
    pattern=lambda text: text,
    moment=datetime.isoformat,
)

WRITE, SNAPSHOT, SINGLE = "BEGIN", "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", None
"""How a script is played: in a transaction, in one that sees one state, or as a statement by itself."""
SINGLE_WRITE = ""
ALONE = {SINGLE: "BEGIN READ ONLY", SINGLE_WRITE: WRITE}
"""A statement by itself behind a pooler, where settings last for a transaction."""

OUT_OF_STEP = (asyncpg.InterfaceError, asyncpg.InternalClientError)
"""A connection that the driver left in the middle of an operation, as after a pause of the whole process,
fails at each use. The pool would hand it out first, for ever: it was released last."""

OF_RELEASES_BEFORE = ("schema_version", "schema_addition", "add_schema_version")
QUERIES = ("SELECT", "INSERT", "UPDATE", "DELETE", "WITH")

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
Connection: TypeAlias = PoolConnectionProxy

_ARGUMENT = re.compile(r"(?<![:\w]):([a-z]\w*)")


class PostgresPool:
    """A lazily made pool: no I/O before the first call. It is dropped as a whole when the server is no longer
    the one to write to."""

    def __init__(self, connector: Connector, pool_size: int, now: Now) -> None:
        self._connector = connector
        self._pool_size = pool_size
        self._now = now
        self._pool: Pool | None = None
        self._making = asyncio.Lock()
        self._released = asyncio.Event()
        self.lease = WorkerLease(self._aio_connect, now)

    async def aio_play(
        self,
        begin: str | None,
        takes_ids: bool,
        script: Callable[[Tx, *Ts], Awaitable[T]],
        arguments: tuple[*Ts],
    ) -> T:
        """Acquire, play, commit and release. However it ends, also by a cancellation at any await: the
        connection is back, without a transaction."""
        pool, connection = await self._aio_acquire()
        try:
            try:
                return await self._aio_play_on(connection, begin, takes_ids, script, arguments)
            except AttributeError as error:
                if pool is self._pool:
                    raise
                # `_drop`, between two steps of asyncpg's: it then uses what the connection no longer has.
                raise asyncpg.InterfaceError("the connection was closed") from error
            except OUT_OF_STEP as error:
                if not isinstance(error, ValueError):  # of an argument, before anything is sent
                    with suppress(asyncpg.InterfaceError):  # closed already
                        connection.terminate()
                raise
            finally:
                # Waits for a cancelled statement, rolls back what is open, and drops a connection that
                # does not do so in time: either way there is nothing left to report.
                with suppress(Exception):
                    await pool.release(connection, timeout=RELEASE_S)
                self._released.set()
        except Exception as error:
            if is_switched(error) or isinstance(error, TimeoutError):  # the other connections are no better
                self._drop(pool)
            raise

    async def _aio_acquire(self) -> tuple[Pool, Connection]:
        """Where the server gives no further connection, one that is in use is waited for."""
        try:
            async with asyncio.timeout(self._connector.longest_s):
                while True:
                    pool = await self._aio_pool()
                    try:
                        return pool, await pool.acquire()
                    except NoConnectionLeft:
                        if pool.get_size() == 0:
                            raise
                        _open_ones_first(pool)
                        if pool.get_idle_size() == 0:
                            self._released.clear()
                            await self._released.wait()
                    except asyncpg.InterfaceError:
                        if pool is self._pool:  # else it was dropped meanwhile
                            raise
        except TimeoutError:
            raise StoreUnavailable(
                f"No connection to PostgreSQL at {self._connector.address.place} was free within "
                f"{self._connector.longest_s:g} s: the server is slow, or APP_ENV_DATABASE_POOL_SIZE too low."
            ) from None
        except Exception as error:
            if is_switched(error):
                self._drop(pool)
            raise

    async def _aio_play_on(
        self,
        connection: Connection,
        begin: str | None,
        takes_ids: bool,
        script: Callable[[Tx, *Ts], Awaitable[T]],
        arguments: tuple[*Ts],
    ) -> T:
        ids: Ids | None = None
        if self._connector.pooled:
            begin = f"{ALONE.get(begin, begin)}; {self._connector.settings_sql(of_transaction=True)}"
        elif takes_ids:
            await self.lease.aio_hold()
            ids = self.lease
        if not begin:
            return await script(PostgresTx(connection, self._now, ids), *arguments)
        await connection.execute(begin)
        if takes_ids and ids is None:
            ids = await self.lease.aio_of_transaction(connection)
        result = await script(PostgresTx(connection, self._now, ids), *arguments)
        await connection.execute("COMMIT")
        return result

    async def _aio_pool(self) -> Pool:
        async with self._making:
            if self._pool is None:
                self._pool = await asyncpg.create_pool(
                    min_size=0,  # nothing is connected before it is used
                    max_size=self._pool_size,
                    connect=self._aio_connect,
                    reset=_keep,
                )
            return self._pool

    async def _aio_connect(self, *_: Any, **options: Any) -> asyncpg.Connection:
        """No connections to two servers at once: of these one is not, or soon is not, the one to write to."""
        pool, moves = self._pool, self._connector.moves
        connection = await self._connector.aio_connect(**options)
        if self._connector.moves != moves:
            self._drop(pool)
        return connection

    def _drop(self, pool: Pool | None) -> None:
        """Calls that are under way on it fail; they are safe to repeat."""
        if pool is not None and self._pool is pool:
            self._pool = None
            self.lease.lose()
            pool.terminate()

    async def aio_close(self) -> None:
        pool = self._pool
        try:
            await self.lease.aio_close()
            if pool is not None:
                await asyncio.wait_for(pool.close(), CLOSE_S / 2)
        finally:
            if pool is not None:
                pool.terminate()
            await asyncio.sleep(0)  # lets the transports close their sockets


def _open_ones_first(pool: Any) -> None:
    """asyncpg takes the holder that came back last: for ever the one whose connection was just refused."""
    waiting = pool._queue
    holders = [waiting.get_nowait() for _ in range(waiting.qsize())]
    for holder in sorted(holders, key=lambda holder: bool(holder.is_connected())):
        waiting.put_nowait(holder)


async def _keep(connection: Any) -> None:
    """Nothing here changes the state of a session: spare the round trip that would reset it. An open
    transaction is rolled back before this all the same."""


_PLAIN = tuple(name for name in DRAFT_FIELDS if name not in ("recipient_id", "data"))
_plain_of = attrgetter(*_PLAIN)
_SHARED = (*_PLAIN, "data")
"""What the recipients of an activity who read one language have in common: sent once for all of them."""
_COLUMNS = ", ".join(DRAFT_FIELDS)
_SHARED_COLUMNS = ", ".join(_SHARED)
_KINDS = {"data": "json"} | dict.fromkeys(DRAFT_TIMES, "timestamptz")
_ARRAYS = ", ".join(f":{name}::{_KINDS.get(name, 'text')}[]" for name in _SHARED)
# READ COMMITTED is enough: this statement's snapshot is taken after lock_or_create, so whatever the former
# holder of a head wrote is visible, and no other transaction can write to these inboxes until the commit.
_INSERT = f"""
WITH draft AS (
    SELECT id, recipient_id, {_SHARED_COLUMNS}, ord
    FROM unnest(:id::bigint[], :recipient_id::text[], :shared::bigint[])
        WITH ORDINALITY AS a (id, recipient_id, shared, ord)
    JOIN unnest({_ARRAYS}) WITH ORDINALITY AS s ({_SHARED_COLUMNS}, shared) USING (shared)
), fresh AS (
    SELECT d.*, row_number() OVER (PARTITION BY d.recipient_id ORDER BY d.ord) AS step
    FROM draft d
    WHERE NOT EXISTS (
        SELECT FROM activity_notification n
        WHERE n.activity_id = d.activity_id AND n.recipient_id = d.recipient_id
    )
), grown AS (
    SELECT recipient_id, count(*) AS many, max(id)::text AS history FROM fresh GROUP BY recipient_id
), head AS (
    UPDATE recipient_head h
    SET rev = h.rev + g.many, total = h.total + g.many, unread = h.unread + g.many,
        unseen = before.unseen + g.many, history = g.history, history_rev = h.rev + g.many
    FROM grown g JOIN inbox_head before USING (recipient_id)
    WHERE h.recipient_id = g.recipient_id
    RETURNING before.recipient_id, before.rev, before.unread, before.total, before.history,
              h.unseen - g.many AS unseen
), typed AS (
    INSERT INTO recipient_type AS t (recipient_id, type, total, unread)
    SELECT recipient_id, type, count(*), count(*) FROM fresh GROUP BY recipient_id, type
    ON CONFLICT (recipient_id, type) DO UPDATE
    SET total = t.total + excluded.total, unread = t.unread + excluded.unread
), inserted AS (
    INSERT INTO activity_notification (
        {_COLUMNS}, id, rev, changed_rev, created_at, modified_at, unread_after, total_after,
        unseen_after
    )
    SELECT {_COLUMNS}, f.id, h.rev + f.step, h.rev + f.step, :created_at, :created_at, h.unread + f.step,
           h.total + f.step, h.unseen + f.step
    FROM fresh f JOIN head h USING (recipient_id)
)
SELECT f.ord - 1 AS index, h.rev + f.step AS rev, h.unread + f.step AS unread, h.total + f.step AS total,
       h.unseen + f.step AS unseen, h.history AS before
FROM fresh f JOIN head h USING (recipient_id)
ORDER BY f.ord
"""  # noqa: S608 - the columns are those of the model


_WRITE_ROWS = f"""
INSERT INTO activity_notification (
    {_COLUMNS}, id, rev, changed_rev, created_at, modified_at, unread_after, total_after,
    unseen_after, replaces
)
SELECT {_COLUMNS}, a.id, a.rev, a.rev, :created_at, :created_at, a.unread, a.total, a.unseen, a.replaces
FROM unnest(
    :id::bigint[], :recipient_id::text[], :shared::bigint[], :rev::bigint[], :unread::bigint[],
    :total::bigint[], :unseen::bigint[], :replaces::text[]
) AS a (id, recipient_id, shared, rev, unread, total, unseen, replaces)
JOIN unnest({_ARRAYS}) WITH ORDINALITY AS s ({_SHARED_COLUMNS}, shared) USING (shared)
"""  # noqa: S608 - likewise


class PostgresTx:
    """store.driver.Tx on a connection."""

    dialect = DIALECT

    def __init__(self, connection: Connection, now: Now, ids: Ids | None) -> None:
        """`ids`: only for a script that takes ids."""
        self._connection = connection
        self._now = now
        self._ids = ids

    def now(self) -> datetime:
        return to_milliseconds(self._now())

    def ids(self, count: int) -> list[int]:
        if self._ids is None:
            raise RuntimeError(NO_IDS)
        return self._ids.take(count)

    async def run(self, name: str, /, **arguments: Any) -> int:
        sql, values = _positional(query("postgres", name), arguments)
        status = await self._connection.execute(sql, *values)
        return int(status.rpartition(" ")[2] or 0)

    async def one(self, name: str, /, **arguments: Any) -> Row | None:
        sql, values = _positional(query("postgres", name), arguments)
        return cast(Row | None, await self._connection.fetchrow(sql, *values))

    async def all(self, name: str, /, **arguments: Any) -> Sequence[Row]:
        return await self.select(query("postgres", name), arguments)

    async def many(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        if rows:
            bound = [_positional(query("postgres", name), row) for row in rows]
            await self._connection.executemany(bound[0][0], [values for _, values in bound])

    async def select(self, sql: str, arguments: Mapping[str, Any]) -> Sequence[Row]:
        positional, values = _positional(sql, arguments)
        return cast(Sequence[Row], await self._connection.fetch(positional, *values))

    async def insert(
        self, drafts: Sequence[Draft], data: Sequence[str]
    ) -> tuple[datetime, Sequence[Inserted]]:
        await self.run("lock_or_create", recipient_ids=list({draft.recipient_id for draft in drafts}))
        # Under the lock, so that in one inbox times and ids ascend like the revisions.
        created_at, ids = self.now(), self.ids(len(drafts))
        arguments = _arrays(drafts, data) | {"id": ids, "created_at": created_at}
        rows = await self.select(_INSERT, arguments)
        inserted = [
            Inserted(
                row["index"],
                ids[row["index"]],
                row["rev"],
                row["unread"],
                row["total"],
                row["unseen"],
                row["before"],
            )
            for row in rows
        ]
        return created_at, inserted

    async def write_rows(
        self, drafts: Sequence[Draft], data: Sequence[str], created_at: datetime, rows: Sequence[Inserted]
    ) -> None:
        names = ("id", "rev", "unread", "total", "unseen")
        numbers = {name: [getattr(row, name) for row in rows] for name in names}
        replaces = [json.dumps(row.replaces) if row.replaces else None for row in rows]
        more = {"created_at": created_at, "replaces": replaces}
        await self.select(_WRITE_ROWS, _arrays(drafts, data) | numbers | more)

    async def script(self, sql: str) -> None:
        await self._connection.execute(sql, timeout=STEP_S)

    async def look(self) -> None:
        for name, sql in queries("postgres").items():
            if sql.startswith(QUERIES) and sql.count(";") == 1 and name not in OF_RELEASES_BEFORE:
                text = _numbered(sql)[0]
                await self._connection.execute(f"PREPARE signal_look AS {text} DEALLOCATE signal_look")


def _arrays(drafts: Sequence[Draft], data: Sequence[str]) -> dict[str, Any]:
    shared: dict[tuple[Any, ...], int] = {}
    places = [
        shared.setdefault((*_plain_of(draft), text), len(shared) + 1)
        for draft, text in zip(drafts, data, strict=True)
    ]
    arguments: dict[str, Any] = {name: [each[n] for each in shared] for n, name in enumerate(_SHARED)}
    return arguments | {"recipient_id": [draft.recipient_id for draft in drafts], "shared": places}


def _positional(sql: str, arguments: Mapping[str, Any]) -> tuple[str, list[Any]]:
    """asyncpg takes arguments by position alone."""
    text, names = _numbered(sql)
    if missing := set(names) - arguments.keys():
        raise TypeError(f"A statement lacks its argument {min(missing)}: {sql}")
    return text, [_value(arguments[name]) for name in names]


@lru_cache(maxsize=1_024)
def _numbered(sql: str) -> tuple[str, tuple[str, ...]]:
    """The statement with $1, $2, … and the names that these stand for."""
    names = list(dict.fromkeys(_ARGUMENT.findall(sql)))
    return _ARGUMENT.sub(lambda found: f"${names.index(found[1]) + 1}", sql), tuple(names)


def _value(value: Any) -> Any:
    match value:
        case bool():
            return value
        case int():
            return max(-MAX_INTEGER, min(value, MAX_INTEGER))
        case dict():
            return json.dumps(value, default=datetime.isoformat)
        case list():
            return [_value(each) for each in value] if value and isinstance(value[0], int) else value
        case _:
            return value

"""The worker id of this instance, leased by an advisory lock: on a connection of its own for as long as that
lives, or behind a pooler for each transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import asyncpg
import structlog

from nx_signal.errors import StoreUnavailable
from nx_signal.ports import Now
from nx_signal.store.maintenance import LOCK_NAMESPACE
from nx_signal.store.snowflake import WORKERS, Snowflakes
from nx_signal.store.sql import query

log = structlog.get_logger()

RELEASE_S = 0.5


class Ids(Protocol):
    def take(self, n: int) -> list[int]:
        """`n` ascending ids."""


class WorkerLease:
    """Ids that no other instance gives out, for as long as the connection lives.

    Should it be lost unnoticed, the primary key is the last guard: `lose` then takes a new lease."""

    def __init__(self, connect: Callable[[], Awaitable[asyncpg.Connection]], now: Now) -> None:
        self._connect = connect
        self._now = now
        self._leasing = asyncio.Lock()
        self._connection: asyncpg.Connection | None = None
        self._snowflakes = Snowflakes(WORKERS[0], now)
        self._last_id = 0

    @property
    def held(self) -> bool:
        return self._connection is not None and not self._connection.is_closed()

    @property
    def worker_id(self) -> int | None:
        return self._snowflakes.worker_id if self.held else None

    async def aio_hold(self) -> None:
        """Make sure of the lease. Call it before a transaction: connecting may take its time."""
        async with self._leasing:
            if not self.held:
                await self._aio_lease()

    def take(self, n: int) -> list[int]:
        """`n` ascending ids. Synchronous: the lease was made sure of before."""
        if not self.held:
            raise StoreUnavailable("The lease of the worker id was lost just now. Repeating is safe.")
        return self._take(self._snowflakes, n)

    def _take(self, snowflakes: Snowflakes, n: int) -> list[int]:
        ids = [snowflakes.next() for _ in range(n)]
        self._last_id = max(self._last_id, *ids)
        return ids

    async def aio_of_transaction(self, connection: Any) -> Ids:
        """The ids of the transaction that is open on `connection`. Its worker id is locked until its end; the
        next holder sees its rows and starts above them."""
        worker_id = await _aio_first_free(connection, "pg_try_advisory_xact_lock")
        greatest = await connection.fetchval(query("postgres", "greatest_id"))
        snowflakes = Snowflakes(worker_id, self._now, max(greatest, self._last_id))
        return _OfTransaction(partial(self._take, snowflakes))

    def lose(self) -> None:
        """Another instance uses this worker id: take another one before the next ids."""
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None

    async def _aio_lease(self) -> None:
        self.lose()
        connection = await self._connect()
        leased = False
        try:
            worker_id = await _aio_first_free(connection, "pg_try_advisory_lock")
            greatest = await connection.fetchval(query("postgres", "greatest_id"))
            # Ids that we gave out and that are not committed yet count as well.
            self._snowflakes = Snowflakes(worker_id, self._now, max(greatest, self._last_id))
            self._connection = connection
            leased = True
        finally:
            if not leased:
                connection.terminate()
        log.info("worker_id_leased", worker_id=worker_id)

    async def aio_close(self) -> None:
        """The worker id is free again when this returns, and not some time later."""
        connection, self._connection = self._connection, None
        if connection is None or connection.is_closed():
            return
        try:
            await connection.execute(query("postgres", "release_leases"), timeout=RELEASE_S)
            await connection.close(timeout=RELEASE_S)
        finally:
            connection.terminate()


@dataclass(frozen=True, slots=True)
class _OfTransaction:
    take: Callable[[int], list[int]]


async def _aio_first_free(connection: Any, lock: str) -> int:
    for worker_id in WORKERS:
        if await connection.fetchval(f"SELECT {lock}($1, $2)", LOCK_NAMESPACE, worker_id):
            return worker_id
    raise StoreUnavailable(f"All {len(WORKERS)} worker ids are leased by other instances.")

"""PostgreSQL as the store, for several instances that share one database: Trio's side."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar, TypeVarTuple

import structlog

from nx_signal.adapters.asyncio_bridge import AsyncioBridge, close_within, open_asyncio_bridge
from nx_signal.adapters.postgres.address import parse_address
from nx_signal.adapters.postgres.connect import Connector, read_service
from nx_signal.adapters.postgres.driver import (
    CLOSE_S,
    DIALECT,
    SINGLE,
    SINGLE_WRITE,
    SNAPSHOT,
    WRITE,
    PostgresPool,
)
from nx_signal.adapters.postgres.errors import IdTaken, translated
from nx_signal.ports import Now
from nx_signal.store import Database
from nx_signal.store.driver import Tx

log = structlog.get_logger()

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class PostgresDriver:
    """store.driver.Driver: each script is one crossing to asyncio."""

    dialect = DIALECT
    migrates_itself = False

    def __init__(self, bridge: AsyncioBridge, pool: PostgresPool, place: str, now: Now) -> None:
        self._bridge = bridge
        self._pool = pool
        self.place = place
        self.now = now

    @property
    def worker_id(self) -> int | None:
        """The one leased now; none before the first row is written."""
        return self._pool.lease.worker_id

    async def write(
        self, script: Callable[[Tx, *Ts], Awaitable[T]], *arguments: *Ts, takes_ids: bool = False
    ) -> T:
        try:
            return await self._play(WRITE, takes_ids, script, arguments)
        except IdTaken:
            self._pool.lease.lose()
            return await self._play(WRITE, takes_ids, script, arguments)

    async def write_one(self, script: Callable[[Tx, *Ts], Awaitable[T]], *arguments: *Ts) -> T:
        return await self._play(SINGLE_WRITE, False, script, arguments)

    async def read(self, script: Callable[[Tx, *Ts], Awaitable[T]], *arguments: *Ts) -> T:
        return await self._play(SNAPSHOT, False, script, arguments)

    async def read_one(self, script: Callable[[Tx, *Ts], Awaitable[T]], *arguments: *Ts) -> T:
        return await self._play(SINGLE, False, script, arguments)

    async def _play(
        self,
        begin: str | None,
        takes_ids: bool,
        script: Callable[[Tx, *Ts], Awaitable[T]],
        arguments: tuple[*Ts],
    ) -> T:
        try:
            return await self._bridge.call(self._pool.aio_play, begin, takes_ids, script, arguments)
        except Exception as error:
            if (known := translated(error, self.place)) is None:
                raise
            raise known from None  # the driver's own text may show values


@asynccontextmanager
async def open_postgres(
    url: str, now: Now, pool_size: int, schema: str | None = None
) -> AsyncIterator[Database]:
    """The database at `url`, with at most `pool_size` connections and one more for the worker id. `schema`:
    that of its tables; None is the one of the URL, else the one in which they are found, else `public`.

    No I/O on entry. Raises SettingsError for a URL that is not understood."""
    address = parse_address(url, read_service)
    if address.ignored:
        log.info("database_parameters_ignored", parameters=address.ignored)
    connector = Connector(address, schema or address.schema)
    async with open_asyncio_bridge() as bridge:
        pool = PostgresPool(connector, pool_size, now)
        try:
            yield Database(PostgresDriver(bridge, pool, address.place, now))
        finally:
            await close_within(CLOSE_S, bridge, pool.aio_close)

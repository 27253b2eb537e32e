"""The connections: every call of a port acquires one, works and releases it in a single crossing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeAlias, TypeVar, TypeVarTuple

import asyncpg
from asyncpg.pool import Pool, PoolConnectionProxy

from nx_signal.adapters._aio import Border, close_within
from nx_signal.adapters.postgres.faults import place_of, translated

CONNECT_S = 5.0
ACQUIRE_S = 6.0
"""For a free connection, connecting included."""
STATEMENT_S = 10.0
COMMAND_S = 12.0
"""The server gives up first; this is for a server that does not answer at all."""
IDLE_IN_TRANSACTION_S = 30.0
RELEASE_S = 2.0
"""For rolling back what an error or a cancellation left; then the connection is dropped."""
CLOSE_S = 2.0

_SERVER_SETTINGS = {
    "application_name": "nx-signal",
    "statement_timeout": f"{STATEMENT_S:.0f}s",
    # An instance that froze or vanished with a locked head stops nobody for long.
    "idle_in_transaction_session_timeout": f"{IDLE_IN_TRANSACTION_S:.0f}s",
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
    "jit": "off",  # costs more than any of these statements
    # A plan kept from when a table was nearly empty reads all of it when it has grown: 8 ms instead of 0.1
    # for one row at 70,000.
    "plan_cache_mode": "force_custom_plan",
}

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
Connection: TypeAlias = PoolConnectionProxy


class Session:
    """A lazily made pool behind one border. `url` names the database; no I/O before the first call."""

    def __init__(self, border: Border, url: str, pool_size: int) -> None:
        self.place = place_of(url)
        self._border = border
        self._url = url
        self._pool_size = pool_size
        self._pool: Pool | None = None
        self._making = asyncio.Lock()

    async def call(self, work: Callable[[Connection, *Ts], Awaitable[T]], *args: *Ts) -> T:
        """Run `work(connection, *args)` over there. Raises what the ports name.

        Whatever ends it, also a cancellation at any await: the connection is back, without a transaction."""

        async def _aio_call() -> T:
            pool = await self._aio_pool()
            connection = await pool.acquire(timeout=ACQUIRE_S)
            try:
                return await work(connection, *args)
            finally:
                # Waits for a cancelled statement, rolls back what is open, and drops a connection that
                # does not do so in time: either way there is nothing left to tell.
                with suppress(Exception):
                    await pool.release(connection, timeout=RELEASE_S)

        try:
            return await self._border.call(_aio_call)
        except Exception as error:
            if (known := translated(error, self.place)) is None:
                raise
            raise known from None  # the driver's own text may show values

    async def _aio_pool(self) -> Pool:
        async with self._making:
            if self._pool is None:
                self._pool = await asyncpg.create_pool(
                    self._url,
                    min_size=0,  # nothing is connected before it is used
                    max_size=self._pool_size,
                    reset=_keep,
                    timeout=CONNECT_S,
                    command_timeout=COMMAND_S,
                    server_settings=_SERVER_SETTINGS,
                )
            return self._pool

    async def _aio_connect(self) -> asyncpg.Connection:
        """A connection of its own, outside the pool; the caller closes it."""
        return await asyncpg.connect(
            self._url, timeout=CONNECT_S, command_timeout=COMMAND_S, server_settings=_SERVER_SETTINGS
        )

    async def close(self, *also: Callable[[], Awaitable[Any]]) -> None:
        """Within CLOSE_S, whatever the state of the server."""

        async def _aio_close() -> None:
            pool = self._pool
            try:
                for close in also:
                    await close()
                if pool is not None:
                    await asyncio.wait_for(pool.close(), CLOSE_S / 2)
            finally:
                if pool is not None:
                    pool.terminate()
                await asyncio.sleep(0)  # lets the transports close their sockets

        await close_within(CLOSE_S, self._border, _aio_close)


async def _keep(connection: Any) -> None:
    """Nothing here changes the state of a session: spare the round trip that would reset it. An open
    transaction is rolled back before this all the same."""


@asynccontextmanager
async def transaction(connection: Connection, mode: str = "") -> AsyncIterator[None]:
    """Begin, and commit at the end. After an error or a cancellation there is no rolling back here: the
    release of the connection does that, with a deadline."""
    await connection.execute(f"BEGIN {mode}")
    yield
    await connection.execute("COMMIT")


SNAPSHOT = "ISOLATION LEVEL REPEATABLE READ READ ONLY"
"""Several statements that see one state."""

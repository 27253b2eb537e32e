"""SQLite in memory, played inline: no thread, no real time, so that Trio's mock clock and a seeded
scheduler stay deterministic. For tests and simulations; several instances of one run share it. Nothing is
durable."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable
from functools import cache
from typing import TypeAlias, TypeVar, TypeVarTuple
from weakref import finalize

import trio

from nx_signal.adapters.sqlite.driver import DIALECT, SqliteTx, play
from nx_signal.adapters.sqlite.errors import translated
from nx_signal.errors import StoreUnavailable
from nx_signal.model.timestamps import EPOCH
from nx_signal.ports import Now
from nx_signal.store import Database, schema
from nx_signal.store.driver import Tx
from nx_signal.store.snowflake import PREFERRED_WORKER, Snowflakes
from nx_signal.store.sql import steps

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

Hook: TypeAlias = Callable[[], Awaitable[None]]


class MemoryDriver:
    """Each script takes effect at one instant, or not at all when cancelled before it.

    `delay` is awaited before that instant, `delay_after` between it and the return: what is cancelled or
    raises there was written though the caller never learns. While `unavailable`, no script runs and every
    call raises StoreUnavailable."""

    dialect = DIALECT
    place = "memory"
    migrates_itself = True

    def __init__(self, now: Now) -> None:
        self.unavailable = False
        self.delay: Hook | None = None
        self.delay_after: Hook | None = None
        self.now = now
        self._ids = Snowflakes(PREFERRED_WORKER, now)
        # The garbage collector may run in any thread, and closes the connection there.
        self.connection = sqlite3.connect(
            ":memory:", isolation_level=None, cached_statements=512, check_same_thread=False
        )
        finalize(self, self.connection.close)  # from Python 3.13 on an unclosed one is a warning
        self.connection.execute("PRAGMA foreign_keys = ON")

    async def write(
        self, script: Callable[[Tx, *Ts], Awaitable[T]], *arguments: *Ts, takes_ids: bool = False
    ) -> T:
        if self.delay is not None:
            await self.delay()
        await trio.lowlevel.checkpoint()
        if self.unavailable:
            raise StoreUnavailable("The database in memory was made unavailable.")
        result = self.play(script, *arguments, takes_ids=takes_ids)
        if self.delay_after is not None:
            await self.delay_after()
        return result

    async def write_one(self, script: Callable[[Tx, *Ts], Awaitable[T]], *arguments: *Ts) -> T:
        return await self.write(script, *arguments)

    async def read(self, script: Callable[[Tx, *Ts], Awaitable[T]], *arguments: *Ts) -> T:
        return await self.write(script, *arguments)

    read_one = read

    def play(self, script: Callable[[Tx, *Ts], Awaitable[T]], *arguments: *Ts, takes_ids: bool = False) -> T:
        """At once, past all faults."""
        next_id = (lambda _: self._ids.next()) if takes_ids else None
        tx = SqliteTx(self.connection, self.now, next_id)
        self.connection.execute("BEGIN")
        try:
            with translated(self.place):
                result = play(script, arguments, tx)
            self.connection.execute("COMMIT")
        finally:
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")
        return result


class MemoryDatabase(Database):
    """Opened and migrated."""

    driver: MemoryDriver

    def __init__(self, now: Now) -> None:
        super().__init__(MemoryDriver(now))
        self.driver.connection.deserialize(migrated())


@cache
def migrated() -> bytes:
    """The image of a database with every step: taking them anew for each test costs 10 ms."""
    driver = MemoryDriver(lambda: EPOCH)
    for step in steps(DIALECT.name):
        driver.play(schema.take, step)
    image = driver.connection.serialize()
    driver.connection.close()
    return image

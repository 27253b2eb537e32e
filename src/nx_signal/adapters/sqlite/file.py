"""One SQLite file: a writing connection, a few reading ones, threads, and a leased worker id."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar, TypeVarTuple

import trio

from nx_signal.adapters.sqlite.driver import DIALECT, SqliteTx, play
from nx_signal.adapters.sqlite.errors import translated
from nx_signal.data_dir import make_private, make_private_file, open_private
from nx_signal.errors import SchemaOutdated, SettingsError, StoreUnavailable
from nx_signal.ports import Now
from nx_signal.store.driver import Tx
from nx_signal.store.schema import applied_steps
from nx_signal.store.snowflake import WORKERS, Snowflakes
from nx_signal.store.sql import query, steps

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

READERS = 4
"""Lists and replays beside the one writer; more threads than cores gain nothing."""
BUSY_TIMEOUT_MS = 2_000
"""Another process writes only for moments. A thread waits this out uncancelled: below a stop's budget."""
BUSY_PAUSE_S = 0.005
CLOSE_S = 5.0


def _use_wal(connection: sqlite3.Connection) -> None:
    """SQLite's own waiting leaves out the moment in which another process makes the file a WAL one."""
    deadline = time.monotonic() + BUSY_TIMEOUT_MS / 1000
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
        time.sleep(BUSY_PAUSE_S)  # in a worker thread; another process is at it for a moment


class _Connection(sqlite3.Connection):
    opened: tuple[int, int] | None = None
    """the file: device and inode"""

    def is_to(self, path: Path) -> bool:
        return _file_at(path) == self.opened


def _file_at(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


class SqliteFile:
    """store.driver.Driver on a file. Plays whole transactions in threads. A thread is never abandoned: when
    its call is cancelled, the transaction still ends, and the cancellation is delivered at the caller's
    next await. A file that takes the place of the open one (a backup) is opened instead; while there is none,
    nothing is written to the one that was removed, and no new one is made."""

    dialect = DIALECT
    migrates_itself = True

    def __init__(self, path: Path, now: Now) -> None:
        self.path = path.absolute()
        self.place = str(self.path)
        self.now = now
        self._writer: _Connection | None = None
        self._readers: list[_Connection] = []
        self._ids: Snowflakes | None = None
        self._last_id = 0
        self._lease: int | None = None
        self._was_open = False
        self._one_writer = trio.CapacityLimiter(1)
        self._few_readers = trio.CapacityLimiter(READERS)

    async def write(
        self, script: Callable[[Tx, *Ts], Awaitable[T]], *arguments: *Ts, takes_ids: bool = False
    ) -> T:
        return await trio.to_thread.run_sync(
            self._write, takes_ids, script, arguments, limiter=self._one_writer
        )

    async def write_one(self, script: Callable[[Tx, *Ts], Awaitable[T]], *arguments: *Ts) -> T:
        return await trio.to_thread.run_sync(self._write_one, script, arguments, limiter=self._one_writer)

    async def read(self, script: Callable[[Tx, *Ts], Awaitable[T]], *arguments: *Ts) -> T:
        return await trio.to_thread.run_sync(self._read, script, arguments, limiter=self._few_readers)

    read_one = read

    async def close(self) -> None:
        with trio.move_on_after(CLOSE_S, shield=True):
            await trio.to_thread.run_sync(self._close, abandon_on_cancel=True)

    def _next_id(self, connection: sqlite3.Connection) -> int:
        """An id that no row has and none will get again, of any process. In the writer's thread."""
        if self._ids is None:
            worker_id = self._lease_worker()  # before the floor is read: its last holder writes no more
            (floor,) = connection.execute(query("sqlite", "greatest_id")).fetchone()
            # Ids that were given in a file that has been replaced count as well.
            self._ids = Snowflakes(worker_id, self.now, max(floor, self._last_id))
        self._last_id = self._ids.next()
        return self._last_id

    # --- in threads

    def _write_one(self, script: Callable[[Tx, *Ts], Awaitable[T]], arguments: tuple[*Ts]) -> T:
        return self._write(False, script, arguments, synchronous="NORMAL")

    def _write(
        self,
        takes_ids: bool,
        script: Callable[[Tx, *Ts], Awaitable[T]],
        arguments: tuple[*Ts],
        synchronous: str = "FULL",
    ) -> T:
        """`synchronous` FULL: what is committed outlives a power cut, not only a crash of this process."""
        with self._translated():
            self._require_file()
            writer, self._writer = self._writer, None
            connection = self._current(writer) or self._open_writer()
            try:
                connection.execute(f"PRAGMA synchronous = {synchronous}")
                connection.execute("BEGIN IMMEDIATE")
                tx = SqliteTx(connection, self.now, self._next_id if takes_ids else None)
                result = play(script, arguments, tx)
                connection.execute("COMMIT")
            except Exception:
                connection.close()  # rolls back; whatever ails this connection, the next is a fresh one
                raise
            self._writer = connection
            return result

    def _read(self, script: Callable[[Tx, *Ts], Awaitable[T]], arguments: tuple[*Ts]) -> T:
        with self._translated():
            self._require_file()
            reader = self._readers.pop() if self._readers else None
            connection = self._current(reader) or self._open_reader()
            try:
                connection.execute("BEGIN")
                result = play(script, arguments, SqliteTx(connection, self.now, None))
                connection.execute("COMMIT")
            except Exception:
                connection.close()
                raise
            self._readers.append(connection)
            return result

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            with translated(self.place):
                yield
        except SchemaOutdated:
            with translated(self.place):
                migrated = self._is_migrated()
            if migrated:
                raise
            raise StoreUnavailable(f"The database {self.place} is not set up yet.") from None

    def _is_migrated(self) -> bool:
        """Whether what is missing was there: a client may connect before the first `check` is through."""
        reader = self._open_reader()
        try:
            applied = play(applied_steps, (), SqliteTx(reader, self.now, None))
        finally:
            reader.close()
        return all(step.version in applied for step in steps(DIALECT.name))

    def _require_file(self) -> None:
        if self._was_open and _file_at(self.path) is None:
            raise StoreUnavailable(
                f"The database {self.place} was removed: put it back, or restart to begin a new one."
            )

    def _current(self, connection: _Connection | None) -> _Connection | None:
        """It, unless another file has taken the place of its own: then it is closed."""
        if connection is None or connection.is_to(self.path):
            return connection
        connection.close()
        return None

    def _open_writer(self) -> _Connection:
        try:
            make_private(self.path.parent)
            make_private_file(self.path)  # SQLite gives its side files the same mode
        except OSError as error:
            raise SettingsError(
                f"The data directory {self.path.parent} cannot be used: {error.strerror}. "
                "Set APP_ENV_DATA_DIR to a directory that can be written to."
            ) from error
        connection = self._connect("PRAGMA foreign_keys = ON")
        try:
            _use_wal(connection)
        except Exception:
            connection.close()
            raise
        return connection

    def _open_reader(self) -> _Connection:
        return self._connect("PRAGMA query_only = ON")

    def _connect(self, *pragmas: str) -> _Connection:
        connection = sqlite3.connect(
            f"{self.path.as_uri()}?mode=rw",  # a missing file is an error here, not a new database
            uri=True,
            timeout=BUSY_TIMEOUT_MS / 1000,
            isolation_level=None,
            check_same_thread=False,  # one thread at a time, whichever
            factory=_Connection,
        )
        try:
            connection.opened = _file_at(self.path)
            for pragma in pragmas:
                connection.execute(pragma)
        except Exception:
            connection.close()
            raise
        self._was_open = True
        return connection

    def _lease_worker(self) -> int:
        """Hold a lock file until closing; the system gives it back when a process dies."""
        for worker_id in WORKERS:
            descriptor = open_private(self.path.parent / f"worker-{worker_id}.lock")
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                continue
            self._lease = descriptor
            return worker_id
        raise StoreUnavailable(
            f"All {len(WORKERS)} worker ids of {self.path.parent} are taken: stop another instance."
        )

    def _close(self) -> None:
        for connection in (*self._readers, self._writer):
            if connection is not None:
                connection.close()
        self._readers.clear()
        self._writer = None
        self._was_open = False
        if self._lease is not None:
            os.close(self._lease)
            self._lease = self._ids = None

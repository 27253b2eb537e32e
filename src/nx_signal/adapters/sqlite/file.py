"""One SQLite file: a writing connection, a few reading ones, threads, errors, and a leased worker id."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeAlias, TypeVar

import trio

from nx_signal.adapters.snowflake import WORKERS, Snowflakes
from nx_signal.errors import Fatal, SchemaOutdated, SettingsError, StoreRejected, StoreUnavailable
from nx_signal.ports import Now
from nx_signal.sql import queries

T = TypeVar("T")
Row: TypeAlias = sqlite3.Row

READERS = 4
"""Lists and replays beside the one writer; more threads than cores gain nothing."""
BUSY_TIMEOUT_MS = 2_000
"""Another process writes only for moments. A thread waits this out uncancelled: below a stop's budget."""
BUSY_PAUSE_S = 0.005
CLOSE_S = 5.0
MAX_INTEGER = 2**63 - 1
"""SQLite's integers have 64 bits."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)

SQL = queries("sqlite")


def to_ms(time: datetime) -> int:
    """UTC milliseconds, rounded up: a stored stamp is below `time` exactly if it is below this."""
    return -((_EPOCH - time) // _MS)


def from_ms(ms: int) -> datetime:
    return _EPOCH + timedelta(milliseconds=ms)


def clamped(number: int) -> int:
    """The nearest integer from 0 to the greatest that SQLite knows."""
    return max(0, min(number, MAX_INTEGER))


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


class SqliteFile:
    """Runs whole transactions in threads. A thread is never abandoned: when its call is cancelled, the
    transaction still ends, and the cancellation is delivered at the caller's next await."""

    def __init__(self, path: Path, now: Now) -> None:
        self.path = path.absolute()
        self.now = now
        self._writer: sqlite3.Connection | None = None
        self._readers: list[sqlite3.Connection] = []
        self._ids: Snowflakes | None = None
        self._lease: int | None = None
        self._one_writer = trio.CapacityLimiter(1)
        self._few_readers = trio.CapacityLimiter(READERS)

    async def write(self, transaction: Callable[[sqlite3.Connection], T]) -> T:
        """All of what `transaction` does, durably, or nothing. Raises StoreUnavailable, StoreRejected."""
        return await trio.to_thread.run_sync(self._write, transaction, limiter=self._one_writer)

    async def read(self, transaction: Callable[[sqlite3.Connection], T]) -> T:
        """`transaction` sees one snapshot. Raises StoreUnavailable, StoreRejected."""
        return await trio.to_thread.run_sync(self._read, transaction, limiter=self._few_readers)

    async def close(self) -> None:
        with trio.move_on_after(CLOSE_S, shield=True):
            await trio.to_thread.run_sync(self._close, abandon_on_cancel=True)

    # --- in the writer's thread, within a transaction of the caller's

    def next_id(self, connection: sqlite3.Connection) -> int:
        """An id that no row has and none will get again, of whatever process."""
        if self._ids is None:
            worker_id = self._lease_worker()  # before the floor is read: its last holder writes no more
            (floor,) = connection.execute(SQL["greatest_id"]).fetchone()
            self._ids = Snowflakes(worker_id, self.now, floor)
        return self._ids.next()

    def now_ms(self) -> int:
        return (self.now() - _EPOCH) // _MS

    # --- in threads

    def _write(self, transaction: Callable[[sqlite3.Connection], T]) -> T:
        with self._translated():
            connection, self._writer = self._writer or self._open_writer(), None
            try:
                connection.execute("BEGIN IMMEDIATE")
                result = transaction(connection)
                connection.execute("COMMIT")
            except Exception:
                connection.close()  # rolls back; whatever ails this connection, the next is a fresh one
                raise
            self._writer = connection
            return result

    def _read(self, transaction: Callable[[sqlite3.Connection], T]) -> T:
        with self._translated():
            connection = self._readers.pop() if self._readers else self._open_reader()
            try:
                connection.execute("BEGIN")
                result = transaction(connection)
                connection.execute("COMMIT")
            except Exception:
                connection.close()
                raise
            self._readers.append(connection)
            return result

    def _open_writer(self) -> sqlite3.Connection:
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            # readable by its owner alone; SQLite gives its side files the same mode
            os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))
        except OSError as error:
            raise SettingsError(
                f"The data directory {self.path.parent} cannot be used: {error.strerror}. "
                "Set APP_ENV_DATA_DIR to a directory that can be written to."
            ) from error
        connection = self._connect(
            # FULL: a row that was answered for outlives a power cut, not only a crash of this process
            "PRAGMA synchronous = FULL",
            "PRAGMA foreign_keys = ON",
        )
        try:
            _use_wal(connection)
        except Exception:
            connection.close()
            raise
        return connection

    def _open_reader(self) -> sqlite3.Connection:
        return self._connect("PRAGMA query_only = ON")

    def _connect(self, *pragmas: str) -> sqlite3.Connection:
        connection = sqlite3.connect(
            f"{self.path.as_uri()}?mode=rw",  # a missing file is an error here, not a new database
            uri=True,
            timeout=BUSY_TIMEOUT_MS / 1000,
            isolation_level=None,
            check_same_thread=False,  # one thread at a time, whichever
        )
        connection.row_factory = sqlite3.Row
        try:
            for pragma in pragmas:
                connection.execute(pragma)
        except Exception:
            connection.close()
            raise
        return connection

    def _lease_worker(self) -> int:
        """Hold a lock file until closing; the system gives it back when a process dies."""
        for worker_id in WORKERS:
            descriptor = os.open(self.path.parent / f"worker-{worker_id}.lock", os.O_CREAT | os.O_RDWR, 0o600)
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
        if self._lease is not None:
            os.close(self._lease)
            self._lease = self._ids = None

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (OverflowError, UnicodeEncodeError) as error:
            raise StoreRejected(f"The database cannot hold a value: {error}.") from error
        except sqlite3.Error as error:
            raise self._translate(error) from error
        except OSError as error:
            raise StoreUnavailable(f"The directory of {self.path} cannot be used: {error}.") from error

    def _translate(self, error: sqlite3.Error) -> Exception:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK) & 0xFF  # the primary result code
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            return Fatal(f"The file {self.path} is damaged or no database: {error}. Restore a backup of it.")
        if isinstance(error, sqlite3.DataError | sqlite3.IntegrityError | sqlite3.InterfaceError):
            return StoreRejected(f"The database refuses a value: {error}.")
        if isinstance(error, sqlite3.OperationalError):
            if str(error).startswith("no such"):
                return SchemaOutdated(f"The database {self.path} lacks a part of its schema: {error}.")
            return StoreUnavailable(f"The database {self.path} cannot be used now: {error}.")
        return error

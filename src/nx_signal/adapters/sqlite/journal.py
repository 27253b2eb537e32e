"""The journal: activities accepted over REST, on this machine's disk until they are rows.

A SQLite file of its own, `journal.db`. What is acked is deleted, so that the file holds exactly what is
yet to be done: there is no position to keep beside it, and nothing to prune. An offset is never given
twice (AUTOINCREMENT), also after its entry is gone. One process at a time consumes; any may append."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, TypeVarTuple

import structlog
import trio

from nx_signal.adapters.offsets import AutoResetEvent, OffsetTracker, Partition
from nx_signal.data_dir import make_private, make_private_file, open_private
from nx_signal.errors import Fatal, SettingsError, SourceUnavailable, StoreRejected, StoreUnavailable
from nx_signal.model import Position, Record
from nx_signal.ports import Batch, Now

log = structlog.get_logger()

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

TOPIC = "journal"
PARTITION: Partition = (TOPIC, 0)

POLL_S = 0.25
"""How soon an append of another process is seen; one of this process is seen at once."""
LOCK_RETRY_S = 1.0
BUSY_S = 2.0
"""How long one statement waits for another process's transaction; these take milliseconds."""
CLOSE_TIMEOUT_S = 3 * BUSY_S
"""Deleting what was acked last, and closing: three such waits."""

MAX_BATCH = 500
MAX_BATCH_BYTES = 4_194_304
"""At least one entry is taken, however large."""

PAGE_BYTES = 4_096
MAX_FILE_BYTES = 8 * 1024**3
"""With the store away for days the journal must not take the whole disk: then appends are refused."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS entry (
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    event_id TEXT NOT NULL,
    message BLOB NOT NULL,
    appended_at TEXT NOT NULL
)
"""
IDENTITY = "CREATE TABLE IF NOT EXISTS identity (id TEXT PRIMARY KEY)"
NEW_IDENTITY = "INSERT INTO identity SELECT ? WHERE NOT EXISTS (SELECT * FROM identity)"
INSERT = "INSERT INTO entry (event_id, message, appended_at) VALUES (?, ?, ?)"
SELECT = "SELECT position, event_id, message FROM entry WHERE position > ? ORDER BY position LIMIT ?"
DELETE = "DELETE FROM entry WHERE position < ?"


@dataclass(slots=True, eq=False)
class _Append:
    """One call of `append`. The next writer writes it with its own."""

    rows: Sequence[tuple[str, bytes, str]]
    done: bool = False
    error: str | None = None
    withdrawn: bool = False


class SqliteJournal:
    """The Journal in the file `path`; `.lock` beside it is held by the process that consumes."""

    def __init__(self, path: Path, now: Now) -> None:
        self._path = path
        self._now = now
        self._appends: deque[_Append] = deque()
        self._writer: sqlite3.Connection | None = None
        self._one_at_a_time = trio.Lock()
        self._running = False
        self._appended = trio.Event()

    @property
    def name(self) -> str:
        return "journal"

    # --- appending ---

    async def append(self, messages: Sequence[tuple[str, bytes]]) -> None:
        """One transaction for all; calls that come together share it, and its sync to the disk.

        Raises StoreUnavailable, and StoreRejected for an id that is not a text: then nothing of this call
        was written. Cancelled, all or nothing of it was."""
        try:
            for event_id, _ in messages:
                event_id.encode()
        except UnicodeEncodeError:
            raise StoreRejected("An event id holds half a surrogate pair: send another id.") from None
        stamp = self._now().isoformat()
        mine = _Append([(event_id, message, stamp) for event_id, message in messages])
        self._appends.append(mine)
        try:
            async with self._one_at_a_time:
                if not mine.done:
                    await trio.to_thread.run_sync(self._write_appends)
                    self._appended.set()
                    self._appended = trio.Event()
        finally:
            mine.withdrawn = True
        if mine.error is not None:
            raise StoreUnavailable(f"The journal {self._path} cannot be written: {mine.error}")

    def _write_appends(self) -> None:
        """In a thread, one at a time. The deque is filled by the loop meanwhile: both ends are safe."""
        taken: list[_Append] = []
        while self._appends:
            each = self._appends.popleft()
            if not each.withdrawn:
                taken.append(each)
        error: str | None = "the write was broken off"
        try:
            if self._writer is None:
                self._writer = self._connect(synchronous="FULL")
            with _transaction(self._writer):
                for each in taken:
                    self._writer.executemany(INSERT, each.rows)
            error = None
        except (sqlite3.Error, OSError) as why:
            error = str(why)
        finally:
            for each in taken:
                each.done, each.error = True, error
            if error is not None or not self._running:
                self._close_writer()

    def _close_writer(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    # --- consuming ---

    async def run(self, batches: trio.MemorySendChannel[Batch], task_status: trio.TaskStatus[None]) -> None:
        """As the port states; while another process consumes this journal, wait to take over."""
        lock = await self._in_thread(self._open_lock)
        self._running = True
        try:
            if not _try_lock(lock):
                log.info("journal_consumed_by_another", path=str(self._path))
                task_status.started()
                task_status = trio.TASK_STATUS_IGNORED
                while not _try_lock(lock):  # noqa: ASYNC110 - the other is another process
                    await trio.sleep(LOCK_RETRY_S)
            await self._consume(batches, task_status)
        finally:
            self._running = False
            with trio.move_on_after(CLOSE_TIMEOUT_S, shield=True):
                async with self._one_at_a_time:
                    await trio.to_thread.run_sync(self._close_writer)
            os.close(lock)  # which unlocks

    async def _consume(
        self, batches: trio.MemorySendChannel[Batch], task_status: trio.TaskStatus[None]
    ) -> None:
        reader = await self._in_thread(self._connect, "NORMAL")
        origin = await self._in_thread(_identity, reader)
        acked = AutoResetEvent()
        offsets = OffsetTracker(acked.set)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._send, reader, offsets, batches, origin)
                task_status.started()
                while True:
                    await acked.wait()
                    await self._delete_acked(reader, offsets)
        finally:
            offsets.close()
            with trio.move_on_after(CLOSE_TIMEOUT_S, shield=True):
                try:
                    await self._delete_acked(reader, offsets)
                except (SourceUnavailable, Fatal) as error:
                    log.warning("journal_acks_lost", reason=str(error))  # these entries come again
                async with self._one_at_a_time:
                    await trio.to_thread.run_sync(reader.close)

    async def _send(
        self,
        reader: sqlite3.Connection,
        offsets: OffsetTracker,
        batches: trio.MemorySendChannel[Batch],
        origin: str,
    ) -> None:
        last = 0
        while True:
            appended = self._appended
            async with self._one_at_a_time:
                records = await self._in_thread(_read, reader, last)
            if not records:
                with trio.move_on_after(POLL_S):
                    await appended.wait()
                continue
            last = records[-1].position.offset
            await batches.send(Batch(records, offsets.track(PARTITION, last + 1), origin))

    async def _delete_acked(self, reader: sqlite3.Connection, offsets: OffsetTracker) -> None:
        acked = offsets.committable()
        if acked:
            async with self._one_at_a_time:
                await self._in_thread(_delete_below, reader, acked[PARTITION])
            offsets.committed(acked)

    # --- the file ---

    def _open_lock(self) -> int:
        try:
            make_private(self._path.parent)
            return open_private(self._path.with_suffix(".lock"))
        except (PermissionError, FileExistsError, NotADirectoryError, IsADirectoryError) as error:
            raise SettingsError(
                f"The directory {self._path.parent} cannot hold the journal: {error.strerror}. "
                "Set --data-dir or APP_ENV_DATA_DIR to one that can be written."
            ) from None

    def _connect(self, synchronous: str) -> sqlite3.Connection:
        """With `FULL` a transaction survives a crash of the machine once it returns. With `NORMAL` the
        latest may be undone then: right for deleting what was acked, since it only comes again."""
        make_private(self._path.parent)
        make_private_file(self._path)  # SQLite gives its side files the same mode
        with ExitStack() as undo:
            connection = sqlite3.connect(
                self._path, timeout=BUSY_S, isolation_level=None, check_same_thread=False
            )
            undo.callback(connection.close)
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute(f"PRAGMA synchronous={synchronous}")
            connection.execute(f"PRAGMA max_page_count={MAX_FILE_BYTES // PAGE_BYTES}")
            connection.execute(SCHEMA)
            undo.pop_all()
        return connection

    async def _in_thread(self, fn: Callable[[*Ts], T], *args: *Ts) -> T:
        try:
            return await trio.to_thread.run_sync(fn, *args)
        except (sqlite3.OperationalError, OSError) as error:  # full, locked, gone
            raise SourceUnavailable(f"The journal {self._path} cannot be used now: {error}") from None
        except sqlite3.DatabaseError as error:
            raise Fatal(
                f"The journal {self._path} is damaged ({error}): put a copy back, or move it away to start "
                "with an empty one."
            ) from None


def _read(reader: sqlite3.Connection, after: int) -> tuple[Record, ...]:
    records: list[Record] = []
    size = 0
    rows = reader.execute(SELECT, (after, MAX_BATCH))
    for position, event_id, message in rows:
        size += len(message)
        if records and size > MAX_BATCH_BYTES:
            break
        headers = {"ce_id": event_id.encode()}
        records.append(Record(Position(TOPIC, 0, position), event_id, message, headers))
    rows.close()  # or the statement would keep its view of the file
    return tuple(records)


def _identity(reader: sqlite3.Connection) -> str:
    """Of this file, which other journals do not have: made at its first use."""
    with _transaction(reader):
        reader.execute(IDENTITY)
        reader.execute(NEW_IDENTITY, (uuid.uuid4().hex,))
        (identity,) = reader.execute("SELECT id FROM identity").fetchone()
    return str(identity)


def _delete_below(reader: sqlite3.Connection, position: int) -> None:
    with _transaction(reader):
        reader.execute(DELETE, (position,))


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _try_lock(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True

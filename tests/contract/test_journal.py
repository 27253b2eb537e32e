"""The contract of every journal (ports.Journal), and the durability of the one on disk."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trio

from memory_source import MemorySource
from nx_signal.adapters.sqlite import journal as journal_module
from nx_signal.adapters.sqlite.journal import SqliteJournal
from nx_signal.errors import Fatal, SettingsError, SourceUnavailable, StoreRejected, StoreUnavailable
from nx_signal.ports import Batch, Journal
from source_kit import running, take

PATIENCE_S = 30.0


def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "journal.db"


@pytest.fixture(params=["memory", "sqlite"])
def journal(request: pytest.FixtureRequest, path: Path) -> Journal:
    return MemorySource() if request.param == "memory" else SqliteJournal(path, now)


async def test_an_appended_message_is_delivered_with_its_event_id(journal: Journal) -> None:
    async with running(journal, 0) as batches:
        await journal.append([("event é", b"\x00 any bytes"), ("2", b"")])
        first, second = await take(batches, 2)
    assert (first.key, first.headers["ce_id"], first.value) == (
        "event é",
        "event é".encode(),
        b"\x00 any bytes",
    )
    assert (second.key, second.value) == ("2", b"")


async def test_messages_are_delivered_in_the_order_of_the_appends(journal: Journal) -> None:
    async with running(journal, 0) as batches:
        for start in range(0, 1_200, 300):
            await journal.append([(str(number), b"") for number in range(start, start + 300)])
        records = await take(batches, 1_200)
    assert [record.key for record in records] == [str(number) for number in range(1_200)]


async def test_messages_appended_without_a_consumer_are_kept(journal: Journal) -> None:
    await journal.append([("1", b"")])
    async with running(journal, 0) as batches:
        assert (await take(batches, 1))[0].key == "1"


# --- on disk -------------------------------------------------------------------------------------


async def test_concurrent_appends_share_a_transaction(path: Path) -> None:
    journal = SqliteJournal(path, now)
    transactions = 0

    async with running(journal, 0) as batches:
        await journal.append([("first", b"")])
        assert journal._writer is not None

        def trace(statement: str) -> None:
            nonlocal transactions
            transactions += statement == "COMMIT"

        journal._writer.set_trace_callback(trace)
        async with trio.open_nursery() as nursery:
            for number in range(100):
                nursery.start_soon(journal.append, [(str(number), b"")])
        assert transactions <= 2  # the appends that came while the first was written
        assert len({record.key for record in await take(batches, 101)}) == 101


async def test_an_append_is_on_the_disk_when_it_returns(path: Path) -> None:
    """A test cannot crash the machine; it checks the settings with which SQLite survives a crash."""
    journal = SqliteJournal(path, now)
    async with running(journal):
        await journal.append([("1", b"")])
        assert journal._writer is not None
        assert journal._writer.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
        assert journal._writer.execute("PRAGMA journal_mode").fetchone() == ("wal",)


async def test_a_cancelled_append_is_stored_whole_or_not_at_all(path: Path) -> None:
    journal = SqliteJournal(path, now)
    kept = set()
    async with running(journal, 0) as batches:

        async def append(number: int) -> None:
            with trio.move_on_after(0.0005 * (number % 7)):
                await journal.append([(f"{number} left", b""), (f"{number} right", b"")])
                kept.add(number)

        async with trio.open_nursery() as nursery:
            for number in range(200):
                nursery.start_soon(append, number)
        await journal.append([("last", b"")])
        keys: list[str] = []
        while "last" not in keys:
            batch = await batches.receive()
            keys.extend(str(record.key) for record in batch.records)
    left = {key.split()[0] for key in keys if key.endswith("left")}
    right = {key.split()[0] for key in keys if key.endswith("right")}
    assert left == right >= {str(number) for number in kept}
    assert len(keys) == len(set(keys))


async def test_an_acked_entry_is_removed_and_its_offset_is_never_reused(path: Path) -> None:
    journal = SqliteJournal(path, now)
    async with running(journal, 0) as batches:
        await journal.append([("1", b""), ("2", b"")])
        before = await take(batches, 2)
    assert entries(path) == []
    journal = SqliteJournal(path, now)
    async with running(journal, 0) as batches:
        await journal.append([("3", b"")])
        (after,) = await take(batches, 1)
    assert after.position.offset > before[-1].position.offset
    assert str(after.position) == f"journal/0/{after.position.offset}"


def entries(path: Path) -> list[str]:
    connection = sqlite3.connect(path)
    try:
        return [row[0] for row in connection.execute("SELECT event_id FROM entry ORDER BY position")]
    finally:
        connection.close()


async def test_one_consumer_runs_at_a_time_and_another_takes_over(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "LOCK_RETRY_S", 0.01)
    ours, theirs = SqliteJournal(path, now), SqliteJournal(path, now)
    async with running(ours, 0) as first:
        async with running(theirs, 0) as second:  # started, although it has nothing to read
            await theirs.append([(str(number), b"") for number in range(10)])
            assert len(await take(first, 10)) == 10
            with pytest.raises(trio.WouldBlock):
                second.receive_nowait()
        await theirs.append([("10", b"")])
        assert (await first.receive()).records[0].key == "10"  # not acked
    async with running(theirs, 0) as second:
        assert (await take(second, 1))[0].key == "10"


async def test_a_waiting_consumer_takes_over_by_itself(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "LOCK_RETRY_S", 0.01)
    ours, theirs = SqliteJournal(path, now), SqliteJournal(path, now)
    async with trio.open_nursery() as nursery:
        send, second = trio.open_memory_channel[Batch](0)
        async with running(ours):
            await nursery.start(theirs.run, send)
        await ours.append([("1", b"")])
        with trio.fail_after(PATIENCE_S):
            assert (await second.receive()).records[0].key == "1"
        nursery.cancel_scope.cancel()


async def test_a_large_backlog_is_delivered_in_batches_of_bounded_size(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "MAX_BATCH_BYTES", 1_000)
    journal = SqliteJournal(path, now)
    await journal.append([(str(number), bytes(400)) for number in range(9)] + [("large", bytes(5_000))])
    async with running(journal, 0) as batches:
        sizes: list[int] = []
        while sum(sizes) < 10:
            sizes.append(len((await batches.receive()).records))
    assert sizes == [2, 2, 2, 2, 1, 1]


APPENDER = """
import sys, trio
from datetime import UTC, datetime
from pathlib import Path
from nx_signal.adapters.sqlite.journal import SqliteJournal

journal = SqliteJournal(Path(sys.argv[1]), lambda: datetime.now(UTC))

async def append(first):
    for number in range(first, 1_000_000, 4):
        await journal.append([(str(number), b"message")])
        print(number, flush=True)

async def main():
    async with trio.open_nursery() as nursery:
        if sys.argv[2] == "consume":
            send, receive = trio.open_memory_channel(0)
            await nursery.start(journal.run, send)
            nursery.start_soon(trio.sleep_forever)
        for first in range(4):
            nursery.start_soon(append, first)

trio.run(main)
"""


@pytest.mark.parametrize("also", ["append", "consume"])
@pytest.mark.parametrize("appends", [1, 50, 333])
async def test_nothing_appended_is_lost_when_the_process_is_killed(
    path: Path, also: str, appends: int
) -> None:
    def append_and_be_killed() -> set[str]:
        child = subprocess.Popen(
            [sys.executable, "-c", APPENDER, str(path), also], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        with child, child.stdout as lines:
            printed = [lines.readline() for _ in range(appends)]
            child.kill()
            printed += lines.readlines()
        return {line.strip() for line in printed if line.endswith("\n")}

    confirmed = await trio.to_thread.run_sync(append_and_be_killed)
    assert len(confirmed) >= appends
    async with running(SqliteJournal(path, now)) as batches:
        found: set[str | None] = set()
        while not confirmed <= found:
            found.update(record.key for record in await take(batches, 1))


# --- what can go wrong ---------------------------------------------------------------------------


async def test_an_append_on_a_full_disk_fails_and_the_earlier_entries_are_kept(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "MAX_FILE_BYTES", 10 * journal_module.PAGE_BYTES)
    journal = SqliteJournal(path, now)
    await journal.append([("small", b"")])
    with pytest.raises(StoreUnavailable, match=r"journal\.db cannot be written.*full"):
        await journal.append([("part of the same call", b""), ("large", bytes(100_000))])
    async with running(journal, 0) as batches:
        assert [record.key for record in await take(batches, 1)] == ["small"]
        await journal.append([("small again", b"")])
        assert [record.key for record in await take(batches, 1)] == ["small again"]


async def test_a_locked_file_is_unavailable_until_it_is_unlocked(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "BUSY_S", 0.01)
    journal = SqliteJournal(path, now)
    await journal.append([("1", b"")])
    other = sqlite3.connect(path, isolation_level=None)
    try:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match="locked"):
            await journal.append([("2", b"")])
        with raises_within(SourceUnavailable, "locked"):
            async with running(journal, 0) as batches:
                (await batches.receive()).ack()
                await trio.sleep_forever()
    finally:
        other.close()
    async with running(journal, 0) as batches:
        await journal.append([("2", b"")])
        assert [record.key for record in await take(batches, 2)] == ["1", "2"]


def raises_within(error: type[Exception], match: str) -> pytest.RaisesGroup[Exception]:
    """In a group: nurseries raise groups."""
    return pytest.RaisesGroup(pytest.RaisesExc(error, match=match), flatten_subgroups=True)


async def test_a_damaged_file_stops_the_process_with_a_sentence(path: Path) -> None:
    await trio.Path(path.parent).mkdir()
    await trio.Path(path).write_bytes(b"this is not a database, " * 1_000)
    journal = SqliteJournal(path, now)
    with pytest.raises(StoreUnavailable):
        await journal.append([("1", b"")])
    with raises_within(Fatal, r"journal\.db is damaged .*move it away"):
        async with running(journal):
            pass


async def test_a_directory_that_cannot_be_created_is_a_settings_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    journal = SqliteJournal(tmp_path / "file" / "journal.db", now)
    with raises_within(SettingsError, "APP_ENV_DATA_DIR"):
        async with running(journal):
            pass
    with pytest.raises(StoreUnavailable):
        await journal.append([("1", b"")])


async def test_an_id_that_is_not_valid_text_is_rejected_alone(path: Path) -> None:
    journal = SqliteJournal(path, now)
    with pytest.raises(StoreRejected):
        await journal.append([("\ud800", b"")])
    await journal.append([("1", b"")])
    assert entries(path) == ["1"]


async def test_no_file_is_held_open_while_the_journal_is_unused(path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    journal = SqliteJournal(path, now)
    await journal.append([("1", b"")])
    async with running(journal, 0) as batches:
        await journal.append([("2", b"")])
        await take(batches, 2)
    await journal.append([("3", b"")])
    assert len(os.listdir("/proc/self/fd")) == before

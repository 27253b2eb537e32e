"""The data directory and its files: for their owner alone."""

from __future__ import annotations

import os
import sqlite3
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
import trio

from nx_signal import data_dir
from nx_signal.adapters.sqlite.file import SqliteFile
from nx_signal.adapters.sqlite.journal import SqliteJournal
from nx_signal.data_dir import make_private, open_private
from nx_signal.identity.issuer import open_issuer
from nx_signal.model.timestamps import now
from nx_signal.store import Database


@pytest.fixture(params=[0o000, 0o022, 0o777])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def modes(folder: Path) -> dict[str, int]:
    found = {".": folder, **{path.name: path for path in folder.iterdir()}}
    return {name: stat.S_IMODE(path.stat().st_mode) for name, path in found.items()}


async def use(folder: Path) -> dict[str, int]:
    """Everything that makes files in it; their modes while they are in use."""
    open_issuer(folder)
    journal = SqliteJournal(folder / "journal.db", now)
    journal._running = True  # keeps its connection, and so the side files
    await journal.append([("e1", b"{}")])
    os.close(journal._open_lock())
    file = SqliteFile(folder / "signal.db", now)
    await Database(file).check()
    file._lease_worker()
    found = modes(folder)
    await file.close()
    journal._close_writer()
    return found


FILES = {
    *("signal.db", "signal.db-wal", "signal.db-shm", "worker-9.lock", "issuer-key.pem"),
    *("journal.db", "journal.db-wal", "journal.db-shm", "journal.lock"),
}


async def test_what_is_made_is_for_its_owner_alone_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    found = await use(tmp_path / "data")
    assert found == {".": 0o700, **dict.fromkeys(FILES, 0o600)}


@pytest.mark.parametrize("mode", [0o755, 0o777, 0o2775, 0o750])
async def test_what_was_there_before_is_restricted(tmp_path: Path, mode: int) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for name in FILES - {"issuer-key.pem"}:
        if not name.endswith(("-wal", "-shm")):
            if name.endswith(".db"):
                sqlite3.connect(folder / name).execute("PRAGMA journal_mode = WAL").connection.close()
            else:
                (folder / name).touch()
            (folder / name).chmod(0o666)
    (folder / "lost+found").mkdir()
    folder.chmod(mode)
    found = await use(folder)
    del found["lost+found"]
    assert found == {".": mode & ~0o077, **dict.fromkeys(FILES, 0o600)}


@pytest.fixture
def reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_dir, "_reported", set())


def test_a_directory_that_others_use_is_left_as_it_is_with_a_warning_once(
    tmp_path: Path, reported: None
) -> None:
    (tmp_path / "letters.txt").touch()
    (tmp_path / "signal.db").touch(0o644)
    tmp_path.chmod(0o755)
    with structlog.testing.capture_logs() as logs:
        make_private(tmp_path)
        make_private(tmp_path)
    assert modes(tmp_path) | {"letters.txt": 0} == {".": 0o755, "signal.db": 0o600, "letters.txt": 0}
    (line,) = logs
    assert "'letters.txt'" in line["why"] and "chmod 700" in line["why"]


def test_a_directory_whose_rights_cannot_be_changed_is_used_with_a_warning(
    tmp_path: Path, reported: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    tmp_path.chmod(0o755)
    monkeypatch.setattr(Path, "chmod", refuse)
    with structlog.testing.capture_logs() as logs:
        make_private(tmp_path)
    (line,) = logs
    assert "cannot be changed (Operation not permitted)" in line["why"]


def test_a_link_in_the_directory_changes_nothing_that_it_leads_to(tmp_path: Path, reported: None) -> None:
    outside, folder = tmp_path / "outside", tmp_path / "data"
    outside.touch()
    outside.chmod(0o644)
    folder.mkdir()
    (folder / "signal.db-wal").symlink_to(outside)
    make_private(folder)
    assert stat.S_IMODE(outside.stat().st_mode) == 0o644


def test_a_file_that_another_process_made_is_restricted_when_it_is_opened(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    (tmp_path / "x").chmod(0o664)
    os.close(open_private(tmp_path / "x"))
    assert modes(tmp_path)["x"] == 0o600


ANOTHER_PROCESS = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
connection.execute("INSERT INTO entry (event_id, message, appended_at) VALUES ('e2', '', '')")
connection.commit()
connection.close()
"""


async def test_a_further_connection_leaves_the_locks_of_the_others(tmp_path: Path) -> None:
    """Else another process that closes takes itself for the last one, and removes the log that is in use."""
    journal = SqliteJournal(tmp_path / "journal.db", now)
    reader = journal._connect("NORMAL")
    await journal.append([("e1", b"{}")])  # by a connection that is opened for it, and closed
    await trio.run_process([sys.executable, "-c", ANOTHER_PROCESS, tmp_path / "journal.db"])
    assert (tmp_path / "journal.db-wal").exists()
    await journal.append([("e3", b"{}")])
    assert reader.execute("SELECT position, event_id FROM entry").fetchall() == [
        (1, "e1"),
        (2, "e2"),
        (3, "e3"),
    ]
    reader.close()

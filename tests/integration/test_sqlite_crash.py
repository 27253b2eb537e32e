"""A process killed in the middle of writing leaves a whole store, and every row it had answered for."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from nx_signal.adapters.sqlite.store import open_sqlite
from nx_signal.model import Deleted, InboxFilter

USERS = [f"u{n}" for n in range(5)]

WRITER = """
import itertools, sys
from datetime import UTC, datetime
from pathlib import Path
import trio
from nx_signal.adapters.sqlite.store import open_sqlite
from nx_signal.model import Draft

USERS = [f"u{n}" for n in range(5)]

async def main(path, name):
    async with open_sqlite(Path(path), lambda: datetime.now(UTC)) as database:
        await database.check()
        inbox = database.inbox
        for n in itertools.count():
            drafts = [
                Draft(recipient_id=user, activity_id=f"{name}-{n}", type="A", organizer_id=None,
                      merchant_id=None, subject=None, locale="en", content="x" * 2000, content_html="",
                      action_url=None, data={})
                for user in USERS
            ]
            changes = await inbox.insert(drafts)
            print(f"{name}-{n}", flush=True)
            if n % 3 == 0:
                await inbox.delete(USERS[n % 5], changes[n % 5].notification.id)
            if n % 4 == 0:
                await inbox.mark_all_read(USERS[n % 5], None, None, None, None)

trio.run(main, *sys.argv[1:])
"""


def write_until_killed(path: Path, after: int) -> list[str]:
    """Two processes write until each has answered for `after` activities; all that were answered for."""
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(path), name], stdout=subprocess.PIPE, text=True)
        for name in ("a", "b")
    ]
    answered: list[str] = []
    try:
        for writer in writers:
            assert writer.stdout is not None
            answered += [writer.stdout.readline().strip() for _ in range(after)]
    finally:
        for writer in writers:
            writer.kill()
    for writer in writers:
        with writer:
            assert writer.stdout is not None
            answered += writer.stdout.read().split()
        assert writer.returncode == -signal.SIGKILL
    return answered


@pytest.mark.parametrize("after", [1, 7, 40])
async def test_a_killed_writer_leaves_a_consistent_store(tmp_path: Path, after: int) -> None:
    path = tmp_path / "data" / "signal.db"
    answered = write_until_killed(path, after)

    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        activities = {row[0] for row in connection.execute("SELECT activity_id FROM activity_notification")}
        ids = connection.execute("SELECT count(*), count(DISTINCT id) FROM activity_notification").fetchone()
    assert set(answered) <= activities
    assert ids == (len(activities) * len(USERS),) * 2  # each activity for all its recipients or for none

    async with open_sqlite(path, lambda: datetime.now(UTC)) as database:
        await database.check()
        for user, backlog in (await database.inbox.changes_since(dict.fromkeys(USERS, 0), 10_000)).items():
            assert [change.rev for change in backlog.changes] == list(range(1, backlog.head.rev + 1))
            page = await database.inbox.page(user, InboxFilter(), 10_000, None, 0)
            deleted = sum(isinstance(change, Deleted) for change in backlog.changes)
            assert backlog.head.total == len(page.rows) == len(activities) - deleted
            assert backlog.head.unread == sum(not row.is_read for row in page.rows)

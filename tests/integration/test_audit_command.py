"""`nx-signal audit` on the embedded store: what it prints, and its exit status."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trio

from nx_signal.adapters.sqlite.store import open_sqlite
from nx_signal.cli import audit
from nx_signal.cli import main as cli
from nx_signal.model import Draft


def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """30 inboxes of 10 notifications."""

    async def fill() -> None:
        async with open_sqlite(tmp_path / "signal.db", now) as database:
            await database.check()
            await database.inbox.insert(
                [
                    Draft(
                        recipient_id=f"u{n % 30:02}",
                        activity_id=f"a{n}",
                        type="T",
                        organizer_id="o",
                        merchant_id=None,
                        subject=None,
                        locale="en",
                        content="c",
                        content_html="<p>c</p>",
                        action_url=None,
                        data={},
                    )
                    for n in range(300)
                ]
            )

    trio.run(fill)
    return tmp_path


def audited(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str], str]:
    """(exit status, lines of stdout, stderr)"""
    status = cli.main(["audit", "--data-dir", str(data_dir)])
    out, err = capsys.readouterr()
    return status, out.splitlines(), err


def damage(data_dir: Path, statement: str) -> None:
    with closing(sqlite3.connect(data_dir / "signal.db")) as connection, connection:
        connection.execute(statement)


def test_a_consistent_store_ends_with_status_0(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert audited(data_dir, capsys) == (0, ["Audited 30 inboxes with 300 notifications."], "")


def test_an_empty_store_is_consistent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert audited(tmp_path / "new", capsys) == (0, ["Audited 0 inboxes with 0 notifications."], "")


def test_a_difference_is_named_and_ends_with_status_1(
    data_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "PORTION_INBOXES", 4)
    damage(data_dir, "DELETE FROM activity_notification WHERE recipient_id = 'u07' AND rev = 3")
    status, lines, err = audited(data_dir, capsys)
    assert status == 1
    assert lines == [
        "'u07': total is 10, the rows and the log give 9",
        "'u07': unread is 10, the rows and the log give 9",
        "'u07': unseen is 10, the rows and the log give 9",
        "'u07': revisions is 10, the rows and the log give 9",
        "'u07': total of T is 10, the rows and the log give 9",
        "'u07': unread of T is 10, the rows and the log give 9",
        "Audited 30 inboxes with 299 notifications.",
    ]
    assert err.startswith("nx-signal audit: 1 of 30 inboxes do not agree")


def test_of_many_differences_the_first_are_shown(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damage(data_dir, "UPDATE recipient_head SET rev = rev + 1")
    status, lines, err = audited(data_dir, capsys)
    assert status == 1
    assert len(lines) == audit.SHOWN + 2
    assert lines[-2:] == ["… and 40 more", "Audited 30 inboxes with 300 notifications."]
    assert "30 of 30 inboxes" in err

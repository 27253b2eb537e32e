"""`nx-signal dead-letters` on the embedded store."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import structlog
import trio

from nx_signal.adapters.sqlite.store import open_sqlite
from nx_signal.cli import main as cli
from nx_signal.model import ActivityRow, DeadLetter, Position

MESSAGE = {
    "eventType": "PAYMENT_SUCCESS",
    "recipientScope": "users",
    "recipientIds": ["ann", "binh"],
    "actorId": "actor",
    "organizerId": "o1",
    "data": {"payment": {"subject": "Đơn 42", "amount": 5}},
    "occurredAt": "2026-01-01T10:00:00Z",
}


@pytest.fixture(autouse=True)
def _quiet_logs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A command's log configuration is the process', and would hold for all later tests."""

    def configure(level: str, format: str) -> None:
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger("critical"))

    monkeypatch.setattr("nx_signal.telemetry.logs.configure_logs", configure)
    yield
    structlog.reset_defaults()


def now() -> datetime:
    return datetime(2026, 1, 1, tzinfo=UTC)


def a_dead_letter(offset: int, value: bytes = json.dumps(MESSAGE).encode(), **changes: Any) -> DeadLetter:
    values: dict[str, Any] = {"key": "k", "headers": {}, "error": "It failed.", **changes}
    return DeadLetter(0, Position("t", 3, offset), values["key"], value, values["headers"], values["error"])


class Store:
    def __init__(self, data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.data_dir = data_dir
        self.capsys = capsys

    def add(self, *dead_letters: DeadLetter) -> list[str]:
        """Their ids."""

        async def add() -> list[str]:
            async with open_sqlite(self.data_dir / "signal.db", now) as database:
                await database.check()
                await database.dead_letters.add(dead_letters)
                ids = {each.position: str(each.id) for each in await database.dead_letters.page(1000, None)}
                return [ids[each.position] for each in dead_letters]

        return trio.run(add)

    def run(self, *arguments: str) -> tuple[int, str, str]:
        status = cli.main(["dead-letters", *arguments, "--data-dir", str(self.data_dir)])
        return status, *self.capsys.readouterr()

    def rows(self, activity_id: str) -> Sequence[ActivityRow]:
        async def rows() -> Sequence[ActivityRow]:
            async with open_sqlite(self.data_dir / "signal.db", now) as database:
                return (await database.inbox.rows_of(activity_id, None, 100))[0]

        return trio.run(rows)


@pytest.fixture
def store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Store:
    return Store(tmp_path / "data", capsys)


def test_the_list_shows_one_dead_letter_per_line_newest_first(store: Store) -> None:
    ids = store.add(*(a_dead_letter(n, error=f"no {n}\n\x1b[2J") for n in range(25)))
    status, out, err = store.run("list")
    assert (status, err) == (0, "")
    lines = [line.split("\t") for line in out.splitlines()]
    assert [line[0] for line in lines] == ids[::-1]
    assert lines[0][1:] == ["2026-01-01T00:00:00.000Z", "t/3/24", "no 24\\n\\x1b[2J"]
    assert store.run("list", "--limit", "12")[1] == "".join(out.splitlines(True)[:12])


def test_an_empty_list_is_reported(store: Store) -> None:
    assert store.run("list") == (0, "", "There are no dead letters.\n")


def test_one_is_shown_as_json_whatever_it_holds(store: Store) -> None:
    text, raw = store.add(
        a_dead_letter(1, value="Đơn \x9b".encode()),
        a_dead_letter(2, value=b"\xff\0", key="\udcff", headers={"ce_id": b"e1", "a\ud800": b"\xff"}),
    )
    status, out, err = store.run("show", text)
    assert (status, err) == (0, "") and "Đơn" in out and "\x9b" not in out
    assert json.loads(out) == {
        "id": text, "position": "t/3/1", "createdAt": "2026-01-01T00:00:00.000Z", "error": "It failed.",
        "key": "k", "headers": {}, "value": "Đơn \x9b",
    }  # fmt: skip
    shown = json.loads(store.run("show", raw)[1])
    assert shown["value"] == {"base64": "/wA="} and shown["key"] == {"base64": "7bO/"}
    assert shown["headers"] == {"ce_id": "e1", "a\\ud800": {"base64": "/w=="}}


def test_a_replay_writes_the_rows_under_the_original_position_and_removes_the_dead_letter(
    store: Store,
) -> None:
    (id,) = store.add(a_dead_letter(7))
    assert store.run("replay", id) == (0, "Replayed activity t/3/7 for 2 recipients.\n", "")
    assert [row.recipient_id for row in store.rows("t/3/7")] == ["ann", "binh"]
    assert store.run("list")[1] == ""
    store.add(a_dead_letter(7))
    (id,) = [line.split("\t")[0] for line in store.run("list")[1].splitlines()]
    status, out, _ = store.run("replay", id)
    assert (status, out) == (
        0, "Replayed activity t/3/7 for 2 recipients; their notifications were there already.\n",
    )  # fmt: skip
    assert len(store.rows("t/3/7")) == 2


def test_a_replay_that_fails_again_prints_the_reason_and_keeps_the_dead_letter(store: Store) -> None:
    (id,) = store.add(a_dead_letter(7, value=b"not json"))
    status, out, err = store.run("replay", id)
    assert (status, out) == (1, "")
    assert err.startswith(f"nx-signal dead-letters: {id} failed again and stays: message: not JSON")
    assert err.count("\n") == 1
    assert "not JSON" in store.run("list")[1], "with the new reason"


def test_a_discarded_dead_letter_is_removed(store: Store) -> None:
    first, second = store.add(a_dead_letter(1), a_dead_letter(2))
    assert store.run("discard", first) == (0, f"Discarded {first}.\n", "")
    assert [line.split("\t")[0] for line in store.run("list")[1].splitlines()] == [second]


@pytest.mark.parametrize("verb", ["show", "replay", "discard"])
def test_an_unknown_dead_letter_is_an_error(store: Store, verb: str) -> None:
    expected = "nx-signal dead-letters: The dead letter 7 does not exist; see nx-signal dead-letters list.\n"
    assert store.run(verb, "7") == (1, "", expected)


def test_the_help_of_replay_states_when_connected_clients_receive_it(store: Store) -> None:
    with pytest.raises(SystemExit):
        cli.main(["dead-letters", "replay", "--help"])
    assert "next sweep" in " ".join(store.capsys.readouterr().out.split())

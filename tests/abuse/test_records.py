"""Records that take a process down, or would: `nx-signal serve` on nothing but its data directory.

They are written into the journal itself: over REST some would be refused."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from nx_signal.activities.in_hand import SET_ASIDE
from plugin_kit import install_deadly
from services import GUARD
from serving import COMMAND, PATIENCE_S, Instance, command

MEMORY_LIMIT = 1_400_000_000
"""Of addresses: an idle process has about half of that, most of it not in memory."""
MIB = 1_048_576


class Server:
    """`nx-signal serve`, which may be started again."""

    def __init__(self, folder: Path) -> None:
        self.data_dir = folder / "data"
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith("APP_ENV_")}
        self.environment |= {"APP_ENV_DATA_DIR": str(self.data_dir), "APP_ENV_LAME_DUCK_S": "0"}
        self.environment |= {"APP_ENV_LOG_LEVEL": "error"}
        self.instance = Instance(self.environment)

    def load(self, roster: Mapping[str, Any]) -> None:
        command(self.environment, "members", "load", "-", input=json.dumps(roster))

    def start(self, *, memory_limit: int | None = None) -> subprocess.Popen[bytes]:
        limit = [] if memory_limit is None else ["prlimit", f"--as={memory_limit}", "--"]
        instance = self.instance
        instance.process = subprocess.Popen(
            [*limit, *COMMAND, "serve", "--port", str(instance.port)], env=self.environment
        )
        GUARD.send("watch", instance.process.pid)
        return instance.process

    def append(self, activities: Sequence[Mapping[str, Any]]) -> None:
        """As the journal does."""
        rows = [(each["eventId"], json.dumps(each).encode(), "2026-01-01T00:00:00Z") for each in activities]
        with closing(sqlite3.connect(self.data_dir / "journal.db")) as journal, journal:
            journal.executemany("INSERT INTO entry (event_id, message, appended_at) VALUES (?, ?, ?)", rows)

    def ask(self, sql: str) -> list[Any]:
        with closing(sqlite3.connect(self.data_dir / "signal.db", timeout=10)) as store:
            return store.execute(sql).fetchall()

    def wait_for(self, sql: str, expected: list[Any], within_s: float = PATIENCE_S) -> None:
        deadline = time.monotonic() + within_s
        while (found := self.ask(sql)) != expected:
            assert self.instance.process and self.instance.process.poll() is None, "serve ended"
            assert time.monotonic() < deadline, found
            time.sleep(0.05)  # between two looks at what another process writes

    def memory(self, name: str) -> int:
        """Bytes, by a line of /proc/PID/status."""
        assert self.instance.process
        status = Path(f"/proc/{self.instance.process.pid}/status").read_text()
        (line,) = (line for line in status.splitlines() if line.startswith(name + ":"))
        return int(line.split()[1]) * 1_024

    def close(self) -> None:
        process = self.instance.process
        if process and process.poll() is None:
            process.kill()
            process.wait()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    server.start()
    server.instance.wait_ready()  # which makes the files
    yield server
    server.close()


def stop(server: Server) -> None:
    assert server.instance.process
    server.instance.process.terminate()
    assert server.instance.process.wait(PATIENCE_S) == 0


def order(event: str, **changes: Any) -> dict[str, Any]:
    return {
        "eventType": "ORDER_COMPLETED",
        "eventId": event,
        "recipientScope": "users",
        "recipientIds": ["ann"],
        "actorId": "actor",
        "organizerId": "o1",
        "data": {},
        "occurredAt": "2026-01-01T10:00:00Z",
        **changes,
    }


def test_a_large_activity_to_many_recipients_costs_little_and_holds_up_nothing(server: Server) -> None:
    stop(server)
    users = [f"user{n:04}" for n in range(2_000)]
    large = order("large", recipientIds=users, data={"note": "x" * 900_000})
    fits = order("fits", recipientIds=users, data={"note": "x" * 32_000})
    server.append([large, order("after"), fits, order("last")])
    server.start(memory_limit=MEMORY_LIMIT)
    server.instance.wait_ready()
    rows = "SELECT activity_id, count(*) FROM activity_notification GROUP BY 1 ORDER BY 1"
    server.wait_for(rows, [("after", 1), ("fits", 2_000), ("last", 1)])
    (letter,) = server.ask("SELECT error FROM dead_letter")
    assert letter[0].startswith("data has 900011 bytes as JSON, and a notification may have 32768")
    assert server.memory("VmHWM") < 350 * MIB


def test_a_record_that_kills_the_process_is_set_aside_at_the_third_start(
    tmp_path: Path, server: Server
) -> None:
    stop(server)
    site = install_deadly(tmp_path / "site")
    server.environment["PYTHONPATH"] = os.pathsep.join([site, os.environ.get("PYTHONPATH", "")])
    server.append([order("before"), order("deadly", eventType="DEADLY"), order("after")])
    for _ in range(2):
        assert server.start().wait(PATIENCE_S) == -9
    server.start()
    rows = "SELECT activity_id FROM activity_notification ORDER BY 1"
    server.wait_for(rows, [("after",), ("before",)])
    server.wait_for("SELECT error FROM dead_letter", [(SET_ASIDE,)])
    stop(server)


@pytest.mark.full
@pytest.mark.timeout(600)
def test_an_audience_of_100_000_members_takes_no_more_memory_than_a_portion_of_it(server: Server) -> None:
    many = 100_000
    members = [
        {"userId": f"user{n:06}", "organizerId": "large", "merchantId": None, "role": "staff", "locale": None}
        for n in range(many)
    ]
    server.load({"organizers": [], "members": members})
    stop(server)
    server.start()
    server.instance.wait_ready()
    server.append([order("warm", recipientIds=[f"user{n}" for n in range(500)])])
    server.wait_for("SELECT count(*) FROM activity_notification", [(500,)])
    idle = server.memory("VmRSS")
    server.append([order("large", recipientScope="org", organizerId="large"), order("after")])
    server.wait_for(
        "SELECT recipients, outcome FROM activity_trace WHERE activity_id = 'large'", [(many, "stored")]
    )
    server.wait_for("SELECT count(*) FROM activity_notification", [(many + 501,)])
    assert server.memory("VmHWM") - idle < 100 * MIB

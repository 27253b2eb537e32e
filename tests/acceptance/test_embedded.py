"""The embedded default survives a kill at any point: what was accepted has its rows, once."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest
import trio

from serving import PATIENCE_S, ROSTER, USERS, Instance, Reader, activity, command

CRASHES = 6
BASE = "/v1/api/signal"


class Embedded:
    """`nx-signal serve` with nothing configured but its data directory."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        environment = {name: value for name, value in os.environ.items() if not name.startswith("APP_ENV_")}
        environment |= {"APP_ENV_DATA_DIR": str(data_dir), "APP_ENV_LOG_LEVEL": "warning"}
        environment |= {"APP_ENV_LAME_DUCK_S": "0"}
        self.environment = environment
        self.instance = Instance(environment)

    def run(self, *arguments: str, input: str = "") -> str:
        return command(self.environment, *arguments, input=input)

    def rows(self) -> list[tuple[str, str]]:
        with sqlite3.connect(self.data_dir / "signal.db") as connection:
            found = connection.execute(
                "SELECT activity_id, recipient_id FROM activity_notification"
            ).fetchall()
        connection.close()
        return found

    def close(self) -> None:
        process = self.instance.process
        if process and process.poll() is None:
            process.kill()
            process.wait()


@pytest.fixture
def embedded(tmp_path: Path) -> Iterator[Embedded]:
    embedded = Embedded(tmp_path / "data")
    embedded.run("members", "load", "-", input=json.dumps(ROSTER))
    yield embedded
    embedded.close()


async def test_what_was_answered_202_has_its_rows_once_after_kills_at_any_point(embedded: Embedded) -> None:
    rng = random.Random(7)
    accepted: set[str] = set()
    offered: dict[str, set[str]] = {}
    instance = embedded.instance
    instance.start()
    await trio.to_thread.run_sync(instance.wait_ready)
    token = embedded.run("token", "--user", "op", "--permission", "Activity.publish")
    headers = {"Authorization": f"Bearer {token}"}
    enough, goal = trio.Event(), 0

    async def post(client: httpx.Client, numbers: list[int]) -> bool:
        """Whether the server answered."""
        messages = []
        for n in numbers:
            message, users = activity(n)
            offered[message["eventId"]] = users
            messages.append(message)
        try:
            send = partial(client.post, f"{instance.url}{BASE}/activities", json=messages, headers=headers)
            answer = await trio.to_thread.run_sync(send)
        except httpx.TransportError:
            return False  # killed: accepted or not, the caller got no answer
        if answer.status_code == 202:
            accepted.update(item["eventId"] for item in answer.json()["accepted"])
            if len(accepted) >= goal:
                enough.set()
        return True

    async def poster(first: int) -> None:
        with httpx.Client(timeout=5) as client:
            for start in range(first, first + 1_000, 4):
                if not await post(client, list(range(start, start + rng.choice([1, 4])))):
                    return

    for round in range(CRASHES):
        enough, goal = trio.Event(), len(accepted) + rng.randint(1, 60)
        async with trio.open_nursery() as nursery:
            for lane in range(4):
                nursery.start_soon(poster, round * 10_000 + lane * 1_000)
            with trio.fail_after(PATIENCE_S):
                await enough.wait()
            await trio.sleep(rng.uniform(0, 0.02))  # a kill at any point of the processing
            instance.signal(signal.SIGKILL)
        instance.start()
        await trio.to_thread.run_sync(instance.wait_ready)
    assert len(accepted) >= CRASHES
    expected = {(event, user) for event in accepted for user in offered[event]}
    with trio.move_on_after(PATIENCE_S):
        while not expected <= set(await trio.to_thread.run_sync(embedded.rows)):
            await trio.sleep(0.1)
    rows = await trio.to_thread.run_sync(embedded.rows)
    assert len(rows) == len(set(rows)) and expected <= set(rows)
    assert set(rows) <= {(event, user) for event, users in offered.items() for user in users}
    assert instance.signal(signal.SIGTERM) == 0


async def test_clients_of_the_embedded_default_get_their_log_through_a_kill(embedded: Embedded) -> None:
    instance = embedded.instance
    instance.start()
    await trio.to_thread.run_sync(instance.wait_ready)
    readers = [Reader(user, embedded.run("token", "--user", user), instance) for user in USERS]
    publish = partial(embedded.run, "publish", "-", "--url", instance.url)
    async with trio.open_nursery() as nursery:
        for reader in readers:
            nursery.start_soon(reader.run)
        for reader in readers:
            await reader.connected.wait()
        for half in (range(50), range(50, 100)):
            lines = "\n".join(json.dumps(activity(n)[0]) for n in half)
            await trio.to_thread.run_sync(partial(publish, input=lines))
            if half.start == 0:
                instance.signal(signal.SIGKILL)
                instance.start()
                await trio.to_thread.run_sync(instance.wait_ready)
        for reader in readers:
            mine = {n for n in range(100) if reader.user in activity(n)[1]}
            await reader.wait_for(len(mine))
            assert reader.revs == list(range(1, len(mine) + 1)), reader.user
        nursery.cancel_scope.cancel()


def test_the_data_directory_is_made_and_its_key_is_the_owner_s_alone(embedded: Embedded) -> None:
    embedded.instance.start()
    embedded.instance.wait_ready()
    key = embedded.data_dir / "issuer-key.pem"
    assert key.stat().st_mode & 0o777 == 0o600
    assert embedded.data_dir.stat().st_mode & 0o077 == 0


def test_a_second_process_on_the_same_port_ends_with_a_sentence_and_status_2(embedded: Embedded) -> None:
    instance = embedded.instance
    instance.start()
    instance.wait_ready()
    again = subprocess.run(
        [sys.executable, "-m", "nx_signal", "serve", "--port", str(instance.port)],
        check=False,
        env=embedded.environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert again.returncode == 2 and "choose another --host or --port" in again.stderr
    assert "Traceback" not in again.stderr

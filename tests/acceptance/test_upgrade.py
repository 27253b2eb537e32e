"""An upgrade without an interruption: the release before and this one serve one deployment, on PostgreSQL and
Redis, before, during and after the migration. A change from either reaches the clients of both."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tarfile
from functools import partial
from io import BytesIO
from pathlib import Path

import httpx
import pytest
import trio

from services import create_topic, fresh_database
from serving import PATIENCE_S, ROSTER, USERS, Deployment, Instance, Reader, activity, command

RELEASE_BEFORE = "6bdb11626559ae310d23e55b45c5454fa2bf7e8a"
"""The commit of the release before, the oldest beside which this one runs."""
ROOT = Path(__file__).resolve().parents[2]
REST = "/v1/api/signal/notifications"
ACTIVITIES = 700
PAUSE_S = 0.3
"""After each ten activities: they last through the migration and both starts."""


@pytest.fixture(scope="module")
def source_before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory to import the release before from."""
    archive = ["git", "-C", str(ROOT), "archive", RELEASE_BEFORE, "src"]
    try:
        done = subprocess.run(archive, capture_output=True, check=False)
    except OSError:
        pytest.skip("The release before is read from the history, which needs git.")
    if done.returncode:
        pytest.skip("This clone lacks the release before: `git fetch --unshallow` brings it.")
    folder = tmp_path_factory.mktemp("release-before")
    with tarfile.open(fileobj=BytesIO(done.stdout)) as files:
        files.extractall(folder, filter="data")
    return folder / "src"


def environment_of(data_dir: Path, postgres_url: str, redis_url: str, kafka_servers: str) -> dict[str, str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("APP_ENV_")}
    return environment | {
        "APP_ENV_DATA_DIR": str(data_dir),
        "APP_ENV_DATABASE_URL": postgres_url,
        "APP_ENV_REDIS_URL": redis_url,
        "APP_ENV_KAFKA_BOOTSTRAP_SERVERS": kafka_servers,
        "APP_ENV_KAFKA_TOPIC": create_topic(kafka_servers, 4),
        "APP_ENV_KAFKA_SESSION_TIMEOUT_MS": "1000",
        "APP_ENV_LAME_DUCK_S": "0",
        "APP_ENV_LOG_LEVEL": "warning",
    }


def version(environment: dict[str, str]) -> str:
    """The directory that the commands of this environment come from."""
    code = [sys.executable, "-c", "import nx_signal; print(nx_signal.__file__)"]
    return subprocess.run(code, env=environment, capture_output=True, text=True, check=True).stdout


async def run(environment: dict[str, str], *arguments: str) -> str:
    return await trio.to_thread.run_sync(partial(command, environment, *arguments))


async def started(instance: Instance) -> None:
    await trio.to_thread.run_sync(instance.start)
    await trio.to_thread.run_sync(instance.wait_ready)


def ended(instance: Instance) -> None:
    if instance.process and instance.process.poll() is None:
        instance.process.kill()
        instance.process.wait()


@pytest.mark.full
@pytest.mark.timeout(300)
async def test_an_upgrade_under_load_costs_no_client_of_either_release_anything(
    tmp_path: Path, source_before: Path, postgres_server: str, redis_url: str, kafka_servers: str
) -> None:
    url = fresh_database(postgres_server)
    after = environment_of(tmp_path, url, redis_url, kafka_servers)
    before = after | {"PYTHONPATH": str(source_before)}
    assert version(before).startswith(str(source_before)) and not version(after).startswith(
        str(source_before)
    )
    await run(before, "migrate")
    command(before, "members", "load", "-", input=json.dumps(ROSTER))
    old, new = Instance(before), Instance(after)
    deployment = Deployment(after, after["APP_ENV_KAFKA_TOPIC"], kafka_servers, url, [old, new])
    messages, expected = [], set()
    for n in range(ACTIVITIES):
        message, users = activity(n)
        messages.append(json.dumps(message).encode())
        expected |= {(f"e{n}", user) for user in users}
    try:
        await started(old)
        tokens = {user: deployment.token(user) for user in USERS}
        readers = [Reader(user, tokens[user], old, version=1) for user in USERS]
        async with trio.open_nursery() as nursery:
            for reader in readers:
                nursery.start_soon(reader.run)
                await reader.connected.wait()
            nursery.start_soon(deployment.produce, messages, PAUSE_S)
            await rows_reach(deployment, 100)
            assert "Done" in await run(after, "migrate")
            await started(new)
            readers += [Reader(user, tokens[user], new) for user in USERS]
            for reader in readers[len(USERS) :]:
                nursery.start_soon(reader.run)
                await reader.connected.wait()
            assert await trio.to_thread.run_sync(old.signal, signal.SIGTERM) == 0
            await started(old)  # on the schema of this release
            await deployment.wait_rows(expected)
            await received(readers, expected, changes=0)
            for changes, (by, method, path) in enumerate(
                [
                    (old, "PATCH", "/mark-read"),
                    (new, "PATCH", "/mark-read"),
                    (new, "PATCH", "/archive"),
                    (old, "DELETE", ""),
                    (new, "DELETE", ""),
                ]
            ):
                await trio.to_thread.run_sync(change_newest, by, method, path, tokens["ann"])
                await received(readers, expected, changes=changes + 1)
            nursery.cancel_scope.cancel()
        seen = await trio.to_thread.run_sync(see_all, new, tokens["ann"])
        assert seen["unseen"] == 0 < seen["unread"]
        await trio.to_thread.run_sync(change_newest, old, "PATCH", "/mark-read", tokens["ann"])
        counts = {instance.port: count_of(instance, tokens["ann"]) for instance in (old, new)}
        assert counts[old.port] == counts[new.port]
        await run(before, "audit")
        await run(after, "audit")
        for instance in (old, new):
            assert await trio.to_thread.run_sync(instance.signal, signal.SIGTERM) == 0
    finally:
        ended(old)
        ended(new)


async def rows_reach(deployment: Deployment, count: int) -> None:
    with trio.fail_after(PATIENCE_S):
        while len(await trio.to_thread.run_sync(deployment.rows)) < count:
            await trio.sleep(0.05)


async def received(readers: list[Reader], expected: set[tuple[str, str]], changes: int) -> None:
    """Each reader has every activity of its user once and in order, ann's the `changes` as well."""
    for reader in readers:
        mine = {f"Order {activity[1:]}" for activity, user in expected if user == reader.user}
        revs = len(mine) + (changes if reader.user == "ann" else 0)
        await reader.wait_for(revs)
        assert reader.revs == list(range(1, revs + 1)), (
            reader.user,
            reader.instance.environment.get("PYTHONPATH"),
        )
        assert set(reader.activities) == mine


def change_newest(by: Instance, method: str, path: str, token: str) -> None:
    """Through this instance, of the newest unread."""
    with httpx.Client(base_url=by.url, headers={"Authorization": f"Bearer {token}"}, timeout=10) as client:
        row = client.get(REST, params={"isRead": "false", "limit": 1}).json()["data"][0]
        assert client.request(method, f"{REST}/{row['id']}{path}").is_success


def see_all(by: Instance, token: str) -> dict[str, int]:
    headers = {"Authorization": f"Bearer {token}"}
    answer = httpx.patch(f"{by.url}{REST}/mark-all-seen", headers=headers, timeout=10)
    counted: dict[str, int] = answer.json()
    return counted


def count_of(instance: Instance, token: str) -> dict[str, object]:
    answer = httpx.get(
        f"{instance.url}{REST}/count", headers={"Authorization": f"Bearer {token}"}, timeout=10
    )
    counted: dict[str, object] = answer.json()
    return {name: counted[name] for name in ("unread", "total", "rev") if name in counted}

"""What a real process leaves for other users of its machine: rights of files, and its log."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from services import GUARD, free_port
from serving import COMMAND, PATIENCE_S, Instance

AT_ONCE = {"APP_ENV_LAME_DUCK_S": "0"}
FAULTY = """
import sys
from nx_signal.rest.access import Authorizer

async def fail(self, permission):
    from quart import request
    token = request.headers["Authorization"]
    claims = {"token": token}
    raise ZeroDivisionError("quoting " + token)

Authorizer.authorize = fail
from nx_signal.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("format", ["json", "console"])
def test_a_fault_that_nobody_foresaw_logs_no_token(tmp_path: Path, format: str) -> None:
    environment = {
        **os.environ,
        "APP_ENV_DATA_DIR": str(tmp_path / "data"),
        "APP_ENV_LOG_FORMAT": format,
    } | AT_ONCE
    port, log = free_port(), tmp_path / "log"
    with log.open("wb") as err:
        process = subprocess.Popen(
            [sys.executable, "-c", FAULTY, "serve", "--port", str(port)], env=environment, stderr=err
        )
    GUARD.send("watch", process.pid)
    try:
        url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + PATIENCE_S
        while b"part_up" not in log.read_bytes():
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.05)  # between two looks at another process's log
        token = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJ1MSJ9.c2lnbmF0dXJlLW9mLXUx"
        headers = {"Authorization": f"Bearer {token}"}
        answer = httpx.get(f"{url}/v1/api/signal/notifications", headers=headers)
        assert answer.status_code == 500
    finally:
        process.terminate()
        process.wait(PATIENCE_S)
    logged = log.read_text()
    assert "ZeroDivisionError" in logged and token not in logged and token[:25] not in logged


def test_a_process_with_an_open_umask_leaves_nothing_to_other_users(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for name in ("signal.db", "journal.db", "journal.lock"):
        (folder / name).touch()
        (folder / name).chmod(0o666)
    folder.chmod(0o777)
    environment = {**os.environ, "APP_ENV_DATA_DIR": str(folder), "APP_ENV_LOG_FORMAT": "json"} | AT_ONCE
    instance = Instance(environment)
    before = os.umask(0)
    try:
        instance.start()
    finally:
        os.umask(before)
    try:
        instance.wait_ready()
        token = subprocess.run(
            [*COMMAND, "token", "--user", "u1", "--permission", "Activity.publish"],
            env=environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=True,
        ).stdout.strip()
        message = {
            "eventType": "ORDER_COMPLETED",
            "recipientScope": "users",
            "recipientIds": ["u1"],
            "actorId": "u1",
            "organizerId": "o1",
            "occurredAt": "2026-01-01T00:00:00Z",
        }
        answer = httpx.post(
            f"{instance.url}/v1/api/signal/activities",
            headers={"Authorization": f"Bearer {token}"},
            json=message,
        )
        assert answer.status_code == 202
        made = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
        assert {"signal.db", "signal.db-wal", "journal.db", "journal.db-wal", "issuer-key.pem"} <= set(made)
        assert set(made.values()) == {0o600}
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    finally:
        assert instance.signal(signal.SIGTERM) == 0

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
import trio

from nx_signal.client.stream import HandshakeRefused, open_stream
from services import GUARD, free_port
from serving import COMMAND, PATIENCE_S, Instance, command, events_status

AT_ONCE = {"APP_ENV_LAME_DUCK_S": "0"}
FAULTY = """
import sys
from nx_signal.rest.access import Authorizer

async def fail(self, *_):
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


async def _use(instance: Instance, ticket: str, for_events: str) -> None:
    """Present the tickets wherever a client may, rightly or wrongly."""
    for status in (200, 401):
        assert await trio.to_thread.run_sync(events_status, instance, for_events) == status
    async with open_stream(instance.stream_url, ticket, scheme="Ticket", version=1):
        pass
    for version in (1, 2):
        with pytest.raises(HandshakeRefused):
            async with open_stream(instance.stream_url, ticket, scheme="Ticket", version=version):
                pass
    async with await trio.open_tcp_stream("127.0.0.1", instance.port) as tcp:
        await tcp.send_all(f"GET /events?ticket={ticket} HTTP/1.1\r\nHost: x\r\n folded\r\n\r\n".encode())
        await tcp.receive_some()
    async with httpx.AsyncClient(base_url=instance.url) as http:
        for path in ("/events", "/stream", "/nothing", "/v1/api/signal/notifications", f"/{ticket}"):
            for method in ("GET", "POST", "OPTIONS"):
                answer = await http.request(method, f"{path}?ticket={ticket}", timeout=10)
                assert ticket not in answer.text and ticket not in str(answer.headers)
        headers = {
            "Referer": f"http://x/?ticket={ticket}",
            "X-Request-Id": ticket,
            "Origin": f"http://{ticket}",
        }
        await http.get(f"/v1/api/signal/notifications?filter={ticket}", headers=headers, timeout=10)


@pytest.mark.parametrize("format", ["json", "console"])
def test_a_ticket_is_in_no_log_and_in_no_file(tmp_path: Path, format: str) -> None:
    folder, log = tmp_path / "data", tmp_path / "log"
    environment = {
        **os.environ,
        "APP_ENV_DATA_DIR": str(folder),
        "APP_ENV_LOG_FORMAT": format,
        "APP_ENV_LOG_LEVEL": "debug",
    } | AT_ONCE
    instance = Instance(environment)
    with log.open("wb") as err:
        instance.process = subprocess.Popen(
            [*COMMAND, "serve", "--port", str(instance.port)], env=environment, stderr=err
        )
    GUARD.send("watch", instance.process.pid)
    try:
        instance.wait_ready()
        token = command(environment, "token", "--user", "u1", "--role", "signal-operator")
        with httpx.Client(base_url=instance.url, headers={"Authorization": f"Bearer {token}"}) as http:
            tickets = [
                http.post("/v1/api/signal/tickets", json={"purpose": purpose}).json()["ticket"]
                for purpose in ("stream", "events")
            ]
            trio.run(_use, instance, *tickets)
            clients = http.get("/v1/api/signal/socket/websocket/clients").text
        kept = b"".join(path.read_bytes() for path in folder.iterdir())
    finally:
        assert instance.signal(signal.SIGTERM) == 0
    assert "http_request" in log.read_text() and "ticket_refused" in log.read_text()
    for secret in (*tickets, *(ticket[:24] for ticket in tickets)):
        assert secret not in clients and secret not in log.read_text()
        assert secret.encode() not in kept

"""Clients of `/events` that do not read, connect without end, or send no request: the others are served."""

from __future__ import annotations

import json
import time
from pathlib import Path

import httpx
import pytest

from abuse.alone import alone, connect, metric, resident_bytes, to_end, token
from nx_signal.client.events import open_events
from nx_signal.client.rest import open_rest
from nx_signal.delivery.topics import CONNECTED
from nx_signal.identity.issuer import open_issuer
from nx_signal.model.timestamps import now
from nx_signal.model.wire import CREATED
from serving import PATIENCE_S, Instance, activity

SLOW = 30
BUFFER_BYTES = 65_536


def request(data_dir: Path, *headers: str, user: str = "ann", path: str = "/events") -> bytes:
    lines = [f"GET {path} HTTP/1.1", "Host: x", f"Authorization: Bearer {token(data_dir, user)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode()


def operator(instance: Instance, data_dir: Path) -> httpx.Client:
    permissions = ("WebSocketClient.broadcast", "Activity.publish")
    signed = open_issuer(data_dir).sign("op", 600, permissions, (), now())
    headers = {"Authorization": f"Bearer {signed}"}
    return httpx.Client(base_url=f"{instance.url}/v1/api/signal", headers=headers, timeout=60)


async def test_clients_that_do_not_read_cost_their_bound_and_delay_nobody(tmp_path: Path) -> None:
    settings = {"CLIENT_BUFFER_BYTES": str(BUFFER_BYTES), "RATE_FACTOR": "0"}
    with alone(tmp_path, **settings) as instance, operator(instance, tmp_path) as http:
        slow = [connect(instance, request(tmp_path)) for _ in range(SLOW)]
        async with open_events(instance.url, token(tmp_path, "ann")) as reader:
            assert (await reader.receive()).event == CONNECTED
            before = resident_bytes(instance)
            message, _ = activity(4)
            for n in range(20):
                padded = [message | {"eventId": f"e{n}-{m}", "padding": "x" * 900} for m in range(50)]
                assert http.post("/activities", json=padded).status_code == 202
            seen = 0
            while seen < 1_000:
                event = await reader.receive()
                if event.event == CREATED:
                    seen += 1
                    assert event.data["rev"] == seen
            assert resident_bytes(instance) - before < 60_000_000 + SLOW * 4 * BUFFER_BYTES
        for tcp in slow:
            tcp.close()


def test_connections_without_end_of_one_user_are_refused(tmp_path: Path) -> None:
    with alone(tmp_path, MAX_SESSIONS_PER_USER="5") as instance:
        held = [connect(instance, request(tmp_path)) for _ in range(5)]
        deadline = time.monotonic() + PATIENCE_S
        while metric(instance.url, "signal_clients") < 5:
            assert time.monotonic() < deadline
        for _ in range(20):
            with connect(instance, request(tmp_path, "Connection: close")) as tcp:
                head, _, body = to_end(tcp).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 429") and json.loads(body)["code"] == "too_many_sessions"
        with connect(instance, request(tmp_path, user="bob")) as tcp:
            assert tcp.recv(12) == b"HTTP/1.1 200"
        for tcp in held:
            tcp.close()


@pytest.mark.parametrize(
    "headers",
    [
        [f"X-{n}: {n}" for n in range(200)],
        [f"X-Long: {'x' * 100_000}"],
        ["Last-Event-ID: 1", " folded"],
        ["Content-Length: 5", "Transfer-Encoding: chunked"],
        ["Authorization: Bearer two"],
    ],
    ids=["many", "long", "folded", "two lengths", "two tokens"],
)
async def test_heads_that_are_no_request_are_refused(tmp_path: Path, headers: list[str]) -> None:
    with alone(tmp_path) as instance:
        with connect(instance, request(tmp_path, *headers)) as tcp:
            assert to_end(tcp).split()[1] in (b"400", b"431")
        assert metric(instance.url, "signal_clients") == 0
        async with open_events(instance.url, token(tmp_path, "ann")) as events:
            assert (await events.receive()).event == CONNECTED


async def test_a_flood_of_connects_and_leaves_keeps_nothing(tmp_path: Path) -> None:
    with alone(tmp_path, RATE_FACTOR="0") as instance:
        for _ in range(300):
            with connect(instance, request(tmp_path)) as tcp:
                assert tcp.recv(12) == b"HTTP/1.1 200"
        async with open_rest(instance.url, token(tmp_path, "ann")) as rest:
            assert (await rest.count()).total == 0
        deadline = time.monotonic() + PATIENCE_S
        while metric(instance.url, "signal_clients") > 0:
            assert time.monotonic() < deadline

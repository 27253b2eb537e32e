"""One address, one person, or no descriptor left: the others are served, and the probes answered."""

from __future__ import annotations

import json
import resource
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import trio

from abuse.alone import alone, connect, cpu_s, get, metric, to_end, token
from nx_signal.client.rest import open_rest
from nx_signal.client.stream import HandshakeRefused, open_stream
from services import free_port
from serving import PATIENCE_S, Instance

CONNECTIONS = 48
OF_ONE = CONNECTIONS // 2
PROBES = ("/healthz", "/readyz", "/metrics")


@contextmanager
def crowd(instance: Instance, count: int, address: str = "127.0.0.1") -> Iterator[list[socket.socket]]:
    """So many connections that send nothing."""
    sockets = [connect(instance, address=address) for _ in range(count)]
    try:
        yield sockets
    finally:
        for each in sockets:
            each.close()


def answer(instance: Instance, path: str, address: str = "127.0.0.1") -> tuple[int, str]:
    """The status and the code of the problem, on a connection of its own."""
    with connect(instance, get(path).replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"), address) as tcp:
        head, _, body = to_end(tcp).partition(b"\r\n\r\n")
    problem = b"application/problem+json" in head
    return int(head.split()[1]), json.loads(body)["code"] if problem else ""


async def test_one_address_keeps_nobody_out_and_the_probes_answer_at_the_limit(tmp_path: Path) -> None:
    with alone(tmp_path, MAX_CONNECTIONS=str(CONNECTIONS)) as instance:
        with crowd(instance, 3 * CONNECTIONS):
            assert answer(instance, "/doc") == (429, "too_many_requests")
            for path in PROBES:
                assert answer(instance, path)[0] == 200
            assert answer(instance, "/", "127.0.0.2")[0] == 200
            assert metric(instance.url, 'signal_refused_total{reason="address"}') > CONNECTIONS
            with crowd(instance, OF_ONE, "127.0.0.3"), crowd(instance, OF_ONE, "127.0.0.4"):
                # Three quarters are without a token: no further one, until these have had their time.
                assert answer(instance, "/", "127.0.0.5") == (503, "unavailable")
                for path in PROBES:
                    assert answer(instance, path, "127.0.0.5")[0] == 200
        async with open_stream(instance.stream_url, token(tmp_path, "ann")) as stream:
            assert stream.user_id == "ann"


async def test_who_has_a_token_keeps_its_place(tmp_path: Path) -> None:
    with alone(tmp_path, MAX_CONNECTIONS="16", MAX_UNAUTHENTICATED="4") as instance:
        async with (
            open_rest(instance.url, token(tmp_path, "ann")) as rest,
            open_stream(instance.stream_url, token(tmp_path, "ann")) as stream,
        ):
            assert (await rest.count()).total == 0
            with crowd(instance, 2, "127.0.0.2"), crowd(instance, 2, "127.0.0.3"):
                assert answer(instance, "/", "127.0.0.4") == (503, "unavailable")
                assert (await rest.count()).total == 0
                await stream.heartbeat()


def test_the_probes_have_a_port_of_their_own(tmp_path: Path) -> None:
    port = free_port()
    with (
        alone_with_operations(tmp_path, port) as instance,
        crowd(instance, 3 * CONNECTIONS),
        httpx.Client(base_url=f"http://127.0.0.1:{port}") as operations,
    ):
        for path in PROBES:
            assert operations.get(path).status_code == 200
            assert answer(instance, path, "127.0.0.2")[0] == 404
        for path in ("/", "/doc", "/v1/api/signal/notifications", "/stream"):
            assert operations.get(path).status_code == 404
        assert operations.post("/healthz").status_code == 404


@contextmanager
def alone_with_operations(data_dir: Path, port: int) -> Iterator[Instance]:
    settings = {"MAX_CONNECTIONS": str(CONNECTIONS), "OPERATIONS_PORT": str(port)}
    with alone(data_dir, ready=f"http://127.0.0.1:{port}/readyz", **settings) as instance:
        yield instance


async def test_a_further_session_of_a_user_is_refused_and_the_others_stay(tmp_path: Path) -> None:
    with alone(tmp_path, MAX_SESSIONS_PER_USER="2") as instance:
        ann = token(tmp_path, "ann")
        async with open_stream(instance.stream_url, ann) as first:
            async with open_stream(instance.stream_url, ann):
                with pytest.raises(HandshakeRefused) as refused:
                    async with open_stream(instance.stream_url, ann):
                        pass
                assert (refused.value.code, str(refused.value)) == (
                    4009,
                    "The server refuses the handshake with 4009: Too many sessions.",
                )
                async with open_stream(instance.stream_url, token(tmp_path, "binh")):
                    await first.heartbeat()
            with trio.fail_after(PATIENCE_S):
                while metric(instance.url, "signal_clients") > 1:
                    await trio.sleep(0.05)
            async with open_stream(instance.stream_url, ann):
                pass


# --- descriptors ---


@pytest.mark.full
async def test_the_limit_follows_the_descriptors_that_are_allowed(tmp_path: Path) -> None:
    few = ["sh", "-c", 'ulimit -n 256; exec "$@"', "sh"]
    with alone(tmp_path, before=few, MAX_CONNECTIONS_PER_ADDRESS="1000") as instance:
        async with open_stream(instance.stream_url, token(tmp_path, "ann")) as stream:
            with crowd(instance, 400):
                began, used = time.monotonic(), cpu_s(instance)
                for path in PROBES:
                    assert answer(instance, path)[0] == 200
                assert answer(instance, "/doc") == (503, "unavailable")
                await stream.heartbeat()
                while time.monotonic() - began < 1:
                    await trio.sleep(0.1)
                assert cpu_s(instance) - used < 0.7 * (time.monotonic() - began)
                assert metric(instance.url, 'signal_refused_total{reason="open_files"}') == 0
        async with open_stream(instance.stream_url, token(tmp_path, "ann")):
            pass


def test_without_a_descriptor_left_who_waits_is_closed_and_nothing_spins(tmp_path: Path) -> None:
    with alone(tmp_path) as instance:
        assert instance.process
        pid = instance.process.pid
        open_files = len(list(Path("/proc", str(pid), "fd").iterdir()))
        _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        soft, _ = resource.prlimit(pid, resource.RLIMIT_NOFILE, (open_files + 5, hard))
        used = cpu_s(instance)
        with crowd(instance, 40) as waiting:
            closed = sum(_is_closed(each) for each in waiting)
            assert closed >= 30
            assert cpu_s(instance) - used < 1
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))
        assert answer(instance, "/readyz")[0] == 200
        assert metric(instance.url, 'signal_refused_total{reason="open_files"}') >= 30


def _is_closed(tcp: socket.socket) -> bool:
    tcp.settimeout(0.5)
    try:
        return tcp.recv(1) == b""
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False


# --- behind a proxy ---

UPGRADE = (
    "GET /stream HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nX-Forwarded-For: {}\r\n\r\n"
)


def test_behind_a_proxy_the_address_of_the_client_counts(tmp_path: Path) -> None:
    settings = {"TRUSTED_PROXIES": "127.0.0.1", "MAX_CONNECTIONS_PER_ADDRESS": "2"}
    with alone(tmp_path, **settings) as instance, crowd(instance, 20) as connections:

        def upgrade(number: int, client: str) -> bytes:
            connections[number].sendall(UPGRADE.format(client).encode())
            return connections[number].recv(12)

        assert upgrade(0, "192.0.2.1") == upgrade(1, "192.0.2.1") == b"HTTP/1.1 101"
        assert upgrade(2, "192.0.2.1") == upgrade(3, "192.0.2.9, 192.0.2.1") == b"HTTP/1.1 429"
        assert upgrade(4, "192.0.2.2") == b"HTTP/1.1 101"
        connections[5].sendall(b"GET / HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 192.0.2.3\r\n\r\n" * 5)
        deadline = time.monotonic() + PATIENCE_S
        received = b""
        while received.count(b"HTTP/1.1 200") < 5:
            assert time.monotonic() < deadline
            received += connections[5].recv(65_536)

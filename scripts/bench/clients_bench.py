"""What connected clients cost one `nx-signal serve` on the embedded default.

- memory: resident memory of the server per idle authenticated client that has sent one heartbeat, at 1,000
  and 5,000; and per idle client of Server-Sent Events;
- return: the server is killed and started again; time from its open port until all clients have completed
  the handshake again (each retries every 50 ms, as after a deployment);
- stall: latency of a broadcast to 200 reading clients, while 50 more read it too and while 50 more read
  nothing at all, in alternating rounds."""

from __future__ import annotations

import argparse
import gc
import os
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TypeAlias

import httpx
import machine
import trio

from nx_signal.client.events import open_events
from nx_signal.client.stream import HandshakeRefused, Stream, StreamUnavailable, open_stream
from nx_signal.identity.issuer import open_issuer
from nx_signal.model.timestamps import now

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "tests"))
from services import free_port  # noqa: E402 - the tests' services, from above

Opened: TypeAlias = Callable[["Server", int, AsyncExitStack, int], Awaitable[object]]
SERVE = [sys.executable, "-m", "nx_signal", "serve"]
CLIENTS = "/v1/api/signal/socket/websocket/clients"
AT_ONCE = 50
"""Handshakes under way at a time, while memory is measured."""
RETRY_S = 0.05
READERS, OTHERS, ROUNDS, SENDS = 200, 50, 5, 100
SEND_EVERY_S = 0.03
OPERATOR = "operator"
LARGE = "x" * 4_000
FILLER = "x" * 60_000


class Server:
    def __init__(self, data_dir: Path, rate_factor: str = "0") -> None:
        self.port = free_port()
        self.url = f"ws://127.0.0.1:{self.port}/stream"
        self.rest = f"http://127.0.0.1:{self.port}"
        self.issuer = open_issuer(data_dir)
        self._environment = {k: v for k, v in os.environ.items() if not k.startswith("APP_ENV_")}
        self._environment |= {
            "APP_ENV_DATA_DIR": str(data_dir),
            "APP_ENV_LOG_LEVEL": "error",
            "APP_ENV_RATE_FACTOR": rate_factor,
            "APP_ENV_MAX_CONNECTIONS_PER_ADDRESS": "20000",
            "APP_ENV_MAX_UNAUTHENTICATED": "20000",
        }
        self.process: subprocess.Popen[bytes]

    def start(self) -> None:
        self.process = subprocess.Popen([*SERVE, "--port", str(self.port)], env=self._environment)
        while True:
            try:
                if httpx.get(f"{self.rest}/readyz").status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.02)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def token(self, user: str) -> str:
        permissions = ["WebSocketClient.broadcast", "WebSocketClient.findById"] if user == OPERATOR else []
        return self.issuer.sign(user, 3_600, permissions, [], now())

    def rss_kb(self) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))


async def open_many(server: Server, count: int, stack: AsyncExitStack, first: int = 0) -> list[Stream]:
    streams: list[Stream] = []
    turns = trio.Semaphore(AT_ONCE)

    async def one(number: int) -> None:
        async with turns:
            stream = await stack.enter_async_context(open_stream(server.url, tokens[number]))
            await stream.heartbeat()
            streams.append(stream)

    tokens = {n: server.token(f"user{n}") for n in range(first, first + count)}
    async with trio.open_nursery() as nursery:
        for number in tokens:
            nursery.start_soon(one, number)
    return streams


async def open_many_events(server: Server, count: int, stack: AsyncExitStack, first: int = 0) -> None:
    """Clients of Server-Sent Events, each once it has its `connected`."""
    for number in range(first, first + count):
        await (
            await stack.enter_async_context(open_events(server.rest, server.token(f"user{number}")))
        ).receive()


async def memory(server: Server, counts: list[int], opened: Opened, what: str) -> None:
    for count in counts:
        server.start()
        try:
            async with AsyncExitStack() as stack:
                await opened(server, 20, stack, 1_000_000)  # what the first handshakes load
                before_kb = server.rss_kb()
                await opened(server, count, stack, 0)
                await trio.sleep(1)
                print(f"memory: {(server.rss_kb() - before_kb) / count:5.1f} KB a {what} at {count:,}")
                server.kill()
        finally:
            server.kill()
        gc.collect()


async def come_back(server: Server, count: int) -> None:
    tokens = [server.token(f"user{n}") for n in range(count)]
    server.start()
    connected = 0
    back = trio.Event()

    async def client(token: str) -> None:
        nonlocal connected
        while True:
            try:
                async with open_stream(server.url, token):
                    connected += 1
                    if connected == count:
                        back.set()
                    await trio.sleep_forever()
            except (StreamUnavailable, HandshakeRefused):
                await trio.sleep(RETRY_S)

    async with trio.open_nursery() as nursery:
        for token in tokens:
            nursery.start_soon(client, token)
        began_s, before_s = time.monotonic(), machine.cpu_s([server.process.pid])
        await back.wait()
        took_s = time.monotonic() - began_s
        cpu_s = machine.cpu_s([server.process.pid]) - before_s
        print(f"return: {count:,} clients in {took_s:.2f} s; CPU {cpu_s / count * 1e6:.0f} µs a handshake")
        nursery.cancel_scope.cancel()
    server.kill()


async def latencies(server: Server, readers: list[Stream], others: list[Stream], way: str) -> list[float]:
    """Milliseconds from the request of a broadcast until each of `readers` has opened it."""
    took: list[float] = []
    done = trio.Event()
    headers = {"Authorization": f"Bearer {server.token(OPERATOR)}"}
    async with (
        httpx.AsyncClient(base_url=f"{server.rest}{CLIENTS}", headers=headers) as rest,
        trio.open_nursery() as nursery,
    ):

        async def read(stream: Stream, measured: bool) -> None:
            while True:
                at = (await stream.receive()).data["at"]
                if measured and at:
                    took.append((time.monotonic() - at) * 1e3)
                    if len(took) == SENDS * len(readers):
                        done.set()

        async def broadcast(at: float, more: str) -> None:
            body = {"topic": "bench", "data": {"at": at, "more": more}}
            (await rest.post("/broadcast", json=body)).raise_for_status()

        for stream in readers:
            nursery.start_soon(read, stream, True)
        if way == "read":
            for stream in others:
                nursery.start_soon(read, stream, False)
        else:
            for stream in others:  # a client stalls only once the kernel's buffers are full
                while not (await rest.get(f"/{stream.client_id}")).json()["queued"]:
                    await broadcast(0, FILLER)
        for _ in range(SENDS):
            await broadcast(time.monotonic(), LARGE)
            await trio.sleep(SEND_EVERY_S)
        await done.wait()
        nursery.cancel_scope.cancel()
    return sorted(took)


async def stall(server: Server) -> None:
    rounds: dict[str, list[list[float]]] = {"read": [], "stall": []}
    for _ in range(ROUNDS):
        for way, took in rounds.items():
            server.start()
            try:
                async with AsyncExitStack() as stack:
                    readers = await open_many(server, READERS, stack)
                    others = await open_many(server, OTHERS, stack, first=10_000)
                    took.append(await latencies(server, readers, others, way))
                    server.kill()
            finally:
                server.kill()
    for way, each in rounds.items():
        p50s, p99s = zip(
            *((statistics.median(took), took[int(len(took) * 0.99)]) for took in each), strict=True
        )
        print(
            f"stall: {READERS} readers while {OTHERS} more {way}: "
            f"p50 {statistics.median(p50s):.1f} ms ({min(p50s):.1f}-{max(p50s):.1f}), "
            f"p99 {statistics.median(p99s):.1f} ms ({min(p99s):.1f}-{max(p99s):.1f})"
        )


async def measure(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as directory:
        server = Server(Path(directory))
        others = machine.Others([os.getpid()])
        await memory(server, options.idle, open_many, "client")
        await memory(server, options.idle, open_many_events, "client of events")
        await come_back(server, options.returning)
        await stall(server)
        print(f"other programs took {others.cores():.2f} of {machine.CORES} cores")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--idle", type=int, nargs="*", default=[1_000, 5_000])
    parser.add_argument("--returning", type=int, default=2_000)
    options = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    trio.run(measure, options)

"""What connected clients cost one `nx-signal serve` on the embedded default.

- memory: resident memory of the server per idle authenticated client, at 1,000 and 5,000;
- return: the server is killed and started again; time from its open port until all clients have shaken
  hands again (each retries every 50 ms, as a deploy makes them do);
- stall: latency of a broadcast to 200 reading clients, without and with 50 that read nothing at all."""

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
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import machine
import trio

from nx_signal.client.stream import HandshakeRefused, Stream, StreamUnavailable, open_stream
from nx_signal.identity.issuer import open_issuer
from nx_signal.service import now

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "tests"))
from services import free_port  # noqa: E402 - the tests' services, from above

SERVE = [sys.executable, "-m", "nx_signal", "serve"]
CLIENTS = "/v1/api/signal/socket/websocket/clients"
AT_ONCE = 50
"""Handshakes under way at a time, while memory is measured."""
RETRY_S = 0.05
READERS, STALLED, SENDS = 200, 50, 300
LARGE = "x" * 4_000


class Server:
    def __init__(self, data_dir: Path) -> None:
        self.port = free_port()
        self.url = f"ws://127.0.0.1:{self.port}/stream"
        self.rest = f"http://127.0.0.1:{self.port}"
        self.issuer = open_issuer(data_dir)
        self._environment = {k: v for k, v in os.environ.items() if not k.startswith("APP_ENV_")}
        self._environment |= {
            "APP_ENV_DATA_DIR": str(data_dir),
            "APP_ENV_LOG_LEVEL": "error",
            "APP_ENV_RATE_FACTOR": "0",
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
        return self.issuer.sign(user, 3_600, ["WebSocketClient.broadcast"], [], now())

    def rss_kb(self) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))


async def open_many(server: Server, count: int, stack: AsyncExitStack, first: int = 0) -> list[Stream]:
    streams: list[Stream] = []
    turns = trio.Semaphore(AT_ONCE)

    async def one(number: int) -> None:
        async with turns:
            streams.append(await stack.enter_async_context(open_stream(server.url, tokens[number])))

    tokens = {n: server.token(f"user{n}") for n in range(first, first + count)}
    async with trio.open_nursery() as nursery:
        for number in tokens:
            nursery.start_soon(one, number)
    return streams


async def memory(server: Server, counts: list[int]) -> None:
    for count in counts:
        server.start()
        try:
            async with AsyncExitStack() as stack:
                await open_many(server, 20, stack, first=1_000_000)  # what the first handshakes load
                before_kb = server.rss_kb()
                await open_many(server, count, stack)
                await trio.sleep(1)
                print(f"memory: {(server.rss_kb() - before_kb) / count:5.1f} KB a client at {count:,}")
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


async def latencies(server: Server, streams: list[Stream]) -> list[float]:
    """Milliseconds from asking for a broadcast until each reader has opened it."""
    took: list[float] = []
    headers = {"Authorization": f"Bearer {server.token('operator')}"}
    async with httpx.AsyncClient(headers=headers) as rest, trio.open_nursery() as nursery:

        async def read(stream: Stream) -> None:
            for _ in range(SENDS):
                frame = await stream.receive()
                took.append((time.monotonic() - frame.data["at"]) * 1e3)

        for stream in streams:
            nursery.start_soon(read, stream)
        for _ in range(SENDS):
            body = {"topic": "bench", "data": {"at": time.monotonic(), "more": LARGE}}
            (await rest.post(f"{server.rest}{CLIENTS}/broadcast", json=body)).raise_for_status()
            await trio.sleep(0.02)
    return sorted(took)


async def stall(server: Server) -> None:
    for stalled in (0, STALLED):
        server.start()
        try:
            async with AsyncExitStack() as stack:
                readers = await open_many(server, READERS, stack)
                await open_many(server, stalled, stack, first=10_000)  # nobody ever reads these
                took = await latencies(server, readers)
                p50, p99 = statistics.median(took), took[int(len(took) * 0.99)]
                who = f"{stalled:2} of {READERS + stalled} read nothing"
                print(f"stall: {who}: p50 {p50:.1f} ms, p99 {p99:.1f} ms")
                server.kill()
        finally:
            server.kill()


async def measure(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as directory:
        server = Server(Path(directory))
        others = machine.Others([os.getpid()])
        await memory(server, options.idle)
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

"""Pushes per second and core over real sockets: Signal's way against a task and a channel per connection.

One server process on one core holds two sets of connections, of which the clients are another process on
the other core (swarm.py). Rounds alternate between the ways; ratios are taken within a round. CPU is the
server process' own, user and system, divided by the pushes; wall is until the last client has read.

  plain       a task and a memory channel per connection; the task makes the JSON of each recipient with
              `json`, seals it with the same Sealer, and awaits trio-websocket's `send_message`
  plain, once the same, but the JSON is made once by Signal's own encoder: what is left is transport
  signal      `hub.send` (to all), `hub.announce` (to each its own) of the real hub, sessions and sockets
  bare        the floor: only `os.write` of frames that were sealed beforehand"""

from __future__ import annotations

import argparse
import cProfile
import gc
import json
import os
import pstats
import statistics
import subprocess
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import machine
import trio
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from trio_websocket import ConnectionClosed, WebSocketConnection, WebSocketRequest, serve_websocket

from nx_signal.activities.content import Renderer
from nx_signal.activities.drafts import ANNOUNCED_AT_ONCE
from nx_signal.activities.registry import Registry
from nx_signal.adapters.local_relay import LocalRelay
from nx_signal.adapters.sqlite.memory import MemoryDatabase
from nx_signal.composition import compose
from nx_signal.delivery.hub import Hub
from nx_signal.delivery.topics import frame
from nx_signal.model import Created, Json, Notification, Principal, RelayMessage
from nx_signal.model.timestamps import format_timestamp, now
from nx_signal.model.wire import CREATED, encode_change, encode_json
from nx_signal.ports import RelayEvent
from nx_signal.process import tune_gc
from nx_signal.server.gate import Caps, Gate
from nx_signal.service import ANNOUNCEMENTS_WAITING
from nx_signal.telemetry.metrics import Metrics
from nx_signal.websocket.decisions import Authenticate, SendFrame
from nx_signal.websocket.frames import text_frame
from nx_signal.websocket.protocol import Protocol
from nx_signal.websocket.server import WebSocketServer
from nx_signal.websocket.wire import END_OF_HEAD

TO_ALL = "bench/to-all"
BARE = "bench/bare"
BUFFER_BYTES = 262_144
ROUNDS_S = 50.0
"""No round begins later, however slow the machine: clients that send nothing for 90 s are closed."""
CHANNEL_ITEMS = 64
"""Per connection of the plain way; one is used at a time."""

WAYS = ("plain", "plain, once", "signal", "bare")
SET_OF_WAY = {"plain": "plain", "plain, once": "plain", "signal": "signal", "bare": "signal"}
CASES = ("to all", "own each")

DATA = {"payment": {"subject": "Cà phê sữa đá", "amount": 1_250_000, "currency": "VND", "method": "qr"}}
CONTENT = "Nguyễn Văn An đã thanh toán 1.250.000 ₫ cho Cà phê sữa đá"


# --- the plain way ---------------------------------------------------------------------------------


@dataclass(slots=True)
class PlainClient:
    ws: WebSocketConnection
    protocol: Protocol
    channel: trio.MemorySendChannel[bytes | tuple[str, Json]]


class PlainServer:
    """The obvious design: each connection has a task that waits on a channel and sends."""

    def __init__(self) -> None:
        self.clients: dict[str, PlainClient] = {}
        self._unsent = 0
        self._all_sent = trio.Event()

    async def handle(self, request: WebSocketRequest) -> None:
        ws = await request.accept()
        protocol = Protocol(trio.current_time())
        (credentials,) = protocol.receive(await ws.get_message(), trio.current_time())
        assert isinstance(credentials, Authenticate)
        (connected,) = protocol.accept(
            credentials.credential.text,
            credentials.public_key,
            format_timestamp(now()) or "",
            trio.current_time(),
        )
        assert isinstance(connected, SendFrame)
        await ws.send_message(connected.text.decode())
        to_client, items = trio.open_memory_channel[bytes | tuple[str, Json]](CHANNEL_ITEMS)
        self.clients[credentials.credential.text] = PlainClient(ws, protocol, to_client)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write, ws, protocol, items)
                while True:
                    await ws.get_message()
        except* ConnectionClosed:
            pass

    async def _write(
        self,
        ws: WebSocketConnection,
        protocol: Protocol,
        items: trio.MemoryReceiveChannel[bytes | tuple[str, Json]],
    ) -> None:
        async for item in items:
            payload = item if isinstance(item, bytes) else dumps(*item)
            await ws.send_message(protocol.seal(payload).decode())
            self._unsent -= 1
            if not self._unsent:
                self._all_sent.set()

    async def send_each(self, items: Iterable[tuple[str, bytes | tuple[str, Json]]], count: int) -> None:
        """(user, item) for each of `count`; returns once all are with the kernel."""
        self._unsent, self._all_sent = count, trio.Event()
        for user, item in items:
            self.clients[user].channel.send_nowait(item)
        await self._all_sent.wait()


def dumps(event: str, data: Json) -> bytes:
    """As the standard library makes it, in the least bytes."""
    return json.dumps({"event": event, "data": data}, ensure_ascii=False, separators=(",", ":")).encode()


# --- both servers and the clients ------------------------------------------------------------------


class Swarm:
    """The process of the clients."""

    def __init__(self, process: trio.Process) -> None:
        assert process.stdin and process.stdout
        self._orders, self._answers = process.stdin, process.stdout
        self._read = b""

    async def order(self, **order: Json) -> dict[str, Any]:
        await self._orders.send_all(json.dumps(order).encode() + b"\n")
        return await self.answer()

    async def answer(self) -> dict[str, Any]:
        while b"\n" not in self._read:
            data = await self._answers.receive_some()
            if not data:
                sys.exit("The clients' process ended; its last output is above.")
            self._read += data
        line, _, self._read = self._read.partition(b"\n")
        decoded: dict[str, Any] = json.loads(line)
        return decoded


@dataclass(frozen=True, slots=True)
class Result:
    cpu_us: float
    """per push"""
    wall_us: float
    """per push"""


class Bench:
    def __init__(self, users: Sequence[str], bursts: int, hub: Hub, plain: PlainServer, swarm: Swarm) -> None:
        self._users = users
        self._bursts = bursts
        self._hub = hub
        self._plain = plain
        self._swarm = swarm
        self._last: dict[tuple[str, str], int] = {}
        self.opened = 0
        self.frame_bytes: dict[tuple[str, str], float] = {}

    async def measure(self, case: str, way: str, profile: cProfile.Profile | None = None) -> Result:
        """Bursts of one push to each client. What comes from elsewhere (the store, the caller) is made
        before each burst and is not counted; nor are the clients' checks after it."""
        cpu_s = wall_s = size = 0.0
        gc.collect()  # earlier garbage is not this way's
        for _ in range(self._bursts):
            send = self._prepare(case, way, self._next_rev(TO_ALL if case == "to all" else CREATED, way))
            await self._swarm.order(expect=SET_OF_WAY[way], frames=len(self._users))
            if profile:
                profile.enable()
            wall_0_s, cpu_0_s = time.perf_counter(), time.process_time()
            await send()
            read = await self._swarm.answer()
            cpu_s += time.process_time() - cpu_0_s
            wall_s += time.perf_counter() - wall_0_s
            if profile:
                profile.disable()
            size += read["bytes"]
            self.opened += (await self._swarm.answer())["opened"]
        pushes = self._bursts * len(self._users)
        self.frame_bytes[case, way] = size / pushes
        return Result(cpu_s / pushes * 1e6, wall_s / pushes * 1e6)

    def _next_rev(self, event: str, way: str) -> int:
        """Of this event on this set of connections."""
        key = (BARE if way == "bare" else event, SET_OF_WAY[way])
        self._last[key] = self._last.get(key, 0) + 1
        return self._last[key]

    def _prepare(self, case: str, way: str, rev: int) -> Callable[[], Awaitable[None]]:
        if way == "bare":
            return partial(self._bare, self._sealed_beforehand(rev))
        if case == "to all":
            if way == "signal":
                return partial(self._signal_to_all, message(rev))
            return partial(self._plain_to_all, message(rev), way == "plain, once")
        changes = [created(user, rev) for user in self._users]
        if way == "signal":
            return partial(self._signal_own, changes)
        return partial(self._plain_own, changes, way == "plain, once")

    async def _signal_to_all(self, data: Json) -> None:
        await self._hub.send(RelayMessage("broadcast", None, TO_ALL, encode_json(data)))

    async def _signal_own(self, changes: Sequence[Created]) -> None:
        for start in range(0, len(changes), ANNOUNCED_AT_ONCE):  # in the portions of the pipeline
            self._hub.announce(changes[start : start + ANNOUNCED_AT_ONCE])
            await trio.lowlevel.checkpoint()

    async def _plain_to_all(self, data: Json, once: bool) -> None:
        item = frame(TO_ALL, encode_json(data)) if once else (TO_ALL, data)
        await self._plain.send_each(((user, item) for user in self._users), len(self._users))

    async def _plain_own(self, changes: Sequence[Created], once: bool) -> None:
        items = ((c.recipient_id, frame(*encode_change(c)) if once else plain_item(c)) for c in changes)
        await self._plain.send_each(items, len(changes))

    def _sealed_beforehand(self, rev: int) -> list[tuple[int, bytes]]:
        payload = frame(BARE, encode_json(message(rev)))
        connections: list[Any] = [session.transport for session in self._hub.sessions]
        return [
            (connection.wire.socket.fileno(), text_frame(connection._protocol.seal(payload)))
            for connection in connections
        ]

    async def _bare(self, frames: Sequence[tuple[int, bytes]]) -> None:
        for fd, sealed in frames:
            assert os.write(fd, sealed) == len(sealed)


def plain_item(change: Created) -> tuple[str, Json]:
    event, data = encode_change(change)
    return event, json.loads(data)


def message(rev: int) -> Json:
    """As large as a notification."""
    return json.loads(encode_change(created("user", rev))[1])


def created(user: str, rev: int) -> Created:
    notification = Notification(
        id=172_233_445_566_778_900 + rev,
        recipient_id=user,
        rev=rev,
        changed_rev=rev,
        activity_id=f"payment-{rev}",
        type="PAYMENT_SUCCESS",
        organizer_id="organizer-1",
        merchant_id="merchant-1",
        subject="order-1",
        locale="vi",
        content=CONTENT,
        content_html=f"<p>{CONTENT}</p>",
        action_url="/orders/1",
        data=DATA,
        priority="normal",
        expires_at=None,
        collapse_key=None,
        is_read=False,
        read_at=None,
        is_seen=False,
        archived_at=None,
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
    )
    return Created(user, rev, rev, rev, rev, str(rev), str(rev - 1) if rev > 1 else "", notification)


async def verify(token: str) -> Principal:
    """The handshake is not what is measured: a token is its user's id."""
    await trio.lowlevel.checkpoint()
    return Principal(token, None, now() + timedelta(hours=1))


async def static_key() -> X25519PrivateKey:
    """Of version 2, which these clients do not use."""
    await trio.lowlevel.checkpoint()
    return X25519PrivateKey.generate()


async def run(options: argparse.Namespace, cores: tuple[int, int] | None) -> None:
    users = [f"user-{number}" for number in range(options.clients)]
    to_relay, outbound = trio.open_memory_channel[tuple[RelayMessage, ...]](ANNOUNCEMENTS_WAITING)
    from_relay, inbound = trio.open_memory_channel[RelayEvent](64)
    relay = LocalRelay()
    registry = Registry.shipped()
    parts = compose(
        server_id="bench",
        database=MemoryDatabase(now),
        relay=relay,
        to_relay=to_relay,
        registry=registry,
        renderer=Renderer(registry, "UTC"),
        verify=verify,
        static_key=static_key,
        now=now,
        resume_limit=500,
        sweep_s=3600,  # the revisions announced here are in no store
        client_buffer_bytes=BUFFER_BYTES,
        rate_factor=0,  # all clients come from one address
    )
    plain = PlainServer()
    command = [sys.executable, str(Path(__file__).with_name("swarm.py"))]
    command += ["--core", str(cores[1])] if cores else []
    async with trio.open_nursery() as nursery:
        await nursery.start(parts.delivery.run, inbound)
        await nursery.start(parts.delivery.run_relay, outbound, from_relay)
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1", backlog=1024)
        await nursery.start(trio.serve_listeners, partial(_serve, parts.websocket), listeners)
        plain_server = await nursery.start(serve_websocket, plain.handle, "127.0.0.1", 0, None)
        process = await trio.lowlevel.open_process(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        swarm = Swarm(process)
        port = listeners[0].socket.getsockname()[1]
        await swarm.order(connect="signal", port=port, users=users)
        await swarm.order(connect="plain", port=plain_server.port, users=users)
        tune_gc()
        bench = Bench(users, options.bursts, parts.delivery.hub, plain, swarm)
        await rounds(bench, options)
        process.terminate()
        await process.wait()
        nursery.cancel_scope.cancel()


GATE = Gate(Caps.of(1), Metrics(), rate_factor=0)


async def _serve(websocket: WebSocketServer, stream: trio.SocketStream) -> None:
    head = b""
    while END_OF_HEAD not in head:  # as the listener does
        if not (data := await stream.receive_some()):
            return
        head += data
    await websocket.serve(stream, head, GATE.beyond("127.0.0.1"))


async def rounds(bench: Bench, options: argparse.Namespace) -> None:
    for way in WAYS:
        for case in CASES:
            await bench.measure(case, way)  # warm up
    results: dict[tuple[str, str], list[Result]] = {(case, way): [] for case in CASES for way in WAYS}
    order = deque(WAYS)
    began_s, others = time.monotonic(), machine.Others([os.getpid()])
    for _ in range(options.rounds):
        if time.monotonic() - began_s > ROUNDS_S:
            break
        for case in CASES:
            for way in order:
                results[case, way].append(await bench.measure(case, way))
        order.rotate()
    report(bench, options, results, others.cores())
    if options.profile:
        for case in CASES:
            profile = cProfile.Profile(time.process_time)
            result = await bench.measure(case, options.profile, profile)
            print(f"\n{options.profile}, {case}, {result.cpu_us:.1f} µs/push under the profiler")
            pstats.Stats(profile).sort_stats("tottime").print_stats(options.profile_lines)


def report(
    bench: Bench, options: argparse.Namespace, results: dict[tuple[str, str], list[Result]], others: float
) -> None:
    pushes = options.bursts * options.clients
    done = len(results["to all", "signal"])
    print(
        f"{options.clients} clients, {done} rounds of {pushes} pushes a way; {bench.opened} sampled frames "
        f"opened, all in order; other programs took {others:.2f} of {machine.CORES} cores\n"
    )
    print(
        f"{'':24}{'CPU µs/push':>12}{'pushes/s/core':>15}{'wall µs/push':>14}{'bytes':>7}"
        "   signal takes less by (CPU | wall)"
    )
    for case in CASES:
        for way in WAYS:
            mine, signal = results[case, way], results[case, "signal"]
            cpu = statistics.median(r.cpu_us for r in mine)
            wall = statistics.median(r.wall_us for r in mine)
            by = ""
            if way.startswith("plain"):
                cpus = [a.cpu_us / b.cpu_us for a, b in zip(mine, signal, strict=True)]
                walls = [a.wall_us / b.wall_us for a, b in zip(mine, signal, strict=True)]
                by = f"{spread(cpus)} | {spread(walls)}"
            print(
                f"{case + ': ' + way:24}{cpu:12.1f}{1e6 / cpu:15,.0f}{wall:14.1f}"
                f"{bench.frame_bytes[case, way]:7.0f}   {by}"
            )


def spread(ratios: Sequence[float]) -> str:
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="push", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--bursts", type=int, default=10, help="of one push to each client, in one round and way"
    )
    parser.add_argument("--profile", choices=WAYS, help="afterwards, run this way under cProfile")
    parser.add_argument("--profile-lines", type=int, default=25)
    options = parser.parse_args()
    available = sorted(os.sched_getaffinity(0))
    cores = (available[0], available[1]) if len(available) > 1 else None
    if cores:
        os.sched_setaffinity(0, {cores[0]})
    trio.run(run, options, cores)

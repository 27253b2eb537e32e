"""Order, memory and secrecy under more messages than a client can read, and at unfavourable moments.

Sends come as sister services make them, through Redis (CONTRACT §2)."""

from __future__ import annotations

import json
import socket
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import redis
import trio

from faults.stage import Stage
from nx_signal.client.frames import Frame, decode, encode
from nx_signal.client.stream import Stream, open_stream
from nx_signal.client.websocket import WebSocket, open_websocket
from nx_signal.websocket.sealing import KeyPair, Sealer, agree, read_public_key, unb64
from serving import LOG, PATIENCE_S, Instance

SEND = "flood/sent"
LOST = "observation/signal/lost"
BURST = 5_000
RECEIVE_BUFFER_BYTES = 65_536
BURST_PADDING = "x" * 300

FLOOD = 4_000
PORTION = 100
PADDING = "x" * 20_000
READ_A_PORTION = 4
"""Frames that the client takes which hardly reads: enough not to be closed, however busy the machine is."""
CHANGES = 450
MAX_GROWTH_BYTES = 48 * 1024 * 1024
"""A client may hold 32 MiB of sends; what is sent to it is 107 MB sealed."""

HANDSHAKES = 100


class Sister:
    """A sister service: publishes, in the order given, on one connection."""

    def __init__(self, url: str) -> None:
        self._redis = redis.Redis.from_url(url)

    def publish(self, channel: str, *data: Any) -> None:
        kind, _, target = channel.removeprefix("ws:").partition(":")
        pipeline = self._redis.pipeline(transaction=False)
        for each in data:
            message = {"serverId": "emitter", "type": kind, "event": SEND, "data": each}
            pipeline.publish(channel, json.dumps(message | ({"target": target} if target else {})))
        pipeline.execute()

    async def send(self, channel: str, *data: Any) -> None:
        await trio.to_thread.run_sync(self.publish, channel, *data)

    async def wait_subscribed(self, channel: str) -> None:
        """Until the channel has a subscriber: a publisher is not notified of that."""
        with trio.fail_after(PATIENCE_S):
            while not self._redis.pubsub_numsub(channel)[0][1]:
                await trio.sleep(0.01)

    def close(self) -> None:
        self._redis.close()


@asynccontextmanager
async def sister_of(stage: Stage) -> AsyncIterator[Sister]:
    sister = Sister(stage.redis.url)
    try:
        yield sister
    finally:
        sister.close()


@dataclass
class Received:
    """What a client read: numbers of sends, revisions of its log, and anything else."""

    sends: list[int] = field(default_factory=list)
    lost: int = 0
    revs: list[int] = field(default_factory=list)
    rest: list[Frame] = field(default_factory=list)

    async def read(self, stream: Stream, frames: int = sys.maxsize) -> None:
        for _ in range(frames):
            frame = await stream.receive()
            if frame.event == SEND:
                self.sends.append(frame.data["n"])
            elif frame.event == LOST:
                self.lost += frame.data["count"]
            elif frame.event.rpartition("/")[2] in LOG:
                self.revs.append(frame.data["rev"])
            else:
                self.rest.append(frame)

    async def until_send(self, n: int) -> None:
        with trio.fail_after(PATIENCE_S):
            while not self.sends or self.sends[-1] != n:
                await trio.sleep(0.005)

    async def until_rev(self, rev: int) -> None:
        with trio.fail_after(PATIENCE_S):
            while not self.revs or self.revs[-1] < rev:
                await trio.sleep(0.02)


@pytest.mark.parametrize("small_buffer", [False, True], ids=["usual", "small-buffer"])
async def test_a_burst_of_sends_to_a_client_that_reads_arrives_whole_and_in_order(
    stage: Stage, small_buffer: bool
) -> None:
    async with (
        sister_of(stage) as sister,
        open_stream(stage.instances[0].stream_url, stage.token("burst")) as stream,
        trio.open_nursery() as nursery,
    ):
        if small_buffer:
            reduce_receive_buffer(stream)
        channel = f"ws:client:{stream.client_id}"
        await sister.wait_subscribed(channel)
        received = Received()
        nursery.start_soon(received.read, stream)
        await sister.send(channel, *({"n": n, "padding": BURST_PADDING} for n in range(BURST)))
        await received.until_send(BURST - 1)
        nursery.cancel_scope.cancel()
    assert received.lost == 0 and received.sends == list(range(BURST))


async def test_a_client_that_hardly_reads_uses_bounded_memory_and_loses_no_change(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    instance, user, first = stage.instances[0], "slow", 5 * PORTION
    async with sister_of(stage) as sister, trio.open_nursery() as nursery:
        reading, stuck = Received(), Received()
        async with open_stream(instance.stream_url, stage.token(user)) as reading_stream:
            nursery.start_soon(reading.read, reading_stream)
            await sister.wait_subscribed(f"ws:user:{user}")
            await flood(sister, reading, range(first))  # caches and pools have their size
            async with open_stream(instance.stream_url, stage.token(user)) as stuck_stream:
                before, most = resident_bytes(instance), 0
                nursery.start_soon(stage.deployment.produce, payments_for(user, CHANGES))
                for start in range(first, first + FLOOD, PORTION):
                    await flood(sister, reading, range(start, start + PORTION))
                    await stuck.read(stuck_stream, READ_A_PORTION)
                    most = max(most, resident_bytes(instance))
                await reading.until_rev(CHANGES)
                most = max(most, resident_bytes(instance))
                nursery.start_soon(stuck.read, stuck_stream)
                await stuck.until_rev(CHANGES)
                await stuck.until_send(first + FLOOD - 1)
                nursery.cancel_scope.cancel()
    with capsys.disabled():
        print(
            f"\n{FLOOD} sends to a client that hardly reads: {(most - before) / 1e6:.1f} MB more in the "
            f"server; then it read {len(stuck.sends)} of them and all {CHANGES} changes",
            end=" ",
        )
    assert reading.revs == stuck.revs == list(range(1, CHANGES + 1))
    assert stuck.rest == reading.rest == [] and reading.lost == 0
    assert stuck.lost > 0, "the client was never behind: the test shows nothing"
    assert len(stuck.sends) + stuck.lost == FLOOD
    assert stuck.sends == sorted(set(stuck.sends))
    assert most - before < MAX_GROWTH_BYTES


def reduce_receive_buffer(stream: Stream) -> None:
    tcp = stream._socket._tcp
    assert isinstance(tcp, trio.SocketStream)
    tcp.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)


async def flood(sister: Sister, reading: Received, numbers: range) -> None:
    """One portion after the other, each read by the reading client before the next is sent."""
    for start in range(numbers.start, numbers.stop, PORTION):
        portion = ({"n": n, "padding": PADDING} for n in range(start, start + PORTION))
        await sister.send("ws:user:slow", *portion)
        await reading.until_send(start + PORTION - 1)


def payments_for(user: str, count: int) -> list[bytes]:
    activity = {
        "eventType": "PAYMENT_SUCCESS",
        "recipientScope": "users",
        "recipientIds": [user],
        "actorId": "actor",
        "actor": {"id": "actor", "name": "Mai", "type": "USER"},
        "organizerId": "o1",
        "data": {"payment": {"subject": "Order", "amount": 1000, "currency": "VND"}},
        "occurredAt": "2026-01-01T10:00:00Z",
    }
    return [json.dumps(activity | {"eventId": str(uuid.uuid4())}).encode() for _ in range(count)]


def resident_bytes(instance: Instance) -> int:
    assert instance.process
    status = Path("/proc", str(instance.process.pid), "status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024


# --- the key exchange ---


class Handshake:
    """A client that keeps every frame as it came."""

    def __init__(self, socket: WebSocket) -> None:
        self._socket = socket
        self._pair = KeyPair.generate()

    async def authenticate(self, token: str) -> None:
        data = {"type": "Bearer", "token": token, "publicKey": self._pair.public_b64}
        await self._socket.send(encode("authenticate", data).decode())

    async def until_sent(self, last: object) -> None:
        """Reads until a send with this data. Raises unless `connected` comes first and all else is sealed
        for us."""
        first = decode(await self._socket.receive())
        assert first.event == "connected", first
        key = agree(self._pair, read_public_key(first.data["serverPublicKey"]), unb64(first.data["salt"]))
        sealer = Sealer(key)
        while True:
            frame = decode(await self._socket.receive())
            assert frame.event == "encrypted", frame
            if decode(sealer.open(frame.data)) == Frame(SEND, last):
                return


async def test_a_broadcast_during_the_key_exchange_does_not_go_out_in_plaintext(stage: Stage) -> None:
    url = stage.instances[0].stream_url
    async with (
        sister_of(stage) as sister,
        open_websocket(url) as socket,
        open_stream(url, stage.token("witness")) as witness,
    ):
        client = Handshake(socket)
        await sister.wait_subscribed(f"ws:user:{witness.user_id}")
        await trio.to_thread.run_sync(stage.postgres.pause)
        try:
            # The server has verified the token, and waits for PostgreSQL before it sends `connected`.
            await client.authenticate(stage.token("midway"))
            await sister.wait_subscribed("ws:user:midway")
            await sister.send("ws:broadcast", "too early")
            with trio.fail_after(PATIENCE_S):
                while (await witness.receive()).data != "too early":
                    pass
        finally:
            await trio.to_thread.run_sync(stage.postgres.resume)
        with trio.fail_after(PATIENCE_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.until_sent, "in time")
                while nursery.child_tasks:
                    await sister.send("ws:broadcast", "in time")
                    await trio.sleep(0.05)


async def test_handshakes_in_a_storm_of_broadcasts_get_no_plaintext(stage: Stage) -> None:
    async with sister_of(stage) as sister:

        async def connect(n: int) -> None:
            async with open_websocket(stage.instances[n % 2].stream_url) as socket:
                client = Handshake(socket)
                await client.authenticate(stage.token(f"storm-{n}"))
                await client.until_sent("storm")

        async def storm() -> None:
            while True:
                await sister.send("ws:broadcast", *["storm"] * 10)

        with trio.fail_after(PATIENCE_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(storm)
                async with trio.open_nursery() as clients:
                    for n in range(HANDSHAKES):
                        clients.start_soon(connect, n)
                nursery.cancel_scope.cancel()

"""Floods `/stream` from connections that never authenticate, as fast as the server reads. A process of its
own: what measures meanwhile must not wait for it.

    python flooder.py PORT CONNECTIONS KIND SECONDS [--again]

With `--again` a connection that was closed is made anew. Prints `flooding` once all are connected, and at
the end a line of JSON: how many connections were made, the bytes that they sent, and the close codes of those
that ended."""

from __future__ import annotations

import argparse
import json
import socket
from collections import Counter

import trio

UPGRADE = (
    b"GET /stream HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
MASK = bytes(4)
PING, PONG = b"\x89\x80" + MASK, b"\x8a\x80" + MASK
TEXT, FIRST, NEXT = b"\x81\x80" + MASK, b"\x01\x80" + MASK, b"\x00\x80" + MASK
HEARTBEAT = b"\x81\x95" + MASK + b'{"event":"heartbeat"}'
CLOSE = b"\x88\x82" + MASK + b"\x03\xe8"
LARGE = b"\x81\xff" + (131_072).to_bytes(8) + MASK + b" " * 131_072
PORTION_BYTES = 16_384

KINDS = {
    "pings": (b"", PING),
    "pongs": (b"", PONG),
    "texts": (b"", TEXT),
    "heartbeats": (b"", HEARTBEAT),
    "fragments": (FIRST, NEXT),
    "large": (b"", LARGE),
    "pings after a close": (CLOSE, PING),
    "single bytes": (LARGE[:14], b" "),
    "nothing": (b"", b""),
}
"""What is sent first, and what then again and again."""


class Flood:
    def __init__(self, port: int, connections: int, kind: str, again: bool) -> None:
        self.port, self.connections, self.again = port, connections, again
        self.first, unit = KINDS[kind]
        self.single = len(unit) == 1
        self.portion = unit if self.single else unit * max(1, PORTION_BYTES // max(1, len(unit)))
        self.made = 0
        self.sent = 0
        self.codes: Counter[str] = Counter()

    async def connection(self) -> None:
        while True:
            await self.one()
            if not self.again:
                return

    async def one(self) -> None:
        try:
            client = await trio.open_tcp_stream("127.0.0.1", self.port)
        except OSError:
            self.codes["refused"] += 1
            await trio.sleep(0.01)
            return
        self.made += 1
        if self.made == self.connections:
            print("flooding", flush=True)
        async with client, trio.open_nursery() as nursery:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
            try:
                await client.send_all(UPGRADE)
                await client.receive_some()
                nursery.start_soon(self.read, client, nursery.cancel_scope)
                await client.send_all(self.first)
                while self.portion:
                    await client.send_all(self.portion)
                    self.sent += len(self.portion)
                await trio.sleep_forever()
            except trio.BrokenResourceError:
                await trio.sleep(0.1)  # the reader may still read the close

    async def read(self, client: trio.SocketStream, over: trio.CancelScope) -> None:
        """The close frame is the last one that is sent; a pong has no payload."""
        last = b""
        try:
            while part := await client.receive_some():
                last = (last + part)[-200:]
        except trio.BrokenResourceError:
            pass
        at = last.rfind(b"\x88")
        self.codes[str(int.from_bytes(last[at + 2 : at + 4], "big")) if at >= 0 else "cut off"] += 1
        over.cancel()


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("connections", type=int)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("seconds", type=float)
    parser.add_argument("--again", action="store_true")
    options = parser.parse_args()
    flood = Flood(options.port, options.connections, options.kind, options.again)
    with trio.move_on_after(options.seconds):
        async with trio.open_nursery() as nursery:
            for _ in range(options.connections):
                nursery.start_soon(flood.connection)
    print(json.dumps({"connections": flood.made, "closes": flood.codes, "bytes": flood.sent}))


if __name__ == "__main__":
    trio.run(main)

"""The clients of the push benchmark: many connections in one process that does as little as it can.

A program of its own, so that its CPU is not the server's. Reads orders from stdin and answers on stdout,
one JSON a line:

    {"connect": way, "port": p, "users": [..]}    handshake of one connection per user
    {"expect": way, "frames": n}                  read until n more frames have come, then check

Every frame is counted; on a sample of the connections every frame is also decrypted, and must be the next
in order under an IV not seen before."""

from __future__ import annotations

import argparse
import base64
import json
import os
import select
import socket
import struct
import sys
import time
from dataclasses import dataclass, field

from nx_signal.websocket.sealing import KeyPair, Sealer, agree, read_public_key, unb64

SAMPLED_EVERY = 20
HANDSHAKES_AT_ONCE = 50
READ_BYTES = 16_384
"""Python makes a buffer of this size for every read: a large one costs more than the read."""
PATIENCE_S = 30.0
"""Without a frame for this long the run has failed."""

PAIR = KeyPair.generate()
"""One for all: the server's pair is fresh for each connection, so the keys differ all the same."""


@dataclass(slots=True)
class Connection:
    socket: socket.socket
    sealer: Sealer
    sampled: bool
    rest: bytes = b""
    """the beginning of a frame whose end has not come"""
    frames: int = 0
    kept: list[bytes] = field(default_factory=list)
    last: dict[str, int] = field(default_factory=dict)
    """event → the highest `rev` so far; each event counts its own from 1 without a gap"""
    ivs: set[str] = field(default_factory=set)


def masked(text: bytes) -> bytes:
    """A client's text frame, masked with zeros (RFC 6455 §5.3)."""
    size = len(text)
    head = (
        struct.pack(">BBH", 0x81, 0x80 | 126, size) if size > 125 else struct.pack(">BB", 0x81, 0x80 | size)
    )
    return head + b"\0\0\0\0" + text


def read_until(sock: socket.socket, mark: bytes) -> bytes:
    got = b""
    while mark not in got:
        data = sock.recv(65_536)
        if not data:
            raise ConnectionError(f"The server closed after {got!r}.")
        got += data
    return got


def connect(port: int, users: list[str]) -> list[Connection]:
    """Blocking handshakes, a few side by side."""
    key = base64.b64encode(bytes(16)).decode()
    upgrade = (
        f"GET /stream HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    ).encode()
    connections: list[Connection] = []
    for start in range(0, len(users), HANDSHAKES_AT_ONCE):
        some = users[start : start + HANDSHAKES_AT_ONCE]
        sockets = [socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) for _ in some]
        for sock in sockets:
            sock.sendall(upgrade)
        for sock, user in zip(sockets, some, strict=True):
            read_until(sock, b"\r\n\r\n")
            data = {"type": "Bearer", "token": user, "publicKey": PAIR.public_b64}
            sock.sendall(masked(json.dumps({"event": "authenticate", "data": data}).encode()))
        for sock in sockets:
            frame = read_until(sock, b"}}")
            connected = json.loads(frame[4:])["data"]
            shared = agree(PAIR, read_public_key(connected["serverPublicKey"]), unb64(connected["salt"]))
            sock.setblocking(False)
            connections.append(Connection(sock, Sealer(shared), len(connections) % SAMPLED_EVERY == 0))
    return connections


class Swarm:
    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._by_fd: dict[int, Connection] = {}
        self._ways: dict[str, list[Connection]] = {}

    def connect(self, way: str, port: int, users: list[str]) -> None:
        self._ways[way] = connect(port, users)
        for connection in self._ways[way]:
            self._by_fd[connection.socket.fileno()] = connection
            self._epoll.register(connection.socket.fileno(), select.EPOLLIN)

    def read(self, frames: int) -> int:
        """Until so many frames have come, of all connections together; the bytes they took."""
        missing, size = frames, 0
        while missing > 0:
            events = self._epoll.poll(PATIENCE_S, 1024)
            if not events:
                raise TimeoutError(f"{missing} frames of {frames} never came.")
            for fd, _ in events:
                data = self._by_fd[fd].socket.recv(READ_BYTES)
                if not data:
                    raise ConnectionError("The server closed a connection.")
                size += len(data)
                missing -= self._count(self._by_fd[fd], data)
        if missing:
            raise ValueError(f"{-missing} frames too many.")
        return size

    def _count(self, connection: Connection, data: bytes) -> int:
        """How many frames end in `data`. Sealed frames have 126 to 65,535 bytes: a header of 4."""
        if connection.rest:
            data = connection.rest + data
        count, at, end = 0, 0, len(data)
        while end - at >= 4:
            if data[at] != 0x81 or data[at + 1] != 126:
                raise ValueError(f"A frame begins with {data[at : at + 2].hex()}.")
            size = (data[at + 2] << 8 | data[at + 3]) + 4
            if at + size > end:
                break
            if connection.sampled:
                connection.kept.append(data[at + 4 : at + size])
            at += size
            count += 1
        connection.rest = data[at:] if at < end else b""
        connection.frames += count
        return count

    def check(self, way: str) -> int:
        """Every connection has as many as any other; the sample opens, in order. How many were opened."""
        counts = {connection.frames for connection in self._ways[way]}
        if len(counts) != 1:
            raise ValueError(f"Some clients of {way} got {min(counts)} frames, some {max(counts)}.")
        opened = 0
        for connection in self._ways[way]:
            for text in connection.kept:
                sealed = json.loads(text)["data"]
                frame = json.loads(connection.sealer.open(sealed))
                event, rev = frame["event"], frame["data"]["rev"]
                last = connection.last.get(event, 0)
                if rev != last + 1:
                    raise ValueError(f"Frame {rev} of {event} on {way} came after {last}.")
                connection.last[event] = rev
                if sealed["iv"] in connection.ivs:
                    raise ValueError(f"An IV of {way} came twice.")
                connection.ivs.add(sealed["iv"])
                opened += 1
            connection.kept.clear()
        return opened


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--core", type=int)
    core = parser.parse_args().core
    if core is not None:
        os.sched_setaffinity(0, {core})
    swarm = Swarm()
    for line in sys.stdin:
        order = json.loads(line)
        if "connect" in order:
            swarm.connect(order["connect"], order["port"], order["users"])
            answer({"connected": len(order["users"])})
        else:
            answer({"watching": True})
            began_s = time.process_time()
            size = swarm.read(order["frames"])
            answer({"bytes": size, "cpu_s": time.process_time() - began_s})
            answer({"opened": swarm.check(order["expect"])})


def answer(what: dict[str, object]) -> None:
    print(json.dumps(what), flush=True)


if __name__ == "__main__":
    main()

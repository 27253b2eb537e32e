"""A client beside a flood: authenticated, and measuring how long its pings take."""

from __future__ import annotations

import json
import socket
import time

from nx_signal.websocket.sealing import KeyPair

PATIENCE_S = 30.0
EVERY_S = 0.025
"""Below the rate of frames that a client has."""
UPGRADE = (
    b"GET /stream HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
PING = b"\x89\x80\0\0\0\0"
PONG = b"\x8a\0"
HEARTBEAT = b'\x81\x95\0\0\0\0{"event":"heartbeat"}'


class Bystander:
    """Blocking, on a socket of its own: nothing else in its process delays it."""

    def __init__(self, port: int, token: str) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        self._socket.sendall(UPGRADE)
        assert b" 101 " in self._socket.recv(4_096)
        data = {"token": token, "publicKey": KeyPair.generate().public_b64}
        message = json.dumps({"event": "authenticate", "data": data}).encode()
        self._socket.sendall(b"\x81\xfe" + len(message).to_bytes(2, "big") + bytes(4) + message)
        assert b'"connected"' in self._socket.recv(4_096)

    def measure(self, seconds: float) -> list[float]:
        """The time of each ping, in seconds."""
        self._socket.sendall(HEARTBEAT)  # pings are no activity
        times_s: list[float] = []
        end_s = time.monotonic() + seconds
        while (began_s := time.monotonic()) < end_s:
            self._socket.sendall(PING)
            answer = b""
            while PONG not in answer:
                part = self._socket.recv(4_096)
                assert part, "closed"
                answer += part
            took_s = time.monotonic() - began_s
            times_s.append(took_s)
            time.sleep(max(0.0, EVERY_S - took_s))  # the pace of the pings that are measured
        return times_s

    def close(self) -> None:
        self._socket.close()

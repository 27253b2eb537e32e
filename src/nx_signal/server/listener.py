"""One TCP port for REST and the stream: accept, read the request head, pass the connection to its handler.

An error inside a connection ends that connection alone: one catch-all per connection."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Container, Iterable
from typing import TypeAlias

import trio

from nx_signal.errors import SettingsError
from nx_signal.server.accept import accept_all
from nx_signal.server.gate import Gate, Refusal, Visit
from nx_signal.server.head import MAX_HEAD_READS, arrived, well_formed
from nx_signal.server.reserve import Reserve
from nx_signal.server.scope import fields_of
from nx_signal.supervise import sentence
from nx_signal.telemetry.tally import Tally

HEAD_WITHIN_S = 10.0
MAX_HEAD_BYTES = 16_384
BACKLOG = 1_024
"""Connections that the kernel queues until they are accepted: a deploy brings all clients back at once."""

STREAM_PATH = b"/stream"

ConnectionHandler: TypeAlias = Callable[[trio.SocketStream, bytes, Visit], Awaitable[None]]
"""Serves one connection, given what was already read of it; returns when it is over."""


ALL_ADDRESSES = "::"


async def open_listeners(host: str, port: int, flags: str = "--host or --port") -> list[trio.SocketListener]:
    """`::` is all addresses of both families, on one socket; of IPv4 alone where the machine has no IPv6.
    Raises SettingsError when the address cannot be listened on."""
    try:
        if host == ALL_ADDRESSES and socket.has_dualstack_ipv6():
            both = socket.create_server(
                (host, port), family=socket.AF_INET6, backlog=BACKLOG, dualstack_ipv6=True
            )
            return [trio.SocketListener(trio.socket.from_stdlib_socket(both))]
        host = "0.0.0.0" if host == ALL_ADDRESSES else host  # noqa: S104 - asked for
        return await trio.open_tcp_listeners(port, host=host, backlog=BACKLOG)
    except OSError as error:
        raise SettingsError(
            f"Cannot listen on {host}:{port} ({error.strerror or error}); choose another {flags}."
        ) from None


class Listener:
    """`websocket` serves upgrades of `/stream`, also below `prefix`; `http` everything else; `reserve` what
    `gate` refuses."""

    def __init__(
        self,
        websocket: ConnectionHandler,
        http: ConnectionHandler,
        gate: Gate,
        reserve: Reserve,
        prefix: str = "",
    ) -> None:
        self._paths = stream_paths(prefix)
        self._websocket = websocket
        self._http = http
        self._gate = gate
        self._reserve = reserve
        self._failed = Tally("connection_failed", "info")
        self._accepting = trio.CancelScope()
        self._over = trio.Event()
        self._heads: set[trio.CancelScope] = set()
        """connections of which a request's head has not arrived"""

    async def run(
        self,
        listeners: list[trio.SocketListener],
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve until cancelled; after `stop_accepting` until the last connection is over."""
        async with trio.open_nursery() as connections:
            with self._accepting:
                await accept_all(listeners, self._handle, connections, self._gate.metrics, task_status)
        self._over.set()

    def stop_accepting(self) -> None:
        """Close the listening sockets; open connections go on."""
        self._accepting.cancel()

    async def wait_empty(self) -> None:
        """After `stop_accepting`: until the last connection is over. Those without a request are closed."""
        for head in self._heads:
            head.cancel()
        await self._over.wait()

    async def _handle(self, stream: trio.SocketStream) -> None:
        entered: Visit | Refusal | None = None
        try:
            entered = self._gate.enter(stream.socket.getpeername()[0])
            if isinstance(entered, Refusal):
                await self._reserve.serve(stream, entered)
            elif head := await self._head(stream):
                await self._serve(stream, head, entered)
        except Exception as error:  # a connection's faults are its own
            self._failed.count(error=type(error).__name__, why=sentence(error))
        finally:
            if isinstance(entered, Visit):
                entered.leave()
            await trio.aclose_forcefully(stream)

    async def _serve(self, stream: trio.SocketStream, head: bytes, visit: Visit) -> None:
        if not is_stream_upgrade(head, self._paths):
            await self._http(stream, head, visit)
        elif refusal := visit.begin_stream(fields_of(head)):
            await self._reserve.serve(stream, refusal, head)
        else:
            await self._websocket(stream, head, visit)

    async def _head(self, stream: trio.SocketStream) -> bytes:
        """As much of the request as `is_stream_upgrade` needs; empty when it did not arrive in time."""
        head, seen = b"", 0
        with trio.move_on_after(HEAD_WITHIN_S) as patience:
            self._heads.add(patience)
            try:
                for _ in range(MAX_HEAD_READS):
                    if not may_be_stream(head, self._paths) or len(head) >= MAX_HEAD_BYTES:
                        break
                    if arrived(head, seen):
                        break
                    seen = len(head)
                    received = await stream.receive_some(MAX_HEAD_BYTES)
                    if not received:
                        return b""
                    head += received
            finally:
                self._heads.discard(patience)
        return b"" if patience.cancelled_caught else head


def stream_paths(prefix: str) -> frozenset[bytes]:
    return frozenset({STREAM_PATH, prefix.encode() + STREAM_PATH})


def may_be_stream(head: bytes, paths: Iterable[bytes]) -> bool:
    """Whether `is_stream_upgrade` needs more of the head."""
    return any(head[: len(start)] == start[: len(head)] for path in paths for start in (b"GET " + path,))


def is_stream_upgrade(head: bytes, paths: Container[bytes]) -> bool:
    """A whole request head that requests a WebSocket on one of the paths (RFC 6455 §4.1). One that is to be
    refused is not: HTTP refuses it."""
    lines = head.partition(b"\r\n\r\n")[0].split(b"\r\n")
    request = lines[0].split(b" ")
    if len(request) != 3 or request[0] != b"GET" or request[1].partition(b"?")[0] not in paths:
        return False
    if request[2] != b"HTTP/1.1" or not well_formed(head):
        return False
    for line in lines[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"upgrade" and b"websocket" in value.lower():
            return True
    return False

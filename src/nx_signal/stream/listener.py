"""One TCP port for REST and the stream: accept, look at the request head, hand the connection on.

Whatever happens inside a connection ends there: one catch-all per connection."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeAlias

import structlog
import trio

from nx_signal.errors import SettingsError
from nx_signal.supervise import sentence
from nx_signal.telemetry.metrics import Metrics

log = structlog.get_logger()

HEAD_WITHIN_S = 10.0
MAX_HEAD_BYTES = 16_384
BACKLOG = 1_024
"""Connections the kernel holds until they are accepted: a deploy brings all clients back at once."""

STREAM_PATH = b"/stream"

Serve: TypeAlias = Callable[[trio.SocketStream, bytes], Awaitable[None]]
"""Serves one connection, given what was read of it already; returns when it is over."""


async def open_listeners(host: str, port: int) -> list[trio.SocketListener]:
    """Raises SettingsError when the address cannot be listened on."""
    try:
        return await trio.open_tcp_listeners(port, host=host, backlog=BACKLOG)
    except OSError as error:
        raise SettingsError(
            f"Cannot listen on {host}:{port} ({error.strerror or error}); choose another --host or --port."
        ) from None


class Listener:
    """`stream` gets upgrades of `/stream`, `http` everything else."""

    def __init__(self, stream: Serve, http: Serve, metrics: Metrics, max_connections: int) -> None:
        self._stream = stream
        self._http = http
        self._metrics = metrics
        self._max_connections = max_connections
        self._accepting = trio.CancelScope()
        self._open = 0
        self._over = trio.Event()

    async def run(
        self,
        listeners: list[trio.SocketListener],
        task_status: trio.TaskStatus[list[trio.SocketListener]] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve until cancelled; after `stop_accepting` until the last connection is over."""
        async with trio.open_nursery() as connections:
            with self._accepting:
                await trio.serve_listeners(
                    self._contained, listeners, handler_nursery=connections, task_status=task_status
                )
        self._over.set()

    def stop_accepting(self) -> None:
        """Close the listening sockets; open connections go on."""
        self._accepting.cancel()

    async def wait_empty(self) -> None:
        """After `stop_accepting`: until the last connection is over."""
        await self._over.wait()

    async def _contained(self, stream: trio.SocketStream) -> None:
        self._open += 1
        self._metrics.connections.set(self._open)
        try:
            if self._open <= self._max_connections and (head := await self._head(stream)):
                await (self._stream if is_stream_upgrade(head) else self._http)(stream, head)
        except Exception as error:  # a connection's faults are its own
            log.info("connection_failed", error=type(error).__name__, why=sentence(error))
        finally:
            self._open -= 1
            self._metrics.connections.set(self._open)
            await trio.aclose_forcefully(stream)

    async def _head(self, stream: trio.SocketStream) -> bytes:
        """As much of the request as tells whom it is for; empty when that did not come in time."""
        head = b""
        with trio.move_on_after(HEAD_WITHIN_S) as patience:
            while may_be_stream(head) and b"\r\n\r\n" not in head and len(head) < MAX_HEAD_BYTES:
                received = await stream.receive_some(MAX_HEAD_BYTES)
                if not received:
                    return b""
                head += received
        return b"" if patience.cancelled_caught else head


_REQUEST_START = b"GET " + STREAM_PATH


def may_be_stream(head: bytes) -> bool:
    """Whether more of the head must be read to tell."""
    return head[: len(_REQUEST_START)] == _REQUEST_START[: len(head)]


def is_stream_upgrade(head: bytes) -> bool:
    """A whole request head that asks for a WebSocket on `/stream` (RFC 6455 §4.1)."""
    lines = head.partition(b"\r\n\r\n")[0].split(b"\r\n")
    request = lines[0].split(b" ")
    if len(request) != 3 or request[0] != b"GET" or request[1].partition(b"?")[0] != STREAM_PATH:
        return False
    for line in lines[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"upgrade" and b"websocket" in value.lower():
            return True
    return False

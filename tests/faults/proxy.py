"""A TCP proxy whose connections can be cut or stalled, in a thread of its own: it outlives the run of a test.

with Proxy("127.0.0.1", 6379) as proxy: … proxy.port …; proxy.cut()"""

from __future__ import annotations

import socket
import struct
import threading
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import trio

READY_S = 10.0
CHUNK_BYTES = 65_536


@dataclass(eq=False)
class Connection:
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    stalled: bool = False


class Proxy:
    """Passes every connection to `port` of 127.0.0.1 on to `host:port`."""

    def __init__(self, host: str, port: int) -> None:
        self.target = (host, port)
        """of new connections"""
        self._ready = threading.Event()
        self._thread = threading.Thread(target=trio.run, args=[self._run], name="proxy")
        self._connections: dict[Connection, None] = {}
        self.refuses = False
        """whether new connections are reset at once"""

    @property
    def connections(self) -> int:
        return len(self._connections)

    def cut(self, count: int | None = None) -> None:
        """Reset all connections, or the oldest `count`, without a close to either side. New ones are accepted
        at once."""
        trio.from_thread.run_sync(self._cut, count, trio_token=self._token)

    def _cut(self, count: int | None) -> None:
        for connection in list(self._connections)[:count]:
            connection.scope.cancel()

    def stall(self) -> None:
        """All connections stay open and pass on nothing any more, as behind a router that forgot them. New
        ones work."""
        trio.from_thread.run_sync(self._stall, trio_token=self._token)

    def _stall(self) -> None:
        for connection in self._connections:
            connection.stalled = True

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(READY_S), "the proxy did not start"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        trio.from_thread.run_sync(self._all.cancel, trio_token=self._token)
        self._thread.join(READY_S)

    async def _run(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        with trio.CancelScope() as self._all:
            (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
            self.port: int = listener.socket.getsockname()[1]
            self._ready.set()
            await trio.serve_listeners(self._serve, [listener])

    async def _serve(self, near: trio.SocketStream) -> None:
        if self.refuses:
            reset(near)
            return
        try:
            far = await trio.open_tcp_stream(*self.target)
        except OSError:
            reset(near)
            return
        connection = Connection()
        with connection.scope:
            self._connections[connection] = None
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._pass_on, near, far, connection)
                    nursery.start_soon(self._pass_on, far, near, connection)
            finally:
                del self._connections[connection]
                reset(near)
                reset(far)

    async def _pass_on(
        self, source: trio.SocketStream, sink: trio.SocketStream, connection: Connection
    ) -> None:
        try:
            while data := await source.receive_some(CHUNK_BYTES):
                if connection.stalled:
                    await trio.sleep_forever()
                await sink.send_all(data)
            await sink.send_eof()
        except trio.BrokenResourceError:
            connection.scope.cancel()


def reset(stream: trio.SocketStream) -> None:
    """Close with an RST; at once, whatever is cancelled."""
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.socket.close()

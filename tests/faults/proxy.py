"""A TCP proxy whose connections can be cut, in a thread of its own: it outlives the run of a test.

with Proxy("127.0.0.1", 6379) as proxy: … proxy.port …; proxy.cut()"""

from __future__ import annotations

import socket
import struct
import threading
from types import TracebackType
from typing import Self

import trio

READY_S = 10.0
CHUNK_BYTES = 65_536


class Proxy:
    """Passes on every connection to `host:port`, from a port of 127.0.0.1 that `port` tells."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._ready = threading.Event()
        self._thread = threading.Thread(target=trio.run, args=[self._run], name="proxy")
        self._connections: set[trio.CancelScope] = set()

    @property
    def connections(self) -> int:
        return len(self._connections)

    def cut(self) -> None:
        """Reset all connections, without a word to either side. New ones are taken at once."""
        trio.from_thread.run_sync(self._cut, trio_token=self._token)

    def _cut(self) -> None:
        for connection in self._connections:
            connection.cancel()

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
        try:
            far = await trio.open_tcp_stream(*self._target)
        except OSError:
            reset(near)
            return
        with trio.CancelScope() as connection:
            self._connections.add(connection)
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._pass_on, near, far, connection)
                    nursery.start_soon(self._pass_on, far, near, connection)
            finally:
                self._connections.discard(connection)
                reset(near)
                reset(far)

    async def _pass_on(
        self, source: trio.SocketStream, sink: trio.SocketStream, connection: trio.CancelScope
    ) -> None:
        try:
            while data := await source.receive_some(CHUNK_BYTES):
                await sink.send_all(data)
            await sink.send_eof()
        except trio.BrokenResourceError:
            connection.cancel()


def reset(stream: trio.SocketStream) -> None:
    """Close with an RST; at once, whatever is cancelled."""
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.socket.close()

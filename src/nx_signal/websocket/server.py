"""Serves `/stream`: one task and one connection for each that the listener passes on."""

from __future__ import annotations

from dataclasses import dataclass, field

import trio
from trio_websocket import ConnectionClosed

from nx_signal.server.gate import Visit
from nx_signal.websocket.connection import CLOSE_WITHIN_S, Connection, StreamParts


@dataclass(kw_only=True, eq=False)
class WebSocketServer(StreamParts):
    """Serves `/stream` on connections that the listener passes on."""

    _open: set[Connection] = field(default_factory=set, init=False)
    _draining: bool = field(default=False, init=False)

    async def serve(self, stream: trio.SocketStream, read_ahead: bytes, visit: Visit) -> None:
        """One accepted connection whose request head is an upgrade of `/stream`. Raises what its peer
        can provoke in the libraries below: the listener contains it."""
        async with trio.open_nursery() as nursery:
            connection = Connection(self, stream, read_ahead, nursery, visit)
            self._open.add(connection)
            if self._draining:
                connection.close_unauthenticated()
            try:
                if await connection.upgrade(nursery):
                    await connection.run()
            except ConnectionClosed:
                await connection.hold()
            finally:
                self._open.discard(connection)
                connection.detach()
                nursery.cancel_scope.cancel()
                with trio.move_on_after(CLOSE_WITHIN_S, shield=True):
                    await connection.wire.aclose()

    def close_unauthenticated(self) -> None:
        """Close 1001 the connections that have no session yet, and those that still come; the drain closes
        the others."""
        self._draining = True
        for connection in self._open:
            connection.close_unauthenticated()

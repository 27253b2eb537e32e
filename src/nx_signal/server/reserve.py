"""Connections beyond the limits: probes are answered on them, everything else is refused with a reason."""

from __future__ import annotations

from collections.abc import Iterable

import trio

from nx_signal.server.gate import Gate, Refusal
from nx_signal.server.http import Http
from nx_signal.server.problem import problem_response
from nx_signal.server.scope import is_probe, origin_form

RESERVED_CONNECTIONS = 32
"""At once; a further one takes the place of the oldest. A probe needs its own for some milliseconds, in which
fewer than that many are accepted."""
WITHIN_S = 5.0
"""For a head to arrive and its answer to be taken."""
LINGER_S = 1.0
"""For a refused client to read why."""
RECEIVE_BYTES = 4_096
MAX_READS = 16
"""For a head, and again for what follows it."""


class Reserve:
    """One request a connection, at most RESERVED_CONNECTIONS. `operations`: they come on the operations port,
    where nothing else is served."""

    def __init__(self, http: Http, gate: Gate, *, operations: bool = False) -> None:
        self._http = http
        self._gate = gate
        self._operations = operations
        self._open: dict[trio.CancelScope, None] = {}
        """the oldest first"""

    async def serve(self, stream: trio.SocketStream, refusal: Refusal | None, head: bytes = b"") -> None:
        """`refusal`: the answer to what is no probe; 404 without one. `head`: what was read already."""
        if len(self._open) >= RESERVED_CONNECTIONS:
            oldest = next(iter(self._open))
            del self._open[oldest]
            oldest.cancel()
            self._gate.metrics.refused.labels("crowded").inc()
        with trio.move_on_after(WITHIN_S) as scope:
            self._open[scope] = None
            try:
                head = await _rest_of_head(stream, head)
                if self._is_probe(head):
                    visit = self._gate.beyond(stream.socket.getpeername()[0])
                    await self._http.serve(stream, head, visit, operations=self._operations, requests=1)
                elif refusal is None:
                    await _answer(stream, 404, None, ())
                else:
                    await _answer(stream, refusal.status, refusal.detail, refusal.headers)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass
            finally:
                self._open.pop(scope, None)

    def _is_probe(self, head: bytes) -> bool:
        method, _, rest = head.partition(b"\r\n")[0].partition(b" ")
        target = origin_form(rest.partition(b" ")[0], self._http.prefix)
        return target is not None and is_probe(method, target)


async def _rest_of_head(stream: trio.SocketStream, head: bytes) -> bytes:
    for _ in range(MAX_READS):
        if b"\r\n\r\n" in head or not (received := await stream.receive_some(RECEIVE_BYTES)):
            break
        head += received
    return head


async def _answer(
    stream: trio.SocketStream, status: int, detail: str | None, headers: Iterable[tuple[bytes, bytes]]
) -> None:
    await stream.send_all(problem_response(status, detail, headers))
    with trio.move_on_after(LINGER_S):
        await stream.send_eof()
        # Closing with unread bytes would reset the connection before the client has the answer.
        for _ in range(MAX_READS):
            if not await stream.receive_some(RECEIVE_BYTES):
                break

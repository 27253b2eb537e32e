"""One request and its answer, as ASGI messages."""

from __future__ import annotations

from collections import deque
from typing import Protocol

import h11
import structlog
from hypercorn.config import Config
from hypercorn.typing import ASGIFramework, ASGIReceiveEvent, ASGISendEvent, HTTPScope
from hypercorn.utils import build_and_validate_headers, suppress_body

from nx_signal.server.problem import OUT_OF_MEMORY, report_out_of_memory

log = structlog.get_logger()

CLOSE = (b"connection", b"close")

_CONFIG = Config()
_CONFIG.include_server_header = False


def standard_headers() -> list[tuple[bytes, bytes]]:
    """`date` (RFC 9110 §6.6.1)."""
    return _CONFIG.response_headers("h11")


class Carrier(Protocol):
    """The connection, as one of its requests needs it."""

    protocol: h11.Connection
    disconnected: bool

    @property
    def last(self) -> bool:
        """No further request is served."""

    @property
    def taken(self) -> bool:
        """Another one goes on after the head of a 200."""

    def hold(self, count: int) -> None:
        """So many bytes of a body have arrived; `release` once it is whole."""

    def release(self) -> None: ...

    async def next_event(self) -> h11.Event: ...

    async def wait_gone(self) -> None: ...

    async def send(self, *events: h11.Event) -> None: ...

    async def refuse(self, status: int, detail: str | None = None) -> None: ...

    async def refuse_for(self, error: h11.RemoteProtocolError) -> None: ...


class Exchange:
    """One request and its answer, as ASGI messages."""

    def __init__(self, connection: Carrier, scope: HTTPScope) -> None:
        self._connection = connection
        self._protocol = connection.protocol
        self._scope = scope
        self._arrived: deque[h11.Event] = deque()
        self._whole = False
        self._response: h11.Response | None = None

    @property
    def head_for_taker(self) -> bytes:
        """The head of the answer that the taker of the connection sends, and goes on after; empty without a
        taker. The close of the connection ends that answer."""
        response = self._response
        if response is None or not self._is_taken:
            return b""
        framing = (b"content-length", b"transfer-encoding", b"connection")
        lines = [b"HTTP/1.1 200 OK"]
        lines += [b"%b: %b" % field for field in response.headers if field[0] not in framing]
        return b"\r\n".join([*lines, b"%b: %b" % CLOSE, b"", b""])

    @property
    def _is_taken(self) -> bool:
        return self._connection.taken and self._response is not None and self._response.status_code == 200

    async def run(self, app: ASGIFramework) -> None:
        """Raises h11.RemoteProtocolError for a malformed body that came with the head."""
        # What came with the head is parsed now: an answer to a whole request keeps the connection.
        while isinstance(event := self._protocol.next_event(), h11.Event):
            self._arrived.append(event)
            if isinstance(event, h11.EndOfMessage):
                break
        try:
            await app(self._scope, self.receive, self.send)
        except* MemoryError:
            report_out_of_memory()
            await self._connection.refuse(503, OUT_OF_MEMORY)
        except* Exception as group:
            if not self._connection.disconnected:  # after a disconnect it cannot answer
                log.error("http_app_failed", exc_info=group)
        if not self._is_taken:
            await self._connection.refuse(500)

    async def receive(self) -> ASGIReceiveEvent:
        if self._whole:
            await self._connection.wait_gone()
            return {"type": "http.disconnect"}
        if self._protocol.they_are_waiting_for_100_continue:
            await self._connection.send(
                h11.InformationalResponse(status_code=100, headers=standard_headers())
            )
        try:
            event = self._arrived.popleft() if self._arrived else await self._connection.next_event()
        except h11.RemoteProtocolError as error:
            await self._connection.refuse_for(error)
            return {"type": "http.disconnect"}
        if isinstance(event, h11.Data):
            self._connection.hold(len(event.data))
            return {"type": "http.request", "body": bytes(event.data), "more_body": True}
        if isinstance(event, h11.EndOfMessage):
            self._whole = True
            self._connection.release()
            return {"type": "http.request", "body": b"", "more_body": False}
        return {"type": "http.disconnect"}

    async def send(self, message: ASGISendEvent) -> None:
        if message["type"] == "http.response.start" and self._response is None:
            headers = [*build_and_validate_headers(message["headers"]), *standard_headers()]
            self._response = h11.Response(status_code=message["status"], headers=headers)
        elif message["type"] == "http.response.body" and self._response is not None:
            if self._is_taken:
                return
            events: list[h11.Event] = []
            if self._protocol.our_state is h11.SEND_RESPONSE:
                events.append(self._with_close(self._response))
            if message["body"] and not suppress_body(self._scope["method"], self._response.status_code):
                events.append(h11.Data(data=message["body"]))
            if not message["more_body"]:
                events.append(h11.EndOfMessage())
            await self._connection.send(*events)
        else:
            raise RuntimeError(f"The application sent {message['type']} out of turn.")

    def _with_close(self, response: h11.Response) -> h11.Response:
        """The client must know when no further request is served, or it sends one into the close."""
        # An answer ahead of the whole request ends the connection as well.
        if self._connection.last or self._protocol.their_state is h11.SEND_BODY:
            headers = [*response.headers, CLOSE]
            return h11.Response(status_code=response.status_code, headers=headers)
        return response

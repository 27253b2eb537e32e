"""HTTP/1.1 on accepted connections: h11 parses, an ASGI application answers.

h11 is driven directly, with hypercorn's ASGI types; docs/libraries.md has the reasons. Here:

- one deadline at a time governs a connection: idle (keep-alive, the next head included) or busy (one
  request from head to last byte), plus one for each send;
- no shields: a send that was cut off may have left half a response, so its connection is reset;
- bodies are sent in pieces, and what clients do not take is bounded (sending.py);
- no HTTP/2, and an upgrade of `/stream` on a reused connection is passed to the stream;
- the application may have the connection taken over after the head of its answer (`Taker`)."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Protocol, TypeAlias

import h11
import structlog
import trio
from hypercorn.typing import ASGIFramework
from hypercorn.utils import parse_socket_addr

from nx_signal.server.chunks import ChunkedBody
from nx_signal.server.exchange import CLOSE, Exchange, standard_headers
from nx_signal.server.gate import Refusal, Visit
from nx_signal.server.head import (
    MAX_HEAD_BYTES,
    MAX_HEAD_READS,
    BadRequest,
    check_head,
    head_length,
)
from nx_signal.server.problem import problem_headers, problem_json, report_out_of_memory
from nx_signal.server.scope import (
    is_options_of_all,
    is_probe,
    is_upgrade_of,
    origin_form,
    raw_head,
    scope_of,
)
from nx_signal.server.sending import Held, Pace, in_pieces, own_bytes

log = structlog.get_logger()

KEEP_ALIVE_S = 30.0
"""Between two requests, and for a head to arrive whole."""
BUSY_S = 90.0
"""For one request from its head to the last byte sent: above the app's own limits together."""
SEND_TIMEOUT_S = 10.0
"""For the kernel to take one piece (sending.PIECE_BYTES): a client that stops reading is cut off."""
LINGER_S = 1.0
LINGER_BYTES = 262_144
"""What is still read after an early answer (413): closing with unread bytes would reset the connection
before the client has the answer."""
RECEIVE_BYTES = 16_384
"""No more than MAX_HEAD_BYTES: that bound is checked between two reads only."""
REQUESTS_PER_CONNECTION = 10_000
STREAM_PATH = b"/stream"

Upgrade: TypeAlias = Callable[[trio.SocketStream, bytes, Visit], Awaitable[None]]
"""Takes over a connection, given the bytes read of it: the head of the upgrade request and what follows."""


class Taker(Protocol):
    """Takes a connection over: an application passes one to `hand_over` of its scope, and answers 200. Either
    method is called then, once."""

    async def serve(self, stream: trio.SocketStream, answer: bytes, visit: Visit) -> None:
        """Send `answer`, the head of the application's, and what follows it; the close ends it."""

    def abandon(self) -> None:
        """The connection is over already, or has another answer."""


class Http:
    """Serves an application on connections that were accepted elsewhere.

    `upgrade` gets a connection on which, after other requests, an upgrade of `/stream` arrives; without
    it such a request is answered as the plain GET that it also is. `prefix` is removed from a path."""

    def __init__(
        self,
        app: ASGIFramework,
        upgrade: Upgrade | None = None,
        *,
        prefix: str = "",
        keep_alive_s: float = KEEP_ALIVE_S,
        busy_s: float = BUSY_S,
        send_timeout_s: float = SEND_TIMEOUT_S,
        linger_s: float = LINGER_S,
    ) -> None:
        self.app = app
        self.upgrade = upgrade
        self.prefix = prefix.encode()
        self.held: Held[_Connection] = Held()
        self.keep_alive_s = keep_alive_s
        self.busy_s = busy_s
        self.send_timeout_s = send_timeout_s
        self.linger_s = linger_s
        self.draining = False
        self._open: set[_Connection] = set()
        self._empty = trio.Event()
        self._empty.set()

    async def serve(
        self,
        stream: trio.SocketStream,
        read_ahead: bytes,
        visit: Visit,
        *,
        operations: bool = False,
        requests: int = REQUESTS_PER_CONNECTION,
    ) -> None:
        """Serve one connection, of which `read_ahead` was read already, until it is over, at most that many
        requests; then it is closed. Its errors end here. `operations` is passed on in each scope."""
        connection = _Connection(self, stream, visit, operations, requests)
        if not self._open:
            self._empty = trio.Event()
        self._open.add(connection)
        successor: Callable[[], Awaitable[None]] | None = None
        try:
            successor = await connection.run(read_ahead)
        except* MemoryError:
            report_out_of_memory()
        except* Exception as group:
            log.error("http_connection_failed", exc_info=group)
        finally:
            self._open.discard(connection)
            self.held.release(connection)
            if not self._open:
                self._empty.set()
            if successor is None:
                connection.abandon()
                await trio.aclose_forcefully(stream)
        if successor is not None:
            del connection, read_ahead  # it may last for days
            await successor()

    async def drain(self) -> None:
        """Close idle connections at once and the others after their request; return when all are.

        Cancelled (the caller's deadline), it cuts off those that are left."""
        self.draining = True
        for connection in list(self._open):
            connection.leave_if_idle()
        try:
            await self._empty.wait()
        finally:
            for connection in list(self._open):
                connection.abort()


class _Connection:
    """One connection: its requests, one after the other."""

    def __init__(
        self, http: Http, stream: trio.SocketStream, visit: Visit, operations: bool, most_requests: int
    ) -> None:
        self.http = http
        self.visit = visit
        self.protocol = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
        self.disconnected = False
        self.requests = 0
        self.most_requests = most_requests
        self._operations = operations
        self._stream = stream
        self._sending = trio.Lock()
        self._idle = True
        self._waiting = trio.CancelScope()
        self._chunks: ChunkedBody | None = None
        """of the body that arrives"""
        self._half_closed = trio.Event()
        """the peer sends nothing any more"""
        self._taker: Taker | None = None

    async def run(self, read_ahead: bytes) -> Callable[[], Awaitable[None]] | None:
        """Until the connection is over, or what goes on with it is returned."""
        try:
            sock = self._stream.socket
            client = parse_socket_addr(sock.family, sock.getpeername())
            server = parse_socket_addr(sock.family, sock.getsockname())
        except OSError:
            return None  # disconnected before it was served
        if read_ahead:
            self.protocol.receive_data(read_ahead)
        try:
            while (request := await self._head()) is not None:
                target = origin_form(request.target, self.http.prefix)
                if target is None:
                    await (self._allow() if is_options_of_all(request) else self.refuse(400))
                    break
                upgrade = self.http.upgrade is not None and is_upgrade_of(STREAM_PATH, request, target)
                if refusal := self._begin(request, target, upgrade):
                    await self.refuse(refusal.status, refusal.detail, refusal.headers)
                    break
                if upgrade and self.http.upgrade is not None:
                    head = raw_head(request) + self.protocol.trailing_data[0]
                    return partial(self.http.upgrade, self._stream, head, self.visit)
                exchange = Exchange(self, scope_of(request, target, client, server, **self._own_scope))
                with trio.move_on_after(self.http.busy_s) as self._waiting:
                    await exchange.run(self.http.app)
                if (answer := exchange.head_for_taker) and self._taker and not self.disconnected:
                    return partial(self._taker.serve, self._stream, answer, self.visit)
                self.abandon()
                self.visit.end()
                if self.disconnected or self.http.draining or not self._next_cycle():
                    break
        except h11.RemoteProtocolError as error:
            await self.refuse_for(error)
        if not self.disconnected and not self.http.draining and self._has_unread:
            await self._linger()
        return None

    def _begin(self, request: h11.Request, target: bytes, upgrade: bool) -> Refusal | None:
        if upgrade:
            return self.visit.begin_stream(request.headers)
        return self.visit.begin(request.headers, probe=is_probe(request.method, target))

    @property
    def _own_scope(self) -> dict[str, object]:
        return {
            "visit": self.visit,
            "operations": self._operations,
            "hand_over": self.hand_over,
            "half_closed": self._half_closed,
        }

    @property
    def taken(self) -> bool:
        return self._taker is not None

    def hand_over(self, taker: Taker) -> None:
        self._taker = taker

    def abandon(self) -> None:
        """The connection is not handed over."""
        taker, self._taker = self._taker, None
        if taker is not None:
            taker.abandon()

    @property
    def last(self) -> bool:
        """No further request is served."""
        return self.http.draining or self.requests >= self.most_requests

    def hold(self, count: int) -> None:
        self.http.held.hold(self, count)

    def release(self) -> None:
        self.http.held.release(self)

    def leave_if_idle(self) -> None:
        if self._idle:
            self._waiting.cancel()

    def abort(self) -> None:
        """Reset the connection; whatever waits on it wakes up."""
        self.disconnected = True
        self._waiting.cancel()
        sock = self._stream.socket
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()

    def _next_cycle(self) -> bool:
        if self.protocol.our_state is not h11.DONE or self.protocol.their_state is not h11.DONE:
            return False
        self.protocol.start_next_cycle()
        return True

    # --- reading ---

    async def _head(self) -> h11.Request | None:
        """The next request; None when none arrives in time, or none can any more."""
        self._idle = True
        event: h11.Event | None = None
        with trio.move_on_after(self.http.keep_alive_s) as self._waiting:
            # Probes of the operations port are answered to the end.
            if (self._operations or not self.http.draining) and await self._checked_head():
                event = await self.next_event()
        self._idle = False
        self.requests += 1
        return event if isinstance(event, h11.Request) else None

    async def _checked_head(self) -> bool:
        """Wait until h11 has a whole head, but has not parsed it. False where none arrives any more.

        Raises BadRequest."""
        self._chunks, seen = None, 0
        for _ in range(MAX_HEAD_READS):
            arrived = self.protocol.trailing_data[0]
            if (length := head_length(arrived, seen)) is not None:
                if b"transfer-encoding" in check_head(arrived[:length]):
                    self._chunks = ChunkedBody()
                    self._chunks.feed(arrived[length:])
                return True
            seen = len(arrived)
            if not await self._receive():
                return False
        raise BadRequest("The head of a request arrives in fewer pieces.")

    async def _receive(self) -> bytes:
        """What was received, for h11; empty at the end. Raises BadRequest."""
        try:
            data = bytes(await self._stream.receive_some(RECEIVE_BYTES))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.disconnected = True
            return b""
        if self._chunks is not None:
            self._chunks.feed(data)
        self.protocol.receive_data(data)
        return data

    async def next_event(self) -> h11.Event:
        """Raises h11.RemoteProtocolError."""
        while (event := self.protocol.next_event()) is h11.NEED_DATA:
            await self._receive()
            if self.disconnected:
                return h11.ConnectionClosed()
        if not isinstance(event, h11.Event):
            raise RuntimeError("h11 is paused before the request has been answered.")
        return event

    async def wait_gone(self) -> None:
        """Until the peer has reset the connection. One that closed its sending side waits for its answer."""
        try:
            while len(self.protocol.trailing_data[0]) < MAX_HEAD_BYTES:
                data = await self._stream.receive_some(RECEIVE_BYTES)
                self.protocol.receive_data(data)
                if not data:
                    self._half_closed.set()
                    break
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.disconnected = True
            return
        await trio.sleep_forever()

    @property
    def _has_unread(self) -> bool:
        """The peer was, or is, sending what will not be read."""
        return self.protocol.their_state in (h11.SEND_BODY, h11.ERROR) or bool(self.protocol.trailing_data[0])

    async def _linger(self) -> None:
        unread = LINGER_BYTES
        with trio.move_on_after(self.http.linger_s):
            try:
                await self._stream.send_eof()
                while unread > 0 and (data := await self._stream.receive_some(RECEIVE_BYTES)):
                    unread -= len(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass

    # --- sending ---

    async def send(self, *events: h11.Event) -> None:
        """Sends nothing after the end of the answer. A send that does not finish resets the connection."""
        async with self._sending:
            if self.disconnected or self.protocol.our_state not in (
                h11.IDLE,
                h11.SEND_RESPONSE,
                h11.SEND_BODY,
            ):
                return
            held, sent = self.http.held, False
            if body := own_bytes(events):
                held.hold(self, body)
            try:
                pace = Pace(self.http.send_timeout_s)
                for piece in in_pieces(self.protocol, events):
                    with trio.fail_at(pace.next_deadline_s()):
                        await self._stream.send_all(piece)
                    pace.sent(len(piece))
                    held.moved(self)
                sent = True
            except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
                pass
            finally:
                if body:
                    held.release(self)
                if not sent:
                    self.abort()

    async def _allow(self) -> None:
        headers = [(b"allow", b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"), CLOSE, *standard_headers()]
        await self.send(h11.Response(status_code=204, headers=headers), h11.EndOfMessage())

    async def refuse_for(self, error: h11.RemoteProtocolError) -> None:
        """h11's own sentences quote the request."""
        await self.refuse(error.error_status_hint, str(error) if isinstance(error, BadRequest) else None)

    async def refuse(
        self, status: int, detail: str | None = None, more: Iterable[tuple[bytes, bytes]] = ()
    ) -> None:
        """Answer what the application does not see, or did not answer; the connection ends."""
        if self.protocol.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return
        if status == 431 and b"\n" not in self.protocol.trailing_data[0]:
            status = 414  # it is the request line that is too long
        body = problem_json(status, detail)
        headers = [*problem_headers(body), *more, *standard_headers()]
        await self.send(
            h11.Response(status_code=status, headers=headers), h11.Data(data=body), h11.EndOfMessage()
        )

"""Serve HTTP/1.1 on accepted connections: hypercorn's H11Protocol in a shell of our own on Trio.

hypercorn 0.18's own shell (`hypercorn.trio.tcp_server`) is not used, because with quart-trio it never
closes plain connections, lets a pipelined request after `Connection: close` wait for ever, keeps the
task of a gone client until its keep-alive expires, and sends under a shield without a deadline. Here:

- one deadline at a time governs a connection: idle (keep-alive, the next head included) or busy (one
  request from head to last byte), plus one for each send;
- no shields: a send that was cut off may have left half a response, so its connection is aborted;
- nobody answers HTTP/2, and an upgrade of `/stream` on a reused connection is handed to the stream."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import h11
import structlog
import trio
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.events import Request as RequestEvent
from hypercorn.protocol.events import Response as ResponseEvent
from hypercorn.protocol.h11 import STREAM_ID, H11Protocol
from hypercorn.protocol.http_stream import HTTPStream
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState
from hypercorn.utils import parse_socket_addr
from quart_trio import QuartTrio

from nx_signal.rest.problems import problem_json

log = structlog.get_logger()

KEEP_ALIVE_S = 30.0
"""Between two requests, and for a head to arrive whole."""
BUSY_S = 75.0
"""For one request from its head to the last byte sent: above the app's own limits together."""
SEND_TIMEOUT_S = 10.0
"""For the kernel to take one piece (8 KiB of a large body): a client that stops reading is cut off."""
LINGER_S = 1.0
LINGER_BYTES = 262_144
"""What is still read after an early answer (413): closing with unread bytes would reset the connection
and take the answer away from the client."""
MAX_HEAD_BYTES = 32_768
"""A query of 16 KiB, which the application takes, and as much of headers."""
MAX_QUEUED_BODY_PARTS = 10
RECEIVE_BYTES = 16_384
"""No more than MAX_HEAD_BYTES: h11 checks that bound between two reads only."""
REQUESTS_PER_CONNECTION = 10_000
STREAM_PATH = b"/stream"

Upgrade: TypeAlias = Callable[[trio.SocketStream, bytes], Awaitable[None]]
"""Takes over a connection, given the bytes read of it: the head of the upgrade request and what follows."""


class Http:
    """Serves an application on connections that somebody else accepts.

    `upgrade` gets a connection on which, after other requests, an upgrade of `/stream` arrives; without
    it such a request is answered as the plain GET that it also is."""

    def __init__(
        self,
        app: QuartTrio,
        upgrade: Upgrade | None = None,
        *,
        keep_alive_s: float = KEEP_ALIVE_S,
        busy_s: float = BUSY_S,
        send_timeout_s: float = SEND_TIMEOUT_S,
        linger_s: float = LINGER_S,
    ) -> None:
        self.app = app
        self.keep_alive_s = keep_alive_s
        self.busy_s = busy_s
        self.send_timeout_s = send_timeout_s
        self.linger_s = linger_s
        self.hands_over = upgrade is not None
        self.config = _config()
        self.context = WorkerContext(None)
        self._upgrade = upgrade
        self._open: set[_Connection] = set()
        self._empty = trio.Event()
        self._empty.set()

    @property
    def draining(self) -> bool:
        return self.context.terminated.is_set()

    async def serve(self, stream: trio.SocketStream, read_ahead: bytes = b"") -> None:
        """Serve one connection, of which `read_ahead` was read already, until it is over; then it is
        closed. Its errors end here."""
        connection = _Connection(self, stream, read_ahead)
        if not self._open:
            self._empty = trio.Event()
        self._open.add(connection)
        handed_over = False
        try:
            await connection.run()
        except* _UpgradeRequested:
            handed_over = True
        except* Exception as group:
            log.error("http_connection_failed", exc_info=group)
        finally:
            self._open.discard(connection)
            if not self._open:
                self._empty.set()
            if not handed_over:
                await trio.aclose_forcefully(stream)
        if handed_over and self._upgrade is not None:
            await self._upgrade(stream, connection.left_over)

    async def drain(self) -> None:
        """Close idle connections at once and the others after their request; return when all are.

        Cancelled (the caller's deadline), it cuts off those that are left."""
        await self.context.terminated.set()
        for connection in list(self._open):
            connection.leave_if_idle()
        try:
            await self._empty.wait()
        finally:
            for connection in list(self._open):
                connection.abort()


def _config() -> Config:
    config = Config()
    config.accesslog = config.errorlog = None  # structlog speaks here
    config.include_server_header = False
    config.h11_max_incomplete_size = MAX_HEAD_BYTES
    config.h11_pass_raw_headers = False
    config.keep_alive_max_requests = REQUESTS_PER_CONNECTION
    config.max_app_queue_size = MAX_QUEUED_BODY_PARTS
    return config


class _UpgradeRequested(Exception):
    """A WebSocket upgrade of `/stream` has arrived on a connection that served requests before."""


class _H11(h11.Connection):
    """Takes no notice of what follows a last request (`Connection: close`): h11 calls it an error, and
    the 400 would take the place of the answer that is being made."""

    def next_event(self) -> Any:
        return h11.NEED_DATA if self.their_state is h11.MUST_CLOSE else super().next_event()


class _Protocol(H11Protocol):
    """HTTP/1.1 alone: no HTTP/2, no WebSocket; errors below the application are problems too."""

    connection: h11.Connection

    def __init__(self, shell: _Connection, client: Any, server: Any) -> None:
        http = shell.http
        super().__init__(
            http.app,  # type: ignore[arg-type]  # only passed on, to the shell's spawn_app
            http.config,
            http.context,
            shell,  # type: ignore[arg-type]  # spawn_app is all that is used of a task group
            ConnectionState({}),
            False,
            client,
            server,
            shell.send,
        )
        self.connection = _H11(h11.SERVER, max_incomplete_event_size=http.config.h11_max_incomplete_size)
        self._shell = shell

    async def handle(self, event: Event) -> None:
        if isinstance(event, RawData) and event.data and self.connection.their_state is h11.MUST_CLOSE:
            return
        await super().handle(event)

    async def _check_protocol(self, event: h11.Request) -> None:
        """The base class upgrades to HTTP/2 here."""

    async def _create_stream(self, request: h11.Request) -> None:
        target = _origin_form(request.target)
        if target is None or request.http_version not in (b"1.1", b"1.0"):
            await self._send_error_response(400)
            await self.send(Closed())
            return
        if self._shell.http.hands_over and _is_stream_upgrade(request, target):
            self._shell.left_over = _head(request) + self.connection.trailing_data[0]
            raise _UpgradeRequested
        self.stream = HTTPStream(
            self.app,
            self.config,
            self.context,
            self.task_group,
            self.ssl,
            self.client,
            self.server,
            self.stream_send,
            STREAM_ID,
        )
        await self.stream.handle(
            RequestEvent(
                stream_id=STREAM_ID,
                headers=list(request.headers),
                http_version=request.http_version.decode(),
                method=request.method.decode("ascii").upper(),
                raw_path=target,
                state=self.connection_state,
            )
        )
        self.keep_alive_requests += 1

    async def stream_send(self, event: StreamEvent) -> None:
        # An answer that comes before the whole request did ends the connection: the client must know, or
        # it sends its next request into the close.
        unfinished = self.connection.their_state is h11.SEND_BODY
        if isinstance(event, ResponseEvent) and (unfinished or self.context.terminated.is_set()):
            event.headers.append((b"connection", b"close"))
        await super().stream_send(event)

    async def _send_error_response(self, status_code: int) -> None:
        if status_code == 431 and b"\n" not in self.connection.trailing_data[0]:
            status_code = 414  # it is the request line that is too long
        body = problem_json(status_code)
        headers = [
            (b"content-type", b"application/problem+json"),
            (b"content-length", b"%d" % len(body)),
            (b"cache-control", b"no-store"),
            (b"x-content-type-options", b"nosniff"),
            (b"connection", b"close"),
            *self.config.response_headers("h11"),
        ]
        await self._send_h11_event(h11.Response(status_code=status_code, headers=headers))
        await self._send_h11_event(h11.Data(data=body))
        await self._send_h11_event(h11.EndOfMessage())

    @property
    def has_unread(self) -> bool:
        """The peer was, or is, sending what nobody will read."""
        return self.connection.their_state in (h11.SEND_BODY, h11.ERROR) or bool(
            self.connection.trailing_data[0]
        )


class _Connection:
    """One connection: a reader, and the tasks of the requests that it starts."""

    def __init__(self, http: Http, stream: trio.SocketStream, read_ahead: bytes) -> None:
        self.http = http
        self.left_over = b""
        self._stream = stream
        self._read_ahead = read_ahead
        self._sending = trio.Lock()
        self._reading = trio.CancelScope(deadline=trio.current_time() + http.keep_alive_s)
        self._nursery: trio.Nursery
        self._idle = True
        self._gone = False

    async def run(self) -> None:
        try:
            sock = self._stream.socket
            peer, own = sock.getpeername(), sock.getsockname()
        except OSError:
            return  # gone before it was served
        family = sock.family
        protocol = _Protocol(self, parse_socket_addr(family, peer), parse_socket_addr(family, own))
        async with trio.open_nursery() as self._nursery:
            with self._reading:
                await self._read(protocol)
            await protocol.handle(Closed())  # a request that is still worked on hears of it
        if not self._gone and not self.http.draining and protocol.has_unread:
            await self._linger()

    def leave_if_idle(self) -> None:
        if self._idle:
            self._reading.cancel()

    def abort(self) -> None:
        """Reset the connection; whoever waits on it wakes up."""
        self._gone = True
        self._reading.cancel()
        sock = self._stream.socket
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()

    # --- reading ---

    async def _read(self, protocol: _Protocol) -> None:
        while not (self._idle and self.http.draining):
            data = self._read_ahead
            self._read_ahead = b""
            if not data:
                try:
                    data = bytes(await self._stream.receive_some(RECEIVE_BYTES))
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    self._gone = True
                    return
            await protocol.handle(RawData(data))
            if not data:
                if protocol.stream is not None:  # half closed: the peer still waits for its answer
                    await trio.sleep_forever()  # until `Closed`, or the deadline
                return

    async def _linger(self) -> None:
        unread = LINGER_BYTES
        with trio.move_on_after(self.http.linger_s):
            try:
                await self._stream.send_eof()
                while unread > 0 and (data := await self._stream.receive_some(RECEIVE_BYTES)):
                    unread -= len(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass

    # --- what the protocol asks for ---

    async def send(self, event: Event) -> None:
        match event:
            case RawData(data):
                await self._send(data)
            case Updated(idle):
                self._idle = idle
                limit_s = self.http.keep_alive_s if idle else self.http.busy_s
                self._reading.deadline = trio.current_time() + limit_s
            case Closed():
                self._reading.cancel()

    async def _send(self, data: bytes) -> None:
        if not data:
            return
        async with self._sending:
            if self._gone:
                return  # the request's task hears of it by its disconnect
            sent = False
            try:
                with trio.move_on_after(self.http.send_timeout_s):
                    await self._stream.send_all(data)
                    sent = True
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass
            finally:
                if not sent:  # cancelled ones too: there may be half a response on the wire
                    self.abort()

    # --- the part of hypercorn's TaskGroup that the protocol uses ---

    async def spawn_app(
        self, app: Any, config: Config, scope: Any, send: Callable[[Any], Awaitable[None]]
    ) -> Callable[[Any], Awaitable[None]]:
        to_app, from_peer = trio.open_memory_channel[Any](config.max_app_queue_size)
        finishing = False

        async def send_noting_the_last(message: Any) -> None:
            nonlocal finishing
            if message and message["type"] == "http.response.body" and not message.get("more_body", False):
                finishing = True
            await send(message)

        async def put(message: Any) -> None:
            # The protocol reports the end of a response as a disconnect too. quart-trio would cancel
            # the very send that it comes from, and with it the recycling or closing of the connection.
            if finishing and message["type"] == "http.disconnect":
                return
            with contextlib.suppress(trio.BrokenResourceError):  # the application has answered already
                await to_app.send(message)

        self._nursery.start_soon(self._run_app, app, scope, from_peer, send_noting_the_last)
        return put

    async def _run_app(
        self,
        app: Any,
        scope: Any,
        from_peer: trio.MemoryReceiveChannel[Any],
        send: Callable[[Any], Awaitable[None]],
    ) -> None:
        with from_peer:
            try:
                await app(scope, from_peer.receive, send)
            except* Exception as group:
                if not self._gone:  # else it only says that it could not answer
                    log.error("http_app_failed", exc_info=group)
        await send(None)  # where it has not answered: 500, and close


def _origin_form(target: bytes) -> bytes | None:
    """The path and query of a request target (RFC 9112 §3.2); None for what names no resource here."""
    if target[:7].lower() == b"http://" or target[:8].lower() == b"https://":
        slash = target.find(b"/", 8)
        target = b"/" if slash < 0 else target[slash:]
    return target if target.startswith(b"/") else None


def _is_stream_upgrade(request: h11.Request, target: bytes) -> bool:
    return (
        request.method == b"GET"
        and target.partition(b"?")[0] == STREAM_PATH
        and any(name == b"upgrade" and b"websocket" in value.lower() for name, value in request.headers)
    )


def _head(request: h11.Request) -> bytes:
    lines = [b"%b %b HTTP/%b" % (request.method, request.target, request.http_version)]
    lines += [b"%b: %b" % header for header in request.headers.raw_items()]
    return b"\r\n".join(lines) + b"\r\n\r\n"

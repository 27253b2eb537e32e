"""The client side of one WebSocket (RFC 6455) over wsproto. It has no task of its own: `receive` drives it,
so leaving it never hangs and errors reach the caller unwrapped."""

from __future__ import annotations

import ssl
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from urllib.parse import urlsplit

import trio
from wsproto import ConnectionType, WSConnection
from wsproto.connection import ConnectionState
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    RejectConnection,
    Request,
    TextMessage,
)
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

from nx_signal.errors import SettingsError, SignalError, Unavailable

MAX_MESSAGE_BYTES = 4 * 1024 * 1024
"""Far above any frame that the service sends."""
READ_BYTES = 65_536
SEND_TIMEOUT_S = 10.0
CLOSE_TIMEOUT_S = 1.0
"""How long the peer may take to answer a close frame."""

NORMAL, PROTOCOL_ERROR, NO_STATUS, ABNORMAL, TOO_BIG = 1000, 1002, 1005, 1006, 1009  # RFC 6455 §7.4.1


class StreamUnavailable(Unavailable):
    """The server cannot be reached, or does not accept the upgrade, now."""


class StreamClosed(SignalError):
    """The connection is over; `code` and `reason` as in RFC 6455 §7.1.5, 1006 for a broken one."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"The stream was closed with {code}: {reason or 'no reason given'}.")
        self.code = code
        self.reason = reason


class WebSocket:
    """One open connection. One task may receive while others send."""

    def __init__(self, tcp: trio.abc.Stream) -> None:
        self._tcp = tcp
        self._ws = WSConnection(ConnectionType.CLIENT)
        self._sending = trio.Lock()
        self._parts: list[str | bytes] = []
        self._size = 0
        self._ready: deque[str | bytes] = deque()
        self._accepted = False
        self._over: tuple[int, str] | None = None

    async def upgrade(self, host: str, target: str, subprotocols: Sequence[str]) -> None:
        """Raises StreamUnavailable when the server answers with anything but 101."""
        await self._transmit(Request(host=host, target=target, subprotocols=list(subprotocols)))
        while not self._accepted:
            if self._over is not None:
                raise StreamUnavailable(self._over[1])
            await self._read()

    async def receive(self) -> str | bytes:
        """The next message. Cancelling loses none. Raises StreamClosed after the last."""
        while not self._ready:
            if self._over is not None:
                raise StreamClosed(*self._over)
            await self._read()
        await trio.lowlevel.checkpoint()
        return self._ready.popleft()

    async def send(self, message: str | Callable[[], str | bytes]) -> None:
        """A text or a binary message; a function is called when it is written, in the order of writing.

        Raises StreamClosed; after a cancelled or overdue send the connection is over, because half
        a frame may be on its way."""
        await self._transmit(lambda: _message(message if isinstance(message, str) else message()))

    async def fail(self, code: int, reason: str) -> None:
        """End the connection, whose peer is not to be trusted: `receive` raises this, and gives no more."""
        await self._shake_hands(code, reason)
        self._ready.clear()
        self._over = (code, reason)

    async def aclose(self) -> None:
        """Send a close frame, wait CLOSE_TIMEOUT_S for the answer, close TCP."""
        try:
            await self._shake_hands(NORMAL, "")
        finally:
            await trio.aclose_forcefully(self._tcp)

    async def _shake_hands(self, code: int, reason: str) -> None:
        """Of closing."""
        with trio.move_on_after(CLOSE_TIMEOUT_S, shield=True), suppress(StreamClosed):  # already closed
            if self._over is None:
                await self._transmit(CloseConnection(code=code, reason=reason or None))
            while self._over is None:
                await self._read()

    async def _read(self) -> None:
        try:
            data = await self._tcp.receive_some(READ_BYTES)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            data = b""
        if not data:
            self._end(ABNORMAL, "the connection broke")
            return
        replies: list[Event] = []
        try:
            self._ws.receive_data(bytes(data))
            for event in self._ws.events():
                if (reply := self._take(event)) is not None:
                    replies.append(reply)
        except RemoteProtocolError as error:
            self._end(PROTOCOL_ERROR, f"the server broke the protocol: {error}")
        for reply in replies:
            try:
                await self._transmit(reply)
            except StreamClosed:
                return  # the next receive() raises it

    def _take(self, event: Event) -> Event | None:
        """Process one event; the event to answer with, if any."""
        if isinstance(event, TextMessage | BytesMessage):
            self._size += len(event.data)
            self._parts.append(bytes(event.data) if isinstance(event, BytesMessage) else event.data)
            if self._size > MAX_MESSAGE_BYTES:
                self._end(TOO_BIG, f"the server sent a message of more than {MAX_MESSAGE_BYTES} bytes")
            elif event.message_finished:
                binary = isinstance(event, BytesMessage)
                self._ready.append(b"".join(self._parts) if binary else "".join(self._parts))  # type: ignore[arg-type]
                self._parts, self._size = [], 0
        elif isinstance(event, Ping):
            return event.response() if self._ws.state is ConnectionState.OPEN else None
        elif isinstance(event, CloseConnection):
            answer = event.response() if self._ws.state is ConnectionState.REMOTE_CLOSING else None
            self._over = self._over or (int(event.code), event.reason or "")
            return answer
        elif isinstance(event, AcceptConnection):
            self._accepted = True
        elif isinstance(event, RejectConnection):
            self._end(ABNORMAL, f"The server answered the upgrade with HTTP status {event.status_code}.")
        return None

    async def _transmit(self, made: Event | Callable[[], Event]) -> None:
        is_close = isinstance(made, CloseConnection)
        async with self._sending:
            if self._over is not None and not is_close:
                raise StreamClosed(*self._over)
            try:
                data = self._ws.send(made if isinstance(made, Event) else made())
            except LocalProtocolError:  # our close frame was sent
                raise StreamClosed(*(self._over or (NORMAL, "closed by us"))) from None
            sent = False
            try:
                with trio.move_on_after(SEND_TIMEOUT_S):
                    await self._tcp.send_all(data)
                    sent = True
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass
            finally:
                if not sent:
                    self._end(ABNORMAL, "the connection broke")
        if not sent and self._over is not None:
            raise StreamClosed(*self._over)

    def _end(self, code: int, reason: str) -> None:
        self._over = self._over or (code, reason)


def _message(data: str | bytes) -> Event:
    return TextMessage(data=data) if isinstance(data, str) else BytesMessage(data=data)


@asynccontextmanager
async def open_websocket(
    url: str,
    *,
    subprotocols: Sequence[str] = (),
    connect_timeout_s: float = 10.0,
    ssl_context: ssl.SSLContext | None = None,
) -> AsyncIterator[WebSocket]:
    """Connect to a ws:// or wss:// URL. Raises StreamUnavailable, and SettingsError for a bad URL."""
    secure, host, port, target = split_url(url)
    async with AsyncExitStack() as stack:
        try:
            with trio.fail_after(connect_timeout_s):
                tcp = await open_connection(secure, host, port, ssl_context)
                stack.push_async_callback(trio.aclose_forcefully, tcp)
                websocket = WebSocket(tcp)
                shown = f"[{host}]" if ":" in host else host
                await websocket.upgrade(f"{shown}:{port}", target, subprotocols)
        except trio.TooSlowError:
            raise StreamUnavailable(f"{url} did not answer within {connect_timeout_s:g} seconds.") from None
        except (OSError, trio.BrokenResourceError, StreamClosed) as error:
            raise StreamUnavailable(f"{url} cannot be reached: {error}") from None
        stack.push_async_callback(websocket.aclose)
        yield websocket


async def open_connection(
    secure: bool, host: str, port: int, ssl_context: ssl.SSLContext | None
) -> trio.abc.Stream:
    """Raises OSError."""
    if secure:
        return await trio.open_ssl_over_tcp_stream(host, port, https_compatible=True, ssl_context=ssl_context)
    return await trio.open_tcp_stream(host, port)


def split_url(url: str) -> tuple[bool, str, int, str]:
    """(secure?, host, port, target); the path of a URL without one is /stream."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise SettingsError(f"{url!r} is not a stream URL; use ws://host:port/stream.") from None
    if parts.scheme not in ("ws", "wss") or not parts.hostname:
        raise SettingsError(f"{url!r} is not a stream URL; use ws://host:port/stream.")
    secure = parts.scheme == "wss"
    path = parts.path if parts.path not in ("", "/") else "/stream"
    target = f"{path}?{parts.query}" if parts.query else path
    return secure, parts.hostname, port or (443 if secure else 80), target

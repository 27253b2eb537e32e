"""The client side of one WebSocket (RFC 6455), driven by whoever reads it: no task of its own, so that
leaving it never hangs and errors reach the caller as they are."""

from __future__ import annotations

import ssl
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
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
"""Far above any frame that the service sends; a peer that sends more is not the service."""
READ_BYTES = 65_536
SEND_TIMEOUT_S = 10.0
CLOSE_TIMEOUT_S = 1.0
"""How long the peer may take to answer our close before TCP is simply dropped."""

NORMAL, PROTOCOL_ERROR, NO_STATUS, ABNORMAL, TOO_BIG = 1000, 1002, 1005, 1006, 1009  # RFC 6455 §7.4.1


class StreamUnavailable(Unavailable):
    """The server cannot be reached, or does not speak WebSocket there, now."""


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

    async def send(self, text: str) -> None:
        """Raises StreamClosed; after a cancelled or overdue send the connection is over, because half
        a frame may be on its way."""
        await self._transmit(TextMessage(data=text))

    async def aclose(self) -> None:
        """Say goodbye, wait a moment for the answer, drop TCP."""
        try:
            with trio.move_on_after(CLOSE_TIMEOUT_S, shield=True):
                if self._over is None:
                    await self._transmit(CloseConnection(code=NORMAL))
                while self._over is None:
                    await self._read()
        except StreamClosed:
            pass  # closed is what we want
        finally:
            await trio.aclose_forcefully(self._tcp)

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
                return  # told by the next receive()

    def _take(self, event: Event) -> Event | None:
        """Digest one event; the answer that it asks for."""
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
            self._end(ABNORMAL, f"The server answers the upgrade with HTTP status {event.status_code}.")
        return None

    async def _transmit(self, event: Event) -> None:
        farewell = isinstance(event, CloseConnection)
        async with self._sending:
            if self._over is not None and not farewell:
                raise StreamClosed(*self._over)
            try:
                data = self._ws.send(event)
            except LocalProtocolError:  # we have said goodbye already
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
                tcp: trio.abc.Stream
                if secure:
                    tcp = await trio.open_ssl_over_tcp_stream(
                        host, port, https_compatible=True, ssl_context=ssl_context
                    )
                else:
                    tcp = await trio.open_tcp_stream(host, port)
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


def split_url(url: str) -> tuple[bool, str, int, str]:
    """(secure?, host, port, target); the path of a URL without one is /stream."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise SettingsError(f"{url!r} is no URL of a stream; it takes ws://host:port/stream.") from None
    if parts.scheme not in ("ws", "wss") or not parts.hostname:
        raise SettingsError(f"{url!r} is no URL of a stream; it takes ws://host:port/stream.")
    secure = parts.scheme == "wss"
    path = parts.path if parts.path not in ("", "/") else "/stream"
    target = f"{path}?{parts.query}" if parts.query else path
    return secure, parts.hostname, port or (443 if secure else 80), target

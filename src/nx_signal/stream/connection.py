"""One WebSocket connection from its upgrade to its close: the shell around protocol and session.

One task beside trio-websocket's reader, no timer tasks: the deadline of the next read is the protocol's."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Never

import structlog
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, WebSocketRequest, wrap_server_stream

from nx_signal.errors import IssuerUnavailable, StoreUnavailable, TokenRejected
from nx_signal.model import Principal
from nx_signal.ports import Now
from nx_signal.stream.hub import Hub
from nx_signal.stream.limits import Limits, Network, client_address
from nx_signal.stream.protocol import (
    FINISH_AUTHENTICATION_WITHIN_S,
    GOING_AWAY,
    MAX_MESSAGE_BYTES,
    TOO_MANY_REQUESTS,
    TRY_AGAIN_LATER,
    Authenticate,
    Close,
    Decision,
    Join,
    Leave,
    Protocol,
    Refresh,
    Resume,
    Say,
)
from nx_signal.stream.rooms import RoomRules
from nx_signal.stream.session import Session
from nx_signal.stream.topics import stamp
from nx_signal.stream.wire import Kind, Wire, text_frame
from nx_signal.telemetry.metrics import Metrics

log = structlog.get_logger()

UPGRADE_WITHIN_S = 5.0
MAX_ROOMS = 500
"""Of one client; a join that leads beyond is refused whole."""
BAD_FRAME, BAD_TEXT = 1002, 1007  # RFC 6455 §7.4.1
CLOSE_WITHIN_S = 3.0
"""For the peer's half of the closing handshake; then the connection is dropped."""


@dataclass(frozen=True, slots=True)
class StreamParts:
    """What every connection uses."""

    hub: Hub
    verify: Callable[[str], Awaitable[Principal]]
    rules: RoomRules
    metrics: Metrics
    now: Now
    max_buffer_bytes: int
    limits: Limits
    trusted_proxies: Sequence[Network] = ()


class StreamServer:
    """Serves `/stream` on connections that the listener hands over."""

    def __init__(self, parts: StreamParts) -> None:
        self._parts = parts
        self._open: set[_Connection] = set()

    async def serve(self, stream: trio.SocketStream, read_ahead: bytes) -> None:
        """One accepted connection whose request head is an upgrade of `/stream`. Raises what its peer
        can provoke in the libraries below: the listener contains it."""
        parts = self._parts
        async with trio.open_nursery() as nursery:
            wire = Wire(stream, read_ahead, nursery, max_buffer_bytes=parts.max_buffer_bytes)
            wire.on_dropped = parts.metrics.frames_dropped.inc
            connection = _Connection(parts, wire)
            self._open.add(connection)
            try:
                if upgraded := await self._upgrade(stream, wire, nursery):
                    await connection.converse(*upgraded)
            except ConnectionClosed:
                pass
            finally:
                self._open.discard(connection)
                connection.detach()
                nursery.cancel_scope.cancel()
                with trio.move_on_after(CLOSE_WITHIN_S, shield=True):
                    await wire.aclose()

    async def _upgrade(
        self, stream: trio.SocketStream, wire: Wire, nursery: trio.Nursery
    ) -> tuple[WebSocketConnection, str] | None:
        """The WebSocket, and the address that its limits apply to; None when it took too long."""
        with trio.move_on_after(UPGRADE_WITHIN_S):
            request = await wrap_server_stream(nursery, wire, max_message_size=MAX_MESSAGE_BYTES)
            offered = request.proposed_subprotocols
            ws = await request.accept(subprotocol=offered[0] if offered else None)
            # wsproto would keep its HTTP connection to the end: 3 KB of every idle client.
            ws._wsproto.handshake = _UPGRADED
            wire.why_closed = partial(_breach, ws)
            return ws, _address(self._parts, stream, request)
        return None

    def turn_away(self) -> None:
        """Close 1001 whoever has not authenticated yet; the hub's drain sees to the others."""
        for connection in self._open:
            connection.turn_away()


class _Upgraded:
    """What is left of a handshake that is over."""

    def events(self) -> Iterable[Never]:
        return ()


_UPGRADED: Any = _Upgraded()


def _breach(ws: WebSocketConnection) -> tuple[int, str] | None:
    """The code and the reason owed to a client that broke the protocol: trio-websocket only hangs up."""
    why = ws.closed
    return (why.code, why.reason or "") if why and why.code in (BAD_FRAME, BAD_TEXT) else None


def _address(parts: StreamParts, stream: trio.SocketStream, request: WebSocketRequest) -> str:
    peer: str = stream.socket.getpeername()[0]
    forwarded = [value for name, value in request.headers if name.lower() == b"x-forwarded-for"]
    hops = b",".join(forwarded).decode("latin-1")
    return client_address(peer, hops, parts.trusted_proxies)


class _Connection:
    __slots__ = ("_limits", "_parts", "_protocol", "_reading", "_session", "_turned_away", "_wire")

    def __init__(self, parts: StreamParts, wire: Wire) -> None:
        self._parts = parts
        self._wire = wire
        self._protocol = Protocol(trio.current_time())
        self._session: Session | None = None
        self._limits = parts.limits.client()
        self._turned_away: tuple[int, str] | None = None
        self._reading: trio.CancelScope | None = None

    async def converse(self, ws: WebSocketConnection, address: str) -> None:
        """Until one side closes. While it waits it holds nothing of what was said before."""
        if not self._parts.limits.handshake_from(address):
            await self._close(ws, self._protocol.close(TOO_MANY_REQUESTS))
            return
        while not self._protocol.closed:
            message = None
            with trio.CancelScope(deadline=self._protocol.deadline_s) as self._reading:
                if self._end_with:
                    self._reading.cancel()
                message = await ws.get_message()
            await self._act(ws, self._decide(message))

    def _decide(self, message: str | bytes | None) -> Sequence[Decision]:
        """On a message, or on being woken without one."""
        if message is not None:
            if not self._limits.message():
                return [self._protocol.close(TOO_MANY_REQUESTS)]
            if self._session:
                self._session.last_activity = self._parts.now()
            return self._protocol.receive(message, trio.current_time())
        if self._end_with:
            return [self._protocol.close(self._end_with)]
        return self._protocol.timed_out(trio.current_time())

    @property
    def _end_with(self) -> tuple[int, str] | None:
        return self._session.end_with if self._session else self._turned_away

    def turn_away(self) -> None:
        if self._session is None:
            self._turned_away = GOING_AWAY
            self._wake()

    def detach(self) -> None:
        if self._session:
            self._parts.hub.detach(self._session)

    async def _act(self, ws: WebSocketConnection, decisions: Sequence[Decision]) -> None:
        for decision in decisions:
            match decision:
                case Say(text):
                    self._say(text)
                case Close():
                    await self._close(ws, decision)
                case Authenticate():
                    await self._authenticate(ws, decision)
                case Join(rooms, malformed):
                    if self._limits.rooms(len(rooms)):
                        await self._join(rooms, malformed)
                    else:
                        await self._close(ws, self._protocol.close(TOO_MANY_REQUESTS))
                case Leave(rooms):
                    assert self._session  # noqa: S101 - the protocol gives this only when live
                    own = self._session.client_id
                    self._parts.hub.leave(self._session, [room for room in rooms if room != own])
                case Resume(rev):
                    assert self._session  # noqa: S101
                    self._session.resume(rev)
                case Refresh(token):
                    await self._refresh(ws, token)

    async def _close(self, ws: WebSocketConnection, close: Close) -> None:
        """Nothing is pushed any more; the peer gets code and reason and a moment to answer."""
        self.detach()
        self._parts.metrics.closes.labels(str(close.code)).inc()
        with trio.move_on_after(CLOSE_WITHIN_S):
            await ws.aclose(close.code, close.reason)

    async def _authenticate(self, ws: WebSocketConnection, request: Authenticate) -> None:
        parts, protocol = self._parts, self._protocol
        try:
            with trio.fail_after(FINISH_AUTHENTICATION_WITHIN_S):
                principal = await parts.verify(request.token)
                if not parts.limits.handshake_of(principal.user_id):
                    parts.metrics.handshakes.labels("flood").inc()
                    await self._close(ws, protocol.close(TOO_MANY_REQUESTS))
                    return
                self._limits.user_id = principal.user_id
                session = Session(
                    protocol,
                    self._wire,
                    principal,
                    parts.now(),
                    wants_heal=parts.hub.heal_soon,
                    wake=self._wake,
                )
                self._session = session
                parts.hub.attach(session)
                # A sister service may send to the user as soon as `connected` is seen.
                await parts.hub.heard_everywhere(session)
                head = await parts.hub.baseline(principal.user_id)
        except TokenRejected:
            parts.metrics.handshakes.labels("refused").inc()
            await self._act(ws, protocol.refuse())
            return
        except trio.TooSlowError:
            parts.metrics.handshakes.labels("timeout").inc()
            await self._act(ws, protocol.timed_out(trio.current_time()))
            return
        except (StoreUnavailable, IssuerUnavailable):
            parts.metrics.handshakes.labels("unavailable").inc()
            await self._close(ws, protocol.close(TRY_AGAIN_LATER))
            return
        # From here to `begin` nothing awaits: no frame can come between `connected` and the key.
        decisions = protocol.accept(
            principal.user_id, request.public_key, stamp(parts.now()) or "", trio.current_time()
        )
        if protocol.closed:
            parts.metrics.handshakes.labels("bad_key").inc()
            await self._act(ws, decisions)
            return
        for decision in decisions:
            if isinstance(decision, Say):
                self._say(decision.text)
        self._expires(principal)
        session.begin(head.rev)
        if request.resume is not None:
            session.resume(request.resume)
        parts.metrics.handshakes.labels("accepted").inc()

    async def _join(self, rooms: tuple[str, ...], malformed: tuple[str, ...]) -> None:
        session = self._session
        assert session  # noqa: S101 - the protocol gives this only when live
        try:
            allowed = await self._parts.rules.allowed(session.user_id, session.client_id, rooms)
        except StoreUnavailable:
            allowed = frozenset()  # told as refused: the client may ask again
        if not session.live:
            return
        if len(session.rooms | allowed) > MAX_ROOMS:
            allowed = frozenset()
        self._parts.hub.join(session, allowed)
        await self._parts.hub.heard_everywhere(session)
        refused = (*(room for room in rooms if room not in allowed), *malformed)
        if refused:
            self._say(self._protocol.refused_rooms(refused).text)

    async def _refresh(self, ws: WebSocketConnection, token: str) -> None:
        session = self._session
        assert session  # noqa: S101
        try:
            principal = await self._parts.verify(token)
            if principal.user_id != session.user_id:
                raise TokenRejected("The token is another user's.")
        except TokenRejected:
            await self._act(ws, self._protocol.refuse())
        except IssuerUnavailable:
            pass  # the session's present token still counts
        else:
            session.principal = principal
            self._expires(principal)

    def _expires(self, principal: Principal) -> None:
        left_s = (principal.expires_at - self._parts.now()).total_seconds()
        self._protocol.expires(trio.current_time() + left_s)

    def _say(self, text: bytes) -> None:
        """An answer of the protocol. Ephemeral: a client that floods and does not read loses answers."""
        self._wire.push(text_frame(text), Kind.EPHEMERAL)

    def _wake(self) -> None:
        if self._reading:
            self._reading.cancel()

"""One WebSocket connection from its upgrade to its close: the shell around protocol and session.

One task beside trio-websocket's reader, no timer tasks: the deadline of the next read is the protocol's."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Never, TypeAlias

import trio
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from trio_websocket import WebSocketConnection, wrap_server_stream

from nx_signal.delivery.admission import Admission
from nx_signal.delivery.session import Session
from nx_signal.delivery.transport import CloseReason, FrameKind, PushResult
from nx_signal.errors import IssuerUnavailable, StoreUnavailable, TokenRejected
from nx_signal.model import Principal
from nx_signal.model.timestamps import format_timestamp
from nx_signal.ports import Now, Verify
from nx_signal.server.gate import Visit
from nx_signal.server.limits import Limits
from nx_signal.telemetry.metrics import Metrics
from nx_signal.websocket.channel import Offer
from nx_signal.websocket.decisions import (
    Authenticate,
    Close,
    Credential,
    Decision,
    Hello,
    Join,
    Leave,
    Refresh,
    Resume,
    SendFrame,
)
from nx_signal.websocket.frames import FrameMeter, binary_frame, text_frame
from nx_signal.websocket.observer import WireObserver
from nx_signal.websocket.protocol import (
    FINISH_AUTHENTICATION_WITHIN_S,
    MAX_MESSAGE_BYTES,
    TOO_MANY_REQUESTS,
    TOO_MANY_SESSIONS,
    TRY_AGAIN_LATER,
    Protocol,
)
from nx_signal.websocket.wire import Wire

StaticKey: TypeAlias = Callable[[], Awaitable[X25519PrivateKey]]
"""The key that the server proves on version 2. May raise StoreUnavailable."""

UPGRADE_WITHIN_S = 5.0
BAD_FRAME, BAD_TEXT = 1002, 1007  # RFC 6455 §7.4.1
HOLD_S = 10.0
"""A client that was closed for a flood keeps its place so long, unread, unless it closes: it would connect
again at once, which costs a millisecond each time."""
LATE_S = 0.1
CATCH_UP_S = 5.0
"""A deadline that is noticed so late passed while this process was stopped: what the client sent meanwhile is
read first, within this time."""
CLOSE_WITHIN_S = 3.0
"""For the peer's half of the closing handshake; then the connection is dropped."""


class _TooManyTickets(Exception):
    """That were not valid, from this address."""


@dataclass(kw_only=True, eq=False)
class StreamParts:
    """What all connections of a server use. `use_ticket` gives the principal of a ticket, as `verify` that of
    a token; it may raise StoreUnavailable."""

    admission: Admission
    verify: Verify
    use_ticket: Verify
    static_key: StaticKey
    versions: Collection[int]
    limits: Limits
    metrics: Metrics
    now: Now
    max_buffer_bytes: int


class _Upgraded:
    """Takes the place of wsproto's handshake once that is over."""

    def events(self) -> Iterable[Never]:
        return ()


_UPGRADED: Any = _Upgraded()


class Connection(WireObserver):
    """The transport of its session, and the observer of its wire."""

    __slots__ = (
        "_admission",
        "_client_limits",
        "_close_with",
        "_limits",
        "_metrics",
        "_now",
        "_protocol",
        "_reading",
        "_session",
        "_static_key",
        "_use_ticket",
        "_verify",
        "_visit",
        "_ws",
        "wire",
    )

    def __init__(
        self,
        parts: StreamParts,
        stream: trio.SocketStream,
        read_ahead: bytes,
        nursery: trio.Nursery,
        visit: Visit,
    ) -> None:
        self._visit = visit
        self._admission = parts.admission
        self._verify = parts.verify
        self._use_ticket = parts.use_ticket
        self._static_key = parts.static_key
        self._limits = parts.limits
        self._metrics = parts.metrics
        self._now = parts.now
        self._protocol = Protocol(trio.current_time(), parts.versions)
        self._session: Session | None = None
        self._client_limits = parts.limits.client()
        self._close_with: tuple[int, str] | None = None
        self._reading: trio.CancelScope | None = None
        meter = FrameMeter(self._client_limits.received)
        bound = parts.max_buffer_bytes
        self.wire = Wire(stream, read_ahead, nursery, self, meter, max_buffer_bytes=bound)
        self._ws: WebSocketConnection | None = None
        """once it is upgraded"""

    async def upgrade(self, nursery: trio.Nursery) -> bool:
        """False when it took too long."""
        with trio.move_on_after(UPGRADE_WITHIN_S):
            request = await wrap_server_stream(nursery, self.wire, max_message_size=MAX_MESSAGE_BYTES)
            offered = request.proposed_subprotocols
            ws = await request.accept(subprotocol=offered[0] if offered else None)
            # wsproto would keep its HTTP connection to the end: 3 KB of every idle client.
            ws._wsproto.handshake = _UPGRADED
            self._ws = ws
            return True
        return False

    async def run(self) -> None:
        """Until one side closes. While it waits it holds nothing of the messages before."""
        assert self._ws is not None  # noqa: S101 - it is upgraded
        if not self._limits.handshake_from(self._visit.client or self._visit.peer):
            await self._close(self._protocol.close(TOO_MANY_REQUESTS))
            return
        while not self._protocol.closed:
            due_s = self._protocol.deadline_s
            message = await self._next_message(due_s)
            if message is None and trio.current_time() > due_s + LATE_S:
                message = await self._next_message(trio.current_time() + CATCH_UP_S)
            await self._execute(self._decide(message))

    async def _next_message(self, until_s: float) -> str | bytes | None:
        """None at this time, or because the connection is to be closed."""
        assert self._ws is not None  # noqa: S101 - it is upgraded
        with trio.CancelScope(deadline=until_s) as self._reading:
            if self._close_with:
                self._reading.cancel()
            return await self._ws.get_message()
        return None

    async def hold(self) -> None:
        """For HOLD_S where the client was closed for a breach, unless it closes or a drain begins."""
        if not self.wire.breached or self._close_with:
            return
        self.detach()
        self._session = None
        gone = suppress(trio.BrokenResourceError, trio.ClosedResourceError)
        with trio.move_on_after(HOLD_S) as self._reading, gone:
            if not await self.wire.discard():
                await trio.sleep_forever()

    def detach(self) -> None:
        if self._session:
            self._admission.release(self._session)

    def close_unauthenticated(self) -> None:
        if self._session is None:
            self.close(CloseReason.GOING_AWAY)

    # --- the session's transport ---

    encrypted = True

    @property
    def queued_bytes(self) -> int:
        return self.wire.queued_bytes

    def push(self, payload: bytes, kind: FrameKind) -> PushResult:
        return self.wire.push(payload, kind, self._sealed)

    def close(self, reason: CloseReason) -> None:
        if self._close_with is None:
            self._close_with = reason.value
            if self._reading:
                self._reading.cancel()

    # --- the wire's observer ---

    def drained(self) -> None:
        if self._session:
            self._session.drained()

    def stalled(self) -> None:
        if self._session:
            self.wire.close_now(*CloseReason.SLOW_CONSUMER.value)
            self._session.end(CloseReason.SLOW_CONSUMER)

    def breached(self, code: int) -> None:
        self._metrics.closes.labels(str(code)).inc()

    def close_owed(self) -> tuple[int, str] | None:
        """To a client that broke the protocol: trio-websocket only hangs up."""
        why = self._ws.closed if self._ws else None
        return (why.code, why.reason or "") if why and why.code in (BAD_FRAME, BAD_TEXT) else None

    # --- the protocol's decisions ---

    def _decide(self, message: str | bytes | None) -> Sequence[Decision]:
        """On a message, or without one: on a deadline, or because the connection is to be closed."""
        if message is not None:
            if not self._client_limits.message():
                return [self._protocol.close(TOO_MANY_REQUESTS)]
            if self._session:
                self._session.active_at(self._now())
            return self._protocol.receive(message, trio.current_time())
        if self._close_with:
            return [self._protocol.close(self._close_with)]
        return self._protocol.timed_out(trio.current_time())

    async def _execute(self, decisions: Sequence[Decision]) -> None:
        for decision in decisions:
            match decision:
                case SendFrame():
                    self._send(decision)
                case Close():
                    await self._close(decision)
                case Hello(offer):
                    await self._choose(offer)
                case Authenticate():
                    await self._authenticate(decision)
                case Join(rooms, malformed):
                    if self._client_limits.rooms(len(rooms)):
                        await self._join(rooms, malformed)
                    else:
                        await self._close(self._protocol.close(TOO_MANY_REQUESTS))
                case Leave(rooms):
                    assert self._session  # noqa: S101 - the protocol gives this only when live
                    self._admission.leave(self._session, rooms)
                case Resume(rev, history):
                    assert self._session  # noqa: S101
                    self._session.resume(rev, history)
                case Refresh(credential):
                    await self._refresh(credential)

    def _send(self, frame: SendFrame) -> None:
        """A frame of the protocol. A client that floods and does not read loses answers."""
        finish = self._sealed_last if frame.rekey else self._sealed if frame.sealed else text_frame
        self.wire.push(frame.text, FrameKind.LOG, finish)

    def _sealed(self, payload: bytes) -> bytes:
        sealed = self._protocol.seal(payload)
        return text_frame(sealed) if self._protocol.version == 1 else binary_frame(sealed)

    def _sealed_last(self, payload: bytes) -> bytes:
        """Under this key."""
        return binary_frame(self._protocol.seal_and_rekey(payload))

    async def _close(self, close: Close) -> None:
        """Nothing is pushed any more; the peer gets code and reason and a moment to answer."""
        assert self._ws is not None  # noqa: S101 - it is upgraded
        self.detach()
        self._metrics.closes.labels(str(close.code)).inc()
        with trio.move_on_after(CLOSE_WITHIN_S):
            await self._ws.aclose(close.code, close.reason)

    async def _choose(self, offer: Offer) -> None:
        try:
            with trio.fail_after(FINISH_AUTHENTICATION_WITHIN_S):
                static = await self._static_key()
        except (StoreUnavailable, trio.TooSlowError):
            self._metrics.handshakes.labels("unavailable").inc()
            await self._close(self._protocol.close(TRY_AGAIN_LATER))
            return
        await self._execute(self._protocol.choose(offer, static))

    async def _authenticate(self, request: Authenticate) -> None:
        protocol, handshakes = self._protocol, self._metrics.handshakes
        try:
            with trio.fail_after(FINISH_AUTHENTICATION_WITHIN_S):
                principal = await self._principal(request.credential)
                if not self._limits.handshake_of(principal.user_id):
                    handshakes.labels("flood").inc()
                    await self._close(protocol.close(TOO_MANY_REQUESTS))
                    return
                if not self._admission.has_room(principal.user_id):
                    handshakes.labels("sessions").inc()
                    await self._close(protocol.close(TOO_MANY_SESSIONS))
                    return
                self._visit.authenticated(request=False)
                self._client_limits.authenticated(principal.user_id)
                session = self._session = self._admission.open(protocol.client_id, principal, self)
                head = await self._admission.admit(session)
        except _TooManyTickets:
            handshakes.labels("flood").inc()
            await self._close(protocol.close(TOO_MANY_REQUESTS))
            return
        except TokenRejected:
            handshakes.labels("refused").inc()
            await self._execute(protocol.refuse())
            return
        except trio.TooSlowError:
            handshakes.labels("timeout").inc()
            await self._execute(protocol.timed_out(trio.current_time()))
            return
        except (StoreUnavailable, IssuerUnavailable):
            handshakes.labels("unavailable").inc()
            await self._close(protocol.close(TRY_AGAIN_LATER))
            return
        # From here to `begin` nothing awaits: no frame can come between `connected` and the key.
        decisions = protocol.accept(
            principal.user_id, request.public_key, format_timestamp(self._now()), trio.current_time()
        )
        if protocol.closed:
            handshakes.labels("bad_key").inc()
            await self._execute(decisions)
            return
        for decision in decisions:
            if isinstance(decision, SendFrame):
                self._send(decision)
        self._expires(principal)
        session.begin(head)
        if request.resume is not None:
            session.resume(request.resume.rev, request.resume.history)
        handshakes.labels("accepted").inc()
        self._metrics.versions.labels(str(protocol.version)).inc()

    async def _principal(self, credential: Credential) -> Principal:
        """Raises TokenRejected, _TooManyTickets, StoreUnavailable or IssuerUnavailable."""
        if not credential.is_ticket:
            return await self._verify(credential.text)
        address = self._visit.client or self._visit.peer
        if not self._limits.ticket_from(address):
            raise _TooManyTickets
        principal = await self._use_ticket(credential.text)
        self._limits.ticket_was_valid(address)
        return principal

    async def _join(self, rooms: tuple[str, ...], malformed: tuple[str, ...]) -> None:
        session = self._session
        assert session  # noqa: S101 - the protocol gives this only when live
        await self._admission.enter(session, rooms, malformed)

    async def _refresh(self, credential: Credential) -> None:
        session = self._session
        assert session  # noqa: S101
        try:
            principal = await self._principal(credential)
            if principal.user_id != session.user_id:
                raise TokenRejected("The token is another user's.")
        except TokenRejected:
            await self._execute(self._protocol.refuse())
        except _TooManyTickets:
            await self._close(self._protocol.close(TOO_MANY_REQUESTS))
        except (StoreUnavailable, IssuerUnavailable):
            pass  # the session's present token still counts
        else:
            session.renew(principal)
            self._expires(principal)
            await self._execute(self._protocol.refreshed())

    def _expires(self, principal: Principal) -> None:
        left_s = (principal.expires_at - self._now()).total_seconds()
        self._protocol.expires(trio.current_time() + left_s)

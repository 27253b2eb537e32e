"""One client of Server-Sent Events, from its admission to its end: the transport of its session.

One task, no timer tasks: it waits for the client to leave until the next heartbeat is due."""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import trio

from nx_signal.delivery.admission import Admission
from nx_signal.delivery.kernel import end_if_unacknowledged
from nx_signal.delivery.rooms import is_room_name
from nx_signal.delivery.session import Session
from nx_signal.delivery.topics import CLOSED, CONNECTED, EXPIRING, STATE, frame, state_data
from nx_signal.delivery.transport import CloseReason, FrameKind, PushResult
from nx_signal.delivery.writer import LINGER_READ_BYTES, Writer, WriterObserver
from nx_signal.model import InboxSummary
from nx_signal.model.timestamps import format_timestamp
from nx_signal.model.wire import encode_json
from nx_signal.ports import Now
from nx_signal.server.gate import Visit
from nx_signal.sse.encoding import HEARTBEAT, EventEncoder, Place, event_of
from nx_signal.telemetry.metrics import Metrics

HEARTBEAT_S = (15.0, 25.0)
"""Between two of them: below the minute after which proxies cut off a quiet connection."""
RETRY_MS = (1_000, 3_000)
"""After which a browser connects again: not all of them at once."""
GONE_AFTER_S = 60.0
"""Without an acknowledgement: it has no heartbeat of its own that would be missed. Above writer.STALL_S."""
WARN_BEFORE_EXPIRY_S = 60.0
RECEIVE_BYTES = 4_096
MAX_RECEIVED_BYTES = 65_536
"""Of a client that has nothing more to send; with more it is disconnected."""
TOO_MANY_BYTES = (1008, "Too many frames or bytes")


@dataclass(kw_only=True, eq=False)
class EventParts:
    """What all connections of a server use."""

    admission: Admission
    metrics: Metrics
    now: Now
    max_buffer_bytes: int
    encode: EventEncoder = field(default_factory=EventEncoder, init=False)


class EventConnection(WriterObserver):
    """Admitted before its answer begins, so that a refusal is an answer; then served, or abandoned."""

    __slots__ = (
        "_close_with",
        "_expires_s",
        "_head",
        "_heartbeat_s",
        "_parts",
        "_place",
        "_rooms",
        "_session",
        "_waiting",
        "_warn_s",
        "_writer",
    )

    def __init__(self, parts: EventParts, place: Place | None, rooms: Sequence[str]) -> None:
        self._parts = parts
        self._place = place
        self._rooms = rooms
        self._session: Session
        self._head: InboxSummary
        self._writer: Writer | None = None
        self._close_with: tuple[int, str] | None = None
        self._waiting: trio.CancelScope | None = None

    async def admit(self, session: Session) -> None:
        """Raises StoreUnavailable: then it is over."""
        self._session = session
        try:
            self._head = await self._parts.admission.admit(session)
        except BaseException:
            self.abandon()
            raise

    def abandon(self) -> None:
        """It is not served, or not any more."""
        self._parts.admission.release(self._session)

    async def serve(self, stream: trio.SocketStream, answer: bytes, visit: Visit) -> None:
        """`answer`: the head of the response, which is not sent yet. Until one side ends it."""
        end_if_unacknowledged(stream.socket, GONE_AFTER_S)
        try:
            async with trio.open_nursery() as nursery:
                bound = self._parts.max_buffer_bytes
                writer = self._writer = Writer(stream, nursery, self, max_buffer_bytes=bound)
                try:
                    self._begin(writer, answer)
                    if self._rooms:
                        await self._enter_rooms()
                    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                        await self._run(writer)
                finally:
                    self.abandon()
                    with trio.CancelScope(shield=True):
                        await writer.linger_and_close()
                    nursery.cancel_scope.cancel()
        finally:
            self.abandon()

    # --- the session's transport ---

    encrypted = False

    @property
    def queued_bytes(self) -> int:
        return self._writer.queued_bytes if self._writer else 0

    def push(self, payload: bytes, kind: FrameKind) -> PushResult:
        if self._writer is None:
            return PushResult.CLOSED
        return self._writer.push(payload, kind, self._parts.encode)

    def close(self, reason: CloseReason) -> None:
        self._close(reason.value)

    def _close(self, code_and_reason: tuple[int, str]) -> None:
        if self._close_with is None:
            self._close_with = code_and_reason
            if self._waiting:
                self._waiting.cancel()

    # --- the writer's observer ---

    def drained(self) -> None:
        self._session.drained()

    def stalled(self) -> None:
        if self._writer:
            self._writer.end_with(_closed(CloseReason.SLOW_CONSUMER.value))
        self._session.end(CloseReason.SLOW_CONSUMER)

    # --- from the first event to the last ---

    def _begin(self, writer: Writer, answer: bytes) -> None:
        """Nothing awaits here: no push comes in between."""
        parts, session = self._parts, self._session
        now, now_s = parts.now(), trio.current_time()
        self._expires_s = now_s + (session.principal.expires_at - now).total_seconds()
        self._warn_s = self._expires_s - WARN_BEFORE_EXPIRY_S
        self._heartbeat_s = now_s + random.uniform(*HEARTBEAT_S)  # noqa: S311 - no secret
        connected = {"id": session.client_id, "userId": session.user_id, "time": format_timestamp(now)}
        first = [
            answer,
            b"retry: %d\n\n" % random.randrange(*RETRY_MS),  # noqa: S311
            event_of(frame(CONNECTED, encode_json(connected))),
        ]
        if self._place is None:
            first.append(event_of(frame(STATE, state_data(self._head, reset=False))))
        writer.push(b"".join(first), FrameKind.LOG)
        session.begin(self._head)
        if self._place is not None:
            session.resume(*self._place)
        del self._head
        parts.metrics.handshakes.labels("accepted").inc()

    async def _enter_rooms(self) -> None:
        good = [room for room in self._rooms if is_room_name(room)]
        malformed = [room for room in self._rooms if not is_room_name(room)]
        self._rooms = ()
        await self._parts.admission.enter(self._session, good, malformed)

    async def _run(self, writer: Writer) -> None:
        """Until the client leaves, or it is to be closed. Raises BrokenResourceError."""
        received = 0
        while self._close_with is None:
            count = await self._received(writer, min(self._heartbeat_s, self._warn_s, self._expires_s))
            if count is None:
                self._on_time(writer, trio.current_time())
            elif count == 0:
                return
            else:
                received += max(count, LINGER_READ_BYTES)
                if received > MAX_RECEIVED_BYTES:
                    self._close(TOO_MANY_BYTES)
        self._session.release()
        self._parts.metrics.closes.labels(str(self._close_with[0])).inc()
        writer.push_last(_closed(self._close_with))

    async def _received(self, writer: Writer, until_s: float) -> int | None:
        """The number of bytes, which are not looked at; 0 at the end, None where none came by then."""
        with trio.CancelScope(deadline=until_s) as self._waiting:
            return len(await writer.receive(RECEIVE_BYTES))
        return None

    def _on_time(self, writer: Writer, now_s: float) -> None:
        if now_s >= self._expires_s:
            self.close(CloseReason.TOKEN_EXPIRED)
        elif now_s >= self._warn_s:
            self._warn_s = self._expires_s
            left_ms = round((self._expires_s - now_s) * 1000)
            self._session.notify(frame(EXPIRING, encode_json({"expiresInMs": left_ms})))
        elif now_s >= self._heartbeat_s:
            self._heartbeat_s = now_s + random.uniform(*HEARTBEAT_S)  # noqa: S311
            if not writer.queued_bytes:
                writer.push(HEARTBEAT, FrameKind.LOG)


def _closed(why: tuple[int, str]) -> bytes:
    code, reason = why
    return event_of(frame(CLOSED, encode_json({"code": code, "reason": reason})))

"""One authenticated client: its place in its inbox's log, its rooms, and its transport.

Everything here is synchronous; nothing waits for a client."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime

from nx_signal.delivery.backlog import Backlog, Pool
from nx_signal.delivery.cursor import Cursor, Decision, PushChange, PushState, RequestRead, Step
from nx_signal.delivery.topics import LOST, STATE, frame, state_data
from nx_signal.delivery.transport import CloseReason, FrameKind, PushResult, Transport
from nx_signal.model import Change, ChangesSince, InboxSummary, Principal
from nx_signal.model.channels import DEFAULT_ROOMS, inbox_room
from nx_signal.model.wire import encode_change, encode_json


class Session:
    """`request_read(session)` has the log read for it soon, `request_comparison(session)` the head."""

    __slots__ = (
        "_backlog",
        "_pool",
        "_request_comparison",
        "_request_read",
        "client_id",
        "connected_at",
        "cursor",
        "last_activity",
        "principal",
        "rooms",
        "transport",
    )

    def __init__(
        self,
        client_id: str,
        principal: Principal,
        transport: Transport,
        connected_at: datetime,
        *,
        request_read: Callable[[Session], None],
        request_comparison: Callable[[Session], None],
        pool: Pool,
    ) -> None:
        self.client_id = client_id
        self.principal = principal
        self.transport = transport
        self.connected_at = self.last_activity = connected_at
        self.rooms: set[str] = {client_id, *DEFAULT_ROOMS, inbox_room(principal.user_id)}
        self.cursor = Cursor()
        self._request_read = request_read
        self._request_comparison = request_comparison
        self._pool = pool
        self._backlog: Backlog | None = None
        """of frames that are not of the log, while the transport has no room for them"""

    @property
    def user_id(self) -> str:
        return self.principal.user_id

    @property
    def live(self) -> bool:
        """Between `connected` and the end. Outside, nothing is pushed."""
        return self.cursor.live

    @property
    def queued_bytes(self) -> int:
        """Pushed and not sent yet."""
        return self.transport.queued_bytes + (self._backlog.queued_bytes if self._backlog else 0)

    def active_at(self, moment: datetime) -> None:
        """The client sent a message."""
        self.last_activity = moment

    def renew(self, principal: Principal) -> None:
        """The client presented a newer token of the same user."""
        self.principal = principal

    def begin(self, head: InboxSummary) -> None:
        """`connected` is sent: pushes flow. `head`: the inbox's, read after the session was registered."""
        self._execute(self.cursor.begin(head))

    def resume(self, rev: int, history: str | None = None) -> None:
        """Replay what came after `rev` of this history, then a `state`."""
        self._execute(self.cursor.resume(rev, history))

    def end(self, reason: CloseReason) -> None:
        """Push nothing more and close the connection."""
        self.release()
        self.transport.close(reason)

    def release(self) -> None:
        """Push nothing more: the connection is over."""
        self.cursor.end()
        if self._backlog is not None:
            self._backlog.clear()
            self._backlog = None

    def notify(self, payload: bytes) -> None:
        """Push `{"event","data"}` that concerns the connection, ahead of what waits. Lost without room."""
        if self.cursor.live:
            self.transport.push(payload, FrameKind.LOG)

    def offer(self, payload: bytes) -> bool:
        """Push `{"event","data"}` that is not part of the log, now or after what waits; whether it may be."""
        if not self.cursor.live:
            return False
        if self._backlog is None:
            result = self.transport.push(payload, FrameKind.EPHEMERAL)
            if result is not PushResult.REFUSED:
                return result is PushResult.TAKEN
            self._backlog = Backlog(self._pool)
        self._backlog.add(payload)
        return True

    def offer_change(self, step: Step) -> None:
        """A change of this inbox was announced."""
        if not self.cursor.is_next(step):
            self._execute(self.cursor.change_announced(step))
        # The usual case, without a decision: a microsecond of each push.
        elif self.transport.push(step.payload, FrameKind.LOG) is PushResult.TAKEN:
            self.cursor.pushed(step)
        else:
            self.cursor.push_refused()

    def observe_head(self, head: InboxSummary, asked_at: int) -> None:
        """The head of this inbox was read from the store, when the cursor stood at `asked_at`."""
        self._execute(self.cursor.observe_head(head, asked_at))

    def begin_read(self) -> int | None:
        """The revision after which this session misses changes; None where it misses none."""
        return self.cursor.begin_read() if self.cursor.wants_read else None

    def changes_read(
        self, backlog: ChangesSince, resume_limit: int, encode: Callable[[Change], bytes]
    ) -> None:
        """What the store has after the revision of `begin_read`."""
        self._execute(self.cursor.changes_read(backlog, resume_limit, encode))

    def drained(self) -> None:
        """The transport refused a frame before, and has room again."""
        if self._backlog is not None:
            self._push_backlog(self._backlog)
        if self.cursor.backpressured:
            self._execute(self.cursor.drained())

    def _push_backlog(self, backlog: Backlog) -> None:
        while backlog:
            lost = backlog.lost
            payload = frame(LOST, encode_json({"count": lost})) if lost else backlog.first
            if self.transport.push(payload, FrameKind.EPHEMERAL) is not PushResult.TAKEN:
                return
            if lost:
                backlog.lost = 0
            else:
                backlog.remove_first()
        self._backlog = None

    def _execute(self, decisions: Iterable[Decision]) -> None:
        for decision in decisions:
            if isinstance(decision, PushChange):
                payload = decision.payload
            elif isinstance(decision, PushState):
                payload = frame(STATE, state_data(decision.head, reset=decision.reset))
            elif isinstance(decision, RequestRead):
                self._request_read(self)
                continue
            else:
                self._request_comparison(self)
                continue
            if self.transport.push(payload, FrameKind.LOG) is not PushResult.TAKEN:
                self.cursor.push_refused()
                return


def payload_of(change: Change) -> bytes:
    """`{"event","data"}` of a change."""
    return frame(*encode_change(change))

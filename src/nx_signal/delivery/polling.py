"""Long polling: the changes after a revision, at once or as soon as there are any.

Each call decides by one read of the store, as a session's cursor does. It waits as a session, and answers
what is pushed to it: a change for many that wait costs no read for each. Only where something else ends the
wait the store is read again."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import trio

from nx_signal.delivery.admission import Admission
from nx_signal.delivery.cursor import Cursor, PushChange, PushState
from nx_signal.delivery.session import payload_of
from nx_signal.delivery.topics import NOTIFICATIONS, STATE
from nx_signal.delivery.transport import CloseReason, FrameKind, PushResult
from nx_signal.model import InboxSummary, Principal
from nx_signal.ports import Now
from nx_signal.store import InboxStore

MAX_CHANGES = 100
"""Of one answer."""


class Polled(NamedTuple):
    """`changes`: `{"event","data"}` each, right after the revision asked for, ascending. `rev` and `history`:
    what to ask with next. `head`: the inbox's, of the same moment. `reset`: the store does not have the
    change that the client holds, or not all after it: its list is to be fetched again."""

    changes: tuple[bytes, ...]
    rev: int
    history: str | None
    head: InboxSummary
    reset: bool


class _Place(msgspec.Struct):
    rev: int
    history: str
    unread: int
    unseen: int
    total: int


class _Change(msgspec.Struct):
    event: str
    data: _Place


_decode_change = msgspec.json.Decoder(_Change).decode


class Polling:
    """Of one instance. `admission` counts those that wait as sessions of their users."""

    def __init__(self, store: InboxStore, admission: Admission, now: Now) -> None:
        self._store = store
        self._now = now
        self._admission = admission
        self._waiting: set[_Waiting] = set()
        self._stopping = False

    async def head(self, user_id: str) -> Polled:
        """Where a client begins that holds nothing."""
        head = (await self._store.summaries([user_id]))[user_id]
        return Polled((), head.rev, head.history, head, reset=False)

    async def changes(
        self,
        principal: Principal,
        rev: int,
        history: str | None,
        *,
        wait_s: float,
        limit: int,
        gone: trio.Event | None = None,
    ) -> Polled:
        """The changes after `rev` of this history, at most `limit`; where there are none, the first that come
        within `wait_s`, the rest of the token's time, and until `gone`. Raises SessionsFull,
        StoreUnavailable."""
        polled = await self._read(principal.user_id, rev, history, limit)
        if polled.changes or polled.reset or wait_s <= 0 or self._stopping:
            return polled
        self._admission.require_room(principal.user_id)
        wait_s = min(wait_s, (principal.expires_at - self._now()).total_seconds())
        waiting = _Waiting(limit)
        session = self._admission.open(str(uuid.uuid4()), principal, waiting)
        with trio.move_on_after(wait_s):
            self._waiting.add(waiting)
            try:
                head = await self._admission.admit(session)
                if (head.rev, head.history) == (polled.rev, polled.history):
                    session.begin(head)
                    await self._wait(waiting, gone)
            finally:
                self._waiting.discard(waiting)
                self._admission.release(session)
        if (pushed := _answer(principal.user_id, polled.rev, waiting.pushed, limit)) is not None:
            return pushed
        return await self._read(principal.user_id, rev, history, limit)

    async def _wait(self, waiting: _Waiting, gone: trio.Event | None) -> None:
        async with trio.open_nursery() as nursery:
            if gone is not None:
                nursery.start_soon(waiting.end_with, gone)
            await waiting.over.wait()
            nursery.cancel_scope.cancel()

    async def _read(self, user_id: str, rev: int, history: str | None, limit: int) -> Polled:
        backlog = (await self._store.changes_since({user_id: rev}, min(limit, MAX_CHANGES)))[user_id]
        cursor = Cursor()
        for _ in cursor.begin(backlog.head):
            pass
        for _ in cursor.resume(rev, history):
            pass
        cursor.begin_read()
        changes, reset = [], False
        for decision in cursor.changes_read(backlog, sys.maxsize, payload_of):
            if isinstance(decision, PushChange):
                changes.append(decision.payload)
            elif isinstance(decision, PushState):
                reset = decision.reset
        return Polled(tuple(changes), cursor.rev, cursor.history, backlog.head, reset)

    def stop(self) -> None:
        """Answer those that wait, and let no further ones wait."""
        self._stopping = True
        for waiting in self._waiting:
            waiting.over.set()


def _answer(user_id: str, rev: int, pushed: Sequence[bytes], limit: int) -> Polled | None:
    """Of what was pushed after `rev`. None where that is not one to `limit` changes with their counts: it may
    be of a release that states fewer of them, concern the connection, or be a reset."""
    if not 1 <= len(pushed) <= limit:
        return None
    try:
        changes = [_decode_change(payload) for payload in pushed]
    except msgspec.DecodeError:
        return None
    for next_rev, change in enumerate(changes, rev + 1):
        if change.event == STATE or not change.event.startswith(NOTIFICATIONS) or change.data.rev != next_rev:
            return None
    last = changes[-1].data
    head = InboxSummary(user_id, last.rev, last.total, last.unread, last.history, last.unseen)
    return Polled(tuple(pushed), last.rev, last.history, head, reset=False)


class _Waiting:
    """The transport of a session that waits. `over`: it is to be answered. `pushed`: up to one more than it
    may be answered."""

    def __init__(self, limit: int) -> None:
        self.over = trio.Event()
        self.pushed: list[bytes] = []
        self._limit = limit

    encrypted = False
    queued_bytes = 0

    async def end_with(self, other: trio.Event) -> None:
        await other.wait()
        self.over.set()

    def push(self, payload: bytes, kind: FrameKind) -> PushResult:
        if kind is not FrameKind.LOG:
            return PushResult.TAKEN
        self.over.set()
        if len(self.pushed) > self._limit:
            return PushResult.REFUSED
        self.pushed.append(payload)
        return PushResult.TAKEN

    def close(self, reason: CloseReason) -> None:
        self.over.set()

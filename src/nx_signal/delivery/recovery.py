"""Reads what sessions have missed from the store: on request, by a sweep, after the relay reconnects."""

from __future__ import annotations

from collections.abc import Iterable

import trio

from nx_signal.delivery.cursor_states import State
from nx_signal.delivery.hub import Hub
from nx_signal.delivery.session import Session, payload_of
from nx_signal.model import Change, ChangesSince, Unknown
from nx_signal.store import InboxStore
from nx_signal.supervise import retry_until_available
from nx_signal.telemetry.metrics import Metrics
from nx_signal.telemetry.tally import Tally

READ_AFTER_S = 0.02
"""A gap often closes by itself: two partitions announced out of order. Wait that long before a query.
Comparisons wait, too: one query for all that come meanwhile."""

HINTS_EVERY_S = 1.0
"""Hints come from anybody who may publish: they cause at most one query in this time."""

WENT_BACK = (
    "The store no longer has changes that clients were sent, as after a restored backup. These clients fetch "
    "their lists again. Have the activities since then processed again: docs/deploying.md."
)

READ_USERS = 100
READ_CHANGES = 100
"""Of one user in one round: pushing them holds the event loop for some milliseconds."""
READ_ROWS = 2_000
"""Of all users in one round: bounds the memory of a read to about 2 MB of usual rows."""


class Recovery:
    def __init__(
        self, hub: Hub, store: InboxStore, metrics: Metrics, *, resume_limit: int, sweep_s: float
    ) -> None:
        self._hub = hub
        self._store = store
        self._metrics = metrics
        self._resume_limit = resume_limit
        self._sweep_s = sweep_s
        self._to_read: dict[Session, None] = {}
        self._to_compare: set[str] = set()
        self._hinted: set[str] = set()
        self._hint_came = trio.Event()
        self._wake_reader = trio.Event()
        self._read_at_once = trio.Event()
        self._wake_comparer = trio.Event()
        self._went_back = Tally("store_went_back")

    def request_read(self, session: Session) -> None:
        """Read soon what this session has missed."""
        self._to_read[session] = None
        self._wake_reader.set()
        if not session.cursor.reordering:
            self._read_at_once.set()

    def request_comparison(self, session: Session) -> None:
        """Compare soon what this session holds with the head in the store."""
        self.compare_soon((session.user_id,))

    def compare_soon(self, user_ids: Iterable[str]) -> None:
        """Compare these users' sessions with the heads in the store, in one query."""
        self._to_compare.update(user_ids)
        if self._to_compare:
            self._wake_comparer.set()

    def hint(self, user_id: str) -> None:
        """Something of this inbox may have changed: compare it with the store, within HINTS_EVERY_S."""
        if user_id in self._hub.users:
            self._hinted.add(user_id)
            self._hint_came.set()

    async def run_hints(self) -> None:
        while True:
            await self._hint_came.wait()
            self._hint_came = trio.Event()
            hinted, self._hinted = self._hinted, set()
            self.compare_soon(hinted)
            await trio.sleep(HINTS_EVERY_S)

    async def run_sweep(self) -> None:
        while True:
            await trio.sleep(self._sweep_s)
            self.compare_soon(self._hub.users)

    async def run_comparer(self) -> None:
        while True:
            await self._wake_comparer.wait()
            await trio.sleep(READ_AFTER_S)
            self._wake_comparer = trio.Event()
            users = [user for user in self._to_compare if user in self._hub.users]
            self._to_compare.clear()
            # One that attaches from here on reads a head of its own.
            asked_at = {
                session: session.cursor.rev for user in users for session in self._hub.sessions_of(user)
            }
            if not asked_at:
                continue
            heads = await retry_until_available(self._store.summaries, users)
            for session, rev in asked_at.items():
                if self._attached(session):
                    session.observe_head(heads[session.user_id], rev)

    async def run_reader(self) -> None:
        while True:
            if not self._to_read:
                await self._wake_reader.wait()
                with trio.move_on_after(READ_AFTER_S):
                    await self._read_at_once.wait()
            self._wake_reader, self._read_at_once = trio.Event(), trio.Event()
            await self._read_round()

    async def _read_round(self) -> None:
        chosen, cursors = self._choose()
        if not chosen:
            return
        limit = min(READ_CHANGES, READ_ROWS // len(cursors))
        changes_since = await retry_until_available(self._store.changes_since, cursors, limit)
        self._metrics.heals.inc(len(chosen))
        self._count_unknown(changes_since.values())
        encoded: dict[int, bytes] = {}

        def encode(change: Change) -> bytes:
            """Once for all sessions of a user."""
            if id(change) not in encoded:
                encoded[id(change)] = payload_of(change)
            return encoded[id(change)]

        for session in chosen:
            backlog = changes_since[session.user_id]
            if session.cursor.state is State.RECOVERING and session.cursor.lost(backlog):
                self._metrics.lost_changes.inc()
                self._went_back.count(advice=WENT_BACK)
            session.changes_read(backlog, self._resume_limit, encode)
            await trio.lowlevel.checkpoint()

    def _choose(self) -> tuple[list[Session], dict[str, int]]:
        """The sessions of this round, and the revision to read from for each of their users. One that stands
        elsewhere than the first of its user waits for a later round, so that neither holds up the other."""
        chosen: list[Session] = []
        cursors: dict[str, int] = {}
        for session in list(self._to_read):
            first = cursors.get(session.user_id)
            if first is None and len(cursors) >= READ_USERS:
                continue
            if first is not None and not first <= session.cursor.rev < first + READ_CHANGES:
                continue
            del self._to_read[session]
            if self._attached(session) and (rev := session.begin_read()) is not None:
                cursors.setdefault(session.user_id, rev)
                chosen.append(session)
        return chosen, cursors

    def _attached(self, session: Session) -> bool:
        return self._hub.session(session.client_id) is session

    def _count_unknown(self, backlogs: Iterable[ChangesSince]) -> None:
        unknown = sum(isinstance(change, Unknown) for backlog in backlogs for change in backlog.changes)
        self._metrics.unknown_changes.inc(unknown)

"""What was done with a past activity, step by step, down to the sockets: for operators' questions such as
why somebody was not told."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from nx_signal.model import ActivityRow, LiveSessions, SessionState, Trace
from nx_signal.ports import Database

MAX_EXPLAINED = 20
"""Recipients in one answer, when none is named: each of them is asked of every instance."""

Delivery: TypeAlias = Literal[
    "delivered", "behind", "slow_consumer", "not_announced", "fetched", "not_connected", "no_row"
]

REASONS: Mapping[Delivery, str] = {
    "delivered": "It was handed to the client's socket.",
    "behind": "The client is connected and behind: what it misses is being read from the store.",
    "slow_consumer": "The client is connected and does not read fast enough: it gets this once it has read "
    "what is queued for it.",
    "not_announced": "The client is connected, and its instance has not heard of this yet: the next "
    "comparison with the store finds it.",
    "fetched": "The client connected after this was written, or was told to start anew: it gets this by "
    "listing or by resuming.",
    "not_connected": "No client of this recipient is connected: it gets this by listing or by resuming.",
    "no_row": "There is no notification of this activity for this recipient.",
}

_BEST_FIRST: tuple[Delivery, ...] = ("delivered", "behind", "slow_consumer", "not_announced", "fetched")


@dataclass(frozen=True, slots=True)
class SessionDelivery:
    session: SessionState
    delivery: Delivery


@dataclass(frozen=True, slots=True)
class RecipientDelivery:
    """`delivery` is the best of the recipient's sessions."""

    recipient_id: str
    row: ActivityRow | None
    delivery: Delivery
    sessions: tuple[SessionDelivery, ...]


@dataclass(frozen=True, slots=True)
class Explained:
    """`trace` is None once it is pruned. `recipients` is the one asked for, or the first MAX_EXPLAINED of
    `rows`. `unanswered` names instances whose sessions are missing here."""

    activity_id: str
    trace: Trace | None
    rows: int
    recipients: tuple[RecipientDelivery, ...]
    unanswered: tuple[str, ...]


class Explain:
    """`sessions` asks every instance for the live sessions of some users."""

    def __init__(
        self, database: Database, sessions: Callable[[Sequence[str]], Awaitable[LiveSessions]]
    ) -> None:
        self._database = database
        self._sessions = sessions

    async def explain(self, activity_id: str, recipient_id: str | None) -> Explained | None:
        """None when nothing at all is known of it."""
        trace = await self._database.traces.get(activity_id)
        rows, total = await self._database.inbox.rows_of(activity_id, recipient_id, MAX_EXPLAINED)
        if trace is None and not total:
            return None
        by_recipient = {row.recipient_id: row for row in rows}
        asked = list(by_recipient) if recipient_id is None else [recipient_id]
        live = await self._sessions(asked) if by_recipient else LiveSessions((), ())
        recipients = []
        for user in asked:
            mine = [session for session in live.sessions if session.user_id == user]
            recipients.append(recipient_delivery(user, by_recipient.get(user), mine))
        return Explained(activity_id, trace, total, tuple(recipients), live.unanswered)


def recipient_delivery(
    recipient_id: str, row: ActivityRow | None, sessions: Sequence[SessionState]
) -> RecipientDelivery:
    if row is None:
        return RecipientDelivery(recipient_id, None, "no_row", ())
    each = tuple(SessionDelivery(session, delivery_of(row.rev, session)) for session in sessions)
    found = {one.delivery for one in each}
    best: Delivery = next((delivery for delivery in _BEST_FIRST if delivery in found), "not_connected")
    return RecipientDelivery(recipient_id, row, best, each)


def delivery_of(rev: int, session: SessionState) -> Delivery:
    """What became of this revision towards that client."""
    if rev <= session.since:
        return "fetched"
    if rev <= session.rev:
        return "delivered"
    if session.lagging:
        return "slow_consumer"
    return "behind" if session.behind else "not_announced"

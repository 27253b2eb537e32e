"""Explains a past activity, step by step, down to the sockets: for operators, such as why a user was not
notified."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from nx_signal.activities.identity import identity, sourced_range
from nx_signal.activities.why import why_not
from nx_signal.delivery.sessions import Delivery, LiveSessions, SessionState, best_delivery
from nx_signal.model import ActivityRow, KeptCorrection, Trace
from nx_signal.store import Corrections, Directory, InboxStore, Traces

MAX_EXPLAINED = 20
"""Recipients in one answer, when none is named: every instance is queried for each of them."""

REASONS: Mapping[Delivery, str] = {
    "delivered": "It was handed to the client's socket.",
    "behind": "The client is connected and behind: what it misses is being read from the store.",
    "slow_consumer": "The client is connected and does not read fast enough: it gets this once it has read "
    "what is queued for it.",
    "not_announced": "The client is connected, and its instance does not know of this yet: the "
    "next comparison with the store finds it.",
    "fetched": "The client connected after this was written, or its session was reset: it gets this by "
    "listing or by resuming.",
    "not_connected": "No client of this recipient is connected: it gets this by listing or by resuming.",
    "not_known": "No client of this recipient is connected to the instances that answered, and not all "
    "could be asked (`unanswered`): one may be connected elsewhere.",
}

DELETED = "It left the inbox since: it was deleted, replaced, retracted or had expired."


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
    why: str
    sessions: tuple[SessionDelivery, ...]


@dataclass(frozen=True, slots=True)
class Explained:
    """`trace` is None once it is pruned. `recipients` is the requested one, or the first MAX_EXPLAINED of
    `rows`. `unanswered` names instances whose sessions are missing here."""

    activity_id: str
    trace: Trace | None
    rows: int
    recipients: tuple[RecipientDelivery, ...]
    unanswered: tuple[str, ...]
    corrections: tuple[KeptCorrection, ...] = ()
    """the one that stands first"""


@dataclass(frozen=True, slots=True)
class Around:
    """Of one person and one time, newest first: the activities of which it has a notification, and those that
    were handled and gave it none."""

    received: tuple[Explained, ...]
    missed: tuple[Explained, ...]
    unanswered: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Found:
    activity_id: str
    trace: Trace | None
    rows: Sequence[ActivityRow]
    total: int
    corrections: Sequence[KeptCorrection]


class Explain:
    """`sessions` queries every instance for the live sessions of some users."""

    def __init__(
        self,
        inbox: InboxStore,
        traces: Traces,
        corrections: Corrections,
        directory: Directory,
        sessions: Callable[[Sequence[str]], Awaitable[LiveSessions]],
    ) -> None:
        self._inbox = inbox
        self._traces = traces
        self._corrections = corrections
        self._directory = directory
        self._sessions = sessions

    async def identities(self, event_id: str, source: str | None) -> Sequence[str]:
        """Those that an eventId may mean, the likeliest first: with a source one; else, as it stands, a
        position, an id without a source or an identity itself, and then the ids of that text with any
        source, up to MAX_EXPLAINED."""
        if source is not None:
            return (identity(event_id, source),)
        alone = dict.fromkeys((event_id, identity(event_id, None)))
        for each in alone:
            if await self._exists(each):
                return (each,)
        return await self._traces.with_id(*sourced_range(event_id), MAX_EXPLAINED)

    async def _exists(self, activity_id: str) -> bool:
        if await self._traces.get(activity_id) is not None:
            return True
        if (await self._inbox.rows_of(activity_id, None, 1))[1]:
            return True
        return bool(await self._corrections.standing([activity_id]))

    async def explain(self, activity_id: str, recipient_id: str | None) -> Explained | None:
        """None where neither a trace nor a row nor a correction exists."""
        found = await self._find(activity_id, recipient_id)
        if found is None:
            return None
        users = [row.recipient_id for row in found.rows]
        live = await self._sessions(users) if users else LiveSessions((), ())
        return await self._explained(found, recipient_id, live)

    async def around(self, recipient_id: str, since: datetime, until: datetime, limit: int) -> Around:
        """What of the activities of a time became of this person: newest first, at most `limit` of each."""
        received = await self._traces.received(recipient_id, since, until, limit)
        missed = await self._traces.missed(recipient_id, since, until, limit)
        live = await self._sessions([recipient_id]) if received else LiveSessions((), ())
        explained: list[list[Explained]] = [[], []]
        for each, activity_ids in zip(explained, (received, missed), strict=True):
            for activity_id in activity_ids:
                if (found := await self._find(activity_id, recipient_id)) is not None:
                    each.append(await self._explained(found, recipient_id, live))
        return Around(tuple(explained[0]), tuple(explained[1]), live.unanswered)

    async def _find(self, activity_id: str, recipient_id: str | None) -> _Found | None:
        trace = await self._traces.get(activity_id)
        rows, total = await self._inbox.rows_of(activity_id, recipient_id, MAX_EXPLAINED)
        corrections = await self._corrections.of(activity_id)
        if trace is None and not total and not corrections:
            return None
        return _Found(activity_id, trace, rows, total, corrections)

    async def _explained(self, found: _Found, recipient_id: str | None, live: LiveSessions) -> Explained:
        by_recipient = {row.recipient_id: row for row in found.rows}
        users = list(by_recipient) if recipient_id is None else [recipient_id]
        recipients = []
        for user in users:
            row = by_recipient.get(user)
            if row is None:
                why = await self._why_not(found, user)
                recipients.append(RecipientDelivery(user, None, "no_row", why, ()))
            else:
                mine = [session for session in live.sessions if session.user_id == user]
                recipients.append(recipient_delivery(user, row, mine, all_asked=not live.unanswered))
        return Explained(
            found.activity_id,
            found.trace,
            found.total,
            tuple(recipients),
            live.unanswered,
            tuple(found.corrections),
        )

    async def _why_not(self, found: _Found, user_id: str) -> str:
        others, _ = await self._inbox.rows_of(found.activity_id, None, 1)
        memberships = (await self._directory.memberships([user_id]))[user_id]
        row = others[0] if others else None
        had_newer = row is not None and await self._had_newer(found.trace, row, user_id)
        return why_not(user_id, found.trace, row, memberships, had_newer=had_newer)

    async def _had_newer(self, trace: Trace | None, row: ActivityRow, user_id: str) -> bool:
        """Of the key of this row of another recipient, when the activity was handled."""
        if row.collapse_key is None or row.occurred_at is None or trace is None or trace.handled_at is None:
            return False
        return await self._inbox.had_newer(
            user_id, row.organizer_id, row.collapse_key, row.occurred_at, trace.handled_at
        )


def recipient_delivery(
    recipient_id: str, row: ActivityRow, sessions: Sequence[SessionState], *, all_asked: bool
) -> RecipientDelivery:
    each = tuple(SessionDelivery(session, session.delivery_of(row.rev)) for session in sessions)
    best = best_delivery((one.delivery for one in each), all_asked=all_asked)
    why = DELETED if row.deleted else REASONS[best]
    return RecipientDelivery(recipient_id, row, best, why, each)

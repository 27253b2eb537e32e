"""From an activity and its recipients to drafts, and from drafts to rows and announcements."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeAlias

import trio

from nx_signal.activities.again import rendered_from
from nx_signal.activities.content import Rendered, Renderer
from nx_signal.activities.recipients import ResolvedRecipients
from nx_signal.model import Change, Draft, Position
from nx_signal.model.timestamps import to_milliseconds
from nx_signal.store import InboxStore
from nx_signal.telemetry.metrics import Metrics

MAX_DRAFTS = 1_000
"""Rows in one statement: the limit of InboxStore.insert."""
MAX_CHUNK_BYTES = 4_194_304
"""Of rows in one statement: it takes the database well below its time limit, and this process some copies."""
ANNOUNCED_AT_ONCE = 64
"""At 15 µs a push this holds the event loop for about a millisecond."""

Announce: TypeAlias = Callable[[Sequence[Change]], None]
"""Passes committed changes to the sessions."""

Addressed: TypeAlias = tuple[Position, Draft]
"""A draft, and the position of its record."""


def render(renderer: Renderer, resolved: ResolvedRecipients) -> Mapping[str, Rendered]:
    """The content for each of the recipients' locales. Raises MessageRejected, and any error of an event
    type of another package."""
    activity, time_zone = resolved.activity, resolved.time_zone
    return {locale: renderer.render(activity, locale, time_zone) for locale in set(resolved.locales)}


def drafts_of(resolved: ResolvedRecipients, rendered: Mapping[str, Rendered]) -> Iterator[Draft]:
    activity = resolved.activity
    kept = rendered_from(activity, next(iter(rendered.values())).time_zone)
    occurred_at = None if activity.collapse_key is None else to_milliseconds(activity.occurred_at)
    for recipient_id, locale in zip(resolved.recipients, resolved.locales, strict=True):
        text = rendered[locale]
        yield Draft(
            recipient_id=recipient_id,
            activity_id=activity.id,
            type=activity.type,
            organizer_id=activity.organizer_id,
            merchant_id=activity.merchant_id,
            subject=activity.subject,
            locale=text.locale,
            content=text.content,
            content_html=text.content_html,
            action_url=text.action_url,
            data=activity.data,
            rendered_from=kept,
            priority=activity.priority,
            expires_at=activity.expires_at,
            collapse_key=activity.collapse_key,
            occurred_at=occurred_at,
        )


class DraftWriter:
    def __init__(self, inbox: InboxStore, announce: Announce, metrics: Metrics) -> None:
        self._inbox = inbox
        self._announce = announce
        self._metrics = metrics

    async def write(self, chunk: Sequence[Addressed]) -> Sequence[Addressed]:
        """Write at most MAX_DRAFTS and announce them. Those that were written: rows that exist stay as they
        are. Raises StoreRejected and StoreUnavailable."""
        changes = await self._inbox.insert([draft for _, draft in chunk])
        left, written = iter(chunk), []
        for change in changes:  # in the order of the drafts, some left out
            row = (change.notification.activity_id, change.recipient_id)
            written.append(next(each for each in left if (each[1].activity_id, each[1].recipient_id) == row))
        self._metrics.rows.inc(len(changes))
        await announce_some(self._announce, changes)
        return written


async def announce_some(announce: Announce, changes: Sequence[Change]) -> None:
    """A hint: when this is cancelled between two of them, the sweep finds the rest."""
    for start in range(0, len(changes), ANNOUNCED_AT_ONCE):
        announce(changes[start : start + ANNOUNCED_AT_ONCE])
        await trio.lowlevel.checkpoint()

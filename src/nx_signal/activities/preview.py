"""Preview of an activity: its recipients, and the content in each of their languages. The pipeline's steps up
to the drafts; nothing is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Literal, TypeAlias

from nx_signal.activities.cloud_events import NO_TYPES
from nx_signal.activities.content import Rendered, Renderer
from nx_signal.activities.drafts import drafts_of, render
from nx_signal.activities.fields import rejected
from nx_signal.activities.limits import NOTIFICATION_BYTES, stored_bytes
from nx_signal.activities.message import UnknownType, decode
from nx_signal.activities.outcome import failure_reason
from nx_signal.activities.recipients import find_recipients, resolve
from nx_signal.activities.registry import Registry
from nx_signal.model import Activity, Correction, Position, Priority, Reach, Record, Rule, Scope
from nx_signal.ports import Now
from nx_signal.store import Directory

MAX_SHOWN = 1_000
"""Recipients in one answer."""

LocaleFrom: TypeAlias = Literal["reader", "organizer", "default"]

_UNSENT = Position("unsent", 0, 0)
_NO_ORGANIZER = ""


@dataclass(frozen=True, slots=True)
class Reader:
    """`locale` is the one that the content would be written in; `locale_from` is where it is set."""

    recipient_id: str
    locale: str
    locale_from: LocaleFrom


@dataclass(frozen=True, slots=True)
class Previewed:
    """`event_id` is None where the message has none: it is given one when it is published. `recipients`
    are the first MAX_SHOWN of `total`."""

    event_id: str | None
    type: str
    scope: Scope | None
    rule: Rule | None
    why: str
    recipients: tuple[Reader, ...]
    total: int
    renderings: Mapping[str, Rendered]
    """for each language that any of the recipients reads"""
    priority: Priority = "normal"
    expires_at: datetime | None = None
    collapse_key: str | None = None
    expired: bool = False
    """`expires_at` has passed: nothing would be written"""

    @property
    def known(self) -> bool:
        """False: the type is not registered, and the message would be skipped."""
        return self.rule is not None


class Preview:
    def __init__(
        self,
        registry: Registry,
        renderer: Renderer,
        directory: Directory,
        now: Now,
        notification_bytes: int = NOTIFICATION_BYTES,
        types: Mapping[str, str] = NO_TYPES,
    ) -> None:
        self._registry = registry
        self._renderer = renderer
        self._directory = directory
        self._now = now
        self._notification_bytes = notification_bytes
        self._types = types

    async def preview(self, message: bytes) -> Previewed:
        """Raises MessageRejected with the text that the dead letter would have."""
        record = Record(_UNSENT, None, message)
        activity = decode(record, self._registry.names, self._notification_bytes, self._types)
        if isinstance(activity, Correction):
            raise rejected(
                f"action: {activity.action} has no preview; send the activity itself, with the data that it "
                "is to have."
            )
        if isinstance(activity, UnknownType):
            text = "This event type is not known here: the message would be skipped."
            return Previewed(None, activity.type, None, None, text, (), 0, {})
        (resolved,) = await resolve(self._directory, await find_recipients(self._directory, [activity]))
        try:
            rendered = render(self._renderer, resolved)
            stored_bytes(activity.subject, activity.data_bytes, rendered, self._notification_bytes)
        except Exception as error:
            raise rejected(failure_reason(error)) from error
        shown = list(islice(drafts_of(resolved, rendered), MAX_SHOWN)) if rendered else []
        organizer = activity.organizer_id
        users = [draft.recipient_id for draft in shown]
        known = await self._directory.locales(
            [(user, each) for user in users for each in (organizer, _NO_ORGANIZER)]
        )
        readers = []
        for draft in shown:
            user, locale_from = draft.recipient_id, "default"
            if (user, _NO_ORGANIZER) in known:
                locale_from = "reader"
            elif (user, organizer) in known:
                locale_from = "organizer"
            readers.append(Reader(user, draft.locale, locale_from))  # type: ignore[arg-type]
        return Previewed(
            event_id=activity.given_id,
            type=activity.type,
            scope=activity.scope,
            rule=resolved.rule,
            why=reason_of(activity, resolved.rule),
            recipients=tuple(readers),
            total=len(resolved.recipients),
            renderings={text.locale: text for text in rendered.values()},
            priority=activity.priority,
            expires_at=activity.expires_at,
            collapse_key=activity.collapse_key,
            expired=activity.expires_at is not None and activity.expires_at <= self._now(),
        )


def reason_of(activity: Activity, rule: Rule) -> str:
    """Why these recipients, as a sentence."""
    without = f" Without the actor {activity.actor_id}." if activity.exclude_actor else ""
    return _reason_of(activity, rule) + without


def _reason_of(activity: Activity, rule: Rule) -> str:
    organizer, merchant = activity.organizer_id, activity.merchant_id
    match rule:
        case "org":
            return f"A member of organizer {organizer} or of one of its merchants."
        case "merchant":
            return f"A member of merchant {merchant} of organizer {organizer}."
        case "users":
            return "Named in recipientIds."
        case "audience":
            return f"In the audience: {'; '.join(map(described, activity.audience))}."
        case "actor":
            return f"The actor, because {reason_of_actor(activity.scope, organizer, merchant)}."


def reason_of_actor(scope: Scope, organizer: str, merchant: str | None) -> str:
    """Why the scope has no recipients."""
    match scope:
        case "org":
            return f"organizer {organizer} has no members"
        case "merchant" if merchant:
            return f"merchant {merchant} of organizer {organizer} has no members"
        case "merchant":
            return "the message names no merchant"
        case "audience":
            return "the audience has no members"
        case _:
            return "recipientIds is empty"


def described(reach: Reach) -> str:
    """Whom it names."""
    match reach.scope:
        case "org":
            return f"members of organizer {reach.organizer_id} or of one of its merchants"
        case "merchant":
            return f"members of merchant {reach.merchant_id} of organizer {reach.organizer_id}"
        case _:
            return f"the {reach.named} users that it names"

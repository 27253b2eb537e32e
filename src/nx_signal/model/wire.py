"""Notifications and their changes as JSON: over REST (CONTRACT §4), and as the frames of the stream, which
the relay carries too (CONTRACT §1, Topics pushed). The types also describe themselves, in OpenAPI and
AsyncAPI."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, NamedTuple

import msgspec
from msgspec import UNSET, Meta, UnsetType

from nx_signal.model import changes, notifications, text
from nx_signal.model.activities import Json
from nx_signal.model.notifications import NotificationContent, content_of
from nx_signal.model.timestamps import format_timestamp

CREATED = "observation/signal/notification/created"
READ = "observation/signal/notification/read"
DELETED = "observation/signal/notification/deleted"
UPDATED = "observation/signal/notification/updated"

MAX_REV = 2**63 - 1

Id = Annotated[str, Meta(description="A Snowflake in decimal.", examples=["132452764876836864"])]
Time = Annotated[
    str,
    Meta(
        description="ISO 8601 in UTC, with milliseconds.",
        examples=["2026-01-01T12:00:00.000Z"],
        extra_json_schema={"format": "date-time"},
    ),
]
Revision = Annotated[
    int, Meta(ge=0, le=MAX_REV, description="The inbox's revision: +1 for each change to it.")
]
History = Annotated[
    str,
    Meta(
        description="Identifies the inbox's change at `rev`, and with it all before: to be compared for "
        "equality alone. A restored store gives a revision out again, but never a `history`.",
        examples=["132452764876836864"],
    ),
]
Count = Annotated[int, Meta(ge=0)]

encode_json = text.encode_json

MAX_EXACT_INTEGER = 2**53 - 1
"""JavaScript's Number.MAX_SAFE_INTEGER."""
EXACT_DIGITS, DOUBLE_DIGITS = 15, 17
"""As many as every double holds, and as any is written with."""
MAX_EXPONENT = 300
"""Of a double, about."""


def browser_safe(value: Json) -> Json:
    """The value, with each number that JSON.parse of a browser would change as a string of its digits: an
    integer beyond 2^53 - 1, and a fraction of more digits or of a larger exponent than a double holds.

    Itself where there is none: it is asked for each push."""
    kind = type(value)
    if kind is dict or kind is list:
        changed = None
        for key, part in value.items() if kind is dict else enumerate(value):
            if type(part) is str or (safe := browser_safe(part)) is part:
                continue
            if changed is None:
                changed = value.copy()
            changed[key] = safe
        return value if changed is None else changed
    if kind is int:
        return value if -MAX_EXACT_INTEGER <= value <= MAX_EXACT_INTEGER else str(value)
    return str(value) if kind is Decimal and not _survives(value) else value


def _survives(number: Decimal) -> bool:
    digits = len(number.as_tuple().digits)
    if -MAX_EXPONENT < number.adjusted() < EXACT_DIGITS and digits <= EXACT_DIGITS:
        return True
    double = float(number)
    if Decimal(repr(double)) == number:
        return True
    return digits <= DOUBLE_DIGITS and Decimal(f"{double:.{digits}g}") == number


class _Content(NotificationContent, frozen=True, rename="camel"):
    expires_at: Time | None  # type: ignore[assignment]


class Notification(_Content, frozen=True, rename="camel", kw_only=True):
    """One notification of its recipient's inbox. `rev` is the inbox's revision that created it."""

    id: Id
    recipient_id: str
    locale: str
    is_read: bool
    read_at: Time | None
    is_seen: bool
    archived_at: Time | None
    rev: Revision
    created_at: Time


def notification(row: notifications.Notification) -> Notification:
    return Notification(
        *_content(row),
        id=str(row.id),
        recipient_id=row.recipient_id,
        locale=row.locale,
        is_read=row.is_read,
        read_at=format_timestamp(row.read_at),
        is_seen=row.is_seen,
        archived_at=format_timestamp(row.archived_at),
        rev=row.rev,
        created_at=format_timestamp(row.created_at),
    )


_DATA, _EXPIRES_AT = map(_Content.__struct_fields__.index, ("data", "expires_at"))


def _content(row: notifications.Notification) -> list[Json]:
    values = list(content_of(row))
    values[_DATA] = browser_safe(values[_DATA])
    values[_EXPIRES_AT] = format_timestamp(values[_EXPIRES_AT])
    return values


class Created(_Content, frozen=True, rename="camel"):
    """A notification was created; `unread`, `unseen` and `total` are the inbox's counts at this `rev`. It
    takes the place of those of `replaces`, which left the inbox with it."""

    id: Id
    is_read: bool
    created_at: Time
    rev: Revision
    unread: Count
    unseen: Count
    total: Count
    history: History
    replaces: list[str] | UnsetType = UNSET


class Read(msgspec.Struct, frozen=True, rename="camel"):
    """Notifications became read: those of `ids`, or every one up to `upToRev`, of `type` and `subject` where
    those are given. `origin`: the client that made the change, if it named itself."""

    read_at: Time
    rev: Revision
    unread: Count
    unseen: Count
    total: Count
    origin: str | None
    history: History
    ids: list[str] | UnsetType = UNSET
    up_to_rev: Revision | UnsetType = UNSET
    type: str | UnsetType = UNSET
    subject: str | UnsetType = UNSET


class Deleted(msgspec.Struct, frozen=True):
    """Notifications were deleted."""

    ids: list[str]
    rev: Revision
    unread: Count
    unseen: Count
    total: Count
    history: History


class Updated(msgspec.Struct, frozen=True, rename="camel"):
    """Notifications changed otherwise: those of `ids`, or every one up to `upToRev`, only those that are read
    where `onlyRead`: of the inbox, or archived ones where `archived` is false; `seen` covers both. What
    changed is present. `isRead` false: unread again, and still seen. `content`, `contentHtml`, `actionUrl`
    and `data` come together: what the one of `ids` has now that its producer corrected it. `at`: when."""

    at: Time
    rev: Revision
    unread: Count
    unseen: Count
    total: Count
    origin: str | None
    history: History
    ids: list[str] | UnsetType = UNSET
    up_to_rev: Revision | UnsetType = UNSET
    only_read: bool | UnsetType = UNSET
    is_read: bool | UnsetType = UNSET
    seen: bool | UnsetType = UNSET
    archived: bool | UnsetType = UNSET
    content: str | UnsetType = UNSET
    content_html: str | UnsetType = UNSET
    action_url: str | UnsetType | None = UNSET
    data: Mapping[str, Json] | UnsetType = UNSET


class Frame(NamedTuple):
    """The frame of one kind of change; what the stream's document and its client know of it."""

    topic: str
    data: type[msgspec.Struct]
    summary: str
    example: Mapping[str, Json]


FRAMES = (
    Frame(
        CREATED,
        Created,
        "A notification.",
        {
            "id": "132452764876836864",
            "type": "PAYMENT_SUCCESS",
            "organizerId": "o1",
            "merchantId": "m1",
            "subject": "order/42",
            "content": "Payment of ₫1,250,000 received",
            "contentHtml": "<p>Payment of <strong>₫1,250,000</strong> received</p>",
            "actionUrl": "/payments/42",
            "data": {"payment": {"amount": 1250000, "currency": "VND"}},
            "activityId": "payment-42",
            "priority": "normal",
            "expiresAt": "2026-01-08T12:00:00.000Z",
            "collapseKey": "order/42",
            "isRead": False,
            "createdAt": "2026-01-01T12:00:00.000Z",
            "rev": 8,
            "unread": 3,
            "unseen": 1,
            "total": 41,
            "history": "132452764876836864",
            "replaces": ["132452764876836001"],
        },
    ),
    Frame(
        READ,
        Read,
        "Notifications were read, here or elsewhere.",
        {
            "ids": ["132452764876836864"],
            "readAt": "2026-01-01T12:05:00.000Z",
            "rev": 9,
            "unread": 2,
            "unseen": 0,
            "total": 41,
            "origin": "0f8fad5b-d9cb-469f-a165-70867728950e",
            "history": "9f86d081884c7d65",
        },
    ),
    Frame(
        DELETED,
        Deleted,
        "Notifications were deleted.",
        {
            "ids": ["132452764876836864"],
            "rev": 10,
            "unread": 2,
            "unseen": 0,
            "total": 40,
            "history": "2c26b46b68ffc68f",
        },
    ),
    Frame(
        UPDATED,
        Updated,
        "Notifications were seen, archived, taken out of the archive, marked as unread, or corrected.",
        {
            "upToRev": 10,
            "archived": True,
            "onlyRead": True,
            "at": "2026-01-01T12:06:00.000Z",
            "rev": 11,
            "unread": 2,
            "unseen": 0,
            "total": 2,
            "origin": None,
            "history": "fcde2b2edba56bf4",
        },
    ),
)


def encode_change(change: changes.Change) -> tuple[str, bytes]:
    """The topic and the JSON of its data. Raises LookupError for an Unknown, which has no frame."""
    if isinstance(change, changes.Created):
        row = change.notification
        created_at = format_timestamp(row.created_at)
        # By position: one is made for each recipient, and names cost a microsecond.
        values = (
            *_content(row),
            str(row.id),
            row.is_read,
            created_at,
            change.rev,
            change.unread,
            change.unseen,
            change.total,
            change.history,
            [str(id) for id in change.replaces] or UNSET,
        )
        return CREATED, encode_json(Created(*values))
    if isinstance(change, changes.Read):
        by_ids = change.ids is not None
        return READ, encode_json(
            Read(
                format_timestamp(change.read_at),
                change.rev,
                change.unread,
                change.unseen,
                change.total,
                change.origin,
                change.history,
                ids=_ids(change.ids),
                up_to_rev=UNSET if by_ids or change.up_to_rev is None else change.up_to_rev,
                type=UNSET if by_ids or change.type is None else change.type,
                subject=UNSET if by_ids or change.subject is None else change.subject,
            )
        )
    if isinstance(change, changes.Deleted):
        ids = [str(id) for id in change.ids]
        counts = (change.unread, change.unseen, change.total)
        return DELETED, encode_json(Deleted(ids, change.rev, *counts, change.history))
    if isinstance(change, changes.Updated):
        given = {
            name: value
            for name in ("up_to_rev", "only_read", "is_read", "seen", "archived")
            if (value := getattr(change, name)) is not None
        }
        if change.content is not None:
            given |= {
                "content": change.content,
                "content_html": change.content_html,
                "action_url": change.action_url,
                "data": browser_safe(change.data),
            }
        return UPDATED, encode_json(
            Updated(
                format_timestamp(change.at),
                change.rev,
                change.unread,
                change.unseen,
                change.total,
                change.origin,
                change.history,
                ids=_ids(change.ids),
                **given,
            )
        )
    raise LookupError(f"A change of the kind {change.name} has no frame in this release.")


def _ids(ids: tuple[int, ...] | None) -> list[str] | UnsetType:
    return UNSET if ids is None else [str(id) for id in ids]

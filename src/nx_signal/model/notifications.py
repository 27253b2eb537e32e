"""A notification, declared once: `NotificationContent` has what a producer gives, and every other shape of a
notification inherits it: the draft, the row, and in wire.py the JSON of REST and the `created` frame.

A further field of the content is one line here, one in the migration, and one where it is produced."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from operator import attrgetter

import msgspec

from nx_signal.model.activities import Json, Priority


class NotificationContent(msgspec.Struct, frozen=True, rename="camel"):
    """What a notification is about, the same for its recipient, over REST and on the stream."""

    type: str
    organizer_id: str | None
    merchant_id: str | None
    subject: str | None
    content: str
    content_html: str
    action_url: str | None
    data: Mapping[str, Json]
    activity_id: str
    priority: Priority
    expires_at: datetime | None
    collapse_key: str | None


class _Addressed(NotificationContent, frozen=True, kw_only=True):
    recipient_id: str
    locale: str


class Draft(_Addressed, frozen=True, kw_only=True):
    """A rendered notification for one recipient, not yet written: the store gives id, rev and time. Its own
    times have milliseconds."""

    priority: Priority = "normal"
    expires_at: datetime | None = None
    collapse_key: str | None = None
    occurred_at: datetime | None = None
    """with a collapse key: which of two is the newer; not read with a row"""
    rendered_from: str | None = None
    """activities/again.py; not read with a row"""


class Notification(_Addressed, frozen=True, kw_only=True):
    """One row of `activity_notification`. `rev` is the recipient's revision that created it."""

    id: int
    rev: int
    changed_rev: int
    is_read: bool
    read_at: datetime | None
    is_seen: bool
    archived_at: datetime | None
    created_at: datetime

    @property
    def archived(self) -> bool:
        return self.archived_at is not None


DRAFT_FIELDS = Draft.__struct_fields__
DRAFT_TIMES = ("expires_at", "occurred_at")
ROW_FIELDS = Notification.__struct_fields__
"""The names of attributes, which are those of the columns."""

ROW_FLAGS = tuple(field.name for field in msgspec.structs.fields(Notification) if field.type is bool)

content_of = attrgetter(*NotificationContent.__struct_fields__)
"""The values of the content, in the order of its declaration."""


def created(
    draft: Draft, *, id: int, rev: int, data: Mapping[str, Json], created_at: datetime
) -> Notification:
    """The row that the store makes of a draft. `data` is the draft's as it comes back from the store."""
    values = msgspec.structs.asdict(draft) | {"data": data}
    del values["rendered_from"], values["occurred_at"]
    return Notification(
        **values,
        id=id,
        rev=rev,
        changed_rev=rev,
        is_read=False,
        read_at=None,
        is_seen=False,
        archived_at=None,
        created_at=created_at,
    )


@dataclass(frozen=True, slots=True)
class InboxSummary:
    """The state of one inbox at a revision. An inbox never written to has InboxSummary(id, 0, 0, 0).

    `total` counts what is neither deleted nor archived; of these `unread` is not read, and of those
    `unseen` is not seen. Rows up to `seen_rev` are seen. `history` identifies the change at `rev`, as in
    changes.py."""

    recipient_id: str
    rev: int
    total: int
    unread: int
    history: str = ""
    unseen: int = 0
    seen_rev: int = 0


@dataclass(frozen=True, slots=True)
class InboxPage:
    """One page, newest first (descending `rev`). All numbers are of one snapshot of the store."""

    rows: tuple[Notification, ...]
    matching: int
    head: InboxSummary
    next_before_rev: int | None
    """the page after this one starts below this rev; None on the last page"""


@dataclass(frozen=True, slots=True)
class Drift:
    """An inbox whose kept numbers disagree with its rows: `held` is the number kept for `what`, `counted`
    the one that the rows and the log give."""

    recipient_id: str
    what: str
    held: int
    counted: int


@dataclass(frozen=True, slots=True)
class Audit:
    """The comparison of a portion of the inboxes."""

    inboxes: int
    rows: int
    drifts: tuple[Drift, ...]
    next_after: str | None
    """the portion after this one starts above this recipient; None after the last one"""

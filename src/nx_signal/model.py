"""The ground floor: frozen data that all parts share. No I/O, no behaviour beyond small derivations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, TypeAlias

import msgspec

Json: TypeAlias = Any
"""A value made of dict, list, str, int, float, bool and None."""

Scope: TypeAlias = Literal["org", "merchant", "users"]

Rule: TypeAlias = Literal["org", "merchant", "users", "actor"]
"""What gave an activity its recipients: its scope, or the actor where that gave nobody."""

LOCALES: tuple[str, ...] = ("en", "vi")
"""The shipped languages; the first is the last resort."""

PERMISSIONS: tuple[str, ...] = (
    "WebSocketClient.find",
    "WebSocketClient.findById",
    "WebSocketClient.broadcast",
    "WebSocketClient.sendToRoom",
    "WebSocketClient.sendToClient",
    "WebSocketClient.disconnect",
    "Activity.publish",
    "Activity.preview",
    "Activity.explain",
    "DeadLetter.find",
    "DeadLetter.replay",
    "DeadLetter.delete",
)
"""All permission codes (CONTRACT §4). The migrations seed them; a contract test holds them to this."""

OPERATOR_ROLE = "signal-operator"
"""The seeded role that holds all of them."""


@dataclass(frozen=True, slots=True)
class Position:
    """Where a record stands in its source: `topic/partition/offset`."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}/{self.offset}"


@dataclass(frozen=True, slots=True)
class Record:
    """One message of a source, undecoded (CONTRACT §3)."""

    position: Position
    key: str | None
    value: bytes
    headers: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Activity:
    """One decoded, validated activity message. `id` is eventId, the `ce_id` header or the position."""

    id: str
    type: str
    scope: Scope
    actor_id: str
    actor: Mapping[str, Json]
    organizer_id: str
    merchant_id: str | None
    recipient_ids: tuple[str, ...]
    data: Mapping[str, Json]
    subject: str | None
    occurred_at: datetime


@dataclass(frozen=True, slots=True)
class Audience:
    """Whom a scope names: the key of a membership look-up. `merchant_id` is None for scope `org`."""

    organizer_id: str
    merchant_id: str | None = None


@dataclass(frozen=True, slots=True)
class Draft:
    """A rendered notification for one recipient, not yet written: the store gives id, rev and time."""

    recipient_id: str
    activity_id: str
    type: str
    organizer_id: str | None
    merchant_id: str | None
    subject: str | None
    locale: str
    content: str
    content_html: str
    action_url: str | None
    data: Mapping[str, Json]


@dataclass(frozen=True, slots=True)
class Notification:
    """One row of `activity_notification`. `rev` is the recipient's revision that created it."""

    id: int
    recipient_id: str
    rev: int
    changed_rev: int
    activity_id: str
    type: str
    organizer_id: str | None
    merchant_id: str | None
    subject: str | None
    locale: str
    content: str
    content_html: str
    action_url: str | None
    data: Mapping[str, Json]
    is_read: bool
    read_at: datetime | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Head:
    """The state of one inbox at a revision. A recipient never written to has Head(id, 0, 0, 0)."""

    recipient_id: str
    rev: int
    total: int
    unread: int


@dataclass(frozen=True, slots=True)
class Created:
    """A row came into being. `unread` and `total` are the counts at exactly this `rev`."""

    recipient_id: str
    rev: int
    unread: int
    total: int
    notification: Notification


@dataclass(frozen=True, slots=True)
class Read:
    """Rows became read. Either `ids` names them, or `up_to_rev` says: every row whose `rev` is at most
    this, of `type` and `subject` where those are given. `origin` is the client that asked, if known."""

    recipient_id: str
    rev: int
    unread: int
    total: int
    ids: tuple[int, ...] | None
    up_to_rev: int | None
    type: str | None
    subject: str | None
    read_at: datetime
    origin: str | None


@dataclass(frozen=True, slots=True)
class Deleted:
    """Rows were deleted (softly)."""

    recipient_id: str
    rev: int
    unread: int
    total: int
    ids: tuple[int, ...]


Change: TypeAlias = Created | Read | Deleted
"""One step of a recipient's inbox log; revisions of one recipient have no gaps."""


@dataclass(frozen=True, slots=True)
class Backlog:
    """What a recipient missed: the head, and the changes right after a revision, ascending, no gap.

    `changes` may stop before `head.rev` (the limit of the read)."""

    head: Head
    changes: tuple[Change, ...]


ConditionField: TypeAlias = Literal[
    "id", "rev", "type", "organizer_id", "merchant_id", "subject", "is_read", "created_at"
]
ConditionOperator: TypeAlias = Literal["eq", "neq", "gt", "gte", "lt", "lte", "in", "not_in", "like"]


@dataclass(frozen=True, slots=True)
class Condition:
    """One comparison of a row's field with a value.

    `value` is of the field's type; of `eq` and `neq` it may be None (the field is absent, or is there),
    of `in` and `not_in` it is a tuple. A row without the field is unequal to every value: `neq` and
    `not_in` hold for it, nothing else does. `like` is for texts: `%` stands for any run of characters,
    `_` for any one, case counts, and nothing escapes. Times are compared in milliseconds."""

    field: ConditionField
    operator: ConditionOperator
    value: Any


@dataclass(frozen=True, slots=True)
class InboxFilter:
    """Which of a recipient's rows: all that is given must hold. None means: any."""

    is_read: bool | None = None
    type: str | None = None
    organizer_id: str | None = None
    merchant_id: str | None = None
    subject: str | None = None
    created_from: datetime | None = None
    """inclusive"""
    created_to: datetime | None = None
    """exclusive"""
    conditions: tuple[Condition, ...] = ()
    """what the fields above cannot say"""

    def all(self) -> tuple[Condition, ...]:
        """The whole filter as conditions."""
        named: tuple[tuple[ConditionField, ConditionOperator, Any], ...] = (
            ("is_read", "eq", self.is_read),
            ("type", "eq", self.type),
            ("organizer_id", "eq", self.organizer_id),
            ("merchant_id", "eq", self.merchant_id),
            ("subject", "eq", self.subject),
            ("created_at", "gte", self.created_from),
            ("created_at", "lt", self.created_to),
        )
        given = (Condition(field, how, value) for field, how, value in named if value is not None)
        return (*given, *self.conditions)


@dataclass(frozen=True, slots=True)
class InboxPage:
    """One page, newest first (descending `rev`). All numbers are of one snapshot of the store."""

    rows: tuple[Notification, ...]
    matching: int
    head: Head
    next_before_rev: int | None
    """the page after this one starts below this rev; None on the last page"""


@dataclass(frozen=True, slots=True)
class Drift:
    """Where an inbox and what is kept of it disagree: `held` is what the head says of `what`, `counted`
    what the rows and the log say."""

    recipient_id: str
    what: str
    held: int
    counted: int


@dataclass(frozen=True, slots=True)
class Audit:
    """What the comparison of a portion of the inboxes found."""

    inboxes: int
    rows: int
    drifts: tuple[Drift, ...]
    next_after: str | None
    """the portion after this one starts above this recipient; None after the last one"""


@dataclass(frozen=True, slots=True)
class Memberships:
    """Of one user. `organizers` includes those of the merchants that the user is a member of."""

    organizers: frozenset[str]
    merchants: frozenset[str]


@dataclass(frozen=True, slots=True)
class Principal:
    """Who a verified token speaks for. `permissions` and `roles` come from the embedded issuer only."""

    user_id: str
    token_id: str | None
    expires_at: datetime
    permissions: frozenset[str] = frozenset()
    roles: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record that could not be handled, with its error and position. `id` is 0 until stored."""

    id: int
    position: Position
    key: str | None
    value: bytes
    headers: Mapping[str, bytes]
    error: str
    created_at: datetime | None = None


Outcome: TypeAlias = Literal["stored", "duplicate", "unknown_type", "dead_letter"]
"""What became of a record: rows were written; they were all there already; nobody here knows its type; it
was set aside."""

FRUITLESS: frozenset[Outcome] = frozenset({"unknown_type", "dead_letter"})
"""Nothing came of it, so far."""


@dataclass(frozen=True, slots=True)
class Trace:
    """What was done with one activity. `position` is its record's, as text; `reason` says why it was set
    aside. What could not be read of a message is None."""

    activity_id: str
    position: str
    type: str | None
    scope: Scope | None
    rule: Rule | None
    recipients: int
    outcome: Outcome
    reason: str | None = None
    handled_at: datetime | None = None
    """given by the store"""


@dataclass(frozen=True, slots=True)
class ActivityRow:
    """One recipient's row of an activity, deleted ones included."""

    recipient_id: str
    id: int
    rev: int
    created_at: datetime
    is_read: bool
    deleted: bool


@dataclass(frozen=True, slots=True)
class SessionState:
    """One live connection, as its instance knows it at this moment."""

    client_id: str
    server_id: str
    user_id: str
    connected_at: datetime
    since: int
    """the client fetches what was written up to this revision; what comes after it is pushed"""
    rev: int
    """the last revision handed to the socket"""
    behind: bool
    lagging: bool
    queued_bytes: int


@dataclass(frozen=True, slots=True)
class LiveSessions:
    """`unanswered`: instances that did not answer in time, so that their sessions are missing here."""

    sessions: tuple[SessionState, ...]
    unanswered: tuple[str, ...]


TargetKind: TypeAlias = Literal["client", "user", "room", "broadcast", "instance", "instances"]
"""The last two are between the instances themselves and reach no client."""


class Dispatch(msgspec.Struct, frozen=True):
    """One send to a client, a user, a room or all: what CONTRACT §2 puts on Redis.

    A struct, because one is made for every push: a frozen dataclass costs 2 µs more. `data` is the raw
    JSON text of the event's data: encoded once, then only copied."""

    kind: TargetKind
    target: str | None
    event: str
    data: bytes
    exclude: frozenset[str] = frozenset()
    server_id: str | None = None
    """the sender, on a received message; None on one of our own that is not sent yet"""


@dataclass(frozen=True, slots=True)
class Organizer:
    id: str
    locale: str | None
    merchants: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Member:
    """`merchant_id` None: a membership in the organization itself."""

    user_id: str
    organizer_id: str
    merchant_id: str | None
    role: str
    locale: str | None


@dataclass(frozen=True, slots=True)
class Grant:
    """Exactly one of `role` and `permission` is set."""

    user_id: str
    role: str | None
    permission: str | None


@dataclass(frozen=True, slots=True)
class Roster:
    """What `nx-signal members load` writes (CONTRACT §6)."""

    organizers: Sequence[Organizer]
    members: Sequence[Member]
    grants: Sequence[Grant]

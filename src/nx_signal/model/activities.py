"""Activities, the records that carry them, and the outcome of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, TypeAlias

Json: TypeAlias = Any
"""A value made of dict, list, str, int, Decimal, bool and None. What is not an integer is a Decimal, with the
digits that were sent: a float would change some."""

OneScope: TypeAlias = Literal["org", "merchant", "users"]

Scope: TypeAlias = Literal["org", "merchant", "users", "audience"]
"""What an activity names as its recipients: one scope, or an audience of several."""

Rule: TypeAlias = Literal["org", "merchant", "users", "audience", "actor"]
"""What gave an activity its recipients: its scope, or the actor where the scope has no members."""

Priority: TypeAlias = Literal["normal", "high"]
"""Of a notification, for its reader to see and to filter by."""

LOCALES: tuple[str, ...] = ("en", "vi")
"""The shipped languages; the first is the last resort."""


@dataclass(frozen=True, slots=True)
class Position:
    """Where a record stands in its source: `topic/partition/offset`, and for a member of a batch `#` and its
    index in the list."""

    topic: str
    partition: int
    offset: int
    member: int | None = None

    def __str__(self) -> str:
        member = "" if self.member is None else f"#{self.member}"
        return f"{self.topic}/{self.partition}/{self.offset}{member}"


@dataclass(frozen=True, slots=True)
class Record:
    """One message of a source, undecoded (CONTRACT §3). A tombstone, Kafka's null value, deletes a key from a
    compacted topic; it is no activity."""

    position: Position
    key: str | None
    value: bytes
    headers: Mapping[str, bytes] = field(default_factory=dict)
    is_tombstone: bool = False


@dataclass(frozen=True, slots=True)
class Reach:
    """Whom one entry of an audience names: members of an organizer, of one of its merchants, or users, of
    whom `named` is the number."""

    scope: OneScope
    organizer_id: str
    merchant_id: str | None = None
    named: int = 0


@dataclass(frozen=True, slots=True)
class ActivityContext:
    """What is kept with the trace of an activity, beside its outcome: W3C Trace Context, the `dataschema` of
    a CloudEvent, what its audience names, and the actor where that gets nothing."""

    traceparent: str | None = None
    tracestate: str | None = None
    dataschema: str | None = None
    audience: tuple[Reach, ...] = ()
    excluded_actor: str | None = None


@dataclass(frozen=True, slots=True)
class Activity:
    """One decoded, validated activity message. `id` is its identity (activities/identity.py), made of
    `given_id`, the eventId or the `ce_id` header, and of `source`, or of the position; `digest` is of what it
    states; `replaced` is how many characters that no store holds were replaced by U+FFFD. `audience` is for
    the scope of that name, whose users are all in `recipient_ids`."""

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
    audience: tuple[Reach, ...] = ()
    exclude_actor: bool = False
    context: ActivityContext | None = field(default=None, compare=False)
    given_id: str | None = None
    source: str | None = None
    digest: str | None = field(default=None, compare=False)
    replaced: int = 0
    data_bytes: int = field(default=0, compare=False)
    """of `data` as JSON"""
    priority: Priority = "normal"
    expires_at: datetime | None = None
    """from when on it makes no notification, and those that it made are removed"""
    collapse_key: str | None = None
    """of an organization's activities with one key a recipient keeps the newest by `occurred_at`"""
    corrected_at: str | None = None
    """the position of the correction that `data` is of"""


Action: TypeAlias = Literal["update", "retract"]
"""What a message does to an activity that another one brought."""


@dataclass(frozen=True, slots=True)
class Correction:
    """One decoded, validated message that corrects or retracts the activity `activity_id`. `data` takes the
    place of the activity's; {} with a retraction. `occurred_at`, in milliseconds, is None where the time of
    handling counts.
    `position` is its record's, as text; the others are as in Activity."""

    activity_id: str
    action: Action
    data: Mapping[str, Json]
    occurred_at: datetime | None
    position: str
    digest: str
    replaced: int = 0


@dataclass(frozen=True, slots=True)
class KeptCorrection:
    """One that the store has. Ids ascend with the time of handling; `changed` is how many rows it changed."""

    id: int
    activity_id: str
    action: Action
    data: Mapping[str, Json]
    occurred_at: datetime
    position: str
    handled_at: datetime
    changed: int


@dataclass(frozen=True, slots=True)
class CorrectableRow:
    """One recipient's row of an activity, and what its content is rendered from."""

    id: int
    recipient_id: str
    activity_id: str
    type: str
    organizer_id: str | None
    merchant_id: str | None
    subject: str | None
    locale: str
    created_at: datetime
    rendered_from: str | None
    priority: Priority
    expires_at: datetime | None
    collapse_key: str | None


@dataclass(frozen=True, slots=True)
class Audience:
    """The members that a scope names: the key of a membership look-up. `merchant_id` is None for `org`."""

    organizer_id: str
    merchant_id: str | None = None


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


Outcome: TypeAlias = Literal[
    "stored",
    "duplicate",
    "superseded",
    "expired",
    "conflict",
    "tombstone",
    "unknown_type",
    "dead_letter",
    "corrected",
    "retracted",
]
"""Of a record: rows were written; all of them existed; each recipient had a newer one with its collapse key;
it was handled after its expiry; its identity is another activity's, with other content; it has no value; its
type is not known here; it was set aside; it corrects or retracts another one; that one was retracted before
it came."""

RETRYABLE_OUTCOMES: frozenset[Outcome] = frozenset({"unknown_type", "dead_letter"})
"""Those that wrote no row: handled again, the record may still have another outcome."""


@dataclass(frozen=True, slots=True)
class Trace:
    """What was done with one activity. `position` is its record's, as text; `reason` is the error of a
    dead letter, or what else an operator should know of it. What could not be read of a message is None."""

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
    digest: str | None = field(default=None, compare=False)
    """of the content, to be compared with; None where there is none, and where it is read back"""
    corrected: bool = field(default=False, compare=False)
    """whether a correction of the activity is kept; set by Traces.add"""
    context: ActivityContext | None = None


@dataclass(frozen=True, slots=True)
class Handled:
    """Where an activity was handled; `digest` is of its content, None where a release before handled it."""

    position: str
    digest: str | None


@dataclass(frozen=True, slots=True)
class ActivityRow:
    """One recipient's row of an activity, deleted ones included."""

    recipient_id: str
    id: int
    rev: int
    created_at: datetime
    is_read: bool
    deleted: bool
    organizer_id: str | None = None
    merchant_id: str | None = None
    collapse_key: str | None = None
    occurred_at: datetime | None = None
    """where it has a collapse key"""

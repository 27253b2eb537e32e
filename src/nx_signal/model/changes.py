"""The steps of an inbox log, and how the store keeps them. A further kind of change is one class here with
its tag, and the frame that shows it in wire.py."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Literal, TypeAlias

import msgspec

from nx_signal.model.activities import Json
from nx_signal.model.notifications import InboxSummary, Notification
from nx_signal.model.timestamps import from_epoch_ms


class _Step(msgspec.Struct, frozen=True, rename="camel", tag_field="kind"):
    """`unread`, `total` and `unseen` are the counts of the inbox at exactly this `rev`.

    `history` identifies the change for ever. A store that went back (a backup, a standby that lacked the last
    rows) gives revisions out again, for other changes: these have another `history`. So two that agree about
    one change agree about all before it. `after` is the `history` of the change before, "" before the first;
    None where it is not known."""

    recipient_id: str
    rev: int
    unread: int
    total: int
    unseen: int
    history: str
    after: str | None


class Created(_Step, frozen=True, tag="created"):
    """A row was written; those of `replaces` left the inbox with the same change."""

    notification: Notification
    replaces: tuple[int, ...] = ()


class Read(_Step, frozen=True, tag="read"):
    """Rows became read: those of `ids`, or with `up_to_rev` every row whose `rev` is at most this, of `type`
    and `subject` where those are given. `origin` is the client that made the change, if known."""

    ids: tuple[int, ...] | None
    up_to_rev: int | None
    type: str | None
    subject: str | None
    read_at: datetime
    origin: str | None


class Deleted(_Step, frozen=True, tag="deleted"):
    """Rows were deleted (softly)."""

    ids: tuple[int, ...]


class Updated(_Step, frozen=True, tag="updated"):
    """Rows changed in another way: those of `ids`, or with `up_to_rev` every one whose `rev` is at most this,
    and that is read where `only_read`: rows of the inbox, or archived ones where `archived` is false; `seen`
    covers both.

    What changed is not None. `is_read` false: they are unread again, and stay seen. With `content` their
    producer corrected them: `content_html`, `action_url` and `data` are what they have now, too."""

    ids: tuple[int, ...] | None
    up_to_rev: int | None
    # Under this name a release of before finds a time: it takes each change that is no deletion for a read.
    at: datetime = msgspec.field(name="readAt")
    origin: str | None
    only_read: bool | None = None
    is_read: bool | None = None
    seen: bool | None = None
    archived: bool | None = None
    content: str | None = None
    content_html: str | None = None
    action_url: str | None = None
    data: Mapping[str, Json] | None = None


class Unknown(_Step, frozen=True, tag="unknown"):
    """A change that a newer release wrote: what it did is not known here, only where it stands."""

    name: str


Logged: TypeAlias = Read | Deleted | Updated
"""The changes that the store keeps in `recipient_change`; a creation is kept as its row."""

Mark: TypeAlias = Literal["read", "unread", "seen", "archive", "unarchive", "delete"]
"""What a reader does to rows. What is unread again stays seen; what is archived leaves lists and counts, and
keeps whether it is read and seen."""

Change: TypeAlias = Created | Logged | Unknown
"""One step of a recipient's inbox log; revisions of one recipient have no gaps."""


@dataclass(frozen=True, slots=True)
class ChangesSince:
    """What a recipient missed: the head, and the changes right after a revision, ascending, no gap.

    `changes` may stop before `head.rev` (the limit of the read)."""

    head: InboxSummary
    changes: tuple[Change, ...]


def new_history() -> str:
    """Of a change that is no creation; a creation has its row's id. Never given twice."""
    return secrets.token_hex(8)


_CORRECTED = "corrected"
_OF_STEP = ("recipientId", "rev", "unread", "total", "unseen", "history", "after")


def to_log(change: Logged) -> tuple[str, dict[str, Json]]:
    """(kind, detail) for `recipient_change`. Times in the detail are left to the database's encoding."""
    detail = msgspec.to_builtins(change, builtin_types=(datetime, Decimal))
    for name in _OF_STEP:
        del detail[name]
    kind = detail.pop("kind")
    if kind == "deleted":
        return kind, detail
    # A release of before reads each change that is no deletion as a read, with all fields of one. To it, a
    # correction covers no rows.
    if detail.get("content") is not None:
        detail |= {"ids": [], _CORRECTED: detail["ids"]}
    return kind, {"type": None, "subject": None, **detail}


def from_log(
    recipient_id: str,
    rev: int,
    unread: int,
    total: int,
    unseen: int,
    history: str,
    after: str | None,
    kind: str,
    detail: Mapping[str, Json],
) -> Logged | Unknown:
    """Unknown for a kind, or a detail, that this release does not understand."""
    step = (recipient_id, rev, unread, total, unseen, history, after)
    given = {**detail, **dict(zip(_OF_STEP, step, strict=True)), "kind": kind}
    if _CORRECTED in given:
        given["ids"] = given.pop(_CORRECTED)
    if isinstance(read_at := given.get("readAt"), int):
        given["readAt"] = from_epoch_ms(read_at)
    try:
        logged: Logged = msgspec.convert(given, Logged)
    except msgspec.ValidationError:
        return Unknown(*step, kind)
    return logged

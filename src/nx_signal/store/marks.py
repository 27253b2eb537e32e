"""What a reader does to rows beside reading all of them: to those of some ids, to all up to a revision in
portions, or to none but the head (seen)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal, TypeAlias

from nx_signal.model import (
    Change,
    Condition,
    Deleted,
    InboxFilter,
    InboxSummary,
    Mark,
    Notification,
    Read,
    Updated,
)
from nx_signal.model.changes import Logged, new_history
from nx_signal.store import listing, read_all
from nx_signal.store.driver import Row, Tx
from nx_signal.store.rows import advance, after, less, lock, loss, notification, require_held

MAX_IDS = 100
"""Of one call."""

MarkOfAll: TypeAlias = Literal["unread", "archive", "unarchive"]


@dataclass(frozen=True, slots=True)
class MarkedIds:
    """`unknown`: those that name no row that the recipient reaches, in the order that they were given."""

    updated: int
    unknown: tuple[int, ...]
    head: InboxSummary
    change: Change | None


@dataclass(frozen=True, slots=True)
class MarkAll:
    """What a reader does to all rows up to a revision (None: the head's): those of the inbox, or with
    "unarchive" the archived ones. `only_read`: to those that are read."""

    recipient_id: str
    mark: MarkOfAll
    up_to_rev: int | None
    origin: str | None
    history: str | None = None
    """what the reader holds at `up_to_rev`"""
    only_read: bool = False
    marked_to: int = 0
    """a portion before has marked the rows up to this revision,"""
    marked_by: str = ""
    """as the change with this history"""


@dataclass(frozen=True, slots=True)
class MarkedPortion:
    """`rest`: what is left to do, None at the end."""

    updated: int
    head: InboxSummary
    change: Change | None
    rest: MarkAll | None


async def mark_one(
    tx: Tx, recipient_id: str, id: int, mark: Mark, origin: str | None
) -> tuple[Notification | None, Change | None] | None:
    """The row after it, None where it is not reached; the change, None where nothing changed. None alone as
    for `mark_ids`."""
    head = await lock(tx, recipient_id)
    if mark in _RETURNS and not await _is_ready(tx, head, mark):
        return None
    row = await tx.one("get", recipient_id=recipient_id, id=id)
    if row is None:
        return None, None
    changed, change = await _mark_rows(tx, head, mark, [row], origin)
    return notification(changed[0] if changed else row), change


async def mark_ids(
    tx: Tx, recipient_id: str, ids: Sequence[int], mark: Mark, origin: str | None
) -> MarkedIds | None:
    """None while a read-all that is recorded has to be applied first."""
    head = await lock(tx, recipient_id)
    if not await _is_ready(tx, head, mark):
        return None
    found = await tx.all("states", recipient_id=recipient_id, ids=list(ids), seen_rev=head.seen_rev)
    by_id = {row["id"]: row for row in found}
    rows = [by_id[id] for id in ids if id in by_id]
    changed, change = await _mark_rows(tx, head, mark, rows, origin)
    unknown = tuple(id for id in ids if id not in by_id)
    return MarkedIds(len(changed), unknown, head if change is None else after(head, change), change)


async def mark_portion(tx: Tx, covers: MarkAll) -> MarkedPortion | None:
    """Mark the lowest rows that are left, at most PORTION. None as for `mark_ids`."""
    head = await lock(tx, covers.recipient_id)
    await require_held(tx, head, covers.up_to_rev, covers.history)
    if not await _is_ready(tx, head, covers.mark):
        return None
    up_to_rev = head.rev if covers.up_to_rev is None else max(0, min(covers.up_to_rev, head.rev))
    # The change covers each row up to its revision. Rows below the portion before have none of these states
    # unless the inbox changed in between: only then they are walked over again.
    above = covers.marked_to if head.history == covers.marked_by else 0
    conditions = [Condition("rev", "gt", above), Condition("rev", "lte", up_to_rev)]
    if covers.only_read or covers.mark == "unread":
        conditions.append(Condition("is_read", "eq", True))
    if covers.mark == "unarchive":
        conditions.append(Condition("archived", "eq", True))
    rows = await listing.states(tx, head, InboxFilter(tuple(conditions)), read_all.PORTION + 1)
    more = len(rows) > read_all.PORTION
    rows = rows[: read_all.PORTION]
    last = rows[-1]["rev"] if more else up_to_rev
    changed, change = await _mark_rows(tx, head, covers.mark, rows, covers.origin, last, covers.only_read)
    if change is not None:
        head = after(head, change)
    rest = replace(covers, up_to_rev=up_to_rev, history=None, marked_to=last, marked_by=head.history)
    return MarkedPortion(len(changed), head, change, rest if more else None)


async def mark_all_seen(
    tx: Tx, recipient_id: str, up_to_rev: int | None, history: str | None, origin: str | None
) -> tuple[InboxSummary, InboxSummary, Change | None]:
    """(the head before, the head after, the change). No row is touched; no change where none became seen,
    archived ones included."""
    before = await lock(tx, recipient_id)
    await require_held(tx, before, up_to_rev, history)
    seen_rev = before.rev if up_to_rev is None else min(up_to_rev, before.rev)
    if seen_rev <= before.seen_rev:
        return before, before, None
    head = replace(before, seen_rev=seen_rev)
    unseen = 0
    if seen_rev < before.rev and before.unseen:
        unseen = await listing.count_unseen(tx, head, InboxFilter())
    archived = InboxFilter.of(Condition("rev", "lte", seen_rev), archived=True)
    nothing = unseen == before.unseen and not await listing.count_unseen(tx, before, archived)
    # Also where nothing changes: the next one then does not look at these rows again.
    await tx.run("set_seen", recipient_id=recipient_id, seen_rev=seen_rev, unseen=unseen)
    if nothing:
        return before, head, None
    counts = (before.unread, before.total, unseen)
    step = (recipient_id, before.rev + 1, *counts, new_history(), before.history)
    change = Updated(*step, ids=None, up_to_rev=seen_rev, at=tx.now(), origin=origin, seen=True)
    await advance(tx, change, {})
    return before, after(head, change), change


_RETURNS = ("unread", "unarchive")
"""Marks of rows that a read-all which is not applied to all its rows would cover again."""


async def _is_ready(tx: Tx, head: InboxSummary, mark: Mark) -> bool:
    """For several rows always: it is applied to them in another order, under the lock that this takes."""
    recorded = await tx.one("unapplied", recipient_id=head.recipient_id)
    return recorded is None or mark not in _RETURNS


async def _mark_rows(
    tx: Tx,
    head: InboxSummary,
    mark: Mark,
    rows: Sequence[Row],
    origin: str | None,
    up_to_rev: int | None = None,
    only_read: bool = False,
) -> tuple[list[Row], Change | None]:
    """The rows that changed, as they are now, and the change."""
    rev, now = head.rev + 1, tx.now()
    before: list[Row] = []
    changed: list[Row] = []
    for row in rows:
        if becomes := _becomes(mark, row, now):
            before.append(row)
            changed.append({**row, **becomes, "changed_rev": rev})
    if not changed:
        return [], None
    states = [{name: row[name] for name in _STATE} for row in changed]
    await tx.run(
        "write_states", recipient_id=head.recipient_id, states={"rows": states}, rev=rev, modified_at=now
    )
    lost = loss(before, changed)
    step = (head.recipient_id, rev, *less(head, lost), new_history(), head.history)
    ids = tuple(row["id"] for row in changed) if up_to_rev is None else None
    change: Logged
    if mark == "delete":
        change = Deleted(*step, ids or ())
    elif mark == "read":
        change = Read(*step, ids=ids, up_to_rev=None, type=None, subject=None, read_at=now, origin=origin)
    else:
        change = Updated(
            *step, ids, up_to_rev, now, origin, only_read=True if only_read else None, **_STATES_OF[mark]
        )
    await advance(tx, change, lost)
    return changed, change


_STATE = ("id", "is_read", "read_at", "seen_at", "archived_at", "deleted_at")
_STATES_OF: dict[Mark, dict[str, Any]] = {
    "unread": {"is_read": False},
    "seen": {"seen": True},
    "archive": {"archived": True},
    "unarchive": {"archived": False},
}
"""What a change of this kind states."""


def _becomes(mark: Mark, row: Row, now: datetime) -> dict[str, Any] | None:
    """The columns that change, None where nothing does."""
    is_read, in_inbox = row["is_read"], row["deleted_at"] is None
    match mark:
        case "read":
            return None if is_read else {"is_read": True, "read_at": now, "is_seen": True}
        case "unread":
            seen_at = row["seen_at"] or now
            return {"is_read": False, "read_at": None, "seen_at": seen_at} if is_read else None
        case "seen":
            return None if row["is_seen"] else {"seen_at": now, "is_seen": True}
        case "archive":
            return {"archived_at": now, "deleted_at": now} if in_inbox else None
        case "unarchive":
            return None if in_inbox else {"archived_at": None, "deleted_at": None}
        case "delete":
            return {"archived_at": None, "deleted_at": now}

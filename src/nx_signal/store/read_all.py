"""A read-all of many rows: recorded at once in `unsettled_read`, applied to its rows in portions.

Until the last portion is applied the view inbox_row shows the covered rows as read. There is at most one such
record for each recipient: the next read-all first applies the one before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias

from nx_signal.model import Change, Condition, InboxFilter, InboxSummary, Read
from nx_signal.model.changes import new_history
from nx_signal.store.driver import Row, Tx
from nx_signal.store.listing import count_unmarked, count_unseen, unmarked
from nx_signal.store.rows import advance, after, lock, require_held

PORTION = 1_000
"""Rows that one transaction marks: 10 to 40 ms. With SQLite every writer waits for it, with PostgreSQL those
of the same inbox, and only for the first portion."""
MAX_SPAN = 2**62
"""A limit that can be added to a revision."""

Marked: TypeAlias = tuple[int, InboxSummary, datetime, Change | None]
"""(how many became read, the head after, the time, the change)"""


@dataclass(frozen=True, slots=True)
class ReadAll:
    """What a reader marks: unread rows up to a revision (None: all), of a type and a subject where given."""

    recipient_id: str
    up_to_rev: int | None
    type: str | None
    subject: str | None
    origin: str | None
    history: str | None
    """what the reader holds at `up_to_rev`"""


async def mark_all(tx: Tx, covers: ReadAll) -> Marked | None:
    """Mark the first portion; where that is not all, record that the others count as read, too. None while an
    earlier read-all is not applied: that comes first."""
    before = await lock(tx, covers.recipient_id)
    await require_held(tx, before, covers.up_to_rev, covers.history)
    if await tx.one("unapplied", recipient_id=before.recipient_id):
        return None
    up_to_rev = before.rev if covers.up_to_rev is None else max(0, min(covers.up_to_rev, before.rev))
    rev, read_at = before.rev + 1, tx.now()
    of = {"type": covers.type, "subject": covers.subject}
    covered = InboxFilter.of(Condition("rev", "lte", up_to_rev), **of)
    rows = await _mark_portion(tx, before.recipient_id, covered, PORTION, rev, read_at)
    if not rows:
        return 0, before, read_at, None
    marked = Counter(row["type"] for row in rows)
    unseen = before.unseen - sum(_is_unseen(row, before) for row in rows)
    if len(rows) == PORTION:
        rest = await _count_rest(tx, before, marked, covered, up_to_rev)
        if rest:
            unseen -= await _count_unseen_rest(tx, before, rest, covered)
            await tx.run(
                "add_unapplied",
                recipient_id=before.recipient_id,
                rev=rev,
                up_to_rev=up_to_rev,
                applied_rev=rows[-1]["rev"],
                read_at=read_at,
                **of,
            )
        marked += rest
    change = Read(
        before.recipient_id,
        rev,
        before.unread - marked.total(),
        before.total,
        unseen,
        new_history(),
        before.history,
        ids=None,
        up_to_rev=up_to_rev,
        type=covers.type,
        subject=covers.subject,
        read_at=read_at,
        origin=covers.origin,
    )
    await advance(tx, change, {type: (0, many, 0) for type, many in marked.items()})
    return marked.total(), after(before, change), read_at, change


async def _count_rest(
    tx: Tx, before: InboxSummary, marked: Counter[str], covered: InboxFilter, up_to_rev: int
) -> Counter[str]:
    """How many more of each type the read-all covers, beside the portion that is marked."""
    if len(covered.conditions) > 1:
        return await count_unmarked(tx, before.recipient_id, covered)
    # Up to the last one or nearly: count what it leaves out.
    unread = await tx.all("unread_by_type", recipient_id=before.recipient_id)
    beyond = InboxFilter((Condition("rev", "gt", up_to_rev),))
    left_out = await count_unmarked(tx, before.recipient_id, beyond)
    return Counter({row["type"]: row["many"] for row in unread}) - marked - left_out


async def _count_unseen_rest(tx: Tx, before: InboxSummary, rest: Counter[str], covered: InboxFilter) -> int:
    """How many of them were not seen. Rows are counted only where some of the unread ones were."""
    if before.unseen in (0, before.unread):
        return rest.total() if before.unseen else 0
    return await count_unseen(tx, before, covered)


def _is_unseen(row: Row, head: InboxSummary) -> bool:
    """Of an unread row."""
    return bool(row["seen_at"] is None and row["rev"] > head.seen_rev)


async def apply_portion(tx: Tx, limit: int, recipient_id: str | None = None) -> bool:
    """Mark up to `limit` rows that this recipient's read-all covers, or the read-all of any recipient; False
    when there is none. Needs no lock of the head: no row becomes covered later, and none unread while the
    record is there, which is locked."""
    recorded = await tx.one("unapplied", recipient_id=recipient_id)
    if recorded is None:
        return False
    of_inbox, rev = recorded["recipient_id"], recorded["rev"]
    covered = InboxFilter.of(
        Condition("rev", "gt", recorded["applied_rev"]),
        Condition("rev", "lte", recorded["up_to_rev"]),
        type=recorded["type"],
        subject=recorded["subject"],
    )
    rows = await _mark_portion(tx, of_inbox, covered, limit, rev, recorded["read_at"])
    if len(rows) < limit:
        await tx.run("remove_unapplied", recipient_id=of_inbox, rev=rev)
    else:
        await tx.run("set_applied", recipient_id=of_inbox, rev=rev, applied_rev=rows[-1]["rev"])
    return True


async def _mark_portion(
    tx: Tx, recipient_id: str, covered: InboxFilter, limit: int, rev: int, read_at: datetime
) -> Sequence[Row]:
    """The lowest of the covered rows, as they were."""
    rows = await unmarked(tx, recipient_id, covered, limit)
    if rows:
        ids = [row["id"] for row in rows]
        await tx.run("mark_rows", recipient_id=recipient_id, ids=ids, rev=rev, read_at=read_at)
    return rows

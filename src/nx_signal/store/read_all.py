"""A read-all of many rows: recorded at once in `unsettled_read`, applied to its rows in portions.

Until the last portion is applied the view inbox_row shows the covered rows as read. There is at most one such
record for each recipient: the next read-all first applies the one before."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias

from nx_signal.errors import HistoryLost
from nx_signal.model import Change, Condition, InboxFilter, InboxSummary, Read
from nx_signal.model.changes import new_history
from nx_signal.store.driver import Tx
from nx_signal.store.listing import count_unmarked, unmarked
from nx_signal.store.rows import advance, lock

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
    await _require_held(tx, before, covers)
    if await tx.one("unapplied", recipient_id=before.recipient_id):
        return None
    up_to_rev = before.rev if covers.up_to_rev is None else max(0, min(covers.up_to_rev, before.rev))
    rev, read_at = before.rev + 1, tx.now()
    of = {"type": covers.type, "subject": covers.subject}
    covered = InboxFilter.of(Condition("rev", "lte", up_to_rev), **of)
    marked, last = await _mark_portion(tx, before.recipient_id, covered, PORTION, rev, read_at)
    if not marked:
        return 0, before, read_at, None
    if marked.total() == PORTION:
        rest = await _count_rest(tx, before, marked, covered, up_to_rev)
        if rest:
            await tx.run(
                "add_unapplied",
                recipient_id=before.recipient_id,
                rev=rev,
                up_to_rev=up_to_rev,
                applied_rev=last,
                read_at=read_at,
                **of,
            )
        marked += rest
    unread = before.unread - marked.total()
    change = Read(
        before.recipient_id,
        rev,
        unread,
        before.total,
        new_history(),
        before.history,
        ids=None,
        up_to_rev=up_to_rev,
        type=covers.type,
        subject=covers.subject,
        read_at=read_at,
        origin=covers.origin,
    )
    await advance(tx, change, {type: (0, many) for type, many in marked.items()})
    after = InboxSummary(before.recipient_id, rev, before.total, unread, change.history)
    return marked.total(), after, read_at, change


async def _require_held(tx: Tx, head: InboxSummary, covers: ReadAll) -> None:
    """Raises HistoryLost where the inbox has another change at the revision, or none."""
    rev = covers.up_to_rev
    if not rev or covers.history is None:
        return
    held = head.history
    if rev != head.rev:
        found = await tx.one("history_at", recipient_id=head.recipient_id, rev=rev)
        held = "" if found is None else found["history"]
    if held != covers.history:
        raise HistoryLost(f"The inbox no longer has revision {rev} of this history: fetch the list again.")


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


async def apply_portion(tx: Tx, limit: int, recipient_id: str | None = None) -> bool:
    """Mark up to `limit` rows that this recipient's read-all covers, or the read-all of any recipient; False
    when there is none. Needs no lock of the head: no row becomes covered later, and none unread."""
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
    marked, last = await _mark_portion(tx, of_inbox, covered, limit, rev, recorded["read_at"])
    if marked.total() < limit:
        await tx.run("remove_unapplied", recipient_id=of_inbox, rev=rev)
    else:
        await tx.run("set_applied", recipient_id=of_inbox, rev=rev, applied_rev=last)
    return True


async def _mark_portion(
    tx: Tx, recipient_id: str, covered: InboxFilter, limit: int, rev: int, read_at: datetime
) -> tuple[Counter[str], int]:
    """The lowest of the covered rows: (how many of each type, the last one's revision)."""
    rows = await unmarked(tx, recipient_id, covered, limit)
    if rows:
        ids = [row["id"] for row in rows]
        await tx.run("mark_rows", recipient_id=recipient_id, ids=ids, rev=rev, read_at=read_at)
    return Counter(row["type"] for row in rows), rows[-1]["rev"] if rows else 0

"""What every store decides alike about removing by age and about auditing (ports.Upkeep)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from nx_signal.adapters._type_counts import Loss, loss_of
from nx_signal.model import Audit, Deleted, Drift, Head


@dataclass(frozen=True, slots=True)
class OldRow:
    """A row in the order of revisions, from the lowest."""

    id: int
    rev: int
    type: str
    is_read: bool
    deleted: bool


@dataclass(frozen=True, slots=True)
class Expiry:
    """What to do to one inbox: remove the rows up to `last_rev`, keep the log above `kept_after`."""

    rows: int
    last_rev: int
    kept_after: int
    head: Head
    change: Deleted | None
    loss: Loss


def expiry(head: Head, oldest: Sequence[OldRow], before_id: int, limit: int) -> Expiry | None:
    """None where the lowest row is not old. `oldest` holds one more than `limit`, to know where what is
    kept begins.

    The last revision is always kept: whoever is below the kept log finds a change there, and sees that
    it does not follow."""
    gone: list[OldRow] = []
    for row in oldest[:limit]:
        if row.id >= before_id:
            break
        gone.append(row)
    if not gone:
        return None
    live = [row for row in gone if not row.deleted]
    after, change = head, None
    if live:
        unread = sum(not row.is_read for row in live)
        after = Head(head.recipient_id, head.rev + 1, head.total - len(live), head.unread - unread)
        ids = tuple(row.id for row in live)
        change = Deleted(after.recipient_id, after.rev, after.unread, after.total, ids)
    first_kept = oldest[len(gone)].rev if len(oldest) > len(gone) else after.rev
    loss = loss_of((row.type, row.is_read) for row in live)
    return Expiry(len(gone), gone[-1].rev, first_kept - 1, after, change, loss)


@dataclass(frozen=True, slots=True)
class HeldInbox:
    """A head as it is stored."""

    recipient_id: str
    rev: int
    total: int
    unread: int
    kept_after: int


@dataclass(frozen=True, slots=True)
class HeldType:
    """The counts of a type as they are stored."""

    recipient_id: str
    type: str
    total: int
    unread: int


@dataclass(frozen=True, slots=True)
class CountedRows:
    """Of one type."""

    recipient_id: str
    type: str
    total: int
    unread: int
    revisions: int
    """of rows above kept_after, deleted ones too"""
    last: int


@dataclass(frozen=True, slots=True)
class CountedLog:
    """Changes above kept_after that are no creation."""

    recipient_id: str
    revisions: int
    doubled: int
    """of them, those whose revision a row has too"""
    last: int


def portion(
    heads: Sequence[HeldInbox], max_inboxes: int, max_rows: int, largest: int | None
) -> tuple[list[HeldInbox], str | None]:
    """(the inboxes to audit together, the recipient to go on after or None at the end).

    `heads` holds one more than `max_inboxes` where there is one."""
    taken: list[HeldInbox] = []
    size = 0
    for held in heads[:max_inboxes]:
        revisions = held.rev - held.kept_after
        if largest is not None and revisions > largest:
            if not taken:
                return [], held.recipient_id
            break
        taken.append(held)
        size += revisions
        if size >= max_rows:
            break
    return taken, taken[-1].recipient_id if len(heads) > len(taken) else None


def audited(
    heads: Sequence[HeldInbox],
    types: Sequence[HeldType],
    rows: Sequence[CountedRows],
    log: Sequence[CountedLog],
    next_after: str | None,
) -> Audit:
    """Rows without a head, and counts of types without rows, are found as well."""
    everything: Sequence[HeldInbox | HeldType | CountedRows | CountedLog] = (*heads, *types, *rows, *log)
    inboxes = {id: _Compared() for id in sorted({each.recipient_id for each in everything})}
    for head in heads:
        inboxes[head.recipient_id].head = head
    for held in types:
        inboxes[held.recipient_id].types[held.type] = held
    for counted in rows:
        inboxes[counted.recipient_id].rows[counted.type] = counted
    for changes in log:
        inboxes[changes.recipient_id].log = changes
    drifts = tuple(
        Drift(id, what, held, counted)
        for id, inbox in inboxes.items()
        for what, held, counted in inbox.pairs()
        if held != counted
    )
    return Audit(len(inboxes), sum(each.total for each in rows), drifts, next_after)


class _Compared:
    """What one inbox says of itself, and what is there."""

    def __init__(self) -> None:
        self.head = HeldInbox("", 0, 0, 0, 0)
        self.types: dict[str, HeldType] = {}
        self.rows: dict[str, CountedRows] = {}
        self.log = CountedLog("", 0, 0, 0)

    def pairs(self) -> Iterator[tuple[str, int, int]]:
        """(what, as it is held, as it was counted)"""
        head, log, rows = self.head, self.log, self.rows.values()
        yield "total", head.total, sum(row.total for row in rows)
        yield "unread", head.unread, sum(row.unread for row in rows)
        yield "rev", head.rev, max(log.last, head.kept_after, *(row.last for row in rows))
        # Different numbers, this many, none above the head's: so each of them is there.
        revisions = sum(row.revisions for row in rows) + log.revisions - log.doubled
        yield "revisions", head.rev - head.kept_after, revisions
        yield "doubled revisions", 0, log.doubled
        for type in sorted({*self.types, *self.rows}):
            held = self.types.get(type) or HeldType("", type, 0, 0)
            row = self.rows.get(type) or CountedRows("", type, 0, 0, 0, 0)
            yield f"total of {type}", held.total, row.total
            yield f"unread of {type}", held.unread, row.unread

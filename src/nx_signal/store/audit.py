"""The comparison of what is kept of an inbox with its rows and its log."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from nx_signal.model import Audit, Drift


@dataclass(frozen=True, slots=True)
class HeldInbox:
    """A head as it is stored."""

    recipient_id: str
    rev: int
    total: int
    unread: int
    unseen: int
    truncated_through: int


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
    unseen: int
    revisions: int
    """of rows above truncated_through, deleted ones too"""
    last: int


@dataclass(frozen=True, slots=True)
class CountedLog:
    """Changes above truncated_through, without the creations."""

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
        revisions = held.rev - held.truncated_through
        if largest is not None and revisions > largest:
            if not taken:
                return [], held.recipient_id
            break
        taken.append(held)
        size += revisions
        if size >= max_rows:
            break
    return taken, taken[-1].recipient_id if len(heads) > len(taken) else None


def compare(
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
    """What is kept of one inbox, and what was counted."""

    def __init__(self) -> None:
        self.head = HeldInbox("", 0, 0, 0, 0, 0)
        self.types: dict[str, HeldType] = {}
        self.rows: dict[str, CountedRows] = {}
        self.log = CountedLog("", 0, 0, 0)

    def pairs(self) -> Iterator[tuple[str, int, int]]:
        """(what, as it is held, as it was counted)"""
        head, log, rows = self.head, self.log, self.rows.values()
        yield "total", head.total, sum(row.total for row in rows)
        yield "unread", head.unread, sum(row.unread for row in rows)
        yield "unseen", head.unseen, sum(row.unseen for row in rows)
        yield "rev", head.rev, max(log.last, head.truncated_through, *(row.last for row in rows))
        # Different numbers, this many, none above the head's: so each of them is there.
        revisions = sum(row.revisions for row in rows) + log.revisions - log.doubled
        yield "revisions", head.rev - head.truncated_through, revisions
        yield "doubled revisions", 0, log.doubled
        for type in sorted({*self.types, *self.rows}):
            held = self.types.get(type) or HeldType("", type, 0, 0)
            row = self.rows.get(type) or CountedRows("", type, 0, 0, 0, 0, 0)
            yield f"total of {type}", held.total, row.total
            yield f"unread of {type}", held.unread, row.unread

"""What every store decides alike about removing by age and about auditing (ports.Upkeep)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from nx_signal.model import Audit, Deleted, Drift, Head


@dataclass(frozen=True, slots=True)
class OldRow:
    """A row in the order of revisions, from the lowest."""

    id: int
    rev: int
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
    return Expiry(len(gone), gone[-1].rev, first_kept - 1, after, change)


@dataclass(frozen=True, slots=True)
class HeldInbox:
    """A head as it is stored."""

    recipient_id: str
    rev: int
    total: int
    unread: int
    kept_after: int


@dataclass(frozen=True, slots=True)
class CountedRows:
    recipient_id: str
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
    rows: Sequence[CountedRows],
    log: Sequence[CountedLog],
    next_after: str | None,
) -> Audit:
    held = {each.recipient_id: each for each in heads}
    by_rows = {each.recipient_id: each for each in rows}
    by_log = {each.recipient_id: each for each in log}
    recipients = sorted({*held, *by_rows, *by_log})  # rows without a head are found as well
    drifts = tuple(drift for id in recipients for drift in _drifts(id, held, by_rows, by_log))
    return Audit(len(recipients), sum(each.total for each in rows), drifts, next_after)


def _drifts(
    id: str,
    heads: Mapping[str, HeldInbox],
    all_rows: Mapping[str, CountedRows],
    all_logs: Mapping[str, CountedLog],
) -> Iterator[Drift]:
    head = heads.get(id) or HeldInbox(id, 0, 0, 0, 0)
    rows = all_rows.get(id) or CountedRows(id, 0, 0, 0, 0)
    log = all_logs.get(id) or CountedLog(id, 0, 0, 0)
    compared = (
        ("total", head.total, rows.total),
        ("unread", head.unread, rows.unread),
        ("rev", head.rev, max(rows.last, log.last, head.kept_after)),
        # Different numbers, this many, none above the head's: so each of them is there.
        ("revisions", head.rev - head.kept_after, rows.revisions + log.revisions - log.doubled),
        ("doubled revisions", 0, log.doubled),
    )
    return (Drift(id, what, held, counted) for what, held, counted in compared if held != counted)

"""What an inbox holds at a revision, computed from its log alone: what a page and a count must show."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from nx_signal.model import Change, Created, Deleted, InboxPage, InboxSummary, Notification, Read


@dataclass(frozen=True, slots=True)
class Where:
    """The filters that are simulated."""

    is_read: bool | None = None
    type: str | None = None


class InboxAt:
    """The rows of an inbox after some changes: id → row, and when those that are read became so."""

    def __init__(self, changes: Sequence[Change] = ()) -> None:
        self.rows: dict[int, Notification] = {}
        self.read_at: dict[int, datetime] = {}
        for change in changes:
            self.apply(change)

    @property
    def unread(self) -> int:
        return len(self.rows) - len(self.read_at)

    def apply(self, change: Change) -> None:
        if isinstance(change, Created):
            self.rows[change.notification.id] = change.notification
        elif isinstance(change, Deleted):
            for id in change.ids:
                del self.rows[id]
                self.read_at.pop(id, None)
        elif isinstance(change, Read):
            for id in self._covered(change):
                self.read_at.setdefault(id, change.read_at)

    def _covered(self, change: Read) -> Iterator[int]:
        if change.ids is not None:
            yield from change.ids
            return
        for id, row in self.rows.items():
            if row.rev <= (change.up_to_rev or 0) and change.type in (None, row.type):
                yield id

    def matching(self, where: Where) -> list[Notification]:
        """Newest first."""
        return [
            row
            for row in sorted(self.rows.values(), key=lambda row: -row.rev)
            if where.is_read in (None, row.id in self.read_at) and where.type in (None, row.type)
        ]


def head_at(user: str, log: Sequence[Change], rev: int) -> InboxSummary:
    if not rev:
        return InboxSummary(user, 0, 0, 0)
    last = log[rev - 1]
    return InboxSummary(user, rev, last.total, last.unread, last.history)


def wrong_page(
    page: InboxPage, log: Sequence[Change], where: Where, limit: int, before_rev: int | None
) -> str | None:
    """How a page differs from the inbox at the revision that it names; None where it does not."""
    head = page.head
    if head.rev > len(log) or head != head_at(head.recipient_id, log, head.rev):
        return f"its head {head} is not the store's"
    inbox = InboxAt(log[: head.rev])
    matching = inbox.matching(where)
    if page.matching != len(matching):
        return f"{page.matching} match at {head.rev}, where there are {len(matching)}"
    below = [row for row in matching if before_rev is None or row.rev < before_rev]
    expected = [(row.id, row.rev, row.content, inbox.read_at.get(row.id)) for row in below[:limit]]
    if expected != [(row.id, row.rev, row.content, row.read_at) for row in page.rows]:
        return f"its rows are not those at {head.rev}"
    if any(row.is_read != (row.read_at is not None) for row in page.rows):
        return "a row is read without a time, or unread with one"
    if page.next_before_rev != (below[limit - 1].rev if len(below) > limit else None):
        return f"the next page starts below {page.next_before_rev}"
    return None

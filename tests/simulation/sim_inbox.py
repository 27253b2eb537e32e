"""What an inbox holds at a revision, computed from its log alone: what a page and a count must show."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import msgspec

from nx_signal.model import Change, Created, Deleted, InboxPage, InboxSummary, Notification, Read, Updated


@dataclass(frozen=True, slots=True)
class Where:
    """The filters that are simulated."""

    is_read: bool | None = None
    type: str | None = None
    archived: bool = False


class InboxAt:
    """The rows of an inbox after some changes, archived ones too: id → row, when those that are read became
    so, when those that are archived did, and which are seen."""

    def __init__(self, changes: Sequence[Change] = ()) -> None:
        self.rows: dict[int, Notification] = {}
        self.read_at: dict[int, datetime] = {}
        self.archived_at: dict[int, datetime] = {}
        self.seen: set[int] = set()
        self.corrected: set[int] = set()
        for change in changes:
            self.apply(change)

    @property
    def total(self) -> int:
        return len(self.rows) - len(self.archived_at)

    @property
    def unread(self) -> int:
        return sum(id not in self.archived_at and id not in self.read_at for id in self.rows)

    @property
    def unseen(self) -> int:
        return sum(id not in self.archived_at and id not in self.seen for id in self.rows)

    def apply(self, change: Change) -> None:
        if isinstance(change, Created):
            self._remove(change.replaces)
            self.rows[change.notification.id] = change.notification
        elif isinstance(change, Deleted):
            self._remove(change.ids)
        elif isinstance(change, Read):
            for id in self._covered(change):
                self.read_at.setdefault(id, change.read_at)
                self.seen.add(id)
        elif isinstance(change, Updated):
            for id in list(self._covered(change)):
                self._update(id, change)

    def replaced_by(self, new: Notification) -> tuple[int, ...]:
        """What a notification takes the place of."""
        if new.collapse_key is None:
            return ()
        key = (new.organizer_id, new.collapse_key)
        of_key = [row for row in self.matching(Where()) if (row.organizer_id, row.collapse_key) == key]
        return tuple(row.id for row in reversed(of_key))

    def _remove(self, ids: Sequence[int]) -> None:
        for id in ids:
            del self.rows[id]
            self.read_at.pop(id, None)
            self.archived_at.pop(id, None)
            self.seen.discard(id)

    def _update(self, id: int, change: Updated) -> None:
        if change.content is not None:
            self.corrected.add(id)
            self.rows[id] = msgspec.structs.replace(self.rows[id], content=change.content)
        if change.is_read is False:
            del self.read_at[id]
        if change.seen:
            self.seen.add(id)
        if change.archived:
            self.archived_at[id] = change.at
        elif change.archived is False:
            del self.archived_at[id]

    def _covered(self, change: Read | Updated) -> Iterator[int]:
        if change.ids is not None:
            yield from change.ids
            return
        for id, row in self.rows.items():
            if row.rev <= (change.up_to_rev or 0) and self._is_of(change, row):
                yield id

    def _is_of(self, change: Read | Updated, row: Notification) -> bool:
        archived, is_read = row.id in self.archived_at, row.id in self.read_at
        if isinstance(change, Read):
            return not archived and change.type in (None, row.type)
        if change.seen:
            return True
        if not is_read and (change.only_read or change.is_read is False):
            return False
        return archived == (change.archived is False)

    def matching(self, where: Where) -> list[Notification]:
        """Newest first."""
        return [
            row
            for row in sorted(self.rows.values(), key=lambda row: -row.rev)
            if where.is_read in (None, row.id in self.read_at)
            and where.type in (None, row.type)
            and where.archived == (row.id in self.archived_at)
        ]


def head_at(user: str, log: Sequence[Change], rev: int) -> InboxSummary:
    if not rev:
        return InboxSummary(user, 0, 0, 0)
    last = log[rev - 1]
    return InboxSummary(user, rev, last.total, last.unread, last.history, last.unseen)


def wrong_page(
    page: InboxPage, log: Sequence[Change], where: Where, limit: int, before_rev: int | None
) -> str | None:
    """How a page differs from the inbox at the revision that it names; None where it does not."""
    head = page.head
    if head.rev > len(log) or replace(head, seen_rev=0) != head_at(head.recipient_id, log, head.rev):
        return f"its head {head} is not the store's"
    inbox = InboxAt(log[: head.rev])
    matching = inbox.matching(where)
    if page.matching != len(matching):
        return f"{page.matching} match at {head.rev}, where there are {len(matching)}"
    below = [row for row in matching if before_rev is None or row.rev < before_rev]
    expected = [
        (row.id, row.rev, inbox.read_at.get(row.id), inbox.archived_at.get(row.id)) for row in below[:limit]
    ]
    if expected != [(row.id, row.rev, row.read_at, row.archived_at) for row in page.rows]:
        return f"its rows are not those at {head.rev}"
    # The log has a creation with the content that its row has when it is read.
    later = {
        id for each in log[head.rev :] if isinstance(each, Updated) and each.content for id in each.ids or ()
    }
    content = [row.content for row in below[:limit] if row.id not in later - inbox.corrected]
    if content != [row.content for row in page.rows if row.id not in later - inbox.corrected]:
        return f"its content is not that at {head.rev}"
    if any(row.is_seen != (row.id in inbox.seen) for row in page.rows):
        return f"its rows are not seen as at {head.rev}"
    if any(row.is_read != (row.read_at is not None) for row in page.rows):
        return "a row is read without a time, or unread with one"
    if page.next_before_rev != (below[limit - 1].rev if len(below) > limit else None):
        return f"the next page starts below {page.next_before_rev}"
    return None

"""The database in memory: the truth that several instances of one simulation share. Nothing is durable."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import trio

from nx_signal.adapters._conditions import matches
from nx_signal.adapters._upkeep import HeldInbox, OldRow, expiry, portion
from nx_signal.adapters._values import json_text, legible, require_storable, settled
from nx_signal.adapters.memory.directory import MemoryDirectory
from nx_signal.adapters.snowflake import PREFERRED_WORKER, Snowflakes, first_id_at
from nx_signal.errors import StoreUnavailable
from nx_signal.model import (
    FRUITLESS,
    ActivityRow,
    Audit,
    Backlog,
    Change,
    Created,
    DeadLetter,
    Deleted,
    Draft,
    Head,
    InboxFilter,
    InboxPage,
    Json,
    Notification,
    Position,
    Read,
    Trace,
)
from nx_signal.ports import Now

Hook = Callable[[], Awaitable[None]]

_TEXTS = (
    "recipient_id",
    "activity_id",
    "type",
    "organizer_id",
    "merchant_id",
    "subject",
    "locale",
    "content",
    "content_html",
    "action_url",
)


class MemoryDatabase:
    """A ports.Database whose calls take effect at one instant, or not at all when cancelled before it.

    `delay` is awaited before that instant, `delay_after` between it and the return: what is cancelled
    or raises there was written though the caller never learns. While `unavailable`, nothing happens
    and every call raises StoreUnavailable."""

    def __init__(self, now: Now) -> None:
        self.unavailable = False
        self.delay: Hook | None = None
        self.delay_after: Hook | None = None
        self.now = now
        self.ids = Snowflakes(PREFERRED_WORKER, now)
        self._inbox = MemoryInbox(self)
        self._upkeep = MemoryUpkeep(self, self._inbox)
        self._directory = MemoryDirectory(self.begin, self.end)
        self._dead_letters = MemoryDeadLetters(self)
        self._traces = MemoryTraces(self)

    @property
    def inbox(self) -> MemoryInbox:
        return self._inbox

    @property
    def upkeep(self) -> MemoryUpkeep:
        return self._upkeep

    @property
    def directory(self) -> MemoryDirectory:
        return self._directory

    @property
    def dead_letters(self) -> MemoryDeadLetters:
        return self._dead_letters

    @property
    def traces(self) -> MemoryTraces:
        return self._traces

    async def check(self) -> None:
        await self.begin()
        await self.end()

    async def migrate(self) -> Sequence[str]:
        await self.begin()
        await self.end()
        return ()

    def stamp(self) -> datetime:
        """Now, in the milliseconds that every store keeps."""
        now = self.now()
        return now - timedelta(microseconds=now.microsecond % 1000)

    async def begin(self) -> None:
        """The last await before a call takes effect."""
        if self.delay is not None:
            await self.delay()
        await trio.lowlevel.checkpoint()
        if self.unavailable:
            raise StoreUnavailable("The database in memory was made unavailable.")

    async def end(self) -> None:
        if self.delay_after is not None:
            await self.delay_after()


@dataclass(slots=True)
class _Box:
    """One recipient's inbox. `log[n]` is revision n+1; `rows` ascend by revision, deleted ones have moved."""

    recipient_id: str
    log: list[Change] = field(default_factory=list)
    rows: dict[int, Notification] = field(default_factory=dict)
    deleted: dict[int, Notification] = field(default_factory=dict)
    unread: int = 0
    kept_after: int = 0
    """the part of the log that its readers still get begins above this"""

    @property
    def head(self) -> Head:
        return Head(self.recipient_id, len(self.log), len(self.rows), self.unread)


class MemoryInbox:
    def __init__(self, database: MemoryDatabase) -> None:
        self._db = database
        self.boxes: dict[str, _Box] = {}
        self.written: set[tuple[str, str]] = set()

    async def insert(self, drafts: Sequence[Draft]) -> Sequence[Created]:
        await self._db.begin()
        data = [_checked(draft) for draft in drafts]
        created_at = self._db.stamp()
        changes: list[Created] = []
        for draft, text in zip(drafts, data, strict=True):
            key = (draft.activity_id, draft.recipient_id)
            if key not in self.written:
                self.written.add(key)
                changes.append(self._create(draft, json.loads(text), created_at))
        await self._db.end()
        return changes

    def _create(self, draft: Draft, data: Mapping[str, Json], created_at: datetime) -> Created:
        box = self.boxes.setdefault(draft.recipient_id, _Box(draft.recipient_id))
        rev = len(box.log) + 1
        row = Notification(
            id=self._db.ids.next(),
            recipient_id=draft.recipient_id,
            rev=rev,
            changed_rev=rev,
            activity_id=draft.activity_id,
            type=draft.type,
            organizer_id=draft.organizer_id,
            merchant_id=draft.merchant_id,
            subject=draft.subject,
            locale=draft.locale,
            content=draft.content,
            content_html=draft.content_html,
            action_url=draft.action_url,
            data=data,
            is_read=False,
            read_at=None,
            created_at=created_at,
        )
        box.rows[row.id] = row
        box.unread += 1
        created = Created(draft.recipient_id, rev, box.unread, len(box.rows), row)
        box.log.append(created)
        return created

    async def heads(self, recipient_ids: Sequence[str]) -> Mapping[str, Head]:
        await self._db.begin()
        heads = {id: self._box(id).head for id in recipient_ids}
        await self._db.end()
        return heads

    async def backlogs(self, cursors: Mapping[str, int], limit: int) -> Mapping[str, Backlog]:
        await self._db.begin()
        found = {}
        for id, rev in cursors.items():
            box = self._box(id)
            since = max(rev, box.kept_after)
            found[id] = Backlog(box.head, tuple(box.log[since : since + limit]))
        await self._db.end()
        return found

    async def page(
        self, recipient_id: str, where: InboxFilter, limit: int, before_rev: int | None, skip: int
    ) -> InboxPage:
        await self._db.begin()
        box = self._box(recipient_id)
        matching = list(_matching(box, where))
        below = [row for row in reversed(matching) if before_rev is None or row.rev < before_rev]
        rows = tuple(below[skip : skip + limit])
        more = rows and len(below) > skip + limit
        page = InboxPage(rows, len(matching), box.head, rows[-1].rev if more else None)
        await self._db.end()
        return page

    async def count(self, recipient_id: str, where: InboxFilter) -> tuple[int, Head]:
        await self._db.begin()
        box = self._box(recipient_id)
        counted = sum(1 for _ in _matching(box, where)), box.head
        await self._db.end()
        return counted

    async def get(self, recipient_id: str, id: int) -> Notification | None:
        await self._db.begin()
        row = self._box(recipient_id).rows.get(id)
        await self._db.end()
        return row

    async def mark_read(
        self, recipient_id: str, id: int, origin: str | None
    ) -> tuple[Notification, Change | None] | None:
        await self._db.begin()
        box = self._box(recipient_id)
        row = box.rows.get(id)
        result: tuple[Notification, Change | None] | None = None
        if row is None:
            pass
        elif row.is_read:
            result = row, None
        else:
            read_at = self._db.stamp()
            row = _read(box, row, read_at)
            change = Read(
                recipient_id,
                row.changed_rev,
                box.unread,
                len(box.rows),
                ids=(id,),
                up_to_rev=None,
                type=None,
                subject=None,
                read_at=read_at,
                origin=origin,
            )
            box.log.append(change)
            result = row, change
        await self._db.end()
        return result

    async def mark_all_read(
        self,
        recipient_id: str,
        up_to_rev: int | None,
        type: str | None,
        subject: str | None,
        origin: str | None,
    ) -> tuple[int, Head, datetime, Change | None]:
        await self._db.begin()
        box = self._box(recipient_id)
        effective = len(box.log) if up_to_rev is None else min(up_to_rev, len(box.log))
        unread = [
            row
            for row in _matching(box, InboxFilter(is_read=False, type=type, subject=subject))
            if row.rev <= effective
        ]
        read_at, change = self._db.stamp(), None
        for row in unread:
            _read(box, row, read_at)
        if unread:
            change = Read(
                recipient_id,
                len(box.log) + 1,
                box.unread,
                len(box.rows),
                ids=None,
                up_to_rev=effective,
                type=type,
                subject=subject,
                read_at=read_at,
                origin=origin,
            )
            box.log.append(change)
        result = len(unread), box.head, read_at, change
        await self._db.end()
        return result

    async def delete(self, recipient_id: str, id: int) -> Change | None:
        await self._db.begin()
        box = self._box(recipient_id)
        row, change = box.rows.pop(id, None), None
        if row is not None:
            box.deleted[id] = row
            box.unread -= not row.is_read
            change = Deleted(recipient_id, len(box.log) + 1, box.unread, len(box.rows), (id,))
            box.log.append(change)
        await self._db.end()
        return change

    async def rows_of(
        self, activity_id: str, recipient_id: str | None, limit: int
    ) -> tuple[Sequence[ActivityRow], int]:
        await self._db.begin()
        recipients = sorted(user for activity, user in self.written if activity == activity_id)
        asked = recipients[:limit] if recipient_id is None else [recipient_id]
        rows = [
            ActivityRow(user, row.id, row.rev, row.created_at, row.is_read, row.id in box.deleted)
            for user in asked
            for box in [self._box(user)]
            for row in (*box.rows.values(), *box.deleted.values())
            if row.activity_id == activity_id
        ]
        await self._db.end()
        return rows, len(recipients)

    def _box(self, recipient_id: str) -> _Box:
        return self.boxes.get(recipient_id) or _Box(recipient_id)


def _read(box: _Box, row: Notification, read_at: datetime) -> Notification:
    """Mark an unread row, as of the revision that is to be logged next."""
    read = replace(row, is_read=True, read_at=read_at, changed_rev=len(box.log) + 1)
    box.rows[row.id] = read
    box.unread -= 1
    return read


def _matching(box: _Box, where: InboxFilter) -> Iterator[Notification]:
    return (row for row in box.rows.values() if matches(row, where))


class MemoryUpkeep:
    def __init__(self, database: MemoryDatabase, inbox: MemoryInbox) -> None:
        self._db = database
        self._inbox = inbox

    async def settle(self, limit: int) -> bool:
        """A read-all is in all its rows at once here."""
        await self._db.begin()
        await self._db.end()
        return False

    async def expire(self, before: datetime, limit: int) -> tuple[int, Deleted | None]:
        await self._db.begin()
        result = self._expire(first_id_at(before), limit)
        await self._db.end()
        return result

    def _expire(self, before_id: int, limit: int) -> tuple[int, Deleted | None]:
        owners = ((id, box) for box in self._inbox.boxes.values() for id in (*box.rows, *box.deleted))
        oldest_id, box = min(owners, key=lambda owner: owner[0], default=(before_id, _Box("")))
        if oldest_id >= before_id:
            return 0, None
        rows = sorted((*box.rows.values(), *box.deleted.values()), key=lambda row: row.rev)
        oldest = [
            OldRow(row.id, row.rev, row.type, row.is_read, row.id in box.deleted) for row in rows[: limit + 1]
        ]
        done = expiry(box.head, oldest, before_id, limit)
        if done is None:
            return 0, None
        for row in rows[: done.rows]:
            box.deleted.pop(row.id, None)
            if box.rows.pop(row.id, None) is not None:
                box.unread -= not row.is_read
            self._inbox.written.remove((row.activity_id, row.recipient_id))
        box.kept_after = done.kept_after
        if done.change is not None:
            box.log.append(done.change)
        return done.rows, done.change

    async def audit(self, after: str, max_inboxes: int, max_rows: int, largest: int | None = None) -> Audit:
        """Nothing to compare: what is counted elsewhere is held here."""
        await self._db.begin()
        boxes = self._inbox.boxes
        heads = [
            HeldInbox(id, boxes[id].head.rev, len(boxes[id].rows), boxes[id].unread, boxes[id].kept_after)
            for id in sorted(boxes)
            if id > after
        ]
        taken, last = portion(heads, max_inboxes, max_rows, largest)
        await self._db.end()
        return Audit(len(taken), sum(held.total for held in taken), (), last)


def _checked(draft: Draft) -> str:
    """The data as JSON. Raises StoreRejected for what the durable stores do not take."""
    for name in _TEXTS:
        require_storable(name, getattr(draft, name))
    return json_text("data", draft.data)


class MemoryDeadLetters:
    def __init__(self, database: MemoryDatabase) -> None:
        self._db = database
        self._letters: dict[int, DeadLetter] = {}
        self._ids: dict[Position, int] = {}

    async def add(self, letters: Sequence[DeadLetter]) -> None:
        await self._db.begin()
        for letter in letters:
            if letter.position not in self._ids:
                id = self._db.ids.next()
                self._ids[letter.position] = id
                self._letters[id] = replace(
                    letter,
                    id=id,
                    headers=dict(letter.headers),
                    created_at=letter.created_at or self._db.stamp(),
                )
        await self._db.end()

    async def page(self, limit: int, before_id: int | None) -> Sequence[DeadLetter]:
        await self._db.begin()
        newest_first = sorted(self._letters, reverse=True)
        page = [self._letters[id] for id in newest_first if before_id is None or id < before_id][:limit]
        await self._db.end()
        return page

    async def get(self, id: int) -> DeadLetter | None:
        await self._db.begin()
        letter = self._letters.get(id)
        await self._db.end()
        return letter

    async def set_error(self, id: int, error: str) -> bool:
        await self._db.begin()
        letter = self._letters.get(id)
        if letter is not None:
            self._letters[id] = replace(letter, error=error)
        await self._db.end()
        return letter is not None

    async def remove(self, id: int) -> bool:
        await self._db.begin()
        letter = self._letters.pop(id, None)
        if letter is not None:
            del self._ids[letter.position]
        await self._db.end()
        return letter is not None


class MemoryTraces:
    def __init__(self, database: MemoryDatabase) -> None:
        self._db = database
        self._traces: dict[str, Trace] = {}

    async def add(self, traces: Sequence[Trace]) -> None:
        await self._db.begin()
        handled_at = self._db.stamp()
        for trace in settled(traces):
            before = self._traces.get(trace.activity_id)
            if before is None or before.outcome in FRUITLESS:
                reason = None if trace.reason is None else legible(trace.reason)
                self._traces[trace.activity_id] = replace(trace, reason=reason, handled_at=handled_at)
        await self._db.end()

    async def get(self, activity_id: str) -> Trace | None:
        await self._db.begin()
        trace = self._traces.get(activity_id)
        await self._db.end()
        return trace

    async def prune(self, before: datetime, limit: int = 10_000) -> int:
        await self._db.begin()
        old = [id for id, t in self._traces.items() if t.handled_at and t.handled_at < before][:limit]
        for id in old:
            del self._traces[id]
        await self._db.end()
        return len(old)

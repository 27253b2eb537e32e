"""The inboxes: one log per recipient. Every statement that reads or changes rows names the recipient."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from datetime import datetime
from typing import Any, TypeAlias

import asyncpg

from nx_signal.adapters import _read_all
from nx_signal.adapters._conditions import sql_of
from nx_signal.adapters._read_all import IS_COVERED, with_covers
from nx_signal.adapters._type_counts import Loss, Which, kept_count
from nx_signal.adapters._values import json_text, require_storable, storable
from nx_signal.adapters.postgres.faults import IdTaken
from nx_signal.adapters.postgres.lease import WorkerLease
from nx_signal.adapters.postgres.session import SNAPSHOT, Connection, Session, transaction
from nx_signal.adapters.postgres.values import MAX_BIGINT, bounded, to_ms
from nx_signal.errors import StoreRejected
from nx_signal.model import (
    ActivityRow,
    Backlog,
    Change,
    Condition,
    Created,
    Deleted,
    Draft,
    Head,
    InboxFilter,
    InboxPage,
    Json,
    Notification,
    Read,
)
from nx_signal.ports import Now
from nx_signal.sql import queries

MAX_DRAFTS = 1_000

_SQL = with_covers(queries("postgres"))
_NOTIFICATION = tuple(field.name for field in fields(Notification))
_TEXTS = tuple(field.name for field in fields(Draft) if field.name != "data")
"""Also the order of the columns that the statement `insert` takes."""
_COMPARISONS = {
    "in": "{column} = ANY ({value})",
    "not_in": "({column} = ANY ({value})) IS NOT TRUE",
    "like": "{column} LIKE {value} ESCAPE ''",
}
_FLAGS = (f"NOT n.is_read AND NOT {IS_COVERED}", "{column}")
_EXPRESSIONS = {"is_read": f"(n.is_read OR {IS_COVERED})"}

Marked: TypeAlias = tuple[int, Head, datetime, Change | None]


class PostgresInbox:
    """ports.InboxStore. Nothing is found under a text that no column could hold."""

    def __init__(self, session: Session, lease: WorkerLease, now: Now) -> None:
        self._session = session
        self._lease = lease
        self._now = now

    # --- writes

    async def insert(self, drafts: Sequence[Draft]) -> Sequence[Created]:
        if len(drafts) > MAX_DRAFTS:
            raise ValueError(f"At most {MAX_DRAFTS} drafts a call, not {len(drafts)}.")
        once: dict[tuple[str, str], Draft] = {}
        for draft in drafts:
            once.setdefault((draft.activity_id, draft.recipient_id), draft)
        if not once:
            return ()
        unique = list(once.values())
        # The recipients of one activity share its data: encode it once.
        shared = {id(draft.data): draft.data for draft in unique}
        texts = {key: json_text("data", data) for key, data in shared.items()}
        try:
            try:
                return await self._session.call(self._aio_insert, unique, texts)
            except IdTaken:
                self._lease.lose()
                return await self._session.call(self._aio_insert, unique, texts)
        except StoreRejected:
            for draft in unique:  # the usual reason has a better sentence
                for name in _TEXTS:
                    require_storable(name, getattr(draft, name))
            raise

    async def _aio_insert(
        self, connection: Connection, drafts: Sequence[Draft], texts: Mapping[int, str]
    ) -> list[Created]:
        columns = [[getattr(draft, name) for draft in drafts] for name in _TEXTS]
        data = [texts[id(draft.data)] for draft in drafts]
        await self._lease._aio_hold()
        async with transaction(connection):
            await connection.execute(_SQL["lock_heads"], list({draft.recipient_id for draft in drafts}))
            # Under the lock, so that in one inbox stamps and ids ascend like the revisions.
            created_at, ids = to_ms(self._now()), self._lease.take(len(drafts))
            rows = await connection.fetch(_SQL["insert"], ids, *columns, data, created_at)
        parsed = {key: json.loads(text) for key, text in texts.items()}
        changes = []
        for index, rev, unread, total in rows:
            draft = drafts[index]
            row = _as_created(draft, ids[index], rev, parsed[id(draft.data)], created_at)
            changes.append(Created(draft.recipient_id, rev, unread, total, row))
        return changes

    async def mark_read(
        self, recipient_id: str, id: int, origin: str | None
    ) -> tuple[Notification, Change | None] | None:
        if not storable(recipient_id):
            return None
        return await self._session.call(self._aio_mark_read, recipient_id, id, origin)

    async def _aio_mark_read(
        self, connection: Connection, recipient_id: str, id: int, origin: str | None
    ) -> tuple[Notification, Change | None] | None:
        async with transaction(connection):
            before = await _aio_lock_head(connection, recipient_id)
            head = Head(recipient_id, before.rev + 1, before.total, before.unread - 1)
            read_at = to_ms(self._now())
            marked = await connection.fetchrow(
                _SQL["mark_read"], bounded(id), recipient_id, read_at, head.rev
            )
            if marked is None:
                row = await _aio_get(connection, recipient_id, id)
                return None if row is None else (row, None)
            change = _read(head, read_at, origin, ids=(id,))
            await _aio_log(connection, head, change, {marked["type"]: (0, 1)})
        return _notification(marked), change

    async def mark_all_read(
        self,
        recipient_id: str,
        up_to_rev: int | None,
        type: str | None,
        subject: str | None,
        origin: str | None,
    ) -> Marked:
        if not storable(recipient_id):
            return 0, Head(recipient_id, 0, 0, 0), to_ms(self._now()), None
        return await self._session.call(
            self._aio_mark_all_read, recipient_id, up_to_rev, type, subject, origin
        )

    async def _aio_mark_all_read(
        self,
        connection: Connection,
        recipient_id: str,
        up_to_rev: int | None,
        type: str | None,
        subject: str | None,
        origin: str | None,
    ) -> Marked:
        if not (storable(type or "") and storable(subject or "")):
            up_to_rev = 0  # no row is of these
        while True:
            async with transaction(connection):
                before = await _aio_lock_head(connection, recipient_id)
                if not await connection.fetchval(_SQL["is_unsettled"], recipient_id):
                    return await self._aio_mark_locked(connection, before, up_to_rev, type, subject, origin)
            await _aio_settle(connection, _read_all.PORTION, recipient_id)

    async def _aio_mark_locked(
        self,
        connection: Connection,
        before: Head,
        up_to_rev: int | None,
        type: str | None,
        subject: str | None,
        origin: str | None,
    ) -> Marked:
        """Mark the first portion; where that is not all, record that the others count as read, too."""
        recipient_id, rev, read_at = before.recipient_id, before.rev + 1, to_ms(self._now())
        effective = before.rev if up_to_rev is None else max(0, min(up_to_rev, before.rev))
        what = (recipient_id, effective, read_at, rev, type, subject, 0)
        marked, last = await _aio_mark_portion(connection, what, _read_all.PORTION)
        if not marked:
            return 0, before, read_at, None
        if marked.total() == _read_all.PORTION:
            rest = await self._aio_count_rest(connection, before, marked, effective, type, subject)
            if rest:
                await connection.execute(
                    _SQL["leave_unsettled"], recipient_id, rev, effective, last, type, subject, read_at
                )
            marked += rest
        updated = marked.total()
        head = Head(recipient_id, rev, before.total, before.unread - updated)
        change = _read(head, read_at, origin, up_to_rev=effective, type=type, subject=subject)
        await _aio_log(connection, head, change, {type: (0, many) for type, many in marked.items()})
        return updated, head, read_at, change

    async def _aio_count_rest(
        self,
        connection: Connection,
        before: Head,
        marked: Counter[str],
        effective: int,
        type: str | None,
        subject: str | None,
    ) -> Counter[str]:
        """How many more of each type the read-all covers, beside the portion that is marked."""
        if type is None and subject is None:  # up to the last one or nearly: count what it leaves out
            unread = await connection.fetch(_SQL["unread_by_type"], before.recipient_id)
            span = (before.recipient_id, effective, before.rev)
            left_out = await connection.fetch(_SQL["count_unread"], *span, None, None)
            return _by_type(unread) - marked - _by_type(left_out)
        span = (before.recipient_id, 0, effective)
        return _by_type(await connection.fetch(_SQL["count_unread"], *span, type, subject))

    async def delete(self, recipient_id: str, id: int) -> Change | None:
        if not storable(recipient_id):
            return None
        return await self._session.call(self._aio_delete, recipient_id, id)

    async def _aio_delete(self, connection: Connection, recipient_id: str, id: int) -> Change | None:
        async with transaction(connection):
            before = await _aio_lock_head(connection, recipient_id)
            deleted = await connection.fetchrow(
                _SQL["delete"], bounded(id), recipient_id, to_ms(self._now()), before.rev + 1
            )
            if deleted is None:
                return None
            was_unread = int(not deleted["is_read"])
            unread = before.unread - was_unread
            head = Head(recipient_id, before.rev + 1, before.total - 1, unread)
            change = Deleted(recipient_id, head.rev, head.unread, head.total, (id,))
            await _aio_log(connection, head, change, {deleted["type"]: (1, was_unread)})
        return change

    # --- reads, each of one snapshot

    async def heads(self, recipient_ids: Sequence[str]) -> Mapping[str, Head]:
        heads = {id: Head(id, 0, 0, 0) for id in recipient_ids}
        if asked := [id for id in heads if storable(id)]:
            heads.update(await self._session.call(_aio_heads, asked))
        return heads

    async def backlogs(self, cursors: Mapping[str, int], limit: int) -> Mapping[str, Backlog]:
        backlogs = {id: Backlog(Head(id, 0, 0, 0), ()) for id in cursors}
        if asked := {id: bounded(max(0, rev)) for id, rev in cursors.items() if storable(id)}:
            backlogs.update(await self._session.call(_aio_backlogs, asked, limit))
        return backlogs

    async def page(
        self, recipient_id: str, where: InboxFilter, limit: int, before_rev: int | None, skip: int
    ) -> InboxPage:
        if not storable(recipient_id):
            return InboxPage((), 0, Head(recipient_id, 0, 0, 0), None)
        return await self._session.call(_aio_page, recipient_id, where, limit, before_rev, skip)

    async def count(self, recipient_id: str, where: InboxFilter) -> tuple[int, Head]:
        if not storable(recipient_id):
            return 0, Head(recipient_id, 0, 0, 0)
        return await self._session.call(_aio_count, recipient_id, where)

    async def get(self, recipient_id: str, id: int) -> Notification | None:
        return await self._session.call(_aio_get, recipient_id, id) if storable(recipient_id) else None

    async def rows_of(
        self, activity_id: str, recipient_id: str | None, limit: int
    ) -> tuple[Sequence[ActivityRow], int]:
        if not storable(activity_id):
            return (), 0
        if not storable(recipient_id or ""):
            recipient_id, limit = None, 0
        return await self._session.call(_aio_rows_of, activity_id, recipient_id, limit)


# --- rows ----------------------------------------------------------------------------------------


def _as_created(
    draft: Draft, id: int, rev: int, data: Mapping[str, Json], created_at: datetime
) -> Notification:
    return Notification(
        id=id,
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


def _notification(row: asyncpg.Record, **otherwise: Any) -> Notification:
    values = {name: row[name] for name in _NOTIFICATION}
    values["data"] = json.loads(values["data"])
    return Notification(**(values | otherwise))


async def _aio_get(connection: Connection, recipient_id: str, id: int) -> Notification | None:
    row = await connection.fetchrow(_SQL["get"], bounded(id), recipient_id)
    return None if row is None else _notification(row)


async def _aio_rows_of(
    connection: Connection, activity_id: str, recipient_id: str | None, limit: int
) -> tuple[Sequence[ActivityRow], int]:
    async with transaction(connection, SNAPSHOT):
        rows = await connection.fetch(_SQL["rows_of"], activity_id, recipient_id, bounded(limit))
        total = await connection.fetchval(_SQL["count_rows_of"], activity_id)
    return [ActivityRow(*row) for row in rows], total


def _conditions(where: InboxFilter, first: int) -> tuple[str, list[Any]]:
    """A condition of fixed texts, and its parameters, numbered from `first`."""
    values: list[Any] = []

    def bind(condition: Condition) -> str:
        value = condition.value
        values.append([_scalar(each) for each in value] if isinstance(value, tuple) else _scalar(value))
        return f"${first + len(values) - 1}"

    condition = sql_of(
        where, prefix="n.", more=_COMPARISONS, flags=_FLAGS, bind=bind, expressions=_EXPRESSIONS
    )
    return condition, values


def _scalar(value: Any) -> Any:
    return bounded(value) if isinstance(value, int) and not isinstance(value, bool) else value


async def _aio_page(
    connection: Connection,
    recipient_id: str,
    where: InboxFilter,
    limit: int,
    before_rev: int | None,
    skip: int,
) -> InboxPage:
    condition, values = _conditions(where, first=5)
    found = await connection.fetch(
        _counting("page", where, condition, first=5),
        recipient_id,
        MAX_BIGINT if before_rev is None else bounded(before_rev),
        bounded(limit + 1),  # one more, to know whether there is a next page
        bounded(skip),
        *values,
    )
    matching, head = _counted(recipient_id, found)
    if found and found[0]["id"] is None:  # the head alone
        found = []
    rows = tuple(_notification(row) for row in found[:limit])
    next_before_rev = rows[-1].rev if rows and len(found) > limit else None
    return InboxPage(rows, matching, head, next_before_rev)


async def _aio_count(connection: Connection, recipient_id: str, where: InboxFilter) -> tuple[int, Head]:
    condition, values = _conditions(where, first=2)
    found = await connection.fetch(_counting("count", where, condition, first=2), recipient_id, *values)
    return _counted(recipient_id, found)


_OF_HEAD: Mapping[Which, str] = {"total": "h.total", "unread": "h.unread", "read": "h.total - h.unread"}
_OF_TYPE: Mapping[Which, str] = {"total": "t.total", "unread": "t.unread", "read": "t.total - t.unread"}


def _counting(name: str, where: InboxFilter, condition: str, first: int) -> str:
    """The statement with its condition, whose parameters are numbered from `first`. It counts only what
    is not kept. One statement is one snapshot, and one round trip."""
    match kept_count(where):
        case None:
            matching = f"({_SQL['matching']})"
        case (None, which):
            matching = _OF_HEAD[which]
        case (_, which):  # the type is the condition's only parameter
            matching = (
                _SQL["matching_type"].replace("{which}", _OF_TYPE[which]).replace("{type}", f"${first}")
            )
    return _SQL[name].replace("{matching}", matching).replace("{where}", condition)


def _counted(recipient_id: str, found: Sequence[asyncpg.Record]) -> tuple[int, Head]:
    if not found:
        return 0, Head(recipient_id, 0, 0, 0)
    row = found[0]
    return row["matching"], Head(recipient_id, row["head_rev"], row["head_total"], row["head_unread"])


# --- heads and the log ---------------------------------------------------------------------------


async def _aio_lock_head(connection: Connection, recipient_id: str) -> Head:
    row = await connection.fetchrow(_SQL["lock_head"], recipient_id)
    return Head(recipient_id, 0, 0, 0) if row is None else Head(*row)


async def _aio_heads(connection: Connection, recipient_ids: Sequence[str]) -> dict[str, Head]:
    return {row["recipient_id"]: Head(*row) for row in await connection.fetch(_SQL["heads"], recipient_ids)}


def _read(
    head: Head,
    read_at: datetime,
    origin: str | None,
    *,
    ids: tuple[int, ...] | None = None,
    up_to_rev: int | None = None,
    type: str | None = None,
    subject: str | None = None,
) -> Read:
    return Read(
        head.recipient_id,
        head.rev,
        head.unread,
        head.total,
        ids=ids,
        up_to_rev=up_to_rev,
        type=type,
        subject=subject,
        read_at=read_at,
        origin=origin,
    )


async def _aio_log(connection: Connection, head: Head, change: Read | Deleted, loss: Loss) -> None:
    """Write the locked head with the counts of its types, and the change that led there."""
    detail: dict[str, Json] = {"ids": change.ids}
    if isinstance(change, Read):
        detail |= {
            "upToRev": change.up_to_rev,
            "type": change.type,
            "subject": change.subject,
            "readAt": change.read_at.isoformat(),
            "origin": change.origin,
        }
    kind = "read" if isinstance(change, Read) else "deleted"
    types, totals, unreads = list(loss), [n for n, _ in loss.values()], [n for _, n in loss.values()]
    await connection.execute(
        _SQL["advance"],
        head.recipient_id,
        head.rev,
        head.total,
        head.unread,
        kind,
        json.dumps(detail),
        types,
        totals,
        unreads,
    )


async def _aio_mark_portion(
    connection: Connection, what: tuple[Any, ...], limit: int
) -> tuple[Counter[str], int | None]:
    """(how many of each type were marked, the last one's revision)"""
    rows = await connection.fetch(_SQL["mark_portion"], *what, limit)
    return _by_type(rows), max((row["last"] for row in rows), default=None)


def _by_type(rows: Sequence[asyncpg.Record]) -> Counter[str]:
    """Rows that begin with a type and how many of it."""
    return Counter({row[0]: row[1] for row in rows})


async def _aio_settle(connection: Connection, limit: int, recipient_id: str | None = None) -> bool:
    """Write up to `limit` rows of what this recipient's read-all covers, or anybody's; False when there is
    none. Needs no lock of the head: no row becomes covered later, and none unread."""
    row = await connection.fetchrow(_SQL["unsettled"], recipient_id)
    if row is None:
        return False
    recipient_id, rev, up_to_rev, settled_rev, type, subject, read_at = row
    what = (recipient_id, up_to_rev, read_at, rev, type, subject, settled_rev)
    marked, last = await _aio_mark_portion(connection, what, limit)
    if marked.total() < limit:
        await connection.execute(_SQL["forget_unsettled"], recipient_id, rev)
    else:
        await connection.execute(_SQL["settled_up_to"], recipient_id, rev, last)
    return True


def _logged(row: asyncpg.Record) -> Read | Deleted:
    recipient_id, rev, kind, detail_text, unread, total = row
    detail = json.loads(detail_text)
    ids = None if detail["ids"] is None else tuple(detail["ids"])
    if kind == "deleted":
        return Deleted(recipient_id, rev, unread, total, ids or ())
    return _read(
        Head(recipient_id, rev, total, unread),
        datetime.fromisoformat(detail["readAt"]),
        detail["origin"],
        ids=ids,
        up_to_rev=detail["upToRev"],
        type=detail["type"],
        subject=detail["subject"],
    )


async def _aio_backlogs(connection: Connection, cursors: Mapping[str, int], limit: int) -> dict[str, Backlog]:
    """Three queries of one snapshot; no entry for an inbox never written."""
    async with transaction(connection, SNAPSHOT):
        states = await connection.fetch(_SQL["heads_and_bases"], list(cursors), list(cursors.values()))
        behind = {id: after for id, rev, _, _, after, *_ in states if rev > after}
        asked = list(behind), list(behind.values()), max(0, min(limit, MAX_BIGINT // 2))
        created = await connection.fetch(_SQL["created_after"], *asked)
        changed = await connection.fetch(_SQL["changed_after"], *asked)
    steps: dict[str, list[Read | Deleted | Notification]] = {state["recipient_id"]: [] for state in states}
    for row in created:
        first = _notification(row, is_read=False, read_at=None, changed_rev=row["rev"])
        steps[first.recipient_id].append(first)
    for row in changed:
        steps[row["recipient_id"]].append(_logged(row))
    backlogs = {}
    for id, rev, total, unread, _, base_rev, base_total, base_unread in states:
        log = _replayed(Head(id, base_rev, base_total, base_unread), steps[id])
        backlogs[id] = Backlog(Head(id, rev, total, unread), tuple(log))
    return backlogs


def _replayed(base: Head, steps: Sequence[Read | Deleted | Notification]) -> Iterator[Change]:
    """The changes in order. The counts of a creation are not stored: since the last change that was none,
    each revision added one unread row."""
    for step in sorted(steps, key=lambda step: step.rev):
        if isinstance(step, Notification):
            more = step.rev - base.rev
            yield Created(step.recipient_id, step.rev, base.unread + more, base.total + more, step)
        else:
            base = Head(step.recipient_id, step.rev, step.total, step.unread)
            yield step

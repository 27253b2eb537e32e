"""The inboxes in SQLite. Every statement that reads or changes rows names the recipient."""

from __future__ import annotations

import json
import re
import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime
from typing import Any

from nx_signal.adapters import _read_all
from nx_signal.adapters._conditions import sql_of
from nx_signal.adapters._read_all import IS_COVERED, with_covers
from nx_signal.adapters._type_counts import Loss, kept_count
from nx_signal.adapters._values import json_text, require_storable, storable
from nx_signal.adapters.sqlite.file import MAX_INTEGER, Row, SqliteFile, clamped, from_ms, to_ms
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
    Notification,
    Read,
)
from nx_signal.sql import queries

SQL = with_covers(queries("sqlite"))
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
_COMPARISONS = {
    "in": "{column} IN (SELECT value FROM json_each({value}))",
    "not_in": "({column} IN (SELECT value FROM json_each({value}))) IS NOT TRUE",
    "like": "{column} GLOB {value}",  # LIKE takes A for a
}
_FLAGS = (f"n.is_read = 0 AND NOT {IS_COVERED}", "{column}")
_EXPRESSIONS = {"is_read": f"(n.is_read OR {IS_COVERED})"}
_AS_GLOB = {"%": "*", "_": "?", "*": "[*]", "?": "[?]", "[": "[[]"}
_GLOB_SPECIAL = re.compile(r"[%_*?\[]")


class SqliteInbox:
    def __init__(self, file: SqliteFile) -> None:
        self._file = file

    # --- writes

    async def insert(self, drafts: Sequence[Draft]) -> Sequence[Created]:
        new: dict[tuple[str, str], tuple[Draft, dict[str, Any]]] = {}
        for draft in drafts:
            key = (draft.activity_id, draft.recipient_id)
            if key not in new:
                new[key] = draft, _values(draft)
        if not new:
            return ()
        keys = json.dumps(list(new))

        def transaction(connection: sqlite3.Connection) -> Sequence[Created]:
            for activity_id, recipient_id in connection.execute(SQL["existing_activities"], {"keys": keys}):
                del new[activity_id, recipient_id]
            heads = _heads(connection, {recipient_id for _, recipient_id in new})
            at_ms = self._file.now_ms()
            changes = []
            for draft, values in new.values():
                before = heads[draft.recipient_id]
                head = Head(draft.recipient_id, before.rev + 1, before.total + 1, before.unread + 1)
                heads[draft.recipient_id] = head
                values.update(id=self._file.next_id(connection), rev=head.rev, created_at=at_ms)
                row = _created(draft, values["id"], head.rev, from_ms(at_ms), values["data"])
                changes.append(Created(draft.recipient_id, head.rev, head.unread, head.total, row))
            connection.executemany(SQL["insert_notification"], [values for _, values in new.values()])
            _write_heads(connection, heads.values())
            grown = Counter((draft.recipient_id, draft.type) for draft, _ in new.values())
            _add_to_types(connection, ((id, type, many, many) for (id, type), many in grown.items()))
            return changes

        return await self._file.write(transaction)

    async def mark_read(
        self, recipient_id: str, id: int, origin: str | None
    ) -> tuple[Notification, Change | None] | None:
        def transaction(connection: sqlite3.Connection) -> tuple[Notification, Change | None] | None:
            row = _get(connection, recipient_id, id)
            if row is None:
                return None
            if row.is_read:
                return row, None
            before = _heads(connection, [recipient_id])[recipient_id]
            head = Head(recipient_id, before.rev + 1, before.total, before.unread - 1)
            at_ms = self._file.now_ms()
            connection.execute(
                SQL["mark_read"], {"id": id, "recipient_id": recipient_id, "at": at_ms, "rev": head.rev}
            )
            read_at = from_ms(at_ms)
            change = _read(head, (id,), None, None, None, read_at, origin)
            _log(connection, head, change, {row.type: (0, 1)})
            return replace(row, is_read=True, read_at=read_at, changed_rev=head.rev), change

        return await self._file.write(transaction)

    async def mark_all_read(
        self,
        recipient_id: str,
        up_to_rev: int | None,
        type: str | None,
        subject: str | None,
        origin: str | None,
    ) -> tuple[int, Head, datetime, Change | None]:
        def transaction(connection: sqlite3.Connection) -> tuple[int, Head, datetime, Change | None] | None:
            if _settle(connection, _read_all.PORTION, recipient_id):
                return None
            before = _heads(connection, [recipient_id])[recipient_id]
            effective = before.rev if up_to_rev is None else max(0, min(up_to_rev, before.rev))
            at_ms = self._file.now_ms()
            what = _ReadAll(recipient_id, before.rev + 1, effective, type, subject, at_ms)
            marked = _mark_portion(connection, what, _read_all.PORTION)
            if not marked:
                return 0, before, from_ms(at_ms), None
            if marked.total() == _read_all.PORTION:
                rest = _count_rest(connection, marked, what)
                if rest:
                    connection.execute(SQL["leave_unsettled"], what.values)
                marked += rest
            updated = marked.total()
            head = Head(recipient_id, before.rev + 1, before.total, before.unread - updated)
            change = _read(head, None, effective, type, subject, from_ms(at_ms), origin)
            _log(connection, head, change, {type: (0, many) for type, many in marked.items()})
            return updated, head, from_ms(at_ms), change

        while (marked := await self._file.write(transaction)) is None:
            pass  # the read-all before this one is written first, in transactions of its own
        return marked

    async def delete(self, recipient_id: str, id: int) -> Change | None:
        def transaction(connection: sqlite3.Connection) -> Change | None:
            row = _get(connection, recipient_id, id)
            if row is None:
                return None
            before = _heads(connection, [recipient_id])[recipient_id]
            was_unread = int(not row.is_read)
            unread = before.unread - was_unread
            head = Head(recipient_id, before.rev + 1, before.total - 1, unread)
            connection.execute(
                SQL["delete"],
                {
                    "id": id,
                    "recipient_id": recipient_id,
                    "at": self._file.now_ms(),
                    "rev": head.rev,
                    "is_read": row.is_read,
                },
            )
            change = Deleted(recipient_id, head.rev, head.unread, head.total, (id,))
            _log(connection, head, change, {row.type: (1, was_unread)})
            return change

        return await self._file.write(transaction)

    # --- reads, each of one snapshot

    async def heads(self, recipient_ids: Sequence[str]) -> Mapping[str, Head]:
        return await self._file.read(lambda connection: _heads(connection, recipient_ids))

    async def backlogs(self, cursors: Mapping[str, int], limit: int) -> Mapping[str, Backlog]:
        def transaction(connection: sqlite3.Connection) -> Mapping[str, Backlog]:
            heads = _heads(connection, cursors)
            behind = {id: max(0, rev) for id, rev in cursors.items() if rev < heads[id].rev}
            behind = _kept(connection, behind)
            changes = _changes(connection, behind, clamped(limit)) if behind and limit > 0 else {}
            return {id: Backlog(head, tuple(changes.get(id, ()))) for id, head in heads.items()}

        return await self._file.read(transaction)

    async def page(
        self, recipient_id: str, where: InboxFilter, limit: int, before_rev: int | None, skip: int
    ) -> InboxPage:
        condition, values = _where(where)
        values.update(
            recipient_id=recipient_id,
            before_rev=MAX_INTEGER if before_rev is None else clamped(before_rev),
            limit=clamped(limit + 1),  # one more, to know whether there is a next page
            skip=clamped(skip),
        )

        def transaction(connection: sqlite3.Connection) -> InboxPage:
            head = _heads(connection, [recipient_id])[recipient_id]
            found = [
                _notification(row) for row in connection.execute(SQL["page"].format(where=condition), values)
            ]
            rows = tuple(found[:limit])
            next_before_rev = rows[-1].rev if rows and len(found) > limit else None
            return InboxPage(rows, _count(connection, head, where), head, next_before_rev)

        return await self._file.read(transaction)

    async def count(self, recipient_id: str, where: InboxFilter) -> tuple[int, Head]:
        def transaction(connection: sqlite3.Connection) -> tuple[int, Head]:
            head = _heads(connection, [recipient_id])[recipient_id]
            return _count(connection, head, where), head

        return await self._file.read(transaction)

    async def get(self, recipient_id: str, id: int) -> Notification | None:
        return await self._file.read(lambda connection: _get(connection, recipient_id, id))

    async def rows_of(
        self, activity_id: str, recipient_id: str | None, limit: int
    ) -> tuple[Sequence[ActivityRow], int]:
        if not storable(activity_id):
            return (), 0
        if not storable(recipient_id or ""):
            recipient_id, limit = None, 0
        values = {"activity_id": activity_id, "recipient_id": recipient_id, "limit": clamped(limit)}

        def transaction(connection: sqlite3.Connection) -> tuple[Sequence[ActivityRow], int]:
            rows = [_activity_row(row) for row in connection.execute(SQL["rows_of"], values)]
            (total,) = connection.execute(SQL["count_rows_of"], values).fetchone()
            return rows, total

        return await self._file.read(transaction)


# --- drafts and rows -----------------------------------------------------------------------------


def _values(draft: Draft) -> dict[str, Any]:
    values = {name: getattr(draft, name) for name in _TEXTS}
    for name, text in values.items():
        require_storable(name, text)
    return values | {"data": json_text("data", draft.data)}


def _created(draft: Draft, id: int, rev: int, created_at: datetime, data: str) -> Notification:
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
        data=json.loads(data),
        is_read=False,
        read_at=None,
        created_at=created_at,
    )


def _notification(row: Row) -> Notification:
    return Notification(
        id=row["id"],
        recipient_id=row["recipient_id"],
        rev=row["rev"],
        changed_rev=row["changed_rev"],
        activity_id=row["activity_id"],
        type=row["type"],
        organizer_id=row["organizer_id"],
        merchant_id=row["merchant_id"],
        subject=row["subject"],
        locale=row["locale"],
        content=row["content"],
        content_html=row["content_html"],
        action_url=row["action_url"],
        data=json.loads(row["data"]),
        is_read=bool(row["is_read"]),
        read_at=None if row["read_at"] is None else from_ms(row["read_at"]),
        created_at=from_ms(row["created_at"]),
    )


def _activity_row(row: Row) -> ActivityRow:
    return ActivityRow(
        recipient_id=row["recipient_id"],
        id=row["id"],
        rev=row["rev"],
        created_at=from_ms(row["created_at"]),
        is_read=bool(row["is_read"]),
        deleted=bool(row["deleted"]),
    )


def _get(connection: sqlite3.Connection, recipient_id: str, id: int) -> Notification | None:
    values = {"id": clamped(id), "recipient_id": recipient_id}
    row = connection.execute(SQL["get"], values).fetchone()
    return _notification(row) if row else None


def _where(where: InboxFilter) -> tuple[str, dict[str, Any]]:
    """A condition of fixed texts, and its parameters by name."""
    values: dict[str, Any] = {}

    def bind(condition: Condition) -> str:
        name = f"where_{len(values)}"
        values[name] = _bound(condition)
        return f":{name}"

    condition = sql_of(
        where, prefix="n.", more=_COMPARISONS, flags=_FLAGS, bind=bind, expressions=_EXPRESSIONS
    )
    return condition, values


def _bound(condition: Condition) -> Any:
    value = condition.value
    if condition.operator == "like":
        return _GLOB_SPECIAL.sub(lambda found: _AS_GLOB[found[0]], value)
    if isinstance(value, tuple):
        return json.dumps([_scalar(each) for each in value])
    return _scalar(value)


def _scalar(value: Any) -> Any:
    if isinstance(value, datetime):
        return to_ms(value)
    if isinstance(value, int):
        return max(-MAX_INTEGER, min(value, MAX_INTEGER))
    return value


def _count(connection: sqlite3.Connection, head: Head, where: InboxFilter) -> int:
    """What is kept tells, where it can."""
    if kept := kept_count(where):
        type, which = kept
        total, unread = head.total, head.unread
        if type is not None:
            values = {"recipient_id": head.recipient_id, "type": type}
            total, unread = connection.execute(SQL["type_counts"], values).fetchone() or (0, 0)
        return total if which == "total" else unread if which == "unread" else total - unread
    condition, values = _where(where)
    values["recipient_id"] = head.recipient_id
    count: int = connection.execute(SQL["count"].format(where=condition), values).fetchone()[0]
    return count


# --- what a read-all covers ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _ReadAll:
    recipient_id: str
    rev: int
    up_to_rev: int
    type: str | None
    subject: str | None
    at_ms: int

    @property
    def values(self) -> dict[str, Any]:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return values | {"at": values.pop("at_ms")}


def _mark_portion(connection: sqlite3.Connection, what: _ReadAll, limit: int) -> Counter[str]:
    """How many of each type were marked."""
    where, values = _where(InboxFilter(type=what.type, subject=what.subject))
    statement = SQL["mark_portion"].format(where=where)
    return Counter(type for (type,) in connection.execute(statement, values | what.values | {"limit": limit}))


def _count_rest(connection: sqlite3.Connection, marked: Counter[str], what: _ReadAll) -> Counter[str]:
    """How many more of each type the read-all covers, beside the portion that is marked."""
    if what.type is None and what.subject is None:  # up to the last one or nearly: count what it leaves out
        unread = connection.execute(SQL["unread_by_type"], {"recipient_id": what.recipient_id}).fetchall()
        left_out = _count_unread(connection, what, Condition("rev", "gt", what.up_to_rev))
        return Counter(dict(unread)) - marked - left_out
    return _count_unread(connection, what, Condition("rev", "lte", what.up_to_rev))


def _count_unread(connection: sqlite3.Connection, what: _ReadAll, span: Condition) -> Counter[str]:
    unread = InboxFilter(is_read=False, type=what.type, subject=what.subject, conditions=(span,))
    where, values = _where(unread)
    values["recipient_id"] = what.recipient_id
    return Counter(dict(connection.execute(SQL["count_by_type"].format(where=where), values).fetchall()))


def _settle(connection: sqlite3.Connection, limit: int, recipient_id: str | None) -> bool:
    """Write up to `limit` rows of what this recipient's read-all covers, or anybody's; False when there is
    none."""
    name = "unsettled" if recipient_id is not None else "any_unsettled"
    row = connection.execute(SQL[name], {"recipient_id": recipient_id}).fetchone()
    if row is None:
        return False
    what = _ReadAll(*row)
    if _mark_portion(connection, what, limit).total() < limit:
        connection.execute(SQL["forget_unsettled"], {"recipient_id": what.recipient_id})
    return True


# --- heads and the log ---------------------------------------------------------------------------


def _heads(connection: sqlite3.Connection, recipient_ids: Iterable[str]) -> dict[str, Head]:
    heads = {id: Head(id, 0, 0, 0) for id in recipient_ids}
    asked = json.dumps([id for id in heads if storable(id)])
    for row in connection.execute(SQL["heads"], {"recipient_ids": asked}):
        heads[row[0]] = Head(*row)
    return heads


def _kept(connection: sqlite3.Connection, cursors: Mapping[str, int]) -> dict[str, int]:
    """The cursors, raised to where the kept log of each inbox begins."""
    asked = json.dumps([id for id in cursors if storable(id)])
    kept_after = dict(connection.execute(SQL["kept_after"], {"recipient_ids": asked}).fetchall())
    return {id: max(rev, kept_after.get(id, 0)) for id, rev in cursors.items()}


def _write_heads(connection: sqlite3.Connection, heads: Iterable[Head]) -> None:
    connection.executemany(
        SQL["write_head"],
        [{"recipient_id": h.recipient_id, "rev": h.rev, "total": h.total, "unread": h.unread} for h in heads],
    )


def _read(
    head: Head,
    ids: tuple[int, ...] | None,
    up_to_rev: int | None,
    type: str | None,
    subject: str | None,
    read_at: datetime,
    origin: str | None,
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


def _add_to_types(connection: sqlite3.Connection, counts: Iterable[tuple[str, str, int, int]]) -> None:
    """(recipient, type, rows, unread rows), also fewer of them."""
    names = ("recipient_id", "type", "total", "unread")
    connection.executemany(SQL["add_to_type"], [dict(zip(names, each, strict=True)) for each in counts])


def _log(connection: sqlite3.Connection, head: Head, change: Read | Deleted, loss: Loss) -> None:
    """Write the head with the counts of its types, and the change that led to it."""
    detail: dict[str, Any]
    if isinstance(change, Read):
        kind, detail = (
            "read",
            {
                "ids": change.ids,
                "upToRev": change.up_to_rev,
                "type": change.type,
                "subject": change.subject,
                "readAt": to_ms(change.read_at),
                "origin": change.origin,
            },
        )
    else:
        kind, detail = "deleted", {"ids": change.ids}
    _write_heads(connection, [head])
    _add_to_types(
        connection, ((head.recipient_id, type, -total, -unread) for type, (total, unread) in loss.items())
    )
    connection.execute(
        SQL["log_change"],
        {
            "recipient_id": head.recipient_id,
            "rev": head.rev,
            "kind": kind,
            "detail": json.dumps(detail),
            "unread": head.unread,
            "total": head.total,
        },
    )


def _logged(row: Row) -> Read | Deleted:
    detail = json.loads(row["detail"])
    head = Head(row["recipient_id"], row["rev"], row["total"], row["unread"])
    ids = None if detail["ids"] is None else tuple(detail["ids"])
    if row["kind"] == "deleted":
        return Deleted(head.recipient_id, head.rev, head.unread, head.total, ids or ())
    return _read(
        head,
        ids,
        detail["upToRev"],
        detail["type"],
        detail["subject"],
        from_ms(detail["readAt"]),
        detail["origin"],
    )


def _changes(
    connection: sqlite3.Connection, cursors: Mapping[str, int], limit: int
) -> dict[str, list[Change]]:
    """Up to `limit` changes above each cursor, ascending, with the counts at each revision.

    Counts of a creation are not stored: they follow from the last change before it, as every revision
    in between is a creation too and adds one unread row."""
    values = {"cursors": json.dumps(list(cursors.items())), "limit": min(limit, MAX_INTEGER // 2)}
    counts = dict.fromkeys(cursors, (0, 0, 0))
    for id, rev, unread, total in connection.execute(SQL["counts_before"], values):
        counts[id] = rev, unread, total
    found: dict[str, list[Read | Deleted | Notification]] = {id: [] for id in cursors}
    for row in connection.execute(SQL["changed_since"], values):
        found[row["recipient_id"]].append(_logged(row))
    for row in connection.execute(SQL["created_since"], values):
        found[row["recipient_id"]].append(_notification(row))
    changes: dict[str, list[Change]] = {}
    for id, steps in found.items():
        rev, unread, total = counts[id]
        log: list[Change] = []
        for step in sorted(steps, key=lambda step: step.rev):
            if isinstance(step, Notification):
                more = step.rev - rev
                as_created = replace(step, is_read=False, read_at=None, changed_rev=step.rev)
                log.append(Created(id, step.rev, unread + more, total + more, as_created))
            else:
                rev, unread, total = step.rev, step.unread, step.total
                log.append(step)
        changes[id] = log
    return changes

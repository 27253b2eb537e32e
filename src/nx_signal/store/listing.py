"""Lists and counts under a filter: the one place where SQL is composed. Field names come from
model/filters.py, every value is a bound argument."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

from nx_signal.model import Condition, InboxFilter, InboxPage, InboxSummary
from nx_signal.model.filters import FIELDS
from nx_signal.model.notifications import ROW_FIELDS
from nx_signal.model.text import storable
from nx_signal.store.driver import Dialect, Row, Tx
from nx_signal.store.rows import HEAD_FIELDS, MAX_INTEGER, notification

Which: TypeAlias = Literal["total", "unread", "read"]

_COMPARISONS = {
    "eq": "{column} = {value}",
    "neq": "({column} = {value}) IS NOT TRUE",
    "gt": "{column} > {value}",
    "gte": "{column} >= {value}",
    "lt": "{column} < {value}",
    "lte": "{column} <= {value}",
    "in": "{column} IN ({value})",
    "not_in": "({column} IN ({value})) IS NOT TRUE",
}
_COUNTS = {"total": "{kept}.total", "unread": "{kept}.unread", "read": "{kept}.total - {kept}.unread"}
_COLUMNS = {"archived": "(n.archived_at IS NOT NULL)"}
"""Of the fields that are no column."""
_LISTED = ", ".join(f"n.{name}" for name in ROW_FIELDS if name != "is_seen")
_SEEN = "(n.is_read OR n.seen_at IS NOT NULL OR n.rev <= {seen_rev})"


async def page(
    tx: Tx, recipient_id: str, where: InboxFilter, limit: int, before_rev: int | None, skip: int
) -> InboxPage:
    query = _Query(tx.dialect, recipient_id)
    below = query.bind(MAX_INTEGER if before_rev is None else before_rev)
    rows = f"SELECT {_LISTED}, n.seen_at {_rows(where)} AND n.rev < {below}{query.conditions(where)}"
    # One more, to know whether there is a next page.
    rows += f" ORDER BY n.rev DESC LIMIT {query.bind(limit + 1)} OFFSET {query.bind(skip)}"
    found = await tx.select(
        f"SELECT {query.summary(where)}, {_LISTED}, {_SEEN.format(seen_rev='h.seen_rev')} AS is_seen"  # noqa: S608 - constant texts, as below
        " FROM inbox_head AS h"
        f" LEFT JOIN ({rows}) AS n ON n.recipient_id = h.recipient_id"
        " WHERE h.recipient_id = :recipient_id ORDER BY n.rev DESC",
        query.arguments,
    )
    matching, head = _summary(recipient_id, found)
    if found and found[0]["id"] is None:  # the head alone
        found = ()
    notifications = tuple(notification(row) for row in found[:limit])
    more = notifications and len(found) > limit
    return InboxPage(notifications, matching, head, notifications[-1].rev if more else None)


async def count(tx: Tx, recipient_id: str, where: InboxFilter) -> tuple[int, InboxSummary]:
    query = _Query(tx.dialect, recipient_id)
    found = await tx.select(
        f"SELECT {query.summary(where)} FROM inbox_head AS h WHERE h.recipient_id = :recipient_id",  # noqa: S608
        query.arguments,
    )
    return _summary(recipient_id, found)


async def states(tx: Tx, head: InboxSummary, where: InboxFilter, limit: int) -> Sequence[Row]:
    """What the reader's marks change of the lowest rows that match. The head is locked."""
    query = _Query(tx.dialect, head.recipient_id)
    is_seen = _SEEN.format(seen_rev=query.bind(head.seen_rev))
    columns = "n.id, n.rev, n.type, n.is_read, n.read_at, n.seen_at, n.archived_at, n.deleted_at"
    rows = f"SELECT {columns}, {is_seen} AS is_seen {_rows(where)}{query.conditions(where)}"
    return await tx.select(f"{rows} ORDER BY n.rev LIMIT {query.bind(limit)}", query.arguments)


async def count_unseen(tx: Tx, head: InboxSummary, where: InboxFilter) -> int:
    """How many rows that match are not seen. The head is locked."""
    query = _Query(tx.dialect, head.recipient_id)
    unseen = InboxFilter.of(Condition("rev", "gt", head.seen_rev), *where.conditions, is_read=False)
    rows = f"{_rows(where)} AND n.seen_at IS NULL{query.conditions(unseen)}"
    (found,) = await tx.select(f"SELECT count(*) AS many {rows}", query.arguments)
    return int(found["many"])


async def unmarked(tx: Tx, recipient_id: str, where: InboxFilter, limit: int) -> Sequence[Row]:
    """id, rev, type and seen_at of the rows that are not marked read, whatever a recorded read-all covers;
    the lowest."""
    query = _Query(tx.dialect, recipient_id)
    rows = f"SELECT n.id, n.rev, n.type, n.seen_at {query.unmarked()}{query.conditions(where)}"
    return await tx.select(f"{rows} ORDER BY n.rev LIMIT {query.bind(limit)}", query.arguments)


async def count_unmarked(tx: Tx, recipient_id: str, where: InboxFilter) -> Counter[str]:
    """How many of them there are of each type."""
    query = _Query(tx.dialect, recipient_id)
    counted = f"SELECT n.type, count(*) AS many {query.unmarked()}{query.conditions(where)}"
    rows = await tx.select(f"{counted} GROUP BY n.type", query.arguments)
    return Counter({row["type"]: row["many"] for row in rows})


def _summary(recipient_id: str, found: Sequence[Row]) -> tuple[int, InboxSummary]:
    if not found:
        return 0, InboxSummary(recipient_id, 0, 0, 0)
    row = found[0]
    head = {name: row[f"head_{name}"] for name in HEAD_FIELDS}
    return row["matching"], InboxSummary(**head)


def _rows(where: InboxFilter) -> str:
    """Archived rows have deleted_at too."""
    view, among = (
        ("reached_row", "n.archived_at IS NOT NULL")
        if where.archived
        else ("inbox_row", "n.deleted_at IS NULL")
    )
    return f"FROM {view} AS n WHERE n.recipient_id = :recipient_id AND {among}"


class _Query:
    """The arguments of one statement, each under a name of its own."""

    def __init__(self, dialect: Dialect, recipient_id: str) -> None:
        self._dialect = dialect
        self.arguments: dict[str, Any] = {"recipient_id": recipient_id}

    def bind(self, value: Any) -> str:
        name = f"a{len(self.arguments)}"
        self.arguments[name] = value
        return f":{name}"

    def summary(self, where: InboxFilter) -> str:
        """The head's columns, and how many rows match. Rows are counted only where no kept count gives it."""
        match kept_count(where):
            case None:
                matching = f"(SELECT count(*) {_rows(where)}{self.conditions(where)})"
            case (None, which):
                matching = _COUNTS[which].format(kept="h")
            case (type, which):
                kept = f"SELECT {_COUNTS[which].format(kept='t')} FROM recipient_type AS t"  # noqa: S608
                of_type = f"t.recipient_id = :recipient_id AND t.type = {self.bind(type)}"
                matching = f"coalesce(({kept} WHERE {of_type}), 0)"
        columns = ", ".join(f"h.{name} AS head_{name}" for name in HEAD_FIELDS)
        return f"{matching} AS matching, {columns}"

    def unmarked(self) -> str:
        of_inbox = "n.recipient_id = :recipient_id AND n.deleted_at IS NULL"
        unset = self._dialect.unset.format(column="n.is_read")
        return f"FROM activity_notification AS n WHERE {of_inbox} AND {unset}"

    def conditions(self, where: InboxFilter) -> str:
        """`AND …` for each condition, or ""."""
        return "".join(
            f" AND {self._comparison(condition, where.archived)}" for condition in where.conditions
        )

    def _comparison(self, condition: Condition, archived: bool) -> str:
        field, operator, value = condition.field, condition.operator, condition.value
        assert field in FIELDS  # noqa: S101 - no text of a caller becomes SQL
        if field == "archived" and operator in ("eq", "neq") and value is not None:
            # The rows are of the archive or of the inbox already: an index is chosen by how many there are.
            return "1 = 1" if (value == (operator == "eq")) == archived else "1 = 0"
        column = _COLUMNS.get(field, f"n.{field}")
        if value is None:
            return f"{column} IS {'NOT ' if operator == 'neq' else ''}NULL"
        if field == "is_read" and operator == "eq":
            # Not an argument: the index of unread rows is used only for a condition that states it.
            if value:
                return column
            return " AND ".join(self._dialect.unset.format(column=c) for c in ("n.is_marked", column))
        if operator in ("in", "not_in"):
            # A text that no store holds equals no row's.
            found = [each for each in value if not isinstance(each, str) or storable(each)]
            if not found:
                return "1 = 0" if operator == "in" else "1 = 1"
            return _COMPARISONS[operator].format(column=column, value=", ".join(map(self.bind, found)))
        if isinstance(value, str) and not storable(value):
            return "1 = 1" if operator == "neq" else "1 = 0"
        if operator == "like":
            return self._dialect.like.format(column=column, value=self.bind(self._dialect.pattern(value)))
        return _COMPARISONS[operator].format(column=column, value=self.bind(value))


def kept_count(where: InboxFilter) -> tuple[str | None, Which] | None:
    """(the type, or None for all; which of its rows) where a kept count gives how many rows match."""
    if any(condition.operator != "eq" or condition.value is None for condition in where.conditions):
        return None
    values = {condition.field: condition.value for condition in where.conditions}
    repeated = len(values) < len(where.conditions)
    type, is_read = values.pop("type", None), values.pop("is_read", None)
    if values.pop("archived", False) or values or repeated or not storable(type or ""):
        return None
    return type, "total" if is_read is None else "read" if is_read else "unread"

"""Conditions on rows: evaluated here, or as SQL of fixed texts with every value a bound parameter."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from nx_signal.adapters._values import storable
from nx_signal.model import Condition, InboxFilter, Notification

_ORDERINGS: Mapping[str, Callable[[Any, Any], bool]] = {
    "gt": operator.gt,
    "gte": operator.ge,
    "lt": operator.lt,
    "lte": operator.le,
}

# Both dialects. A name that is not here is a KeyError, so that no text of a caller can become SQL.
_COLUMNS = {
    "id": "id",
    "rev": "rev",
    "type": "type",
    "organizer_id": "organizer_id",
    "merchant_id": "merchant_id",
    "subject": "subject",
    "is_read": "is_read",
    "created_at": "created_at",
}
_COMPARISONS = {
    "eq": "{column} = {value}",
    "neq": "({column} = {value}) IS NOT TRUE",
    "gt": "{column} > {value}",
    "gte": "{column} >= {value}",
    "lt": "{column} < {value}",
    "lte": "{column} <= {value}",
}


def sql_of(
    where: InboxFilter,
    *,
    prefix: str,
    more: Mapping[str, str],
    flags: tuple[str, str],
    bind: Callable[[Condition], str],
    expressions: Mapping[str, str],
) -> str:
    """`AND …` for each condition, or "".

    `prefix` goes before each column that `expressions` has no other text for; `more` has the dialect's
    texts for in, not_in and like; `flags` those for unread and read, which are no parameters: the index
    of unread rows is only used for a condition that says so. `bind` takes a condition's value and gives
    its placeholder."""
    text = ""
    for condition in where.all():
        column = expressions.get(condition.field) or prefix + _COLUMNS[condition.field]
        kept = _findable(condition)
        if isinstance(kept, bool):
            text += " AND 1 = 1" if kept else " AND 1 = 0"
        elif kept.value is None:
            text += f" AND {column} {'IS NULL' if kept.operator == 'eq' else 'IS NOT NULL'}"
        elif kept.field == "is_read" and kept.operator == "eq":
            text += " AND " + flags[bool(kept.value)].format(column=column)
        else:
            comparison = more.get(kept.operator) or _COMPARISONS[kept.operator]
            text += " AND " + comparison.format(column=column, value=bind(kept))
    return text


def _findable(condition: Condition) -> Condition | bool:
    """The condition without the texts that no store holds; whether it holds where that decides it."""
    value = condition.value
    if isinstance(value, str) and not storable(value):
        return condition.operator == "neq"
    if isinstance(value, tuple):
        return replace(condition, value=tuple(v for v in value if not isinstance(v, str) or storable(v)))
    return condition


def matches(row: Notification, where: InboxFilter) -> bool:
    return all(_holds(row, condition) for condition in where.all())


def _holds(row: Notification, condition: Condition) -> bool:
    found, value = getattr(row, condition.field), condition.value
    match condition.operator:
        case "eq":
            return bool(found == value)
        case "neq":
            return bool(found != value)
        case "in":
            return found in value
        case "not_in":
            return found not in value
        case "like":
            return found is not None and _like(found, value)
        case ordering:
            return found is not None and _ORDERINGS[ordering](found, value)


def _like(text: str, pattern: str) -> bool:
    """In time of the product of their lengths: after a mismatch only the last `%` takes one more."""
    at = in_pattern = 0
    retry: tuple[int, int] | None = None
    while at < len(text):
        expected = pattern[in_pattern : in_pattern + 1]
        if expected == "%":
            retry = at, in_pattern
            in_pattern += 1
        elif expected and expected in ("_", text[at]):
            at += 1
            in_pattern += 1
        elif retry is not None:
            at, in_pattern = retry[0] + 1, retry[1] + 1
            retry = at, retry[1]
        else:
            return False
    return not pattern[in_pattern:].strip("%")

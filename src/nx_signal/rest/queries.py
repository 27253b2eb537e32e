"""Parameters of the notification lists (CONTRACT §4): plain ones, and the `filter` JSON form.

Plain parameters win over `filter`. Unknown plain parameters are ignored; inside `filter` nothing is:
what is not understood there would silently answer another question."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from nx_signal.identity.tokens import is_plain
from nx_signal.model import InboxFilter
from nx_signal.rest.problems import Problem

DEFAULT_LIMIT = 20
MAX_LIMIT = 100
MAX_SKIP = 100_000
"""Each skipped row is read; the cursor costs nothing, whatever the depth."""
MAX_TEXT_CHARS = 256
MAX_FILTER_CHARS = 4096
MAX_INT = 2**63 - 1
TICK = timedelta(milliseconds=1)
"""Times are stored in milliseconds: what is after t is from t + 1 ms on."""

_CURSOR = re.compile(rb"1\.(0|[1-9][0-9]{0,18})")
_ID = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)
_NEWEST_FIRST = re.compile(r"(createdAt|id|rev)\s+DESC", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ListQuery:
    where: InboxFilter
    limit: int = DEFAULT_LIMIT
    before_rev: int | None = None
    skip: int = 0


def parse_list(args: Mapping[str, str], user_id: str) -> ListQuery:
    """Raises a 400 Problem that names the parameter. An empty value counts as not given."""
    given = {name: value for name, value in args.items() if value}
    query = _filter(given["filter"], user_id) if "filter" in given else ListQuery(InboxFilter())
    where = {field: parse(name, given[name]) for name, (field, parse) in _PLAIN.items() if name in given}
    query = replace(query, where=replace(query.where, **where))
    if "limit" in given:
        query = replace(query, limit=digits("limit", given["limit"], 1, MAX_LIMIT))
    if "cursor" in given:
        query = replace(query, before_rev=_before_rev(given["cursor"]))
    return query


def cursor(before_rev: int) -> str:
    return base64.urlsafe_b64encode(b"1.%d" % before_rev).rstrip(b"=").decode()


def row_id(text: str) -> int | None:
    """A Snowflake in decimal; None for text that is none, and so no row has it."""
    return int(text) if _ID.fullmatch(text) and int(text) <= MAX_INT else None


def plain_text(name: str, value: object) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= MAX_TEXT_CHARS or not is_plain(value):
        raise _invalid(name, f"text of 1 to {MAX_TEXT_CHARS} characters")
    return value


def whole(name: str, value: object, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise _invalid(name, f"a whole number from {low} to {high}")
    return value


def _invalid(name: str, expected: str) -> Problem:
    return Problem(400, f"{name} takes {expected}.", "invalid_parameter")


def digits(name: str, text: str, low: int, high: int) -> int:
    return whole(name, row_id(text), low, high)


def _before_rev(text: str) -> int:
    try:
        raw = base64.b64decode(text.encode() + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    match = _CURSOR.fullmatch(raw)
    if match is None or int(match[1]) > MAX_INT:
        raise _invalid("cursor", "the nextCursor of an earlier answer")
    return int(match[1])


def _flag(name: str, value: object) -> bool:
    if value in ("true", "1") or value is True:
        return True
    if value in ("false", "0") or value is False:
        return False
    raise _invalid(name, "true or false")


def _instant(name: str, value: object) -> datetime:
    try:
        if not isinstance(value, str):
            raise ValueError
        stamp = datetime.fromisoformat(value)
        return (stamp if stamp.tzinfo else stamp.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise _invalid(name, "an ISO 8601 time such as 2025-01-31T10:00:00Z (+ written as %2B)") from None


_PLAIN: dict[str, tuple[str, Callable[[str, object], Any]]] = {
    "isRead": ("is_read", _flag),
    "type": ("type", plain_text),
    "organizerId": ("organizer_id", plain_text),
    "merchantId": ("merchant_id", plain_text),
    "subject": ("subject", plain_text),
    "from": ("created_from", _instant),
    "to": ("created_to", _instant),
}

# --- the JSON form ---


def _filter(text: str, user_id: str) -> ListQuery:
    try:
        form = msgspec.json.decode(text) if len(text) <= MAX_FILTER_CHARS else None
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        form = None
    if not isinstance(form, dict):
        raise _invalid("filter", f"a JSON object of at most {MAX_FILTER_CHARS} characters")
    query = ListQuery(InboxFilter())
    for name, value in form.items():
        match name:
            case "where":
                query = replace(query, where=_where(value, user_id))
            case "limit":
                query = replace(query, limit=whole("filter.limit", value, 1, MAX_LIMIT))
            case "skip" | "offset":
                query = replace(query, skip=whole(f"filter.{name}", value, 0, MAX_SKIP))
            case "order":
                _newest_first(value)
            case _:
                raise _unknown("filter", name)
    return query


def _where(where: object, user_id: str) -> InboxFilter:
    if not isinstance(where, dict):
        raise _invalid("filter.where", "an object of fields")
    parsed: dict[str, Any] = {}
    for name, condition in where.items():
        at = f"filter.where.{name}"[:100]
        if name == "createdAt":
            parsed |= _created(at, condition)
        elif name == "recipientId" and _eq(at, condition) == user_id:
            continue  # says what holds anyway
        elif name in ("isRead", "type", "organizerId", "merchantId", "subject"):
            field, parse = _PLAIN[name]
            parsed[field] = parse(at, _eq(at, condition))
        else:
            raise _unknown("filter.where", name)
    return InboxFilter(**parsed)


def _eq(at: str, condition: object) -> object:
    if not isinstance(condition, dict):
        return condition
    for operator in condition:
        if operator != "eq":
            raise _unknown(at, operator)
    return condition.get("eq")


def _created(at: str, condition: object) -> dict[str, datetime]:
    """Bounds of the time; several of one side narrow each other."""
    bounds: dict[str, datetime] = {}
    for operator, value in (condition if isinstance(condition, dict) else {"eq": condition}).items():
        stamp = _instant(f"{at}.{operator}"[:100], value)
        try:
            after = stamp + TICK
        except OverflowError:
            raise _invalid(at, "a time before the year 10000") from None
        low: datetime | None
        high: datetime | None
        match operator:
            case "eq":
                low, high = stamp, after
            case "gte":
                low, high = stamp, None
            case "gt":
                low, high = after, None
            case "lt":
                low, high = None, stamp
            case "lte":
                low, high = None, after
            case _:
                raise _unknown(at, operator)
        if low is not None:
            bounds["created_from"] = max(low, bounds.get("created_from", low))
        if high is not None:
            bounds["created_to"] = min(high, bounds.get("created_to", high))
    return bounds


def _newest_first(order: object) -> None:
    for item in order if isinstance(order, list) else [order]:
        if not isinstance(item, str) or not _NEWEST_FIRST.fullmatch(item.strip()):
            raise _invalid("filter.order", "createdAt DESC only: lists are newest first")


def _unknown(where: str, name: str) -> Problem:
    return Problem(400, f"{where} does not know {name[:100]!r}.", "invalid_parameter")

"""What the notification lists may be asked (CONTRACT §4): plain parameters, and the `filter` JSON form.

Both hold together; a plain `limit` wins over the filter's. Inside `filter` nothing is ignored: what is not
understood there would silently answer another question."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from nx_signal.model import Condition, ConditionField, ConditionOperator, InboxFilter
from nx_signal.rest.problems import Problem
from nx_signal.rest.shapes import MAX_INT, MAX_TEXT_CHARS, PlainText

DEFAULT_LIMIT = 20
MAX_LIMIT = 100
MAX_SKIP = 100_000
"""Each skipped row is read; the cursor costs nothing, whatever the depth."""
MAX_LISTED = 100
"""Values of one inq or nin."""

_CURSOR = re.compile(rb"1\.(0|[1-9][0-9]{0,18})")
_ID = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)

# --- the types: they validate, and they are the documentation ---

Limit = Annotated[int, Meta(ge=1, le=MAX_LIMIT, description="Rows of a page.", examples=[DEFAULT_LIMIT])]
Cursor = Annotated[str, Meta(max_length=64, description="The nextCursor of an earlier answer.")]
Locale = Annotated[
    str,
    Meta(
        pattern="^[A-Za-z]{1,8}([_-][A-Za-z0-9]{1,8}){0,4}$",
        description="Say the notifications in this language (BCP 47), where it is shipped; else in English.",
        examples=["vi"],
    ),
]
Instant = Annotated[
    str,
    Meta(
        max_length=40,
        description="ISO 8601; UTC without an offset; taken to the millisecond. In a URL + is %2B.",
        examples=["2026-01-01T12:00:00Z"],
        extra_json_schema={"format": "date-time"},
    ),
]
Pattern = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=MAX_TEXT_CHARS,
        pattern=r"^(?![\s\S]*\x00)",
        description="% is any run of characters, _ any one; case counts; nothing escapes.",
        examples=["ORDER%"],
    ),
]
RowId = Annotated[str, Meta(pattern="^(0|[1-9][0-9]{0,18})$", description="A Snowflake in decimal.")]
RowRev = Annotated[int, Meta(ge=0, le=MAX_INT)]


class OnText(Struct, forbid_unknown_fields=True):
    """Operators on a text."""

    eq: PlainText | UnsetType = UNSET
    neq: PlainText | UnsetType = UNSET
    inq: Annotated[list[PlainText], Meta(max_length=MAX_LISTED)] | UnsetType = UNSET
    nin: Annotated[list[PlainText], Meta(max_length=MAX_LISTED)] | UnsetType = UNSET
    like: Pattern | UnsetType = UNSET


class OnOptionalText(Struct, forbid_unknown_fields=True):
    """Operators on a text that may be absent: null is its absence; neq and nin hold for it."""

    eq: PlainText | UnsetType | None = UNSET
    neq: PlainText | UnsetType | None = UNSET
    inq: Annotated[list[PlainText], Meta(max_length=MAX_LISTED)] | UnsetType = UNSET
    nin: Annotated[list[PlainText], Meta(max_length=MAX_LISTED)] | UnsetType = UNSET


class OnSubject(OnOptionalText, forbid_unknown_fields=True):
    """Operators on a text that may be absent: null is its absence; neq and nin hold for it."""

    like: Pattern | UnsetType = UNSET


class OnFlag(Struct, forbid_unknown_fields=True):
    """Operators on true and false."""

    eq: bool | UnsetType = UNSET
    neq: bool | UnsetType = UNSET


class OnTime(Struct, forbid_unknown_fields=True):
    """Operators on a time."""

    eq: Instant | UnsetType = UNSET
    neq: Instant | UnsetType = UNSET
    gt: Instant | UnsetType = UNSET
    gte: Instant | UnsetType = UNSET
    lt: Instant | UnsetType = UNSET
    lte: Instant | UnsetType = UNSET
    between: Annotated[tuple[Instant, Instant], Meta(description="Both inclusive.")] | UnsetType = UNSET


class OnId(Struct, forbid_unknown_fields=True):
    """Operators on an id; ids ascend with time."""

    eq: RowId | UnsetType = UNSET
    neq: RowId | UnsetType = UNSET
    gt: RowId | UnsetType = UNSET
    gte: RowId | UnsetType = UNSET
    lt: RowId | UnsetType = UNSET
    lte: RowId | UnsetType = UNSET
    between: Annotated[tuple[RowId, RowId], Meta(description="Both inclusive.")] | UnsetType = UNSET
    inq: Annotated[list[RowId], Meta(max_length=MAX_LISTED)] | UnsetType = UNSET
    nin: Annotated[list[RowId], Meta(max_length=MAX_LISTED)] | UnsetType = UNSET


class OnRev(Struct, forbid_unknown_fields=True):
    """Operators on the revision that created a row."""

    eq: RowRev | UnsetType = UNSET
    neq: RowRev | UnsetType = UNSET
    gt: RowRev | UnsetType = UNSET
    gte: RowRev | UnsetType = UNSET
    lt: RowRev | UnsetType = UNSET
    lte: RowRev | UnsetType = UNSET
    between: Annotated[tuple[RowRev, RowRev], Meta(description="Both inclusive.")] | UnsetType = UNSET
    inq: Annotated[list[RowRev], Meta(max_length=MAX_LISTED)] | UnsetType = UNSET
    nin: Annotated[list[RowRev], Meta(max_length=MAX_LISTED)] | UnsetType = UNSET


class OnRecipient(Struct, forbid_unknown_fields=True):
    """Operators on the recipient, who is oneself anyway."""

    eq: PlainText


class Where(Struct, rename="camel", forbid_unknown_fields=True):
    """Fields with a value, or with operators; all must hold. `recipientId` can be one's own alone."""

    id: RowId | OnId | UnsetType = UNSET
    rev: RowRev | OnRev | UnsetType = UNSET
    type: PlainText | OnText | UnsetType = UNSET
    subject: PlainText | OnSubject | UnsetType | None = UNSET
    organizer_id: PlainText | OnOptionalText | UnsetType | None = UNSET
    merchant_id: PlainText | OnOptionalText | UnsetType | None = UNSET
    is_read: bool | OnFlag | UnsetType = UNSET
    created_at: Instant | OnTime | UnsetType = UNSET
    recipient_id: PlainText | OnRecipient | UnsetType = UNSET


Order: TypeAlias = Literal["createdAt DESC", "id DESC", "rev DESC"]


class Filter(Struct, forbid_unknown_fields=True):
    """A list as an object. Lists are newest first: that is the one order."""

    where: Where | UnsetType = UNSET
    limit: Limit | UnsetType = UNSET
    skip: Annotated[int, Meta(ge=0, le=MAX_SKIP)] | UnsetType = UNSET
    offset: Annotated[int, Meta(ge=0, le=MAX_SKIP, description="The same as skip.")] | UnsetType = UNSET
    order: Order | Annotated[list[Order], Meta(max_length=3)] | UnsetType = UNSET


class CountParameters(Struct, rename="camel"):
    """Which notifications: all parameters hold together."""

    is_read: bool | UnsetType = UNSET
    type: PlainText | UnsetType = UNSET
    organizer_id: PlainText | UnsetType = UNSET
    merchant_id: PlainText | UnsetType = UNSET
    subject: PlainText | UnsetType = UNSET
    created_from: Instant | UnsetType = msgspec.field(name="from", default=UNSET)
    created_to: Instant | UnsetType = msgspec.field(name="to", default=UNSET)
    filter: Filter | UnsetType = UNSET


class ListParameters(CountParameters, rename="camel"):
    """Which notifications, and which page of them."""

    limit: Limit | UnsetType = UNSET
    cursor: Cursor | UnsetType = UNSET
    locale: Locale | UnsetType = UNSET


class OneParameters(Struct):
    locale: Locale | UnsetType = UNSET


# --- what they mean ---


@dataclass(frozen=True, slots=True)
class ListQuery:
    where: InboxFilter
    limit: int = DEFAULT_LIMIT
    before_rev: int | None = None
    skip: int = 0


def filter_of(asked: CountParameters, user_id: str) -> InboxFilter:
    """Raises a 400 Problem that names the parameter, as do the others below."""
    form = asked.filter
    where = UNSET if form is UNSET else form.where
    return InboxFilter(
        is_read=_set(asked.is_read),
        type=_set(asked.type),
        organizer_id=_set(asked.organizer_id),
        merchant_id=_set(asked.merchant_id),
        subject=_set(asked.subject),
        created_from=None if asked.created_from is UNSET else moment("from", asked.created_from),
        created_to=None if asked.created_to is UNSET else moment("to", asked.created_to),
        conditions=() if where is UNSET else tuple(_conditions(where, user_id)),
    )


def list_of(asked: ListParameters, user_id: str) -> ListQuery:
    form = Filter() if asked.filter is UNSET else asked.filter
    limit = form.limit if asked.limit is UNSET else asked.limit
    skip = form.offset if form.skip is UNSET else form.skip
    return ListQuery(
        where=filter_of(asked, user_id),
        limit=DEFAULT_LIMIT if limit is UNSET else limit,
        before_rev=None if asked.cursor is UNSET else _before_rev(asked.cursor),
        skip=0 if skip is UNSET else skip,
    )


def _set(value: Any) -> Any:
    return None if value is UNSET else value


_OPERATORS: Mapping[str, ConditionOperator] = {
    "eq": "eq",
    "neq": "neq",
    "gt": "gt",
    "gte": "gte",
    "lt": "lt",
    "lte": "lte",
    "inq": "in",
    "nin": "not_in",
    "like": "like",
}


def _conditions(where: Where, user_id: str) -> Iterator[Condition]:
    recipient = where.recipient_id
    if (recipient.eq if isinstance(recipient, OnRecipient) else recipient) not in (UNSET, user_id):
        raise _refused("filter.where.recipientId", "your own id or is left out")
    for field, value_of in _FIELDS.items():
        test = getattr(where, field)
        if test is UNSET:
            continue
        at = f"filter.where.{_NAMES[field]}"
        tests = msgspec.structs.asdict(test) if isinstance(test, Struct) else {"eq": test}
        for name, value in tests.items():
            if value is UNSET:
                continue
            if name == "between":
                low, high = (value_of(f"{at}.between", each) for each in value)
                yield Condition(field, "gte", low)
                yield Condition(field, "lte", high)
            elif isinstance(value, list):
                yield Condition(field, _OPERATORS[name], tuple(value_of(f"{at}.{name}", v) for v in value))
            else:
                yield Condition(field, _OPERATORS[name], value_of(f"{at}.{name}", value))


def _as_it_is(at: str, value: Any) -> Any:
    return value


def _number(at: str, text: str) -> int:
    return int(text)


def moment(at: str, text: str) -> datetime:
    """To the millisecond, which is what times have in the stores."""
    try:
        stamp = datetime.fromisoformat(text)
        stamp = (stamp if stamp.tzinfo else stamp.replace(tzinfo=UTC)).astimezone(UTC)
        return stamp.replace(microsecond=stamp.microsecond // 1000 * 1000)
    except (ValueError, OverflowError):
        raise _refused(at, "an ISO 8601 time such as 2025-01-31T10:00:00Z (+ written as %2B)") from None


_FIELDS: Mapping[ConditionField, Callable[[str, Any], Any]] = {
    "id": _number,
    "rev": _as_it_is,
    "type": _as_it_is,
    "subject": _as_it_is,
    "organizer_id": _as_it_is,
    "merchant_id": _as_it_is,
    "is_read": _as_it_is,
    "created_at": moment,
}
_NAMES = {field.name: field.encode_name for field in msgspec.structs.fields(Where)}


def cursor(before_rev: int) -> str:
    return base64.urlsafe_b64encode(b"1.%d" % before_rev).rstrip(b"=").decode()


def _before_rev(text: str) -> int:
    try:
        raw = base64.b64decode(text.encode() + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    match = _CURSOR.fullmatch(raw)
    if match is None or int(match[1]) > MAX_INT:
        raise _refused("cursor", "the nextCursor of an earlier answer")
    return int(match[1])


def row_id(text: str) -> int | None:
    """A Snowflake in decimal; None for text that is none, and so no row has it."""
    return int(text) if _ID.fullmatch(text) and int(text) <= MAX_INT else None


def _refused(name: str, expected: str) -> Problem:
    return Problem(400, f"{name} takes {expected}.", "invalid_parameter")

"""The queries of the notification lists (CONTRACT §4): plain parameters, and the `filter` JSON form.

Both hold together; a plain `limit` wins over the filter's. Inside `filter` nothing is ignored: what is not
understood there would silently answer another question."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from types import GenericAlias
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from nx_signal.model import Condition, ConditionOperator, InboxFilter, Priority
from nx_signal.model.filters import FIELDS, PARAMETERS, FieldKind
from nx_signal.model.timestamps import to_milliseconds
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
        description="Render them in this language (BCP 47), where it is shipped; else in English.",
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


_VALUES: Mapping[FieldKind, Any] = {
    "id": RowId,
    "revision": RowRev,
    "text": PlainText,
    "subject": PlainText,
    "optional_text": PlainText,
    "flag": bool,
    "priority": Priority,
    "time": Instant,
}
_ORDERED = ("gt", "gte", "lt", "lte", "between")
_LISTED = ("inq", "nin")
_OPTIONAL = "Operators on a text that may be absent: null is its absence; neq and nin hold for it."
_OPERATORS_ON: Mapping[FieldKind, tuple[str, str, tuple[str, ...]]] = {
    "id": ("OnId", "Operators on an id; ids ascend with time.", (*_ORDERED, *_LISTED)),
    "revision": ("OnRev", "Operators on the revision that created a row.", (*_ORDERED, *_LISTED)),
    "text": ("OnText", "Operators on a text.", (*_LISTED, "like")),
    "subject": ("OnSubject", _OPTIONAL, (*_LISTED, "like")),
    "optional_text": ("OnOptionalText", _OPTIONAL, _LISTED),
    "flag": ("OnFlag", "Operators on true and false.", ()),
    "priority": ("OnPriority", "Operators on a priority.", ()),
    "time": ("OnTime", "Operators on a time.", _ORDERED),
}
"""kind → the type of its operators, its documentation, and the operators beside eq and neq"""


def _condition_on(kind: FieldKind) -> Any:
    """A value, or operators."""
    value, (name, doc, operators) = _VALUES[kind], _OPERATORS_ON[kind]
    given: Any = value | UnsetType | None if doc is _OPTIONAL else value | UnsetType
    pair: Any = Annotated[GenericAlias(tuple, (value, value)), Meta(description="Both inclusive.")]
    values: Any = Annotated[GenericAlias(list, (value,)), Meta(max_length=MAX_LISTED)]
    of = {"eq": given, "neq": given, "between": pair, "inq": values, "nin": values, "like": Pattern}
    fields = [(each, of.get(each, value) | UnsetType, UNSET) for each in ("eq", "neq", *operators)]
    on = msgspec.defstruct(
        name, fields, forbid_unknown_fields=True, module=__name__, namespace={"__doc__": doc}
    )
    return given | on


class OnRecipient(Struct, forbid_unknown_fields=True):
    """Operators on the recipient, who is oneself anyway."""

    eq: PlainText


_CONDITIONS = {kind: _condition_on(kind) for kind in _VALUES}

if TYPE_CHECKING:
    Where: TypeAlias = Any
else:
    Where = msgspec.defstruct(
        "Where",
        [
            *((name, _CONDITIONS[kind], UNSET) for name, kind in FIELDS.items()),
            ("recipient_id", PlainText | OnRecipient | UnsetType, UNSET),
        ],
        rename="camel",
        forbid_unknown_fields=True,
        module=__name__,
        namespace={
            "__doc__": "Fields with a value, or with operators; all must hold. "
            "`recipientId` can be one's own alone."
        },
    )


Order: TypeAlias = Literal["createdAt DESC", "id DESC", "rev DESC"]


class Filter(Struct, forbid_unknown_fields=True):
    """A list as an object. Lists are newest first: that is the one order."""

    where: Where | UnsetType = UNSET
    limit: Limit | UnsetType = UNSET
    skip: Annotated[int, Meta(ge=0, le=MAX_SKIP)] | UnsetType = UNSET
    offset: Annotated[int, Meta(ge=0, le=MAX_SKIP, description="The same as skip.")] | UnsetType = UNSET
    order: Order | Annotated[list[Order], Meta(max_length=3)] | UnsetType = UNSET


_SHORT = {"created_from": "from", "created_to": "to"}

if TYPE_CHECKING:

    class _Parameters(Struct): ...
else:
    _Parameters = msgspec.defstruct(
        "_Parameters",
        [
            (name, _VALUES[FIELDS[field]] | UnsetType, msgspec.field(name=_SHORT.get(name), default=UNSET))
            for name, (field, _) in PARAMETERS.items()
        ],
        rename="camel",
        module=__name__,
    )


class CountParameters(_Parameters, rename="camel"):
    """Which notifications: all parameters hold together."""

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


def filter_of(parameters: CountParameters, user_id: str) -> InboxFilter:
    """Raises a 400 Problem that names the parameter, as do the others below."""
    form = parameters.filter
    where = UNSET if form is UNSET else form.where
    given = {name: getattr(parameters, name) for name in PARAMETERS}
    return InboxFilter.of(
        *(() if where is UNSET else _conditions(where, user_id)),
        **{name: _parameter(name, value) for name, value in given.items() if value is not UNSET},
    )


def _parameter(name: str, value: Any) -> Any:
    field, _ = PARAMETERS[name]
    return moment(_SHORT.get(name, name), value) if FIELDS[field] == "time" else value


def list_of(parameters: ListParameters, user_id: str) -> ListQuery:
    form = Filter() if parameters.filter is UNSET else parameters.filter
    limit = form.limit if parameters.limit is UNSET else parameters.limit
    skip = form.offset if form.skip is UNSET else form.skip
    return ListQuery(
        where=filter_of(parameters, user_id),
        limit=DEFAULT_LIMIT if limit is UNSET else limit,
        before_rev=None if parameters.cursor is UNSET else _before_rev(parameters.cursor),
        skip=0 if skip is UNSET else skip,
    )


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
    for field, kind in FIELDS.items():
        value_of = _READ.get(kind, _as_it_is)
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
        time = datetime.fromisoformat(text)
        return to_milliseconds((time if time.tzinfo else time.replace(tzinfo=UTC)).astimezone(UTC))
    except (ValueError, OverflowError):
        raise _refused(at, "an ISO 8601 time such as 2025-01-31T10:00:00Z (+ written as %2B)") from None


_READ: Mapping[FieldKind, Callable[[str, Any], Any]] = {"id": _number, "time": moment}
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

"""What an event type is: its schema, its messages, and the values that fill them.

A new type is one subclass of `EventType` and its catalogs (docs/plugins.md)."""

from __future__ import annotations

import importlib.resources
import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from importlib.resources.abc import Traversable
from typing import ClassVar, Generic, TypeAlias, TypeVar
from urllib.parse import urlsplit

import msgspec

from nx_signal.activities.clean import cleaned
from nx_signal.activities.fields import readable, rejected
from nx_signal.errors import MessageRejected, SettingsError
from nx_signal.model import Activity, Json

COUNT = "count"
"""The placeholder that picks the plural form of a message."""

MAX_TEXT_CHARS = 200
"""Of one placeholder: more than a line of a notification shows."""
MAX_URL_CHARS = 2_048
"""Browsers and proxies all take this much."""
LARGEST_AMOUNT = Decimal(10) ** 15
"""Of money, exclusive: above every price."""
MAX_AMOUNT_DECIMALS = 18
"""Of money: as many as any currency is divided into."""
FLOAT_DIGITS = 15
"""As many digits of a number as a float surely has."""
DEFAULT_CURRENCY = "VND"

_NUMERAL = re.compile(r"[+-]?[0-9]{1,100}(\.[0-9]{1,100})?([eE][+-]?[0-9]{1,3})?")
_CURRENCY = re.compile(r"[A-Za-z]{3}")
_BREAKS = re.compile("[\t-\r\x1c-\x1f\x85\u2028\u2029\u2800]+")
"""And the blank of Braille."""
_NOT_IN_URLS = re.compile(r'[\s\\<>"]')


@dataclass(frozen=True, slots=True)
class Money:
    amount: Decimal
    currency: str
    """three capital letters (ISO 4217)"""


Amount: TypeAlias = Json
"""The type of an amount in a schema: a number or a numeral, as `money` takes it, with the digits that were
sent. (`int | float | str` would change some of them.)"""

Value: TypeAlias = str | int | Decimal | datetime | Money
"""What a placeholder takes: text as it came, a number, a moment (aware) or money. All but text is
written as the reader's locale writes it."""


@dataclass(frozen=True, slots=True)
class Message:
    """One text of a type: its msgid in the catalogs and the placeholders that each translation uses.

    With `count` among the placeholders it has plural forms (in the catalogs `msgid_plural` repeats the
    msgid), and a form may leave `count` out."""

    id: str
    placeholders: tuple[str, ...] = ()

    @property
    def plural(self) -> bool:
        return COUNT in self.placeholders


@dataclass(frozen=True, slots=True)
class MessageArguments:
    """The chosen message, and a value for each of its placeholders (`count` is an int)."""

    message: Message
    values: Mapping[str, Value]


D = TypeVar("D", bound=msgspec.Struct)


class EventType(ABC, Generic[D]):
    """One kind of activity. Subclasses set the attributes and implement `message_arguments`. No state, no
    I/O; constructed without arguments. `nx_signal.testing.check` checks one."""

    name: ClassVar[str]
    """the eventType: capital letters, digits and underscores"""
    schema: type[D]
    """of the messages' `data`; additional fields are let through"""
    messages: ClassVar[tuple[Message, ...]]
    """all that `message_arguments` may choose from"""
    examples: ClassVar[Sequence[Mapping[str, Json] | Activity]]
    """Sample `data`, together leading to each of the messages; rendered in every language when the type is
    loaded. A whole Activity where the choice depends on more than `data`."""
    pushed_to_members: ClassVar[bool] = False
    """Also pushed, unrendered, to the members' room of its scope (`observation/signal/activity/created`)."""

    @abstractmethod
    def message_arguments(self, data: D, activity: Activity) -> MessageArguments:
        """The message of a notification about this activity. May raise MessageRejected."""

    def action_url(self, data: Mapping[str, Json]) -> str | None:
        """Where a click leads: `data.actionUrl`, left out where `safe_url` does not take it."""
        return safe_url(data.get("actionUrl"))

    def locales(self) -> Traversable:
        """The folder of `{locale}/LC_MESSAGES/signal.po`: `locales` in the package of the class. Raises
        SettingsError where the class's module is not in a package."""
        module = type(self).__module__
        package = getattr(sys.modules.get(module), "__package__", None)
        if not package:
            raise SettingsError(
                f"the module {module} is not in a package, so it has no folder `locales` beside it; move it "
                "into a package, or override locales()."
            )
        return importlib.resources.files(package) / "locales"

    def read(self, data: Mapping[str, Json]) -> D:
        """`data` as the schema has it. Raises MessageRejected."""
        try:
            return msgspec.convert(data, self.schema)
        except msgspec.ValidationError as error:
            raise readable(error, "data") from None


def one_line(text: str | int | None) -> str:
    """Text of another system as one visible line: `cleaned`, at most 200 characters."""
    if text is None:
        return ""
    text = str(text)[: 4 * MAX_TEXT_CHARS]  # bounds the work below
    text = cleaned(_BREAKS.sub(" ", text)).strip()
    if len(text) <= MAX_TEXT_CHARS:
        return text
    return cleaned(text[: MAX_TEXT_CHARS - 1]).rstrip() + "…"  # the cut may be in the middle of an emoji


def safe_url(value: Json) -> str | None:
    """`value` where it is an http(s) URL or an absolute path of this very site, else None."""
    if not isinstance(value, str) or len(value) > MAX_URL_CHARS:
        return None
    if _NOT_IN_URLS.search(value) or cleaned(value) != value:
        return None
    if value.startswith("/"):
        return None if value.startswith("//") else value
    try:
        parts = urlsplit(value)
        return value if parts.scheme in ("http", "https") and parts.hostname else None
    except ValueError:
        return None


def money(amount: Amount, currency: str | None, field: str) -> Money:
    """An amount as a message gives it, a number or a numeral, with all its digits. `field` names the amount;
    the currency is its sibling `currency`. Raises MessageRejected."""
    if isinstance(amount, bool) or not isinstance(amount, int | float | str | Decimal):
        raise _no_amount(field)
    if isinstance(amount, str) and not _NUMERAL.fullmatch(amount):
        raise _no_amount(field)
    exact = Decimal(repr(amount) if isinstance(amount, float) else amount)
    exponent = exact.as_tuple().exponent  # a letter where it is not finite
    if not isinstance(exponent, int) or not exact.copy_abs() < LARGEST_AMOUNT:
        raise rejected(f"{field} must be less than {LARGEST_AMOUNT:f}.")
    if exponent < -MAX_AMOUNT_DECIMALS:
        raise rejected(f"{field} must have at most {MAX_AMOUNT_DECIMALS} decimals.")
    if isinstance(amount, float) and len(exact.as_tuple().digits) > FLOAT_DIGITS:
        raise rejected(f"{field} has more digits than a float: declare it as Amount in the type's schema.")
    if currency is not None and not _CURRENCY.fullmatch(currency):
        sibling = field.rpartition(".")[0] + ".currency"
        raise rejected(f"{sibling} must be three letters of ISO 4217 such as VND.")
    return Money(exact, (currency or DEFAULT_CURRENCY).upper())


def _no_amount(field: str) -> MessageRejected:
    return rejected(f"{field} must be a number such as 1250000 or a string such as '1250000.50'.")

"""Event types: what a kind of activity says about itself, and all of those known to this process.

A new type is one subclass of `EventType` and its messages. One in another package is found by an entry
point of the group `nx_signal.event_types` that names the class."""

from __future__ import annotations

import gettext
import importlib.resources
import io
import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from importlib.metadata import EntryPoint, entry_points
from importlib.resources.abc import Traversable
from typing import Any, ClassVar, Generic, TypeAlias, TypeVar
from urllib.parse import urlsplit

import msgspec
from babel.messages import mofile, pofile

from nx_signal.activities.message import readable, rejected
from nx_signal.errors import SettingsError
from nx_signal.model import LOCALES, Activity, Json

ENTRY_POINTS = "nx_signal.event_types"
CATALOG = "signal.po"
COUNT = "count"
"""The placeholder that picks the plural form of a message."""

MAX_TEXT_CHARS = 200
"""Of one placeholder: more than a line of a notification shows."""
MAX_URL_CHARS = 2_048
"""Browsers and proxies all take this much."""
LARGEST_AMOUNT = Decimal(10) ** 15
"""Of money, exclusive: above every price, and a float still holds its whole units exactly."""
DEFAULT_CURRENCY = "VND"

_NUMERAL = re.compile(r"[+-]?[0-9]{1,15}(\.[0-9]{1,15})?")
_CURRENCY = re.compile(r"[A-Za-z]{3}")
_BREAKS = re.compile("[\t-\r\x85\u2028\u2029]+")
# Controls, marks and overrides of direction, zero-width spaces, surrogates, noncharacters: what can
# hide, reorder or break the text around it. The joiners that emoji and scripts need stay.
_INVISIBLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff\ufffe\uffff]"
)
_NOT_IN_URLS = re.compile(r'[\s\\<>"]')


@dataclass(frozen=True, slots=True)
class Money:
    amount: Decimal
    currency: str
    """three capital letters (ISO 4217)"""


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
class Phrase:
    """What to say: a message, and a value for each of its placeholders (`count` is an int)."""

    message: Message
    values: Mapping[str, Value]


D = TypeVar("D", bound=msgspec.Struct)


class EventType(ABC, Generic[D]):
    """One kind of activity. Subclasses set the three attributes and say `phrase`; no state, no I/O."""

    name: ClassVar[str]
    """the messages' eventType"""
    schema: type[D]
    """of the messages' `data`; additional fields are let through"""
    messages: ClassVar[tuple[Message, ...]]
    """all that `phrase` may choose from"""
    shown_to_members: ClassVar[bool] = False
    """also pushed, as it came, to the members' room of its scope, for those who watch that room"""

    @abstractmethod
    def phrase(self, data: D, activity: Activity) -> Phrase:
        """What a notification about it says. May raise MessageRejected."""

    def action_url(self, data: Mapping[str, Json]) -> str | None:
        """Where a click leads: `data.actionUrl`, left out where `safe_url` does not take it."""
        return safe_url(data.get("actionUrl"))

    def locales(self) -> Traversable:
        """The folder of `{locale}/LC_MESSAGES/signal.po`: `locales` in the package of the class."""
        module = type(self).__module__
        return importlib.resources.files(sys.modules[module].__package__ or module) / "locales"

    def read(self, data: Mapping[str, Json]) -> D:
        """`data` as the schema has it. Raises MessageRejected."""
        try:
            return msgspec.convert(data, self.schema)
        except msgspec.ValidationError as error:
            raise readable(error, "data") from None


def one_line(text: str | int | None) -> str:
    """Text of another system as one visible line: no controls, no reordering, at most 200 characters."""
    if text is None:
        return ""
    text = str(text)[: 4 * MAX_TEXT_CHARS]  # bounds the work below
    text = _INVISIBLE.sub("", _BREAKS.sub(" ", text)).strip()
    return text if len(text) <= MAX_TEXT_CHARS else text[: MAX_TEXT_CHARS - 1].rstrip() + "…"


def safe_url(value: Json) -> str | None:
    """`value` where it is an http(s) URL or an absolute path of this very site, else None."""
    if not isinstance(value, str) or len(value) > MAX_URL_CHARS:
        return None
    if _NOT_IN_URLS.search(value) or _INVISIBLE.search(value):
        return None
    if value.startswith("/"):
        return None if value.startswith("//") else value
    try:
        parts = urlsplit(value)
        return value if parts.scheme in ("http", "https") and parts.hostname else None
    except ValueError:
        return None


def money(amount: int | float | str, currency: str | None, field: str) -> Money:
    """An amount as a message gives it, a number or a numeral. `field` names the amount; the currency is
    its sibling `currency`. Raises MessageRejected."""
    if isinstance(amount, str) and not _NUMERAL.fullmatch(amount):
        raise rejected(f"{field} must be a number such as 1250000 or a string such as '1250000.50'.")
    exact = Decimal(amount if isinstance(amount, str) else repr(amount))
    if not abs(exact) < LARGEST_AMOUNT:
        raise rejected(f"{field} must be less than {LARGEST_AMOUNT:f}.")
    if currency is not None and not _CURRENCY.fullmatch(currency):
        sibling = field.rpartition(".")[0] + ".currency"
        raise rejected(f"{sibling} must be three letters of ISO 4217 such as VND.")
    return Money(exact, (currency or DEFAULT_CURRENCY).upper())


class Texts:
    """One catalog, compiled in memory."""

    def __init__(self, po: Traversable, locale: str) -> None:
        """Raises OSError, and ValueError or PoFileError for what is no PO file."""
        self._catalog = pofile.read_po(io.BytesIO(po.read_bytes()), locale=locale, abort_invalid=True)
        compiled = io.BytesIO()
        mofile.write_mo(compiled, self._catalog)
        compiled.seek(0)
        self._translations = gettext.GNUTranslations(compiled)

    def forms(self, message: Message) -> tuple[str, ...] | None:
        """All that `text` may give for it; None where it is absent, unfinished or fuzzy."""
        entry = self._catalog.get(message.id)
        if entry is None or entry.fuzzy or entry.pluralizable != message.plural:
            return None
        forms = (entry.string,) if isinstance(entry.string, str) else tuple(entry.string or ())
        return forms if forms and all(forms) else None

    def text(self, message: Message, count: int) -> str:
        """Of a message that has its `forms`."""
        if message.plural:
            return self._translations.ngettext(message.id, message.id, count)
        return self._translations.gettext(message.id)


class Registry:
    """The event types of a process, each with its texts. Read once, never changed."""

    def __init__(self, types: Iterable[EventType[Any]]) -> None:
        """Raises SettingsError for two types of one name and for texts that are missing: a type of
        this package needs all of them in every language, any other in English."""
        self._types: dict[str, EventType[Any]] = {}
        self._texts: dict[str, Mapping[str, Texts]] = {}
        read: dict[str, Mapping[str, Texts]] = {}
        for event_type in types:
            if event_type.name in self._types:
                raise SettingsError(f"Two event types are called {event_type.name}; remove one of them.")
            folder = event_type.locales()
            texts = read[str(folder)] = read.get(str(folder)) or _read(folder)
            _require(event_type, texts)
            self._types[event_type.name] = event_type
            self._texts[event_type.name] = texts

    @classmethod
    def shipped(cls) -> Registry:
        return cls(_shipped())

    @classmethod
    def discover(cls) -> Registry:
        """The shipped types and those of installed packages. Raises SettingsError."""
        return cls([*_shipped(), *map(_load, entry_points(group=ENTRY_POINTS))])

    @property
    def names(self) -> frozenset[str]:
        return frozenset(self._types)

    def __iter__(self) -> Iterator[EventType[Any]]:
        return iter(self._types.values())

    def get(self, name: str) -> EventType[Any] | None:
        return self._types.get(name)

    def texts(self, name: str) -> Mapping[str, Texts]:
        """locale → the catalog of a type that is here; English is always among them."""
        return self._texts[name]


def _shipped() -> Sequence[EventType[Any]]:
    from nx_signal.activities.types import SHIPPED  # it needs EventType from here

    return SHIPPED


def _load(entry_point: EntryPoint) -> EventType[Any]:
    offered = f"The event type {entry_point.value} of {ENTRY_POINTS}"
    try:
        found = entry_point.load()
    except Exception as error:  # whatever that package does when it is imported
        raise SettingsError(f"{offered} cannot be loaded ({error}); mend or remove its package.") from error
    if not (isinstance(found, type) and issubclass(found, EventType)):
        raise SettingsError(f"{offered} is no subclass of EventType; mend or remove its package.")
    event_type: EventType[Any] = found()
    return event_type


def _read(folder: Traversable) -> Mapping[str, Texts]:
    texts = {}
    for locale in LOCALES:
        po = folder.joinpath(locale, "LC_MESSAGES", CATALOG)
        if not po.is_file():
            continue
        try:
            texts[locale] = Texts(po, locale)
        except (OSError, ValueError, pofile.PoFileError) as error:
            raise SettingsError(f"{po} is no catalog of messages ({error}); mend it.") from None
    return texts


def _require(event_type: EventType[Any], texts: Mapping[str, Texts]) -> None:
    ours = type(event_type).__module__.startswith(f"{__name__.partition('.')[0]}.")
    for locale in LOCALES if ours else LOCALES[:1]:
        for message in event_type.messages:
            if locale not in texts or texts[locale].forms(message) is None:
                raise SettingsError(
                    f"{event_type.name} has no text for {message.id} in {locale}; add it to "
                    f"{event_type.locales()}/{locale}/LC_MESSAGES/{CATALOG}."
                )

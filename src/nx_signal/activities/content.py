"""Renders a notification's content: a message in the reader's language, as text and as safe HTML.

The templates are Markdown of our own catalogs. Each is rendered and sanitized once, at start, with a
stand-in for each placeholder; a render only joins the pieces with escaped values. So a value can become
neither Markdown nor HTML, whatever it holds."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import localcontext
from itertools import product
from zoneinfo import ZoneInfo

import nh3
import structlog
from babel import Locale
from babel.dates import format_date, format_time
from babel.numbers import format_decimal, get_currency_precision
from markdown_it import MarkdownIt
from markdown_it.token import Token

from nx_signal.activities.catalogs import Catalog
from nx_signal.activities.event_type import COUNT, Message, Money, Value, one_line, safe_url
from nx_signal.activities.fields import rejected
from nx_signal.activities.registry import Registry
from nx_signal.errors import SettingsError
from nx_signal.model import LOCALES, Activity
from nx_signal.model.timestamps import time_zone as time_zone_of

log = structlog.get_logger()

ALLOWED_TAGS = {"p", "br", "strong", "em", "code", "ul", "ol", "li", "a"}
MAX_PRECISION = 2_000
"""Digits of a number: more than any message may have."""
FIRST_STAND_IN = 0xE000
"""Private-use characters stand for the placeholders: Markdown and HTML take them for letters."""

_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")
_STAND_IN = re.compile("([\ue000-\uf8ff])")
_PLAIN_BREAKS = {"softbreak": " ", "hardbreak": "\n"}
_markdown = MarkdownIt("commonmark", {"html": False})


@dataclass(frozen=True, slots=True)
class Rendered:
    """`locale` is the one that the content is written in, `time_zone` the one of its dates."""

    locale: str
    content: str
    content_html: str
    action_url: str | None
    time_zone: str


def negotiate(locale: str) -> str:
    """The shipped language nearest to a locale as others write it: its base language, else English."""
    base = locale.replace("_", "-").partition("-")[0].lower()
    return base if base in LOCALES else LOCALES[0]


class Template:
    """One text of a catalog, ready to be filled in."""

    def __init__(self, source: str) -> None:
        """Raises ValueError for a stray brace and for a placeholder where it cannot be escaped."""
        used = _PLACEHOLDER.findall(source)
        self.placeholders = tuple(dict.fromkeys(used))
        names = {chr(FIRST_STAND_IN + index): name for index, name in enumerate(self.placeholders)}
        marked = source
        for stand_in, name in names.items():
            marked = marked.replace(f"{{{name}}}", stand_in)
        if _STAND_IN.search(source) or "{" in marked or "}" in marked:
            raise ValueError("placeholders are {words_in_lower_case}; braces have no other use")
        tokens = _markdown.parse(marked)
        markup = nh3.clean(
            _markdown.renderer.render(tokens, _markdown.options, {}),
            tags=ALLOWED_TAGS,
            attributes={"a": {"href"}},
            url_schemes={"http", "https"},
            link_rel="noopener",
        )
        self._html = _pieces(markup, names)
        self._text = _pieces(_plain(tokens), names)
        if not sorted(self._html[1::2]) == sorted(self._text[1::2]) == sorted(used):
            raise ValueError("a placeholder stands in a link's address or where Markdown drops it")

    def fill(self, values: Mapping[str, str]) -> tuple[str, str]:
        """(text, HTML)"""
        return (
            "".join([values[piece] if i & 1 else piece for i, piece in enumerate(self._text)]),
            "".join([html.escape(values[piece]) if i & 1 else piece for i, piece in enumerate(self._html)]),
        )


def _pieces(marked: str, names: Mapping[str, str]) -> tuple[str, ...]:
    """What stands between the placeholders, and at the odd places their names."""
    pieces = _STAND_IN.split(marked.strip())
    return tuple(names[piece] if i & 1 else piece for i, piece in enumerate(pieces))


def _plain(tokens: Sequence[Token]) -> str:
    """The Markdown without its marks: a paragraph or a list item a line."""
    lines = []
    for block in tokens:
        if block.type == "inline":
            lines.append("".join(_PLAIN_BREAKS.get(t.type, t.content) for t in block.children or ()))
    return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Zone:
    """`named`: a reader could mistake its times, so they name it."""

    info: ZoneInfo
    named: bool


def _is_twice(local: datetime) -> bool:
    """An hour that the end of summer time repeats."""
    return local.replace(fold=0).utcoffset() != local.replace(fold=1).utcoffset()


def _utc_offset(local: datetime) -> str:
    """UTC, UTC+7, UTC-3:30"""
    minutes = round((local.utcoffset() or timedelta()).total_seconds() / 60)
    hours, rest = divmod(abs(minutes), 60)
    sign = "-" if minutes < 0 else "+"
    return "UTC" if not minutes else f"UTC{sign}{hours}" + (f":{rest:02}" if rest else "")


class _Language:
    """Formats values for readers of one locale (CLDR)."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._locale = Locale.parse(name)
        self._moment = str(self._locale.datetime_formats["medium"])

    def format(self, value: Value, zone: Zone) -> str:
        if isinstance(value, str):
            return one_line(value)
        if isinstance(value, datetime):
            local = value.astimezone(zone.info)
            time = format_time(local, "short", tzinfo=zone.info, locale=self._locale)
            if zone.named or _is_twice(local):
                time += f" {_utc_offset(local)}"
            return self._moment.format(time, format_date(local, "medium", locale=self._locale))
        if isinstance(value, Money):
            return self._money(value)
        with localcontext(prec=MAX_PRECISION):
            return format_decimal(value, locale=self._locale, decimal_quantization=False)

    def _money(self, value: Money) -> str:
        """The currency's usual decimals at least, else those of the amount; zeros alone beyond the usual ones
        are left out."""
        amount = abs(value.amount) if value.amount == 0 else value.amount  # -0 is 0
        usual = get_currency_precision(value.currency)
        decimals = max(usual, -int(amount.as_tuple().exponent))
        if amount == round(amount, usual):
            decimals = usual
        pattern = copy(self._locale.currency_formats["standard"])
        pattern.frac_prec = decimals, decimals
        with localcontext(prec=MAX_PRECISION):
            return str(pattern.apply(amount, self._locale, currency=value.currency, currency_digits=False))


class Renderer:
    """Renders activities of the registry's types. All that can be prepared is prepared at start."""

    def __init__(self, registry: Registry, time_zone: str) -> None:
        """Raises SettingsError for a text that does not fit its message."""
        self.time_zone = time_zone
        self._zones: dict[str, Zone] = {}
        self._registry = registry
        self._texts: dict[tuple[str, str, Message], tuple[_Language, Catalog]] = {}
        self._templates: dict[str, Template] = {}
        languages = {locale: _Language(locale) for locale in LOCALES}
        for event_type in registry:
            catalogs = registry.catalogs(event_type.name)
            for message, locale in product(event_type.messages, LOCALES):
                # What is not translated is rendered in English altogether, dates and amounts too.
                written_in = locale if locale in catalogs and catalogs[locale].forms(message) else LOCALES[0]
                self._texts[event_type.name, locale, message] = (languages[written_in], catalogs[written_in])
                for form in catalogs[written_in].forms(message) or ():
                    self._templates[form] = _compile(form, message, f"{event_type.name} in {written_in}")

    def render(self, activity: Activity, locale: str, time_zone: str | None = None) -> Rendered:
        """The content for readers of `locale`, any tag at all, and of `time_zone` (None: the deployment's).
        Raises MessageRejected when the activity's data is not what its type takes."""
        event_type = self._registry.get(activity.type)
        if event_type is None:
            raise rejected(f"eventType {activity.type} is not known here.")
        arguments = event_type.message_arguments(event_type.read(activity.data), activity)
        message, values = arguments.message, arguments.values
        language, catalog = self._texts[activity.type, negotiate(locale), message]
        count = values.get(COUNT)
        template = self._templates[catalog.text(message, count if isinstance(count, int) else 0)]
        zone = self._zone(time_zone)
        content, content_html = template.fill({name: language.format(v, zone) for name, v in values.items()})
        action_url = safe_url(event_type.action_url(activity.data))  # a type may override action_url
        return Rendered(language.name, content, content_html, action_url, zone.info.key)

    def _zone(self, name: str | None) -> Zone:
        """The deployment's where none is given, or one that is not known here. Its times do not name it where
        it is a place's: all the readers of a deployment know that one."""
        name = name or self.time_zone
        if name not in self._zones:
            try:
                info = time_zone_of(name)
            except ValueError:
                log.warning("unknown_time_zone", time_zone=name, instead=self.time_zone)
                info = time_zone_of(self.time_zone)
            named = info.key != self.time_zone or "/" not in info.key or info.key.startswith("Etc/")
            self._zones[name] = Zone(info, named)
        return self._zones[name]


def _compile(source: str, message: Message, where: str) -> Template:
    try:
        template = Template(source)
    except ValueError as error:
        raise SettingsError(f"The text {message.id} of {where} is unusable: {error}; correct it.") from None
    missing = {*message.placeholders} - {COUNT} - {*template.placeholders}
    unknown = {*template.placeholders} - {*message.placeholders}
    if missing or unknown:
        listed = ", ".join(sorted(message.placeholders)) or "none"
        raise SettingsError(f"The text {message.id} of {where} must use these placeholders: {listed}.")
    return template

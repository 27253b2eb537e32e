"""What a notification says: a type's phrase in a reader's language, as text and as safe HTML.

The templates are Markdown of our own catalogs. Each is rendered and sanitized once, at start, with a
stand-in for each placeholder; a render only joins the pieces with escaped values. So a value can become
neither Markdown nor HTML, whatever it holds."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import product
from zoneinfo import ZoneInfo

import nh3
from babel import Locale
from babel.dates import format_date, format_time
from babel.numbers import format_currency, format_decimal
from markdown_it import MarkdownIt
from markdown_it.token import Token

from nx_signal.activities.message import rejected
from nx_signal.activities.registry import COUNT, Message, Money, Registry, Texts, Value, one_line, safe_url
from nx_signal.errors import SettingsError
from nx_signal.model import LOCALES, Activity

ALLOWED_TAGS = {"p", "br", "strong", "em", "code", "ul", "ol", "li", "a"}
FIRST_STAND_IN = 0xE000
"""Private-use characters stand for the placeholders: Markdown and HTML take them for letters."""

_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")
_STAND_IN = re.compile("([\ue000-\uf8ff])")
_PLAIN_BREAKS = {"softbreak": " ", "hardbreak": "\n"}
_markdown = MarkdownIt("commonmark", {"html": False})


@dataclass(frozen=True, slots=True)
class Rendered:
    """`locale` is the one that the content is written in."""

    locale: str
    content: str
    content_html: str
    action_url: str | None


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


class _Language:
    """Writes values as readers of one locale expect them (CLDR)."""

    def __init__(self, name: str, time_zone: str) -> None:
        self.name = name
        self._locale = Locale.parse(name)
        self._zone = ZoneInfo(time_zone)
        self._moment = str(self._locale.datetime_formats["medium"])

    def write(self, value: Value) -> str:
        if isinstance(value, str):
            return one_line(value)
        if isinstance(value, datetime):
            local = value.astimezone(self._zone)
            time = format_time(local, "short", tzinfo=self._zone, locale=self._locale)
            return self._moment.format(time, format_date(local, "medium", locale=self._locale))
        if isinstance(value, Money):
            return format_currency(value.amount, value.currency, locale=self._locale)
        return format_decimal(value, locale=self._locale)


class Renderer:
    """Renders activities of the registry's types. All that can be prepared is prepared at start."""

    def __init__(self, registry: Registry, time_zone: str) -> None:
        """Raises SettingsError for a text that does not fit its message."""
        self._registry = registry
        self._texts: dict[tuple[str, str, Message], tuple[_Language, Texts]] = {}
        self._templates: dict[str, Template] = {}
        languages = {locale: _Language(locale, time_zone) for locale in LOCALES}
        for event_type in registry:
            texts = registry.texts(event_type.name)
            for message, locale in product(event_type.messages, LOCALES):
                # What is not translated is said in English altogether, dates and amounts too.
                written_in = locale if locale in texts and texts[locale].forms(message) else LOCALES[0]
                self._texts[event_type.name, locale, message] = (languages[written_in], texts[written_in])
                for form in texts[written_in].forms(message) or ():
                    self._templates[form] = _compile(form, message, f"{event_type.name} in {written_in}")

    def render(self, activity: Activity, locale: str) -> Rendered:
        """The content for readers of `locale`, any tag at all. Raises MessageRejected when the
        activity's data is not what its type takes."""
        event_type = self._registry.get(activity.type)
        if event_type is None:
            raise rejected(f"eventType {activity.type} is not known here.")
        phrase = event_type.phrase(event_type.read(activity.data), activity)
        language, texts = self._texts[activity.type, negotiate(locale), phrase.message]
        count = phrase.values.get(COUNT)
        template = self._templates[texts.text(phrase.message, count if isinstance(count, int) else 0)]
        content, content_html = template.fill({k: language.write(v) for k, v in phrase.values.items()})
        action_url = safe_url(event_type.action_url(activity.data))  # a type may have its own way
        return Rendered(language.name, content, content_html, action_url)


def _compile(source: str, message: Message, where: str) -> Template:
    try:
        template = Template(source)
    except ValueError as error:
        raise SettingsError(f"The text {message.id} of {where} is unusable: {error}.") from None
    missing = {*message.placeholders} - {COUNT} - {*template.placeholders}
    unknown = {*template.placeholders} - {*message.placeholders}
    if missing or unknown:
        listed = ", ".join(sorted(message.placeholders)) or "none"
        raise SettingsError(f"The text {message.id} of {where} must use these placeholders: {listed}.")
    return template

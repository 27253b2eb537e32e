"""The catalogs of event types: `{locale}/LC_MESSAGES/signal.po`, read and compiled in memory at start."""

from __future__ import annotations

import gettext
import io
import re
from collections.abc import Mapping
from importlib.resources.abc import Traversable
from typing import Any

from babel.messages import mofile, pofile

from nx_signal.activities.event_type import EventType, Message
from nx_signal.errors import SettingsError
from nx_signal.model import LOCALES

CATALOG = "signal.po"
_COUNTS = range(201)
"""Plural rules repeat after 100."""
_LINE = re.compile(rb'(#.*|((msgctxt|msgid|msgid_plural|msgstr(\[[0-9]+\])?)\s*)?".*")?')


class Catalog:
    """One language of one folder."""

    def __init__(self, po: Traversable, locale: str) -> None:
        """Raises OSError, and ValueError or PoFileError where it is not a PO file."""
        source = po.read_bytes()
        for number, line in enumerate(source.splitlines(), 1):  # Babel drops the ends of unquoted strings
            if not _LINE.fullmatch(line.strip()):
                raise ValueError(f'line {number} is not a comment, nor a keyword with its text in "quotes"')
        self._catalog = pofile.read_po(io.BytesIO(source), locale=locale, abort_invalid=True)
        compiled = io.BytesIO()
        mofile.write_mo(compiled, self._catalog)
        compiled.seek(0)
        self._translations = gettext.GNUTranslations(compiled)

    @property
    def ids(self) -> frozenset[str]:
        return frozenset(str(entry.id) for entry in self._catalog if entry.id)

    def forms(self, message: Message) -> tuple[str, ...] | None:
        """All that `text` may return for it; None while it is absent, unfinished or fuzzy. Raises ValueError
        where its plural forms are not those that the message needs."""
        entry = self._catalog.get(message.id)
        if entry is None or entry.fuzzy:
            return None
        forms = (entry.string,) if isinstance(entry.string, str) else tuple(entry.string or ())
        if not forms or not all(forms):
            return None
        if entry.pluralizable and not message.plural:
            raise ValueError("has a msgid_plural, which only a message with `count` may have; remove it")
        if message.plural and not entry.pluralizable:
            raise ValueError("has no msgid_plural, which a message with `count` needs; repeat the msgid")
        if message.plural and any(self.text(message, n) not in forms for n in _COUNTS):
            raise ValueError("has fewer forms than the header Plural-Forms chooses from; correct that header")
        return forms

    def text(self, message: Message, count: int) -> str:
        """Of a message that has its `forms`."""
        if message.plural:
            return self._translations.ngettext(message.id, message.id, count)
        return self._translations.gettext(message.id)


def read_catalogs(folder: Traversable) -> Mapping[str, Catalog]:
    """locale → its catalog, of those that the folder has. Raises SettingsError for one that is unusable."""
    catalogs = {}
    for locale in LOCALES:
        po = folder.joinpath(locale, "LC_MESSAGES", CATALOG)
        if not po.is_file():
            continue
        try:
            catalogs[locale] = Catalog(po, locale)
        except (OSError, ValueError, pofile.PoFileError) as error:
            raise SettingsError(f"{po} is not a catalog of messages ({error}); correct it.") from None
    return catalogs


def require_texts(event_type: EventType[Any], catalogs: Mapping[str, Catalog]) -> None:
    """Raise SettingsError unless every message has an English text, and right plural forms in every language.
    What is not translated yet is rendered in English."""
    folder = event_type.locales()
    for locale in LOCALES:
        po = f"{folder}/{locale}/LC_MESSAGES/{CATALOG}"
        if locale not in catalogs and locale == LOCALES[0]:
            raise SettingsError(f"{event_type.name} has no English texts; add them in {po}.")
        for message in event_type.messages if locale in catalogs else ():
            try:
                forms = catalogs[locale].forms(message)
            except ValueError as error:
                raise SettingsError(f"{event_type.name}: {message.id} {error} ({po}).") from None
            if forms is None and locale == LOCALES[0]:
                raise SettingsError(
                    f"{event_type.name} has no text for {message.id} in {locale}, or an unfinished or fuzzy "
                    f"one; write it in {po}."
                )

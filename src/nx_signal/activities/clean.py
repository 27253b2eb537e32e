"""Text of other systems without the characters that are not seen: they can hide or reorder what is around
them, and make two names look the same. What scripts and emoji need stays: combining marks, joiners, variation
selectors, each where its effect is seen."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

MAX_MARKS = 5
"""Combining marks in a row: Vietnamese has 2, Hebrew up to 4; more only cover the lines around."""

_FILLERS = "\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0\ufffc"
"""Beside category Cf: these take no place, or that of a letter."""
_IGNORABLE = "\u2065\ufdd0-\ufdef\ufff0-\ufff8\ufffe\uffff" + (
    "\U000e0000-\U000e001f\U000e0080-\U000e00ff\U000e01f0-\U000e0fff"
)
"""Not assigned, and shown as nothing (Unicode: Default_Ignorable_Code_Point, noncharacters)."""
_PRIVATE = "\ue000-\uf8ff\U000f0000-\U0010ffff"
_SIGNS = "\u0600-\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd"
"""Of category Cf as well, but seen."""

_JOINERS = "\u200c\u200d"
_EMOJI_SELECTORS = "\ufe0e\ufe0f"
_VARIANTS = "\U000e0100-\U000e01ef"
"""Of ideographs, as in Japanese names."""
_MONGOLIAN_SELECTORS = "\u180b-\u180d\u180f"
_TAGS = "\U000e0020-\U000e007f"
_CONTEXTUAL = f"{_JOINERS}\ufe00-\ufe0f{_VARIANTS}{_MONGOLIAN_SELECTORS}{_TAGS}"
"""Kept in a context of `_KEPT` alone."""

_JOINED = "\u0600-\u0dff\u0f00-\u109f\u1780-\u18af\u1900-\u1cff\ua800-\uabff\ufb50-\ufdff\ufe70-\ufefc" + (
    "\U00010a00-\U00011fff\U0001e900-\U0001e95f"
)
"""Scripts whose letters a joiner shapes: Arabic and its kin, those of India and around."""
_VIRAMAS = "\u094d\u09cd\u0a4d\u0acd\u0b4d\u0bcd\u0c4d\u0ccd\u0d4d\u0dca"
"""After these it does so at the end of a word, too."""
_EMOJI = (
    "\u00a9\u00ae\u203c\u2049\u2122\u2139\u2194-\u21aa\u231a-\u23ff\u24c2\u25aa-\u25fe\u2600-\u27bf"
    "\u2934\u2935\u2b05-\u2b55\u3030\u303d\u3297\u3299\U0001f000-\U0001faff"
)
_IDEOGRAPHS = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_MONGOLIAN = "\u1820-\u18aa"


def _class_of(categories: tuple[str, ...], codes: Iterable[int], but: str) -> str:
    """The characters of these general categories, as ranges of a character class."""
    left_out = re.compile(f"[{but}]")
    ranges: list[list[int]] = []
    for code in codes:
        if unicodedata.category(chr(code)) in categories and not left_out.match(chr(code)):
            if ranges and ranges[-1][1] == code - 1:
                ranges[-1][1] = code
            else:
                ranges.append([code, code])
    return "".join(rf"\U{first:08x}-\U{last:08x}" for first, last in ranges)


_CONTROLS = _class_of(("Cc", "Cf", "Cs"), range(0x20000), _SIGNS + _CONTEXTUAL)
_MARKS = _class_of(("Mn", "Me"), range(0x300, 0x20000), _FILLERS + _CONTEXTUAL)

_LETTERS = "[ -~\u00a0-\u00ac\u00ae-\u02ff\u0370-\u0482\u1e00-\u1fff\u2010-\u2027\u2030-\u205e\u20a0-\u20bf]"
_LATIN_MARKS = "[\u0300-\u034e\u0350-\u036f]"
_PLAIN = re.compile(
    rf"{_LETTERS}*+|(?!\s)(?:{_LETTERS}++{_LATIN_MARKS}{{0,{MAX_MARKS}}}+(?!{_LATIN_MARKS}))*+"
)
"""Most texts are Latin, Greek or Cyrillic letters and signs alone, perhaps with their marks apart, as in
decomposed Vietnamese: a tenth of the time and less."""
_INVISIBLE = re.compile(f"[{_CONTROLS}{_FILLERS}{_IGNORABLE}{_PRIVATE}]")
"""What no text needs."""
_SUSPECT = re.compile(f"[{_CONTEXTUAL}{_MARKS}]")
_PILED = re.compile(
    f"((?:[{_MARKS}][{_CONTEXTUAL}]*){{{MAX_MARKS - 1}}}[{_MARKS}])"
    f"[{_CONTEXTUAL}]*[{_MARKS}][{_MARKS}{_CONTEXTUAL}]*"
)
_KEPT = re.compile(
    f"[{_EMOJI}][{_EMOJI_SELECTORS}]?(?:\u200d[{_EMOJI}][{_EMOJI_SELECTORS}]?)*"
    "(?:(?<=\U0001f3f4)\U000e0067\U000e0062(?:\U000e0065\U000e006e\U000e0067|\U000e0073\U000e0063\U000e0074"
    "|\U000e0077\U000e006c\U000e0073)\U000e007f)?"  # the flags of England, Scotland and Wales
    "|[0-9#*]\ufe0f\u20e3"  # a key
    f"|[{_IDEOGRAPHS}][{_VARIANTS}]|[{_MONGOLIAN}][{_MONGOLIAN_SELECTORS}]"
    f"|(?:(?<=[{_JOINED}])(?<![{_MONGOLIAN_SELECTORS}])|(?<=[{_MONGOLIAN}][{_MONGOLIAN_SELECTORS}]))"
    f"[{_JOINERS}](?=[{_JOINED}])(?![{_MONGOLIAN_SELECTORS}])|(?<=[{_VIRAMAS}])[{_JOINERS}]"
    f"|(?P<not_kept>[{_CONTEXTUAL}])"
)
_LEADING = re.compile(rf"[\s{_MARKS}{_CONTEXTUAL}]+")
"""A mark at the beginning would change the character before the text."""


def cleaned(text: str) -> str:
    """The text without what is not seen; the same when it is cleaned again. Takes linear time."""
    if _PLAIN.fullmatch(text):
        return text
    text = _INVISIBLE.sub("", text)
    if not _SUSPECT.search(text):
        return text
    text = _KEPT.sub(lambda found: "" if found["not_kept"] else found[0], _PILED.sub(r"\1", text))
    return _LEADING.sub("", text, count=1) if _LEADING.match(text) else text

"""Texts of others on a terminal: control characters, which could move its cursor, hide lines or reorder them,
are shown as escapes."""

from __future__ import annotations

import json
from collections.abc import Callable


def visible(text: str) -> str:
    """On one line."""
    return _escaped(text, "", lambda c: c.encode("unicode_escape").decode())


def visible_lines(text: str) -> str:
    """Its line breaks stay, as in a traceback."""
    return _escaped(text, "\n", lambda c: c.encode("unicode_escape").decode())


def visible_json(text: str) -> str:
    """JSON with the same value; line breaks between the values stay."""
    return _escaped(text, "\n", lambda c: json.dumps(c)[1:-1])


def _escaped(text: str, kept: str, escape: Callable[[str], str]) -> str:
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in kept else escape(c) for c in text)

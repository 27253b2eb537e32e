"""Texts that every store can hold. PostgreSQL takes no NUL character, and no store takes half of a surrogate
pair: both are refused everywhere, so that one database can replace another."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from decimal import Decimal

import msgspec

from nx_signal.errors import StoreRejected
from nx_signal.model.activities import Json

UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
"""The characters that no store holds."""
_NUL_ESCAPE = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


def storable(text: str) -> bool:
    """False for a text that no store holds: no row can be found under it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text


def require_storable(name: str, text: str | None) -> None:
    """Raises StoreRejected."""
    if text is not None and not storable(text):
        raise StoreRejected(f"{name} holds a NUL character or half of a surrogate pair.")


_decoder = json.JSONDecoder(parse_float=Decimal)
"""Once: json.loads with an option makes one for each call."""

encode_json = msgspec.json.Encoder(decimal_format="number").encode
"""A Decimal is written with all its digits."""


def json_text(name: str, value: Mapping[str, Json]) -> str:
    """The value as JSON. Raises StoreRejected for what JSON or a store cannot hold."""
    try:
        if not _finite(value):
            raise ValueError("a number is not finite")
        text = encode_json(value).decode()
    except (ValueError, TypeError, RecursionError) as error:  # UnicodeEncodeError is a ValueError
        raise StoreRejected(f"{name} cannot be stored as JSON: {error}.") from None
    if "\\u0000" in text and _NUL_ESCAPE.search(text):
        raise StoreRejected(f"{name} holds a NUL character.")
    return text


def json_value(text: str) -> Json:
    """What `json_text` wrote; fractions are Decimals with all their digits."""
    return _decoder.decode(text)


def _finite(value: Json) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, Decimal):
        return value.is_finite()
    if isinstance(value, Mapping):
        return all(map(_finite, value.values()))
    return not isinstance(value, list | tuple) or all(map(_finite, value))


def escaped(text: str) -> str:
    """For display: what no text column can hold is written as an escape."""
    return text.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode()

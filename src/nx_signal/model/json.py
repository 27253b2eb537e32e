"""JSON from outside, decoded in one way: whatever it is, a value of the type or msgspec.DecodeError."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import msgspec

T = TypeVar("T")

MAX_NESTING = 200
"""Levels of objects and lists: far above real documents, and so far below the interpreter's limit that
what is done with the value later stays below it, too."""

_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)|[\[\]{}]', re.DOTALL)
"""A text to the end where it does not end: tried again at each quote, it would take quadratic time."""


class TooDeep(msgspec.DecodeError):
    """Nested deeper than MAX_NESTING."""


class JsonDecoder(Generic[T]):
    """Prepared for one type. `float_hook` gets the digits of a fraction."""

    def __init__(self, type: Any = Any, *, float_hook: Callable[[str], Any] | None = None) -> None:
        self._decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(type, float_hook=float_hook)

    def decode(self, data: bytes | str) -> T:
        """Raises msgspec.DecodeError, which is a msgspec.ValidationError for JSON of another type."""
        try:
            if len(data) > 2 * MAX_NESTING:  # each level has a beginning and an end
                _require_flat(data)
            value: T = self._decoder.decode(data)
        except UnicodeError:
            raise msgspec.DecodeError("not UTF-8") from None
        except RecursionError:
            raise TooDeep("nested too deeply") from None
        return value


def decode_json(data: bytes | str, type: Any = Any) -> Any:
    """For what comes seldom. Raises as JsonDecoder.decode does."""
    return JsonDecoder[Any](type).decode(data)


def _require_flat(data: bytes | str) -> None:
    """Raises TooDeep."""
    raw = data.encode() if isinstance(data, str) else bytes(data)
    if raw.count(b"[") + raw.count(b"{") > MAX_NESTING and _depth(raw) > MAX_NESTING:
        raise TooDeep(f"nested deeper than {MAX_NESTING} levels")


def _depth(raw: bytes) -> int:
    """Of text that need not be JSON."""
    deepest = depth = 0
    for token in _TOKEN.finditer(raw):
        match token[0]:
            case b"[" | b"{":
                depth += 1
                deepest = max(deepest, depth)
            case b"]" | b"}":
                depth -= 1
    return deepest

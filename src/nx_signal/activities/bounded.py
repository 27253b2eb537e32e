"""The bounds of numbers and of nesting in a message, and the sentence that names the field beyond them."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import TypeAlias

from nx_signal.activities.fields import rejected
from nx_signal.errors import MessageRejected
from nx_signal.model import Json

MAX_DEPTH = 64
"""Levels of objects and lists: far below where JSON parsers fail, far above real messages."""
MAX_EXPONENT = 308
"""Of a number, as of a double. Also bounds the work of writing one out."""
MAX_DECIMALS = 1_000
_TOO_LARGE: int = 10 ** (MAX_EXPONENT + 1)


def number(text: str) -> Decimal:
    """A fraction of JSON with all its digits, infinite where no decoder could hold it."""
    try:
        return Decimal(text)
    except InvalidOperation:  # an exponent of many digits
        return Decimal("Infinity")


_Path: TypeAlias = "tuple[_Path | None, str | int] | None"
"""A linked path: joined only for an error, so that other messages do not pay for it."""


def require_bounded(whole: dict[str, Json] | list[Json]) -> None:
    """Raise MessageRejected, naming the field, for a number beyond the bounds or too many levels."""
    todo: list[tuple[_Path, dict[str, Json] | list[Json], int]] = [(None, whole, 0)]
    while todo:
        path, container, depth = todo.pop()
        if depth > MAX_DEPTH:
            raise too_deep(_join(path))
        parts = container.items() if isinstance(container, dict) else enumerate(container)
        for step, part in parts:
            kind = type(part)
            if kind is int or kind is Decimal:
                if not _bounded(part):
                    raise rejected(
                        f"{_join((path, step))} must be a number below 1e{MAX_EXPONENT + 1} "
                        f"with at most {MAX_DECIMALS} decimals."
                    )
            elif kind is dict or kind is list:
                todo.append(((path, step), part, depth + 1))


def _bounded(number: int | Decimal) -> bool:
    if isinstance(number, int):
        return -_TOO_LARGE < number < _TOO_LARGE
    exponent = number.as_tuple().exponent  # a letter where it is not finite
    return isinstance(exponent, int) and exponent >= -MAX_DECIMALS and number.adjusted() <= MAX_EXPONENT


def _join(path: _Path) -> str:
    parts: list[str] = []
    while path is not None:
        path, step = path
        parts.append(f"[{step}]" if isinstance(step, int) else f".{step}")
    return "".join(reversed(parts)).lstrip(".") or "message"


def too_deep(field: str) -> MessageRejected:
    return rejected(f"{field}: nested deeper than {MAX_DEPTH} levels.")

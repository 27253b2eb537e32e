"""What every store can hold. PostgreSQL takes no NUL character in a text, and none takes half of a
surrogate pair: refused alike everywhere, so that a database can be changed for another."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping

from nx_signal.errors import StoreRejected
from nx_signal.model import FRUITLESS, Json, Trace

_NUL_ESCAPE = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


def storable(text: str) -> bool:
    """False for a text that no store holds: nothing can be found under it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text


def require_storable(name: str, text: str | None) -> None:
    if text is not None and not storable(text):
        raise StoreRejected(f"{name} holds a NUL character or half of a surrogate pair.")


def json_text(name: str, value: Mapping[str, Json]) -> str:
    """The value as JSON. Raises StoreRejected for what JSON or a store cannot hold."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        text.encode()
    except (ValueError, RecursionError) as error:  # UnicodeEncodeError is a ValueError
        raise StoreRejected(f"{name} cannot be stored as JSON: {error}.") from None
    if "\\u0000" in text and _NUL_ESCAPE.search(text):
        raise StoreRejected(f"{name} holds a NUL character.")
    return text


def legible(text: str) -> str:
    """For people: what no text column can hold is written as an escape."""
    return text.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode()


def settled(traces: Iterable[Trace]) -> list[Trace]:
    """One trace for each activity, by the rule of ports.Traces, and in one order everywhere, so that two
    writers of the same traces cannot wait for each other in a circle."""
    found: dict[str, Trace] = {}
    for trace in traces:
        before = found.get(trace.activity_id)
        if before is None or before.outcome in FRUITLESS:
            found[trace.activity_id] = trace
    return [found[id] for id in sorted(found)]

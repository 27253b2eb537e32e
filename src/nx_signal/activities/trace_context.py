"""What is kept with the trace of an activity: what its audience was, and W3C Trace Context
(https://www.w3.org/TR/trace-context/), which is left out where it is not valid, and never an error."""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from nx_signal.activities.fields import MAX_SOURCE_CHARS
from nx_signal.model import ActivityContext, Json, Reach
from nx_signal.model.json import JsonDecoder

MAX_STATE_CHARS = 512
"""Of a tracestate, as §3.3.1.5 of the recommendation wants it propagated."""
MAX_STATE_MEMBERS = 32
MAX_PARENT_CHARS = 128
"""Of a version after 00, which may have more fields."""

_PARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-.*)?", re.ASCII)
_MEMBER = re.compile(
    r"(?P<key>[a-z0-9][_0-9a-z*/-]{0,255}|[a-z0-9][_0-9a-z*/-]{0,240}@[a-z][_0-9a-z*/-]{0,13})"
    r"=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]"
)


def trace_context(parent: object, state: object) -> tuple[str | None, str | None]:
    """(traceparent, tracestate) as they are kept: None where there is no valid one. A tracestate counts only
    beside a valid traceparent."""
    if not isinstance(parent, str) or not _is_parent(parent):
        return None, None
    return parent, state if isinstance(state, str) and _is_state(state) else None


def _is_parent(text: str) -> bool:
    if len(text) > MAX_PARENT_CHARS or not text.isprintable() or not text.isascii():
        return False
    found = _PARENT.fullmatch(text)
    if found is None:
        return False
    version, trace_id, parent_id, more = found.groups()
    if version == "ff" or (version == "00" and more is not None):
        return False
    return bool(trace_id.strip("0") and parent_id.strip("0"))


def _is_state(text: str) -> bool:
    if not 0 < len(text) <= MAX_STATE_CHARS:
        return False
    members = [member for each in text.split(",") if (member := each.strip(" \t"))]
    found = [_MEMBER.fullmatch(member) for member in members]
    keys = {each["key"] for each in found if each is not None}
    return 0 < len(members) <= MAX_STATE_MEMBERS and len(keys) == len(members)


class _Kept(msgspec.Struct):
    """What is no trace context is ignored, whatever it is."""

    traceparent: Json = None
    tracestate: Json = None
    dataschema: Json = None


_kept = JsonDecoder[_Kept](_Kept)
_NAMED = (b'"traceparent"', b'"dataschema"')
_NOTHING = ActivityContext()


def context_of(
    message: bytes, headers: Mapping[str, bytes], audience: tuple[Reach, ...], excluded_actor: str | None
) -> ActivityContext | None:
    """What is kept with the trace of a message; None where that is nothing. A trace context of its own, which
    is where it began, counts before that of the headers. Raises msgspec.DecodeError for what is no object."""
    named = any(name in message for name in _NAMED)
    if not (named or audience or excluded_actor or "traceparent" in headers):
        return None
    kept = _kept.decode(message) if named else _Kept()
    parent, state = trace_context(kept.traceparent, kept.tracestate)
    if parent is None and "traceparent" in headers:
        of_headers = (headers.get(name, b"") for name in ("traceparent", "tracestate"))
        parent, state = trace_context(*(value.decode(errors="replace") for value in of_headers))
    schema = kept.dataschema[:MAX_SOURCE_CHARS] if isinstance(kept.dataschema, str) else None
    context = ActivityContext(parent, state, schema or None, audience, excluded_actor)
    return None if context == _NOTHING else context

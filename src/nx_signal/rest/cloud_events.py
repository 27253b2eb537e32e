"""CloudEvents over HTTP (HTTP protocol binding 1.0.2): a body in any mode as messages of the JSON format,
with the trace context of the request."""

from __future__ import annotations

import re
from typing import Annotated, Literal
from urllib.parse import unquote_to_bytes

import msgspec
from msgspec import Meta
from quart import Request
from werkzeug.datastructures import Headers

from nx_signal.activities.cloud_events import NAMES, STRUCTURED, composed, extended, fields_of
from nx_signal.activities.fields import Id, Source
from nx_signal.activities.repair import repaired
from nx_signal.activities.trace_context import trace_context
from nx_signal.errors import MessageRejected
from nx_signal.model import Action, Json, OneScope, Priority
from nx_signal.rest.route import Media
from nx_signal.rest.shapes import json_bytes

PREFIX = "ce-"
STRUCTURED_JSON = STRUCTURED.decode()
BATCH_JSON = "application/cloudevents-batch+json"

IDENTITY = {"id": "eventId", "source": "eventSource"}
"""Of the kept message, where it has none."""

_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
_ESCAPED = re.compile(r"\\(.)")


class CloudEvent(msgspec.Struct):
    """CloudEvents 1.0, JSON format. `data` is an activity, or, with extension attributes that name its
    recipients, the activity's `data`. Other extension attributes are ignored."""

    specversion: Literal["1.0"]
    id: Id
    source: Source
    type: Id
    time: str | None = None
    subject: str | None = None
    datacontenttype: str | None = None
    dataschema: str | None = None
    data: Json = None
    data_base64: str | None = None
    recipientscope: OneScope | None = None
    organizerid: Id | None = None
    merchantid: Id | None = None
    actorid: Id | None = None
    recipientids: Annotated[str | None, Meta(description="separated by commas")] = None
    excludeactor: bool | None = None
    collapsekey: Id | None = None
    expiresat: str | None = None
    priority: Priority | None = None
    action: Annotated[Action | None, Meta(description="with this it is a correction")] = None
    eventid: Annotated[Id | None, Meta(description="of the activity that an `action` is about")] = None
    eventsource: Annotated[Source | None, Meta(description="of that activity")] = None
    traceparent: str | None = None
    tracestate: str | None = None


EVENT = {
    "specversion": "1.0",
    "id": "42",
    "source": "/payments",
    "type": "PAYMENT_SUCCESS",
    "time": "2026-01-01T10:00:00Z",
    "recipientscope": "merchant",
    "organizerid": "o1",
    "merchantid": "m1",
    "actorid": "customer",
    "data": {"payment": {"subject": "Order 42", "amount": 1250000, "currency": "VND"}},
}
"""The example of the documentation."""


MEDIA = {STRUCTURED_JSON: Media(CloudEvent, EVENT), BATCH_JSON: Media(list[CloudEvent], [EVENT])}


class Body(msgspec.Struct, frozen=True):
    """`events`: each message in it is a CloudEvent."""

    messages: bytes
    events: bool


async def message_body(request: Request) -> Body:
    """Raises MessageRejected for headers or a body that make no event, and a Problem (415) where it is not
    JSON."""
    body = await json_bytes(request)
    kind = request.mimetype
    is_list = body.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"[")
    if kind == BATCH_JSON:
        if not is_list:
            raise MessageRejected(f"message: a batch is a list; send one CloudEvent as {STRUCTURED_JSON}.")
        return Body(body, events=True)
    if kind == STRUCTURED_JSON:
        if is_list:
            raise MessageRejected(f"message: this is a list; send a batch of CloudEvents as {BATCH_JSON}.")
        return Body(body, events=True)
    attributes = _attributes(request.headers)
    if attributes and "eventType" in (fields_of(repaired(body)[0]) or {}):
        identity = {ours: attributes[name] for name, ours in IDENTITY.items() if name in attributes}
        return Body(extended(body, identity), events=False)
    if not {"specversion", "type"} & attributes.keys():
        return Body(body, events=False)
    try:
        return Body(composed(attributes | {"datacontenttype": kind or "application/json"}, body), events=True)
    except msgspec.DecodeError as error:
        raise MessageRejected(f"message: not JSON ({error}).") from None


def traced(message: bytes, headers: Headers) -> bytes:
    """The message with the trace context of the request, where that is valid and the message has none."""
    parents = headers.getlist("traceparent")
    if len(parents) != 1 or "traceparent" in (fields_of(repaired(message)[0]) or {}):
        return message
    parent, state = trace_context(parents[0], ",".join(headers.getlist("tracestate")))
    if parent is None:
        return message
    return extended(message, {"traceparent": parent} | ({} if state is None else {"tracestate": state}))


def _attributes(headers: Headers) -> dict[str, str]:
    found = {}
    for name in NAMES:
        values = headers.getlist(PREFIX + name)
        if len(values) > 1:
            raise MessageRejected(f"The header {PREFIX}{name} is there {len(values)} times; send it once.")
        if values:
            found[name] = _decoded(PREFIX + name, values[0])
    if "datacontenttype" in found:
        raise MessageRejected("ce-datacontenttype: leave it out; the Content-Type is that of the data.")
    return found


def _decoded(name: str, value: str) -> str:
    """§3.1.3.2: a quoted string is unescaped, then percent-decoded once."""
    value = value.strip(" \t")
    if quoted := _QUOTED.fullmatch(value):
        value = _ESCAPED.sub(r"\1", quoted[1])
    try:
        return unquote_to_bytes(value.encode("latin-1")).decode()
    except UnicodeError:
        raise MessageRejected(f"The header {name} is not UTF-8, percent-encoded.") from None

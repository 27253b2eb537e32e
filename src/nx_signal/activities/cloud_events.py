"""CloudEvents 1.0.2 (https://github.com/cloudevents/spec) as messages: the JSON format, and the Kafka binding
in binary and structured mode. The one place where attributes become the fields of a message; batches.py and
rest/cloud_events.py bring the other modes into these forms.

With an `eventType` a value is the kept message, whatever is around it."""

from __future__ import annotations

import re
from base64 import b64decode
from binascii import Error
from collections.abc import Mapping

import msgspec

from nx_signal.activities.fields import MAX_MESSAGE_BYTES, MAX_MESSAGES, MAX_SOURCE_CHARS, rejected
from nx_signal.activities.repair import repaired
from nx_signal.model.json import JsonDecoder

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
CONTENT_TYPE = "content-type"
"""A header of Kafka, in this spelling alone."""
STRUCTURED = b"application/cloudevents+json"
HEADER = "ce_"
"""Before an attribute's name."""
NO_TYPES: Mapping[str, str] = {}

CONTEXT = {"time": "occurredAt", "subject": "subject"}
EXTENSIONS: Mapping[str, str] = {
    "recipientscope": "recipientScope",
    "actorid": "actorId",
    "organizerid": "organizerId",
    "merchantid": "merchantId",
    "recipientids": "recipientIds",
    "excludeactor": "excludeActor",
    "collapsekey": "collapseKey",
    "expiresat": "expiresAt",
    "priority": "priority",
    "action": "action",
}
"""Extension attribute → field of a message."""
ADDRESSING = frozenset({"recipientscope", "organizerid", "actorid", "merchantid", "recipientids", "action"})
"""With one of these `data` is the payload, unless it names its recipients itself."""
CORRECTED = {"eventid": "eventId", "eventsource": "eventSource"}
"""Which activity an `action` is about, where that is not in the data; else the event's own id and source."""
KEPT = ("traceparent", "tracestate", "dataschema")
"""Attributes that are kept with the activity as they are."""
NAMES = (
    *("specversion", "id", "source", "type", "subject", "time", "datacontenttype"),
    *EXTENSIONS,
    *CORRECTED,
    *KEPT,
)
"""The attributes that are read; any other is ignored."""

_JSON = re.compile(r"[^/\s]+/(?:json|[^/\s]*\+json)", re.IGNORECASE)
_FORMAT = re.compile(rb"application/cloudevents(-batch)?(\+[a-z0-9.-]+)?", re.IGNORECASE)
_ESCAPED_LETTERS = (b"\\u006", b"\\u007")
"""Begin a small letter of ASCII, as in the name of a field that is spelled with escapes."""
_CREATE = msgspec.Raw(b'"create"')
_object = JsonDecoder[dict[str, msgspec.Raw]](dict[str, msgspec.Raw])
_raw = JsonDecoder[msgspec.Raw](msgspec.Raw)
_string = JsonDecoder[str](str)

Attributes = dict[str, msgspec.Raw]


def opened(value: bytes, headers: Mapping[str, bytes], types: Mapping[str, str]) -> bytes:
    """The message of a value: without a byte-order mark, and out of a CloudEvent. `types`: the type of an
    event → eventType. Raises MessageRejected for a CloudEvent that is not valid, or cannot be a message."""
    value = value.removeprefix(BYTE_ORDER_MARK)
    event = _event_of(value, headers)
    return value if event is None else msgspec.json.encode(_message_of(event, types))


def is_batch(headers: Mapping[str, bytes]) -> bool:
    found = _format_of(headers)
    return found is not None and found[1] is not None


def is_event(headers: Mapping[str, bytes]) -> bool:
    """Whether these are the headers of an event in binary mode."""
    return "ce_specversion" in headers or "ce_type" in headers


def composed(attributes: Mapping[str, str], data: bytes) -> bytes:
    """An event in the JSON format, of the attributes of one in binary mode. Empty data is none. Raises
    msgspec.DecodeError where the data is not one JSON value."""
    text = msgspec.json.encode(attributes)
    if not data.strip(b" \t\r\n"):
        return text
    data = data.removeprefix(BYTE_ORDER_MARK)
    _raw.decode(repaired(data)[0])
    return b'%b%b"data":%b}' % (text[:-1], b"," if attributes else b"", data)


def extended(message: bytes, fields: Mapping[str, str]) -> bytes:
    """The message, a JSON object, with further fields before its own: of two equal keys its own, the last,
    counts. As it is where there is no room for them."""
    if not fields:
        return message
    head, _, rest = message.partition(b"{")
    found = b"%b{%b,%b" % (head, msgspec.json.encode(fields)[1:-1], rest)
    return found if len(found) <= MAX_MESSAGE_BYTES else message


def fields_of(value: bytes | msgspec.Raw) -> Attributes | None:
    """The members of a JSON object, undecoded; None where it is none."""
    try:
        return _object.decode(value)
    except msgspec.DecodeError:
        return None


def is_json(media_type: str) -> bool:
    """`*/json` or `*/*+json`, whatever its parameters."""
    return _JSON.fullmatch(media_type.partition(";")[0].strip()) is not None


def _event_of(value: bytes, headers: Mapping[str, bytes]) -> Attributes | None:
    """The members of an event in the JSON format; None where the value is no event."""
    kind = _format_of(headers)
    if kind is not None:
        if kind[2] is not None and kind[2].lower() != b"+json":
            raise rejected(f"content-type: {kind[0].decode()}; send {STRUCTURED.decode()}.")
        if kind[1] is not None:
            raise rejected(f"message: a batch of CloudEvents is a list of at most {MAX_MESSAGES} events.")
        return _unless_kept(fields_of(value))
    if is_event(headers):
        return _composed_of(value, headers)
    if b'"specversion"' in value or any(letter in value for letter in _ESCAPED_LETTERS):
        event = _unless_kept(fields_of(value))
        if event is not None and "specversion" in event:
            return event
    return None


def _composed_of(value: bytes, headers: Mapping[str, bytes]) -> Attributes | None:
    """Of one in binary mode; None where the value is the kept message, or no JSON, which its reader names."""
    if _unless_kept(fields_of(value) or {}) is None:
        return None
    attributes = _attributes(headers)
    try:
        return fields_of(composed(attributes, value))
    except msgspec.DecodeError:
        _require_json(attributes.get("datacontenttype"))
        return None


def _format_of(headers: Mapping[str, bytes]) -> re.Match[bytes] | None:
    """Of the media types of CloudEvents, where the headers name one."""
    found = headers.get(CONTENT_TYPE)
    return None if found is None else _FORMAT.match(found[:256].lstrip())


def _unless_kept(fields: Attributes | None) -> Attributes | None:
    return None if fields is None or "eventType" in fields else fields


def _attributes(headers: Mapping[str, bytes]) -> dict[str, str]:
    found = {name: _header_text(name, headers[HEADER + name]) for name in NAMES if headers.get(HEADER + name)}
    if CONTENT_TYPE in headers:
        found["datacontenttype"] = headers[CONTENT_TYPE].decode(errors="replace")
    return found


def _header_text(name: str, value: bytes) -> str:
    """What no store holds is spelled in an identity, so that ids which differ stay different."""
    if name in ("id", "source", *CORRECTED):
        return value.decode(errors="backslashreplace").replace("\0", "\\u0000")
    return value.decode(errors="replace").replace("\0", "\N{REPLACEMENT CHARACTER}")


def _message_of(event: Attributes, types: Mapping[str, str]) -> dict[str, object]:
    given = {name: raw for name, raw in event.items() if bytes(raw) != b"null"}
    version = _text(given, "specversion")
    if version != "1.0":
        raise rejected(f"specversion: this is CloudEvents {version or 'without a version'}; send 1.0.")
    id, source, type = (_required(given, name) for name in ("id", "source", "type"))
    data = _data(given)
    outer: dict[str, object] = {"eventType": types.get(type, type)}
    outer |= {ours: given[name] for name, ours in CONTEXT.items() if name in given}
    outer |= {ours: _extension(given, name) for name, ours in EXTENSIONS.items() if name in given}
    message = outer | _inner(given, data)
    identity: dict[str, object] = {"eventId": id, "eventSource": source}
    if message.get("action", _CREATE) != _CREATE:
        identity |= {ours: given[name] for name, ours in CORRECTED.items() if name in given}
        identity |= {name: message[name] for name in identity if message.get(name) is not None}
    elif message.get("occurredAt") is None:
        raise rejected("time is missing: a CloudEvent needs it here, unless its data has an occurredAt.")
    if len(_text(given, "dataschema") or "") > MAX_SOURCE_CHARS:
        raise rejected(f"dataschema must be at most {MAX_SOURCE_CHARS} characters.")
    return message | identity | {name: given[name] for name in KEPT if name in given}


def _inner(given: Attributes, data: msgspec.Raw | None) -> dict[str, object]:
    """What the data has of the message: all of it, or its `data`."""
    fields = None if data is None else fields_of(data)
    addressed = fields is not None and ("recipientScope" in fields or "audience" in fields)
    if not addressed and ADDRESSING & given.keys():
        return {} if data is None else {"data": data}
    if fields is None:
        raise rejected(
            "message: a CloudEvent whose `data` is not an object with the fields of an activity; send these "
            "there, or as extension attributes such as recipientscope and organizerid."
        )
    return {name: raw for name, raw in fields.items() if bytes(raw) != b"null"}


def _data(given: Attributes) -> msgspec.Raw | None:
    _require_json(_text(given, "datacontenttype"))
    if "data_base64" not in given:
        return given.get("data")
    if "data" in given:
        raise rejected("message: a CloudEvent has either `data` or `data_base64`, this has both.")
    try:
        value = b64decode(_text(given, "data_base64") or "", validate=True)
        return _raw.decode(repaired(value.removeprefix(BYTE_ORDER_MARK))[0])
    except Error:
        raise rejected("data_base64 is not base64 (RFC 4648 §4).") from None
    except (msgspec.DecodeError, ValueError):
        raise rejected("data_base64 does not hold JSON in UTF-8.") from None


def _require_json(media_type: str | None) -> None:
    if media_type is not None and not is_json(media_type):
        raise rejected(f"datacontenttype: {media_type}; send JSON, as application/json.")


def _extension(given: Attributes, name: str) -> object:
    if name == "recipientids":
        return [id for each in (_text(given, name) or "").split(",") if (id := each.strip())]
    if name == "excludeactor":
        if bytes(given[name]).strip(b'"') not in (b"true", b"false"):
            raise rejected("excludeactor must be true or false.")
        return bytes(given[name]).strip(b'"') == b"true"
    return given[name]


def _required(given: Attributes, name: str) -> str:
    text = _text(given, name)
    if not text:
        raise rejected(f"{name} is missing: a CloudEvent has it.")
    return text


def _text(given: Attributes, name: str) -> str | None:
    if name not in given:
        return None
    try:
        return _string.decode(given[name])
    except msgspec.DecodeError:
        raise rejected(f"{name} must be a text.") from None

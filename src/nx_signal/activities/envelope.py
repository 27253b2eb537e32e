"""What a value is around, or instead of, a message: a byte-order mark and a CloudEvent in structured mode are
opened; what is no activity is named, so that the reason of the dead letter helps."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from nx_signal.errors import MessageRejected
from nx_signal.model.json import JsonDecoder

BYTE_ORDER_MARK = b"\xef\xbb\xbf"

_OTHER_ENCODINGS = {
    b"\xff\xfe\x00\x00": "UTF-32",
    b"\x00\x00\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x04\x22\x4d\x18": "lz4",
    b"\x82SNAPPY\x00": "snappy",
}
_FROM_CLOUD_EVENT = {"type": "eventType", "time": "occurredAt", "subject": "subject"}
"""Where the data has none of its own."""
_IDENTITY = {"id": "eventId", "source": "eventSource"}
"""Of the event, whatever its data has."""
_CREATE = b'"create"'

_object = JsonDecoder[dict[str, msgspec.Raw]](dict[str, msgspec.Raw])


def opened(value: bytes) -> bytes:
    """The message: without a byte-order mark, and out of a CloudEvent in structured mode, whose `data` is the
    message (https://github.com/cloudevents/spec, JSON Event Format 1.0.2). Raises MessageRejected for a
    CloudEvent without such data."""
    value = value.removeprefix(BYTE_ORDER_MARK)
    if b'"specversion"' not in value:
        return value
    event = _fields_of(value)
    if event is None or "specversion" not in event or "eventType" in event:
        return value
    data = _fields_of(event.get("data", msgspec.Raw(b"null")))
    if data is None:
        raise MessageRejected(
            "message: a CloudEvent whose `data` is not an object with the fields of an activity."
        )
    outer = {ours: event[theirs] for theirs, ours in _FROM_CLOUD_EVENT.items() if theirs in event}
    identity = {ours: event[theirs] for theirs, ours in _IDENTITY.items() if theirs in event}
    if bytes(data.get("action", _CREATE)) != _CREATE:  # it names the event that it corrects
        return msgspec.json.encode(outer | identity | data)
    return msgspec.json.encode(outer | data | identity)


def foreign(value: bytes) -> str | None:
    """What a value is that cannot be read as a message, as a sentence; None where it is nothing known."""
    if not value:
        return "message: empty."
    for mark, name in _OTHER_ENCODINGS.items():
        if value.startswith(mark):
            return f"message: {name}, by its byte-order mark; send UTF-8."
    if value[:2] in (b"{\0", b"\0{"):
        return "message: UTF-16; send UTF-8."
    for mark, name in _COMPRESSED.items():
        if value.startswith(mark):
            return f"message: compressed with {name} by itself; set the producer's compression.type instead."
    if value[0] == 0 and len(value) > 5:
        schema = int.from_bytes(value[1:5], "big")
        return (
            f"message: it has the header of a schema registry (magic byte 0, schema {schema}), so it is "
            "Avro, Protobuf or JSON Schema; produce plain JSON without a registry's serializer."
        )
    if value.startswith(b"Obj\x01"):
        return "message: an Avro file; send JSON."
    text = value.removeprefix(BYTE_ORDER_MARK).lstrip(b" \t\r\n")
    if text.startswith(b"["):
        return "message: a list where one message is expected; send a record for each."
    if text.startswith(b'"'):
        return "message: a JSON string; where it holds JSON, that was encoded twice."
    if text.startswith(b"{"):
        return _foreign_object(_fields_of(text))
    return "message: no text but a binary format, such as Protobuf; send JSON." if _binary(text) else None


def _foreign_object(fields: Mapping[str, msgspec.Raw] | None) -> str | None:
    if fields is None or "eventType" in fields:
        return None
    inner = _fields_of(fields["payload"]) if "payload" in fields else None
    if _is_change(fields) or (inner is not None and _is_change(inner)):
        return (
            "message: a change event of Debezium (before, after, op), not an activity; publish activities "
            "from an outbox table with its Outbox Event Router."
        )
    if "payload" in fields and "schema" in fields:
        return (
            "message: a value of Kafka Connect with its schema; set value.converter.schemas.enable=false, "
            "so that the payload alone is sent."
        )
    return None


def _is_change(fields: Mapping[str, msgspec.Raw]) -> bool:
    return "op" in fields and ("after" in fields or "before" in fields)


def _fields_of(value: bytes | msgspec.Raw) -> dict[str, msgspec.Raw] | None:
    try:
        return _object.decode(value)
    except msgspec.DecodeError:
        return None


def _binary(text: bytes) -> bool:
    return any(byte < 32 and byte not in b"\t\n\r" for byte in text[:64])

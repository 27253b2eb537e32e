"""What a value is that is no message: it is named, so that the reason of the dead letter helps."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from nx_signal.activities.cloud_events import BYTE_ORDER_MARK, fields_of

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
        return (
            "message: a list where one message is expected; send a record for each, or CloudEvents with "
            "content-type application/cloudevents-batch+json."
        )
    if text.startswith(b'"'):
        return "message: a JSON string; where it holds JSON, that was encoded twice."
    if text.startswith(b"{"):
        return _foreign_object(fields_of(text))
    return "message: no text but a binary format, such as Protobuf; send JSON." if _binary(text) else None


def _foreign_object(fields: Mapping[str, msgspec.Raw] | None) -> str | None:
    if fields is None or "eventType" in fields:
        return None
    inner = fields_of(fields["payload"]) if "payload" in fields else None
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


def _binary(text: bytes) -> bool:
    return any(byte < 32 and byte not in b"\t\n\r" for byte in text[:64])

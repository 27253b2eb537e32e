"""A message of Kafka as a record of the model."""

from __future__ import annotations

from typing import Any

from nx_signal.model import Position, Record

MAX_RECORD_BYTES = 2_097_152
"""A longer record, which a compressed batch can hold, is no activity (activities/message.py): what its dead
letter keeps of it is its beginning."""
MAX_KEY_BYTES = 1_024
"""Of such a record."""


def record_of(message: Any) -> Record:
    """`message` is aiokafka's. Of two headers of a name the first counts."""
    headers: dict[str, bytes] = {}
    for name, value in message.headers:
        headers.setdefault(name, value or b"")
    key, value = message.key, message.value
    size = len(key or b"") + len(value or b"") + sum(len(each) for each in headers.values())
    if size > MAX_RECORD_BYTES:
        headers = {}
        key = key and key[:MAX_KEY_BYTES]
        value = value and value[:MAX_RECORD_BYTES]
    return Record(
        Position(message.topic, message.partition, message.offset),
        None if key is None else key.decode(errors="replace"),
        value or b"",
        headers,
        is_tombstone=value is None,
    )

"""Batches of CloudEvents as the events in them: one record of Kafka with a list becomes a record for each
member, whose position has the member's index. An event that cannot be handled is a dead letter by itself.

A list that cannot be taken apart stays one record, and becomes a dead letter whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import msgspec

from nx_signal.activities.cloud_events import BYTE_ORDER_MARK, CONTENT_TYPE, STRUCTURED, is_batch
from nx_signal.activities.fields import MAX_MESSAGE_BYTES, MAX_MESSAGES
from nx_signal.activities.repair import slices
from nx_signal.model import Record
from nx_signal.ports import Batch

PART_RECORDS = 1_000
"""Of what a source hands over at once, when it is taken apart: so many are held, and wait, together."""
MAX_KEY_CHARS, MAX_HEADER_BYTES = 256, 1_024
"""Kept with each member: a record's key and headers may be as large as its value."""
_KEPT_HEADERS = ("traceparent", "tracestate")


def unbatched(batch: Batch) -> Iterator[Batch]:
    """The same records in parts, in order, each of at most PART_RECORDS and one record's members. The ack of
    the last part stands for all."""
    if not any(is_batch(record.headers) for record in batch.records):
        yield batch
        return
    part: list[Record] = []
    for record in batch.records:
        if len(part) >= PART_RECORDS:
            yield Batch(tuple(part), _nothing, batch.origin)
            part = []
        part += _members(record) if is_batch(record.headers) else (record,)
    yield Batch(tuple(part), batch.ack, batch.origin)


def _members(record: Record) -> list[Record]:
    """At least one record."""
    try:
        if record.is_tombstone or len(record.value) > MAX_MESSAGE_BYTES:
            return [record]
        values = slices(record.value.removeprefix(BYTE_ORDER_MARK))
    except (msgspec.DecodeError, ValueError):
        return [record]
    if len(values) > MAX_MESSAGES:
        return [record]
    if not values:  # nothing to do, as with a record that has no value
        return [replace(record, value=b"", is_tombstone=True)]
    headers = _headers(record.headers)
    key = record.key and record.key[:MAX_KEY_CHARS]
    return [
        Record(replace(record.position, member=index), key, value, headers)
        for index, value in enumerate(values)
    ]


def _headers(headers: Mapping[str, bytes]) -> Mapping[str, bytes]:
    kept = {name: headers[name] for name in _KEPT_HEADERS if name in headers}
    return {CONTENT_TYPE: STRUCTURED} | {
        name: value for name, value in kept.items() if len(value) <= MAX_HEADER_BYTES
    }


def _nothing() -> None:
    pass

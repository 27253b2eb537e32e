"""What a value is around, or instead of, a message."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest

from nx_signal.activities.message import best_effort_ids, decode, split
from nx_signal.errors import MessageRejected
from nx_signal.model import Activity, Position, Record

MESSAGE: dict[str, Any] = {
    "eventType": "PAYMENT_SUCCESS",
    "recipientScope": "org",
    "actorId": "u1",
    "organizerId": "o1",
    "occurredAt": "2026-11-21T10:25:00Z",
    "data": {"payment": {"amount": 5}},
}
EVENT: dict[str, Any] = {
    "specversion": "1.0",
    "id": "42",
    "source": "/orders",
    "type": "com.shop.payment",
    "time": "2026-11-22T00:00:00Z",
    "datacontenttype": "application/json",
    "data": MESSAGE,
}
BOM = b"\xef\xbb\xbf"


def decoded(value: bytes) -> Activity:
    found = decode(Record(Position("t", 0, 1), None, value), {"PAYMENT_SUCCESS"})
    assert isinstance(found, Activity)
    return found


def reason(value: bytes) -> str:
    with pytest.raises(MessageRejected) as raised:
        decoded(value)
    return str(raised.value)


def encoded(fields: Any) -> bytes:
    return json.dumps(fields).encode()


def test_a_byte_order_mark_is_accepted() -> None:
    assert decoded(BOM + encoded(MESSAGE)) == decoded(encoded(MESSAGE))
    assert [message for _, message in split(BOM + encoded([MESSAGE]))] == [encoded(MESSAGE)]
    assert best_effort_ids(Record(Position("t", 0, 1), None, BOM + encoded(MESSAGE | {"eventId": "7"}))) == (
        "7",
        "PAYMENT_SUCCESS",
    )


def test_a_cloud_event_in_structured_mode_is_its_data_under_its_identity() -> None:
    found = decoded(encoded(EVENT))
    assert (found.id, found.given_id, found.source) == ('["42","/orders"]', "42", "/orders")
    assert found.type == "PAYMENT_SUCCESS" and found.occurred_at.day == 21
    assert split(encoded(EVENT)) == [("42", encoded(EVENT))]
    assert best_effort_ids(Record(Position("t", 0, 1), None, encoded(EVENT)))[0] == found.id


def test_what_the_data_of_a_cloud_event_lacks_is_taken_from_the_event() -> None:
    data = {name: MESSAGE[name] for name in ("recipientScope", "actorId", "organizerId", "data")}
    found = decoded(encoded(EVENT | {"data": data, "type": "PAYMENT_SUCCESS", "subject": "order/1"}))
    assert (found.type, found.occurred_at.day, found.subject) == ("PAYMENT_SUCCESS", 22, "order/1")


def test_a_message_that_mentions_cloud_events_is_a_message() -> None:
    assert decoded(encoded(MESSAGE | {"specversion": "1.0", "id": "x"})).id == "t/0/1"
    assert decoded(encoded(MESSAGE | {"data": {"payment": {"amount": 1}, "specversion": 1}})).id == "t/0/1"


REASONS = {
    "an empty value": (b"", "empty"),
    "UTF-16": (json.dumps(MESSAGE).encode("utf-16"), "UTF-16"),
    "UTF-16 without a mark": (json.dumps(MESSAGE).encode("utf-16-le"), "UTF-16"),
    "UTF-16 BE without a mark": (json.dumps(MESSAGE).encode("utf-16-be"), "UTF-16"),
    "UTF-16 BE": (b"\xfe\xff" + json.dumps(MESSAGE).encode("utf-16-be"), "UTF-16"),
    "UTF-32": (json.dumps(MESSAGE).encode("utf-32"), "UTF-32"),
    "gzip": (gzip.compress(encoded(MESSAGE)), "compressed with gzip"),
    "a schema registry": (b"\0\0\0\x04\xd2\x02\x0aabc", "schema registry .*schema 1234"),
    "a schema registry's JSON": (b"\0\0\0\0\x07" + encoded(MESSAGE), "schema registry .*schema 7"),
    "an Avro file": (b"Obj\x01\x04\x14avro.codec", "Avro"),
    "Protobuf": (b"\x0a\x07PAYMENT\x12\x02o1", "Protobuf"),
    "a list": (encoded([MESSAGE]), "a list"),
    "JSON in JSON": (encoded(json.dumps(MESSAGE)), "encoded twice"),
    "plain text": (b"payment of 5 received", "not JSON"),
    "Debezium": (encoded({"before": None, "after": {"id": 1}, "op": "c", "ts_ms": 1}), "Debezium"),
    "Debezium with its schema": (
        encoded({"schema": {"type": "struct"}, "payload": {"before": {"id": 1}, "after": None, "op": "d"}}),
        "Debezium",
    ),
    "a string of Kafka Connect": (
        encoded({"schema": {"type": "string"}, "payload": json.dumps(MESSAGE)}),
        "schemas.enable=false",
    ),
    "Kafka Connect": (encoded({"schema": {"type": "struct"}, "payload": MESSAGE}), "schemas.enable=false"),
    "a CloudEvent without data": (encoded({k: v for k, v in EVENT.items() if k != "data"}), "CloudEvent"),
    "a CloudEvent of base64": (encoded(EVENT | {"data": None, "data_base64": "AAAA"}), "does not hold JSON"),
    "any other object": (encoded({"hello": 1}), "eventType is missing"),
}


@pytest.mark.parametrize(("value", "expected"), REASONS.values(), ids=REASONS.keys())
def test_what_is_no_activity_is_named_in_the_reason(value: bytes, expected: str) -> None:
    import re

    assert re.search(expected, reason(value)), reason(value)
    assert best_effort_ids(Record(Position("t", 0, 1), None, value))[0] in ("t/0/1", '["42","/orders"]')

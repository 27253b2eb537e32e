"""CloudEvents 1.0 as messages: what each attribute becomes, and what is refused with which sentence
(CONTRACT §3, CloudEvents)."""

from __future__ import annotations

import json
from base64 import b64encode
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nx_signal.activities.message import UnknownType, best_effort_ids, decode
from nx_signal.errors import MessageRejected
from nx_signal.model import Activity, Correction, Position, Record

KNOWN = frozenset({"PAYMENT_SUCCESS"})
TYPES = {"com.acme.payment.cleared": "PAYMENT_SUCCESS"}
PAYLOAD = {"payment": {"amount": 5}}
EVENT: dict[str, Any] = {
    "specversion": "1.0",
    "id": "42",
    "source": "/orders",
    "type": "PAYMENT_SUCCESS",
    "time": "2026-11-22T00:00:00Z",
    "recipientscope": "org",
    "organizerid": "o1",
    "actorid": "u1",
    "data": PAYLOAD,
}
MESSAGE = {"recipientScope": "org", "organizerId": "o1", "actorId": "u1", "data": PAYLOAD}
STRUCTURED = {"content-type": b"application/cloudevents+json; charset=UTF-8"}


def record(value: Any, headers: dict[str, bytes] | None = None) -> Record:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return Record(Position("t", 0, 1), None, raw, headers or {})


def binary(event: dict[str, Any], content_type: str | None = "application/json") -> Record:
    """The same event in binary mode."""
    headers = {f"ce_{name}": str(value).encode() for name, value in event.items() if name != "data"}
    if content_type is not None:
        headers["content-type"] = content_type.encode()
    return record(event.get("data", b""), headers)


def activity_of(found: Record) -> Activity:
    activity = decode(found, KNOWN, types=TYPES)
    assert isinstance(activity, Activity)
    return activity


def decoded(value: Any, headers: dict[str, bytes] | None = None) -> Activity:
    return activity_of(record(value, headers))


def reason(found: Record) -> str:
    with pytest.raises(MessageRejected) as raised:
        decode(found, KNOWN, types=TYPES)
    return str(raised.value)


# --- the modes ---


def test_an_event_is_the_same_activity_in_binary_and_in_structured_mode() -> None:
    structured = decoded(EVENT)
    assert structured == activity_of(binary(EVENT)) == decoded(EVENT, STRUCTURED)
    assert (structured.id, structured.scope, structured.organizer_id) == ('["42","/orders"]', "org", "o1")
    assert (structured.data, structured.occurred_at.day) == (PAYLOAD, 22)


def test_an_event_whose_data_is_a_message_is_that_message_in_both_modes() -> None:
    event = {name: EVENT[name] for name in ("specversion", "id", "source", "type", "time")}
    assert (
        decoded(EVENT) == decoded(event | {"data": MESSAGE}) == activity_of(binary(event | {"data": MESSAGE}))
    )


def test_in_binary_mode_the_content_type_may_be_absent_and_is_then_json() -> None:
    assert activity_of(binary(EVENT, None)) == decoded(EVENT)


def test_the_content_type_of_structured_mode_is_compared_without_case() -> None:
    assert decoded(EVENT, {"content-type": b"Application/CloudEvents+JSON"}) == decoded(EVENT)


def test_the_names_of_attributes_may_be_spelled_with_escapes() -> None:
    value = json.dumps(EVENT).replace("specversion", "specversi\\u006fn").encode()
    assert decoded(value) == decoded(value, STRUCTURED) == decoded(EVENT)


def test_in_binary_mode_the_headers_count_whatever_the_data_has() -> None:
    data = PAYLOAD | {"specversion": "0.3", "id": "of the data"}
    found = activity_of(binary(EVENT | {"data": data}))
    assert (found.given_id, found.data) == ("42", data)


def test_the_kept_message_is_told_apart_by_its_event_type_whatever_the_headers_are() -> None:
    kept = {"eventType": "PAYMENT_SUCCESS", "occurredAt": "2026-11-21T00:00:00Z", **MESSAGE}
    plain = decoded(kept, {"ce_id": b"42", "ce_source": b"/orders"})
    assert plain.occurred_at.day == 21 and plain.id == '["42","/orders"]'
    for headers in (binary(EVENT).headers, STRUCTURED):
        assert decoded(kept, dict(headers)).occurred_at.day == 21
    assert decoded(kept | {"eventId": "7"}, {"ce_id": b"42", "ce_specversion": b"1.0"}).given_id == "7"


def test_an_event_in_binary_mode_may_have_no_value() -> None:
    from nx_signal.activities.outcome import opened

    headers = binary(EVENT).headers
    found = opened(Record(Position("t", 0, 1), None, b"", headers, is_tombstone=True), KNOWN, 32_768)
    assert isinstance(found, Activity) and found.data == {}


def test_the_type_is_mapped_or_is_the_event_type_itself() -> None:
    assert decoded(EVENT | {"type": "com.acme.payment.cleared"}).type == "PAYMENT_SUCCESS"
    assert decode(record(EVENT | {"type": "com.acme.x"}), KNOWN, types=TYPES) == UnknownType("com.acme.x")
    assert (
        best_effort_ids(record({**EVENT, "type": "com.acme.payment.cleared"}), TYPES)[1] == "PAYMENT_SUCCESS"
    )


def test_attributes_stand_where_the_message_in_the_data_has_none() -> None:
    event = {**EVENT, "subject": "order/1", "merchantid": "m1", "excludeactor": True}
    found = decoded(event | {"data": MESSAGE | {"organizerId": "o2", "occurredAt": "2026-11-21T00:00:00Z"}})
    assert (found.organizer_id, found.merchant_id, found.subject) == ("o2", "m1", "order/1")
    assert found.occurred_at.day == 21 and found.exclude_actor


def test_recipients_are_separated_by_commas() -> None:
    event = EVENT | {"recipientscope": "users", "recipientids": "ann, binh,,ann"}
    assert decoded(event).recipient_ids == activity_of(binary(event)).recipient_ids == ("ann", "binh")


@pytest.mark.parametrize(
    ("value", "expected"), [(True, True), ("true", True), (False, False), ("false", False)]
)
def test_the_actor_is_excluded_by_a_boolean_or_by_its_text(value: object, expected: bool) -> None:
    assert decoded(EVENT | {"excludeactor": value}).exclude_actor is expected


def test_data_in_base64_holds_json() -> None:
    encoded = b64encode(json.dumps(PAYLOAD).encode()).decode()
    event = {name: value for name, value in EVENT.items() if name != "data"}
    assert decoded(event | {"data_base64": encoded}) == decoded(EVENT)


def test_an_attribute_that_is_null_is_not_set() -> None:
    assert decoded(EVENT | {"subject": None, "datacontenttype": None, "excludeactor": None}) == decoded(EVENT)


def test_the_schema_of_the_data_is_kept() -> None:
    context = decoded(EVENT | {"dataschema": "https://acme.example/payment.json"}).context
    assert context is not None and context.dataschema == "https://acme.example/payment.json"
    assert decoded(EVENT).context is None


def test_an_identity_in_headers_spells_what_no_store_holds() -> None:
    found = activity_of(record(PAYLOAD, dict(binary(EVENT).headers) | {"ce_id": b"a\xff\0"}))
    assert found.given_id == "a\\xff\\u0000"


def test_a_number_in_the_data_keeps_its_digits() -> None:
    raw = json.dumps(EVENT).replace('"amount": 5', '"amount": 12345678901234567890.10').encode()
    assert str(decoded(raw).data["payment"]["amount"]) == "12345678901234567890.10"
    digits = record(b'{"payment": {"amount": 0.10000000000000000001}}', dict(binary(EVENT).headers))
    assert str(activity_of(digits).data["payment"]["amount"]) == "0.10000000000000000001"


# --- the examples of the specification ---

SOME_EVENT = {
    "specversion": "1.0",
    "type": "com.example.someevent",
    "source": "/mycontext",
    "id": "C234-1234-1234",
    "time": "2018-04-05T17:31:00Z",
    "comexampleextension1": "value",
    "comexampleothervalue": 5,
    "datacontenttype": "application/json",
    "data": {"appinfoA": "abc", "appinfoB": 123, "appinfoC": True},
}
"""JSON Event Format §3.2."""


def test_the_examples_of_the_specification_are_understood_as_far_as_they_are_json() -> None:
    assert decode(record(SOME_EVENT | {"subject": None}), KNOWN) == UnknownType("com.example.someevent")
    assert best_effort_ids(record(SOME_EVENT))[0] == '["C234-1234-1234","/mycontext"]'
    addressed = {**SOME_EVENT, "recipientscope": "org", "organizerid": "o1", "actorid": "u1"}
    found = decode(record(addressed), {"com.example.someevent"})
    assert isinstance(found, Activity) and found.data == SOME_EVENT["data"]
    thrift = {k: v for k, v in addressed.items() if k != "data"} | {
        "datacontenttype": "application/vnd.apache.thrift.binary",
        "data_base64": "AAAA",
    }
    assert reason(record(thrift)) == (
        "datacontenttype: application/vnd.apache.thrift.binary; send JSON, as application/json."
    )
    xml = addressed | {"datacontenttype": "application/xml", "data": '<much wow="xml"/>'}
    assert reason(record(xml)).startswith("datacontenttype: application/xml; send JSON")
    avro = record(b"Obj\x01...", {**binary(SOME_EVENT).headers, "content-type": b"application/avro"})
    assert "Avro" in reason(avro) or "datacontenttype: application/avro" in reason(avro)


# --- what is refused ---


def without(name: str, **changes: Any) -> dict[str, Any]:
    return {key: value for key, value in EVENT.items() if key != name} | changes


def typed(content_type: str, value: Any = EVENT) -> Record:
    return record(value, {"content-type": content_type.encode()})


REFUSED: dict[str, tuple[Record, str]] = {
    "another version": (record(EVENT | {"specversion": "0.3"}), "this is CloudEvents 0.3; send 1.0."),
    "another version in headers": (binary(EVENT | {"specversion": "2.0"}), "CloudEvents 2.0; send 1.0."),
    "a version that is no text": (record(EVENT | {"specversion": 1}), "specversion must be a text."),
    "no version": (record(without("specversion"), STRUCTURED), "without a version"),
    "no id": (record(without("id")), "id is missing: a CloudEvent has it."),
    "an empty source": (record(EVENT | {"source": ""}), "source is missing: a CloudEvent has it."),
    "no type": (record(EVENT | {"type": None}), "type is missing: a CloudEvent has it."),
    "an id that is no text": (record(EVENT | {"id": 5}), "id must be a text."),
    "no time": (record(without("time")), "time is missing"),
    "XML": (record(EVENT | {"datacontenttype": "text/xml"}), "datacontenttype: text/xml; send JSON"),
    "XML in binary mode": (binary(EVENT, "text/xml"), "datacontenttype: text/xml; send JSON"),
    "another format": (typed("application/cloudevents+avro"), "send application/cloudevents+json."),
    "a batch that is no list": (typed("application/cloudevents-batch+json"), "at most 1000 events"),
    "a batch of another format": (typed("application/cloudevents-batch+avro"), "content-type: "),
    "data twice": (record(EVENT | {"data_base64": "e30="}), "either `data` or `data_base64`"),
    "no base64": (record(without("data", data_base64="%")), "data_base64 is not base64"),
    "base64 of no JSON": (record(without("data", data_base64="AAAA")), "data_base64 does not hold JSON"),
    "base64 of two values": (
        record(without("data", data_base64=b64encode(b'{},"eventId":"x"').decode())),
        "data_base64 does not hold JSON",
    ),
    "data that is a list": (record(EVENT | {"data": [1]}), "data: expected `object | null`, got `array`."),
    "no recipients": (record({**SOME_EVENT, "type": "PAYMENT_SUCCESS"}), "actorId is missing"),
    "a text as data": (record({**SOME_EVENT, "data": "x"}), "a CloudEvent whose `data` is not an object"),
    "an unclear flag": (record(EVENT | {"excludeactor": "yes"}), "excludeactor must be true or false."),
    "a number as recipients": (record(EVENT | {"recipientids": 5}), "recipientids must be a text."),
    "an unknown scope": (record(EVENT | {"recipientscope": "all"}), "recipientScope: expected `org`"),
    "a long schema": (record(EVENT | {"dataschema": "x" * 2_049}), "at most 2048 characters."),
    "more than one value": (
        record(b'{}, "eventType": "X"', dict(binary(EVENT).headers)),
        "message: not JSON",
    ),
    "half a value": (record(b'{"payment": ', dict(binary(EVENT).headers)), "message: not JSON"),
    "a nested batch": (record([EVENT], STRUCTURED), "a list where one message is expected"),
}


@pytest.mark.parametrize(("found", "expected"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_no_valid_event_is_refused_with_a_sentence(found: Record, expected: str) -> None:
    assert expected in reason(found)


def test_data_of_another_media_type_is_named_in_binary_mode_too() -> None:
    found = record(b"<paid/>", binary(EVENT, "text/xml").headers)  # type: ignore[arg-type]
    assert reason(found) == "datacontenttype: text/xml; send JSON, as application/json."


def test_many_headers_and_long_ones_cost_nothing_and_end_nothing() -> None:
    headers = dict(binary(EVENT).headers) | {f"ce_x{n}": b"y" for n in range(20_000)}
    assert decoded(PAYLOAD, headers) == decoded(EVENT)
    assert "eventId" in reason(record(PAYLOAD, headers | {"ce_id": b"x" * 100_000}))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


ATTRIBUTES = st.sampled_from([*EVENT, "data_base64", "subject", "action", "priority"])
HEADERS = st.sampled_from([f"ce_{name}" for name in EVENT] + ["content-type"])


@given(st.dictionaries(ATTRIBUTES, VALUES), VALUES)
def test_whatever_an_event_holds_it_is_an_activity_or_refused(changes: dict[str, Any], data: object) -> None:
    for found in (
        record(EVENT | changes),
        record(EVENT | changes, STRUCTURED),
        record(EVENT | {"data": data}),
    ):
        try:
            decode(found, KNOWN)
        except MessageRejected as error:
            assert str(error)
        best_effort_ids(found)


@given(st.dictionaries(HEADERS, st.binary()), st.binary())
def test_whatever_headers_and_value_hold_it_is_an_activity_or_refused(
    headers: dict[str, bytes], value: bytes
) -> None:
    for found in (record(value, dict(binary(EVENT).headers) | headers), record(PAYLOAD, headers)):
        try:
            decode(found, KNOWN)
        except MessageRejected as error:
            assert str(error)
        best_effort_ids(found)


# --- what the producer may state further ---


def test_collapse_key_expiry_and_priority_are_attributes_as_well() -> None:
    event = EVENT | {"collapsekey": "k", "priority": "high", "expiresat": "2027-01-01T00:00:00Z"}
    found = decoded(event)
    assert (found.collapse_key, found.priority) == ("k", "high")
    assert found.expires_at is not None and found.expires_at.year == 2027
    assert found == activity_of(binary(event))
    assert "priority: expected" in reason(record(EVENT | {"priority": "urgent"}))


def corrected(fields: dict[str, Any], in_headers: bool = False) -> Correction:
    found = decode(binary(fields) if in_headers else record(fields), KNOWN, types=TYPES)
    assert isinstance(found, Correction)
    return found


BARE = {name: EVENT[name] for name in ("specversion", "id", "source", "type", "time")}


def test_a_correction_in_the_data_names_the_activity_that_it_is_about() -> None:
    named = corrected(BARE | {"id": "99", "data": {"action": "retract", "eventId": "42"}})
    assert (named.action, named.activity_id) == ("retract", '["42","/orders"]')
    other = {"action": "update", "eventId": "42", "eventSource": "/other", "data": PAYLOAD}
    found = corrected(BARE | {"data": other})
    assert (found.activity_id, found.data) == ('["42","/other"]', PAYLOAD)


@pytest.mark.parametrize("in_headers", [False, True])
def test_a_correction_in_attributes_is_about_the_event_that_they_name_or_its_own(in_headers: bool) -> None:
    event = BARE | {"action": "update", "data": PAYLOAD}
    assert corrected(event, in_headers).activity_id == '["42","/orders"]'
    found = corrected(event | {"id": "99", "eventid": "7", "eventsource": "/x"}, in_headers)
    assert (found.activity_id, found.data) == ('["7","/x"]', PAYLOAD)
    assert found.occurred_at is not None and found.occurred_at.day == 22


def test_a_correction_needs_no_time_and_an_action_that_creates_is_an_activity() -> None:
    timeless = {name: value for name, value in BARE.items() if name != "time"}
    assert corrected(timeless | {"action": "retract"}).occurred_at is None
    assert decoded(EVENT | {"action": "create"}) == decoded(EVENT)
    assert "action: expected `create`, `update` or `retract`" in reason(record(EVENT | {"action": "undo"}))

"""Activity messages: what is taken, what is refused and how the refusal reads (CONTRACT §3)."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nx_signal.activities.message import (
    MAX_MESSAGE_BYTES,
    MAX_RECIPIENTS,
    UnknownType,
    check,
    decode,
    split,
)
from nx_signal.errors import MessageRejected
from nx_signal.model import Activity, Position, Record

KNOWN = frozenset({"PAYMENT_SUCCESS"})
REQUIRED = {
    "eventType": "PAYMENT_SUCCESS",
    "recipientScope": "org",
    "actorId": "u1",
    "organizerId": "o1",
    "occurredAt": "2026-11-21T10:25:00Z",
}


def message(**fields: Any) -> dict[str, Any]:
    return REQUIRED | fields


def record(value: bytes | dict[str, Any], **headers: bytes) -> Record:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return Record(Position("t", 3, 7), None, raw, headers)


def activity(**fields: Any) -> Activity:
    decoded = decode(record(message(**fields)), KNOWN)
    assert isinstance(decoded, Activity)
    return decoded


def complaint(value: bytes | dict[str, Any], **headers: bytes) -> str:
    with pytest.raises(MessageRejected) as caught:
        decode(record(value, **headers), KNOWN)
    return str(caught.value)


def raw(field: str, text: str) -> bytes:
    """A message with one field given as JSON text."""
    return json.dumps(REQUIRED).encode()[:-1] + f', "{field}": {text}}}'.encode()


# --- what is taken -------------------------------------------------------------------------------


def test_a_full_message_becomes_an_activity() -> None:
    decoded = activity(
        actor={"id": "u1", "name": "Lan", "type": "User"},
        recipientScope="users",
        merchantId="m1",
        recipientIds=["b", "a"],
        data={"payment": {"amount": 1250000}},
        eventId="e1",
        subject="order-42",
    )
    assert decoded == Activity(
        id="e1",
        type="PAYMENT_SUCCESS",
        scope="users",
        actor_id="u1",
        actor={"id": "u1", "name": "Lan", "type": "User"},
        organizer_id="o1",
        merchant_id="m1",
        recipient_ids=("b", "a"),
        data={"payment": {"amount": 1250000}},
        subject="order-42",
        occurred_at=datetime(2026, 11, 21, 10, 25, tzinfo=UTC),
    )


def test_optional_fields_may_be_absent_or_null() -> None:
    optional = ("actor", "merchantId", "recipientIds", "data", "eventId", "subject")
    assert activity() == activity(**dict.fromkeys(optional))
    assert activity().data == {} and activity().actor == {}
    assert activity().merchant_id is None and activity().recipient_ids == ()


def test_an_actor_may_lack_fields_or_hold_null() -> None:
    assert activity(actor={"id": None}).actor == {"id": None}


def test_unknown_fields_are_ignored() -> None:
    assert activity(traceId=5, extra={"a": [1]}) == activity()


def test_recipients_named_twice_count_once_in_their_order() -> None:
    assert activity(recipientIds=["b", "a", "b"]).recipient_ids == ("b", "a")


def test_data_is_kept_as_it_came() -> None:
    data = {"payment": {"amount": "1250000.50", "more": [1, 2.5, None, True, {"ü": "ộ😀"}]}}
    assert activity(data=data).data == data


def test_the_identity_is_the_event_id_else_the_header_else_the_position() -> None:
    both = decode(record(message(eventId="e1"), ce_id=b"h1"), KNOWN)
    header = decode(record(message(), ce_id="hộ1".encode()), KNOWN)
    neither = decode(record(message(eventId=None), ce_id=b""), KNOWN)
    assert [a.id for a in (both, header, neither) if isinstance(a, Activity)] == ["e1", "hộ1", "t/3/7"]


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-21T10:25:00Z",
        "2026-11-21T10:25:00z",
        "2026-11-21T10:25:00.000Z",
        "2026-11-21T17:25:00+07:00",
        "2026-11-21T17:25:00+0700",
        "2026-11-21 10:25:00",
        "20261121T102500Z",
    ],
)
def test_any_iso_8601_moment_is_read_and_a_naive_one_is_utc(text: str) -> None:
    assert activity(occurredAt=text).occurred_at == datetime(2026, 11, 21, 10, 25, tzinfo=UTC)


def test_an_unknown_type_is_told_apart_before_anything_else_is_validated() -> None:
    assert decode(record({"eventType": "NEW_THING", "actorId": 5}), KNOWN) == UnknownType("NEW_THING")


def test_scopes_that_name_nobody_are_well_formed() -> None:
    assert activity(recipientScope="merchant").merchant_id is None
    assert activity(recipientScope="users", recipientIds=[]).recipient_ids == ()


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize("field", sorted(REQUIRED))
def test_a_missing_field_is_named(field: str) -> None:
    assert complaint({k: v for k, v in REQUIRED.items() if k != field}) == f"{field} is missing."


@pytest.mark.parametrize("field", ["eventType", "actorId", "organizerId", "merchantId", "eventId"])
@pytest.mark.parametrize("value", ["", "x" * 257, 5, True, ["a"], {"a": 1}])
def test_an_id_is_a_string_of_1_to_256_characters(field: str, value: object) -> None:
    assert complaint(message(**{field: value})).startswith(f"{field}: expected `str")


@pytest.mark.parametrize(
    ("fields", "beginning"),
    [
        ({"recipientScope": "all"}, "recipientScope: expected `org`, `merchant` or `users`"),
        ({"recipientScope": "\0" * 5000}, "recipientScope: expected `org`, `merchant` or `users`"),
        ({"recipientScope": 1}, "recipientScope: expected"),
        ({"recipientIds": "u1"}, "recipientIds: expected"),
        ({"recipientIds": ["u1", ""]}, "recipientIds[1]: expected"),
        ({"recipientIds": ["u1", None]}, "recipientIds[1]: expected"),
        ({"recipientIds": ["u"] * (MAX_RECIPIENTS + 1)}, "recipientIds: expected `array` of length <= 10000"),
        ({"data": []}, "data: expected"),
        ({"data": "{}"}, "data: expected"),
        ({"actor": "Lan"}, "actor: expected"),
        ({"subject": 5}, "subject: expected"),
        ({"occurredAt": 1795256700000}, "occurredAt: expected `str`"),
    ],
)
def test_a_wrong_type_is_refused_by_name(fields: dict[str, object], beginning: str) -> None:
    assert complaint(message(**fields)).startswith(beginning)


@pytest.mark.parametrize(
    "text",
    ["", "yesterday", "2026-13-01T00:00:00Z", "2026-11-21T10:25:00Zoo", "2026-11-21\ud80010:25", "9" * 99],
)
def test_a_moment_that_is_not_iso_8601_is_refused(text: str) -> None:
    assert complaint(message(occurredAt=text)).startswith("occurredAt must ")


@pytest.mark.parametrize(
    "text", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "1969-12-31T23:59:59Z"]
)
def test_a_moment_that_no_time_zone_can_shift_is_refused(text: str) -> None:
    assert complaint(message(occurredAt=text)).startswith("occurredAt must be ")


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\xff\xfe",
        b"not json",
        b'{"eventType": "PAYMENT_SUCCESS"',
        raw("data", "{}") + b"x",
        b"\xef\xbb\xbf" + raw("data", "{}"),
        raw("actor", '{"name": "a\x00b"}'),
    ],
)
def test_what_is_not_json_is_refused(value: bytes) -> None:
    assert complaint(value).startswith("message: not JSON")


def test_what_is_not_utf_8_is_refused() -> None:
    value = json.dumps(REQUIRED).encode()
    assert complaint(value.replace(b'"u1"', b'"\xff"')) == "message: not UTF-8."
    assert complaint(value.replace(b'"u1"', b'"\xed\xa0\x80"')) == "message: not UTF-8."


@pytest.mark.parametrize("value", [b"[]", b"null", b'"x"', b"5"])
def test_what_is_no_object_is_refused(value: bytes) -> None:
    assert complaint(value).startswith("message: expected `object`")


@pytest.mark.parametrize(
    ("field", "where"),
    [
        ({"actorId": "a\0"}, "actorId"),
        ({"organizerId": "\0"}, "organizerId"),
        ({"merchantId": "\0"}, "merchantId"),
        ({"eventId": "\0"}, "eventId"),
        ({"eventType": "\0"}, "eventType"),
        ({"subject": "a\0"}, "subject"),
        ({"recipientIds": ["a", "\0"]}, "recipientIds[1]"),
        ({"actor": {"name": "\0"}}, "actor.name"),
        ({"data": {"a": [{"b": "\0"}]}}, "data.a[0].b"),
        ({"data": {"a": {"\0": 1}}}, "data.a: its keys"),
    ],
)
@pytest.mark.parametrize(("character", "name"), [("\0", "NUL character"), ("\ud800", "half of a surrogate")])
def test_text_that_no_store_takes_is_refused_by_name(
    field: dict[str, object], where: str, character: str, name: str
) -> None:
    text = json.dumps(message(**field)).replace("\\u0000", json.dumps(character)[1:-1])
    assert complaint(text.encode()).startswith(f"{where} must hold no {name}")


@pytest.mark.parametrize("number", ["NaN", "1e400", "-1e400", "1" + "0" * 400, str(2**64), str(-(2**63) - 1)])
def test_a_number_that_no_encoder_writes_is_refused_by_name(number: str) -> None:
    assert complaint(raw("data", f'{{"a": [{number}]}}')).startswith("data.a[0] must be a ")


def test_a_number_of_thousands_of_digits_is_refused() -> None:
    assert complaint(raw("data", f'{{"a": {"9" * 5000}}}')).startswith("data: ")


@pytest.mark.parametrize("number", [str(2**64 - 1), str(-(2**63)), "1e308", "1e-400", "0." + "1" * 5000])
def test_every_other_number_is_taken(number: str) -> None:
    check(raw("data", f'{{"a": {number}}}'), KNOWN)


@pytest.mark.parametrize("field", ["data", "actor", "ignored"])
def test_endless_nesting_is_refused(field: str) -> None:
    depth = 200_000
    assert "nested deeper than 64 levels" in complaint(raw(field, '{"a":' + "[" * depth + "]" * depth + "}"))
    assert "nested deeper than 64 levels" in complaint(raw(field, '{"a":' * depth))


@pytest.mark.parametrize("field", ["data", "actor"])
def test_nesting_that_some_interpreters_can_read_is_refused_all_the_same(field: str) -> None:
    depth = 2_000
    assert "nested deeper than 64 levels" in complaint(raw(field, '{"a":' + "[" * depth + "]" * depth + "}"))
    assert complaint(raw(field, '{"a":' * depth)), "with either reason"


def test_nesting_is_taken_to_64_levels() -> None:
    check(raw("data", '{"a":' + "[" * 63 + "]" * 63 + "}"), KNOWN)
    assert complaint(raw("data", '{"a":' + "[" * 64 + "]" * 64 + "}")).startswith("data.a[0][0]")


def test_a_message_over_one_mebibyte_is_refused() -> None:
    value = json.dumps(REQUIRED).encode()
    check(value.ljust(MAX_MESSAGE_BYTES), KNOWN)
    assert complaint(value.ljust(MAX_MESSAGE_BYTES + 1)).startswith("message must be at most 1048576 bytes")


@pytest.mark.parametrize("value", [b"\xff", b"\0", b"x" * 257])
def test_a_hostile_id_header_is_refused(value: bytes) -> None:
    assert complaint(message(), ce_id=value).startswith("header ce_id must ")


def test_a_complaint_can_itself_be_stored() -> None:
    text = complaint(message(data={"\x01" + "k" * 5000: "\0"}))
    assert text.startswith("data.\N{REPLACEMENT CHARACTER}kkk") and len(text) <= 301


# --- bodies of POST /activities ------------------------------------------------------------------


def test_a_body_is_one_message_or_a_list_of_them() -> None:
    one, two = json.dumps(message(eventId="e1")), json.dumps(message(eventId="e2"))
    assert split(f" {one}\n".encode(), KNOWN) == [("e1", f" {one}\n".encode())]
    assert split(f" [{one} , {two}]".encode(), KNOWN) == [("e1", one.encode()), ("e2", two.encode())]
    assert split(b"[]", KNOWN) == []


def test_an_event_id_that_is_absent_is_made_up() -> None:
    body = json.dumps([message(), message(eventId=None)]).encode()
    (first, _), (second, _) = split(body, KNOWN)
    assert uuid.UUID(first) != uuid.UUID(second)


def test_a_fault_in_a_list_is_found_by_its_index() -> None:
    def fault(bad: object) -> str:
        with pytest.raises(MessageRejected) as caught:
            split(json.dumps([message(), bad]).encode(), KNOWN)
        return str(caught.value)

    assert fault(message(actorId=5)).startswith("[1].actorId: expected")
    assert fault({}) == "[1].eventType is missing."
    assert fault(7).startswith("[1]: expected `object`")


def test_a_body_of_too_many_messages_or_no_json_is_refused() -> None:
    one = json.dumps(REQUIRED)
    assert len(split(f"[{','.join([one] * 1000)}]".encode(), KNOWN)) == 1000
    for body in (f"[{','.join([one] * 1001)}]".encode(), b"[", b"", b"[" * 100_000, b"[\xff]", b"[1,]"):
        with pytest.raises(MessageRejected):
            split(body, KNOWN)


def test_an_unknown_type_in_a_body_is_taken_whatever_else_it_holds() -> None:
    assert split(b'{"eventType": "NEW_THING", "eventId": "e9"}', KNOWN)[0][0] == "e9"
    for odd in (b"5", b'""', b'"\\u0000"'):
        event_id, _ = split(b'{"eventType": "NEW_THING", "eventId": ' + odd + b"}", KNOWN)[0]
        assert uuid.UUID(event_id)


# --- anything at all -----------------------------------------------------------------------------

ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=8)
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.sampled_from(
    [*REQUIRED, "actor", "merchantId", "recipientIds", "data", "eventId", "subject", "other"]
)


def decodes_or_is_rejected(value: bytes) -> None:
    try:
        decoded = decode(record(value), KNOWN)
    except MessageRejected as error:
        assert b"\0" not in str(error).encode()  # can be stored with the dead letter
        return
    if isinstance(decoded, Activity):
        encoded = msgspec.json.encode(decoded)  # no surrogate, no number beyond 64 bits
        assert b"\\u0000" not in encoded.replace(b"\\\\", b"")


@given(st.binary())
def test_any_bytes_are_an_activity_or_rejected(value: bytes) -> None:
    decodes_or_is_rejected(value)


@given(ANY_JSON)
def test_any_json_is_an_activity_or_rejected(value: Any) -> None:
    decodes_or_is_rejected(json.dumps(value).encode())


@given(st.dictionaries(FIELDS, ANY_JSON, min_size=1, max_size=3))
def test_a_message_with_any_fields_is_an_activity_or_rejected(fields: dict[str, Any]) -> None:
    decodes_or_is_rejected(json.dumps(message(**fields)).encode())


@given(ANY_JSON)
def test_a_message_with_any_data_is_an_activity_or_rejected(value: Any) -> None:
    decodes_or_is_rejected(json.dumps(message(data={"payment": value}, actor={"name": value})).encode())

"""Activity messages: what is accepted, what is refused and with which text (CONTRACT §3)."""

from __future__ import annotations

import json
import re
import uuid
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nx_signal.activities.fields import MAX_MESSAGE_BYTES, MAX_RECIPIENTS
from nx_signal.activities.message import (
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


def error_of(value: bytes | dict[str, Any], **headers: bytes) -> str:
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
        priority="high",
        expiresAt="2026-11-22T10:25:00.1239+07:00",
        collapseKey="order-42",
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
        given_id="e1",
        priority="high",
        expires_at=datetime(2026, 11, 22, 3, 25, 0, 123_000, tzinfo=UTC),
        collapse_key="order-42",
    )


def test_optional_fields_may_be_absent_or_null() -> None:
    who = ("actor", "merchantId", "recipientIds", "subject")
    optional = (*who, "data", "eventId", "priority", "expiresAt", "collapseKey")
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


@pytest.mark.parametrize("priority", ["urgent", "High", "", 1, True, ["high"]])
def test_a_priority_is_one_of_two(priority: Any) -> None:
    assert error_of(message(priority=priority)) == "priority: expected `normal` or `high`."


@pytest.mark.parametrize("text", ["tomorrow", "", "2026-13-01", "10000-01-01T00:00:00Z"])
def test_an_expiry_is_a_moment(text: str) -> None:
    assert error_of(message(expiresAt=text)).startswith("expiresAt must be an ISO 8601 date and time")


def test_an_expiry_may_be_before_the_activity() -> None:
    assert activity(expiresAt="1999-01-01").expires_at == datetime(1999, 1, 1, tzinfo=UTC)


def test_a_collapse_key_has_1_to_256_characters() -> None:
    assert activity(collapseKey="k" * 256).collapse_key == "k" * 256
    for key in ("", "k" * 257):
        assert error_of(message(collapseKey=key)).startswith("collapseKey: expected `str` of length")
    assert error_of(message(collapseKey=5)).startswith("collapseKey: expected")


def test_a_collapse_key_with_a_character_that_no_store_holds_is_refused() -> None:
    """Replaced, it could be another one's."""
    assert error_of(raw("collapseKey", r'"k\ud83d"')).startswith("collapseKey must hold no NUL character")


def test_an_unknown_type_is_recognized_before_anything_else_is_validated() -> None:
    assert decode(record({"eventType": "NEW_THING", "actorId": 5}), KNOWN) == UnknownType("NEW_THING")


def test_scopes_without_recipients_are_well_formed() -> None:
    assert activity(recipientScope="merchant").merchant_id is None
    assert activity(recipientScope="users", recipientIds=[]).recipient_ids == ()


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize("field", sorted(REQUIRED))
def test_a_missing_field_is_named(field: str) -> None:
    assert error_of({k: v for k, v in REQUIRED.items() if k != field}) == f"{field} is missing."


@pytest.mark.parametrize("field", ["eventType", "actorId", "organizerId", "merchantId", "eventId"])
@pytest.mark.parametrize("value", ["", "x" * 257, 5, True, ["a"], {"a": 1}])
def test_an_id_is_a_string_of_1_to_256_characters(field: str, value: object) -> None:
    assert error_of(message(**{field: value})).startswith(f"{field}: expected `str")


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
    assert error_of(message(**fields)).startswith(beginning)


@pytest.mark.parametrize(
    "text",
    ["", "yesterday", "2026-13-01T00:00:00Z", "2026-11-21T10:25:00Zoo", "2026-11-21\ud80010:25", "9" * 99],
)
def test_a_moment_that_is_not_iso_8601_is_refused(text: str) -> None:
    assert error_of(message(occurredAt=text)).startswith("occurredAt must ")


@pytest.mark.parametrize(
    "text", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "1969-12-31T23:59:59Z"]
)
def test_a_moment_that_no_time_zone_can_shift_is_refused(text: str) -> None:
    assert error_of(message(occurredAt=text)).startswith("occurredAt must be ")


@pytest.mark.parametrize(
    "value",
    [
        b"not json",
        b'{"eventType": "PAYMENT_SUCCESS"',
        raw("data", "{}") + b"x",
    ],
)
def test_what_is_not_json_is_refused(value: bytes) -> None:
    assert error_of(value).startswith("message: not JSON")


@pytest.mark.parametrize("value", [b"null", b"5"])
def test_what_is_not_an_object_is_refused(value: bytes) -> None:
    assert error_of(value).startswith("message: expected `object`")


@pytest.mark.parametrize(
    "number",
    [
        "NaN",
        "Infinity",
        "1e400",
        "-1e400",
        "1e99999999999999999999",
        "1e-99999999999999999999",
        "1" + "0" * 400,
        "9" * 5000,
        "9" * 1_000_000,
        "0." + "1" * 5000,
        "1e-1001",
    ],
)
@pytest.mark.parametrize("field", ["data", "actor"])
def test_a_number_beyond_the_bounds_is_refused_by_name(field: str, number: str) -> None:
    text = f"{field}.a[0] must be a number below 1e309 with at most 1000 decimals."
    assert error_of(raw(field, f'{{"a": [{number}]}}')) == text


NUMBERS = [
    "12.50",
    "1.0",
    "-0.0",
    "0.1000000000000000055511151231257827",
    "1E+3",
    "1e308",
    "1e-400",
    "0." + "1" * 1000,
    str(2**64),
    str(-(2**63) - 1),
    "9" * 309,
]


@pytest.mark.parametrize("number", NUMBERS)
def test_every_other_number_is_taken_with_all_its_digits(number: str) -> None:
    taken = decode(record(raw("data", f'{{"a": {number}}}')), KNOWN)
    assert isinstance(taken, Activity)
    assert Decimal(number).as_tuple() == Decimal(taken.data["a"]).as_tuple()


@pytest.mark.parametrize("field", ["data", "actor", "ignored"])
def test_endless_nesting_is_refused(field: str) -> None:
    depth = 200_000
    assert "nested deeper than 64 levels" in error_of(raw(field, '{"a":' + "[" * depth + "]" * depth + "}"))
    assert "nested deeper than 64 levels" in error_of(raw(field, '{"a":' * depth))


@pytest.mark.parametrize("field", ["data", "actor"])
def test_nesting_that_some_interpreters_can_read_is_refused_all_the_same(field: str) -> None:
    depth = 2_000
    assert "nested deeper than 64 levels" in error_of(raw(field, '{"a":' + "[" * depth + "]" * depth + "}"))
    assert error_of(raw(field, '{"a":' * depth)), "with either reason"


def test_nesting_is_taken_to_64_levels() -> None:
    check(raw("data", '{"a":' + "[" * 63 + "]" * 63 + "}"), KNOWN)
    assert error_of(raw("data", '{"a":' + "[" * 64 + "]" * 64 + "}")).startswith("data.a[0][0]")


def test_a_message_over_one_mebibyte_is_refused() -> None:
    value = json.dumps(REQUIRED).encode()
    check(value.ljust(MAX_MESSAGE_BYTES), KNOWN)
    assert error_of(value.ljust(MAX_MESSAGE_BYTES + 1)).startswith("message must be at most 1048576 bytes")


def test_an_id_header_of_more_than_256_characters_is_refused() -> None:
    assert error_of(message(), ce_id=b"x" * 257).startswith("header ce_id must ")


def test_an_error_text_can_itself_be_stored() -> None:
    text = error_of(message(data={"\x01" + "k" * 5000: 10**400}))
    assert text.startswith("data.\N{REPLACEMENT CHARACTER}kkk") and len(text) <= 301


# --- characters that no store holds ----------------------------------------------------------------

BAD = {
    "the first half of an emoji": b"\\ud83d",
    "its second half": b"\\ude00",
    "halves in the wrong order": b"\\ude00\\ud83d",
    "NUL": b"\\u0000",
    "NUL as it is": b"\0",
    "a control character as it is": b"\x1b",
    "an emoji cut among its bytes": b"\xf0\x9f\x98",
    "Latin-1": b"\xe9",
    "a surrogate in UTF-8": b"\xed\xa0\xbd",
}
bad = pytest.mark.parametrize("sent", BAD.values(), ids=BAD)


def with_bad(sent: bytes, **fields: Any) -> Activity:
    """The activity of a message in which `sent` stands in the place of each ☠."""
    value = json.dumps(message(**fields), ensure_ascii=False).encode().replace("☠".encode(), sent)
    decoded = decode(record(value), KNOWN)
    assert isinstance(decoded, Activity)
    return decoded


def collapsed(text: str) -> str:
    return re.sub("\ufffd+", "\ufffd", text)


@bad
def test_a_bad_character_is_replaced_wherever_it_is(sent: bytes) -> None:
    decoded = with_bad(
        sent,
        recipientScope="users",
        recipientIds=["ann", "b☠"],
        actorId="a☠",
        subject="☠s",
        actor={"name": "Mai ☠"},
        data={"note": ["a☠b", {"k☠": "😀"}]},
        other="☠",
    )
    assert decoded.replaced >= 7
    assert decoded.recipient_ids[0] == "ann" and collapsed(decoded.recipient_ids[1]) == "b\ufffd"
    assert collapsed(decoded.actor_id) == "a\ufffd" and collapsed(decoded.subject or "") == "\ufffds"
    assert collapsed(decoded.actor["name"]) == "Mai \ufffd"
    assert collapsed(decoded.data["note"][0]) == "a\ufffdb"
    assert [*map(collapsed, decoded.data["note"][1])] == ["k\ufffd"]
    assert [*decoded.data["note"][1].values()] == ["😀"]


@pytest.mark.parametrize("sent", [b"\t", b"\n", b"\r\n"])
def test_a_line_break_or_tab_that_is_not_escaped_stays(sent: bytes) -> None:
    decoded = with_bad(sent, data={"note": ["a☠b", {"k☠": "\\"}]}, eventId="e☠1")
    text = sent.decode()
    assert decoded.data == {"note": [f"a{text}b", {f"k{text}": "\\"}]}
    assert decoded.given_id == f"e{text}1" and decoded.replaced == 0


def test_a_list_of_messages_may_have_line_breaks_between_and_inside_of_texts() -> None:
    body = json.dumps([message(data={"n": "a☠b"}), message(data={"n": "\\n"})], indent=1, ensure_ascii=False)
    first, second = (one for _, one in split(body.encode().replace("☠".encode(), b"\n")))
    for value, text in ((first, "a\nb"), (second, "\\n")):
        decoded = decode(record(value), KNOWN)
        assert isinstance(decoded, Activity) and decoded.data == {"n": text}


def test_what_only_looks_bad_is_left_as_it_is() -> None:
    texts = ["😀", "\ufffd", r"\u0000", r"\ud83d", "\x7f", "\x1b", "\uffff"]
    decoded = activity(data={"texts": texts})
    assert decoded.data == {"texts": texts} and decoded.replaced == 0


@bad
def test_ids_that_differ_in_a_bad_character_are_different_and_the_same_each_time(sent: bytes) -> None:
    ids = [with_bad(each, eventId="e☠", subject="☠").id for each in BAD.values()]
    assert len({*ids}) == len(BAD) - 1  # NUL is here twice
    assert with_bad(sent, eventId="e☠").id in ids
    assert with_bad(sent, eventId="e1", subject="☠").id == "e1"


def test_an_id_header_with_a_bad_character_identifies() -> None:
    headers = [b"\xff", b"\xfe", b"\0", b"a\xf0\x9f"]
    found = [decode(record(message(), ce_id=header), KNOWN) for header in headers]
    assert [each.id for each in found if isinstance(each, Activity)] == [
        "\\xff",
        "\\xfe",
        "\\u0000",
        r"a\xf0\x9f",
    ]


@bad
@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("organizerId", {"organizerId": "o☠"}),
        ("organizerId", {"organizerId": "o☠", "recipientScope": "merchant", "merchantId": "m"}),
        ("merchantId", {"recipientScope": "merchant", "merchantId": "m☠"}),
    ],
)
def test_the_members_of_a_bad_id_are_not_taken_for_none(
    sent: bytes, field: str, fields: dict[str, Any]
) -> None:
    """With a replaced id the activity would go to its actor, unnoticed."""
    value = json.dumps(message(**fields), ensure_ascii=False).encode().replace("☠".encode(), sent)
    assert error_of(value).startswith(f"{field} must hold no NUL character")
    named = fields | {"recipientScope": "users", "recipientIds": ["ann"]}
    assert with_bad(sent, **named).recipient_ids == ("ann",)


def test_a_type_with_a_bad_character_is_unknown() -> None:
    value = json.dumps(message(eventType="PAYMENT_SUCCESS\0")).encode()
    assert decode(record(value), KNOWN) == UnknownType("PAYMENT_SUCCESS\ufffd")


# --- bodies of POST /activities ------------------------------------------------------------------


def test_a_body_is_one_message_or_a_list_of_them() -> None:
    one, two = json.dumps(message(eventId="e1")), json.dumps(message(eventId="e2"))
    assert split(f" {one}\n".encode(), KNOWN) == [("e1", f" {one}\n".encode())]
    assert split(f" [{one} , {two}]".encode(), KNOWN) == [("e1", one.encode()), ("e2", two.encode())]
    assert split(b"[]", KNOWN) == []


@bad
def test_a_message_of_a_list_is_a_slice_of_it_as_it_stands(sent: bytes) -> None:
    one, two = (
        json.dumps(message(eventId=f"{id}☠", data={"☠": "😀"}), ensure_ascii=False)
        .encode()
        .replace("☠".encode(), sent)
        for id in ("e1", "e2")
    )
    (first, a), (second, b) = split(b" [" + one + b" ,\n" + two + b"]", KNOWN)
    assert (a, b) == (one, two)
    assert [first, second] == [
        each.id for value in (one, two) if isinstance(each := decode(record(value), KNOWN), Activity)
    ]


def test_an_absent_event_id_is_generated() -> None:
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


def test_a_body_of_too_many_messages_or_of_invalid_json_is_refused() -> None:
    one = json.dumps(REQUIRED)
    assert len(split(f"[{','.join([one] * 1000)}]".encode(), KNOWN)) == 1000
    for body in (f"[{','.join([one] * 1001)}]".encode(), b"[", b"", b"[" * 100_000, b"[\xff]", b"[1,]"):
        with pytest.raises(MessageRejected):
            split(body, KNOWN)


def test_an_unknown_type_in_a_body_is_taken_whatever_else_it_holds() -> None:
    assert split(b'{"eventType": "NEW_THING", "eventId": "e9"}', KNOWN)[0][0] == "e9"
    for odd in (b"5", b'""', b'"' + b"x" * 257 + b'"'):
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
        encoded = msgspec.json.encode(decoded)  # no surrogate
        assert b"\\u0000" not in encoded.replace(b"\\\\", b"")


@given(
    st.lists(st.sampled_from([b"\\", b"u", b"\\ud83d", b"\\ude00", b"\\u0000", b'"', b"\0", b"\xf0", b"a"]))
)
def test_any_string_of_json_is_an_activity_or_rejected(pieces: list[bytes]) -> None:
    text = b'"' + b"".join(pieces) + b'"'
    decodes_or_is_rejected(
        json.dumps(REQUIRED).encode()[:-1] + b', "eventId": %b, "data": {%b: %b}}' % ((text,) * 3)
    )


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


def test_a_text_that_never_ends_is_refused_in_linear_time() -> None:
    """Each of its escaped quotes may be taken for the beginning of a text: quadratic, this takes hours."""
    value = b'{"eventType":"x",\n"a":"' + b'\\"' * 500_000
    assert len(value) < MAX_MESSAGE_BYTES
    with pytest.raises(MessageRejected):
        check(value)
    with pytest.raises(MessageRejected):
        split(b"[" + value[1:])

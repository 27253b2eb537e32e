"""The identity of an activity: id and source where a source is given, the id alone, or the position."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nx_signal.activities.identity import MAX_CHARS, digest_of, identity, settled, source_of, sourced_range
from nx_signal.activities.message import best_effort_ids, decode
from nx_signal.model import Activity, Handled, Position, Record

MESSAGE: dict[str, Any] = {
    "eventType": "PAYMENT_SUCCESS",
    "recipientScope": "org",
    "actorId": "u1",
    "organizerId": "o1",
    "occurredAt": "2026-11-21T10:25:00Z",
    "data": {"payment": {"amount": 12.50}},
}
AT = Position("orders", 0, 41)


def activity(headers: dict[str, bytes] | None = None, **fields: Any) -> Activity:
    record = Record(AT, None, json.dumps(MESSAGE | fields).encode(), headers or {})
    decoded = decode(record, {"PAYMENT_SUCCESS"})
    assert isinstance(decoded, Activity)
    assert best_effort_ids(record) == (decoded.id, "PAYMENT_SUCCESS")
    return decoded


def test_without_a_source_an_identity_is_the_text_that_the_releases_before_stored() -> None:
    assert activity(eventId="42").id == "42"
    assert activity({"ce_id": b"42"}).id == "42"
    assert activity(eventId="/orders/42").id == "/orders/42"
    assert activity().id == "orders/0/41"


def test_one_id_of_two_sources_is_two_activities() -> None:
    ids = {
        activity({"ce_id": b"42", "ce_source": b"/orders"}).id,
        activity({"ce_id": b"42", "ce_source": b"/payments"}).id,
        activity({"ce_source": b"/refunds"}, eventId="42").id,
        activity(eventId="42", eventSource="/returns").id,
        activity(eventId="42").id,
    }
    assert len(ids) == 5
    assert '["42","/orders"]' in ids


def test_the_same_source_and_id_is_one_activity_however_they_are_given() -> None:
    assert (
        len(
            {
                activity(eventId="42", eventSource="/orders").id,
                activity({"ce_id": b"42"}, eventSource="/orders").id,
                activity({"ce_id": b"42", "ce_source": b"/orders"}).id,
                activity({"ce_id": b"1", "ce_source": b"/x"}, eventId="42", eventSource="/orders").id,
            }
        )
        == 1
    )


def test_without_an_id_a_source_makes_no_difference() -> None:
    assert activity({"ce_source": b"/orders"}).id == "orders/0/41"


@pytest.mark.parametrize("id", ["orders/0/41", "orders/0/41@0a", '["orders/0/41"]', '["42","/orders"]'])
def test_an_id_that_looks_like_a_position_or_an_identity_is_neither(id: str) -> None:
    assert activity(eventId=id).id == json.dumps([id, None], separators=(",", ":"))


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=300)
positions = st.builds(lambda p, o: f"orders/{p}/{o}", st.integers(0, 99), st.integers(0, 2**63))
ids = st.tuples(texts | positions | texts.map('["{}"]'.format), st.none() | texts)


@given(ids, ids)
@example(("a", "b"), ('["a","b"]', None))
@example(("x" * 300, None), ("x" * 301, None))
def test_different_ids_and_sources_never_share_an_identity(
    one: tuple[str, str | None], other: tuple[str, str | None]
) -> None:
    assert (identity(*one) == identity(*other)) == (one == other)


@given(texts, texts, texts)
def test_the_identities_of_one_id_are_neighbours(id: str, source: str, other: str) -> None:
    assert len(identity(id, source)) <= MAX_CHARS
    first, end = sourced_range(id)
    if len(json.dumps([id, source], ensure_ascii=False)) <= MAX_CHARS:
        assert first <= identity(id, source) < end
        assert source_of(identity(id, source)) == source
    if other != id:
        assert not first <= identity(other, source) < end


@given(texts | positions, positions)
def test_a_given_id_is_never_the_identity_of_a_position(id: str, position: str) -> None:
    assert identity(id, None) != position


@pytest.mark.parametrize("field", [{"collapseKey": "k"}, {"expiresAt": "2027-01-01"}, {"priority": "high"}])
def test_a_digest_covers_how_a_notification_is_kept(field: dict[str, Any]) -> None:
    assert activity(**field).digest != activity().digest


def test_a_digest_is_of_what_is_read() -> None:
    message = json.dumps(MESSAGE).encode()
    same = json.dumps(
        dict(reversed(MESSAGE.items())) | {"eventId": "1", "sentAt": 7, "subject": None}, indent=1
    )
    assert digest_of(message) == digest_of(same.encode())
    for field in MESSAGE:
        assert digest_of(json.dumps(MESSAGE | {field: {"other": 1}}).encode()) != digest_of(message)


POSITIONED = activity()
SOURCED = activity(eventId="42", eventSource="/orders")


@pytest.mark.parametrize(
    ("before", "id"),
    [
        (None, "orders/0/41"),
        (Handled("orders/0/41", POSITIONED.digest), "orders/0/41"),
        (Handled("orders/0/41", None), "orders/0/41"),  # by the release before
        (Handled("orders/0/41", "other"), f"orders/0/41@{POSITIONED.digest}"),  # of a topic that is gone
        (Handled("journal/0/7", None), f"orders/0/41@{POSITIONED.digest}"),  # an eventId of this text
    ],
)
def test_a_record_without_an_id_is_what_it_says_and_not_what_was_at_its_position(
    before: Handled | None, id: str
) -> None:
    handled = {} if before is None else {"orders/0/41": before}
    assert settled(POSITIONED, "orders/0/41", handled) == replace(POSITIONED, id=id)


@pytest.mark.parametrize(
    ("before", "id"),
    [
        (None, '["42","/orders"]'),
        (Handled("orders/0/41", None), "42"),  # the release before handled this very record
        (Handled("orders/0/40", None), '["42","/orders"]'),
        (Handled("orders/0/41", "other"), '["42","/orders"]'),
    ],
)
def test_a_record_that_the_release_before_handled_keeps_its_identity(before: Handled | None, id: str) -> None:
    handled = {} if before is None else {"42": before}
    assert settled(SOURCED, "orders/0/41", handled).id == id

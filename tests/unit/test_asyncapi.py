"""The document of the stream: its examples fit its schemas, and so do the frames that the protocol sends."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Any

import jsonschema_rs
import pytest
from msgspec import structs

from nx_signal.delivery import topics
from nx_signal.delivery.rooms import refused_rooms_data
from nx_signal.model import Created, Deleted, InboxSummary, Notification, Read, Updated, wire
from nx_signal.model.wire import encode_change
from nx_signal.websocket import protocol
from nx_signal.websocket.asyncapi import CLOSES, FROM_CLIENT, FROM_SERVER, MESSAGES, Message, document
from nx_signal.websocket.decisions import SendFrame
from nx_signal.websocket.protocol import Protocol
from nx_signal.websocket.sealing import KeyPair

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
TABLE = MESSAGES
ROW = Notification(
    id=7,
    recipient_id="ann",
    rev=8,
    changed_rev=8,
    activity_id="a",
    type="PAYMENT_SUCCESS",
    organizer_id=None,
    merchant_id=None,
    subject=None,
    locale="en",
    content="c",
    content_html="<p>c</p>",
    action_url=None,
    data={},
    priority="normal",
    expires_at=None,
    collapse_key=None,
    is_read=False,
    read_at=None,
    is_seen=False,
    archived_at=None,
    created_at=NOON,
)
KEYED = structs.replace(ROW, id=8, priority="high", expires_at=NOON, collapse_key="k")


def fits(key: str, frame: Any) -> None:
    """Raises unless the frame matches the document and has no other properties."""
    whole = document()
    for schema in whole["components"]["schemas"].values():
        schema["additionalProperties"] = False
    payload = whole["components"]["messages"][key]["payload"] | {"components": whole["components"]}
    jsonschema_rs.Draft202012Validator(payload, validate_formats=True).validate(frame)


@pytest.mark.parametrize("message", TABLE, ids=lambda message: message.key)
def test_each_example_fits_its_schema(message: Message) -> None:
    (example,) = document()["components"]["messages"][message.key]["examples"]
    assert example["payload"]["event"] == message.event
    fits(message.key, example["payload"])
    assert (message.data is None) == (message.example is None)


def test_every_reference_leads_somewhere() -> None:
    whole: Any = json.loads(json.dumps(document()))
    named = set(re.findall(r'"\$ref": "#/([^"]+)"', json.dumps(whole)))
    assert len(named) > 2 * len(TABLE)
    for path in named:
        found = whole
        for step in path.split("/"):
            found = found[step]


def test_each_key_is_used_once() -> None:
    assert len({message.key for message in TABLE}) == len(TABLE)


def test_every_topic_and_every_close_code_is_there() -> None:
    events = {message.event for message in FROM_SERVER}
    assert {frame.topic for frame in wire.FRAMES} | {
        topics.STATE,
        topics.GOAWAY,
        topics.CONNECTED,
        topics.ERROR,
    } <= events
    assert topics.EXPIRING in events and topics.DISCONNECT not in events
    declared = {
        value
        for value in vars(protocol).values()
        if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], int)
    }
    assert set(CLOSES) == declared
    for code, reason in CLOSES:
        assert f"| {code} | {reason} |" in document()["info"]["description"]


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("created", Created("ann", 8, 3, 40, 1, "7", "6", ROW)),
        ("created", Created("ann", 9, 3, 39, 1, "8", "7", KEYED, (7, 5))),
        ("read", Read("ann", 9, 2, 40, 1, "9f", "7", (7,), None, None, None, NOON, "c1")),
        ("read", Read("ann", 9, 0, 40, 0, "9f", "7", None, 8, "A", "s", NOON, None)),
        ("deleted", Deleted("ann", 10, 2, 39, 0, "2c", "9f", (7, 8))),
        ("updated", Updated("ann", 11, 2, 39, 0, "fc", "2c", None, 8, NOON, "c1", seen=True)),
        ("updated", Updated("ann", 11, 3, 39, 0, "fc", "2c", (7,), None, NOON, None, is_read=False)),
        (
            "updated",
            Updated("ann", 11, 2, 1, 0, "fc", "2c", None, 8, NOON, None, only_read=True, archived=True),
        ),
    ],
)
def test_a_change_is_pushed_as_described(key: str, change: Any) -> None:
    event, data = encode_change(change)
    fits(key, json.loads(topics.frame(event, data)))


def test_a_notification_that_takes_the_place_of_others_names_them() -> None:
    data = json.loads(encode_change(Created("ann", 9, 3, 39, 1, "8", "7", KEYED, (7, 5)))[1])
    assert data["replaces"] == ["7", "5"]
    assert (data["collapseKey"], data["priority"]) == ("k", "high")
    assert data["expiresAt"] == "2026-01-01T12:00:00.000Z"
    plain = json.loads(encode_change(Created("ann", 8, 3, 40, 1, "7", "6", ROW))[1])
    assert "replaces" not in plain
    assert (plain["collapseKey"], plain["priority"], plain["expiresAt"]) == (None, "normal", None)


def test_an_update_states_what_changed_and_nothing_else() -> None:
    change = Updated("ann", 11, 2, 1, 0, "fc", "2c", (7, 8), None, NOON, "c1", archived=False)
    event, data = encode_change(change)
    assert event == "observation/signal/notification/updated"
    assert json.loads(data) == {
        "ids": ["7", "8"],
        "archived": False,
        "at": "2026-01-01T12:00:00.000Z",
        "rev": 11,
        "unread": 2,
        "unseen": 0,
        "total": 1,
        "origin": "c1",
        "history": "fc",
    }


def test_the_state_is_pushed_as_described() -> None:
    data = topics.state_data(InboxSummary("ann", 10, 40, 2), reset=True)
    fits("state", json.loads(topics.frame(topics.STATE, data)))


def test_the_handshake_is_as_described() -> None:
    machine = Protocol(0.0)
    (error,) = machine.receive("nonsense", 0.0)
    (connected,) = machine.accept("ann", KeyPair.generate().public_b64, "2026-01-01T12:00:00.000Z", 0.0)
    assert isinstance(error, SendFrame) and isinstance(connected, SendFrame)
    fits("error", json.loads(error.text))
    fits("connected", json.loads(connected.text))
    fits("sealedByServer", json.loads(machine.seal(b"{}")))
    refused = topics.frame(topics.ERROR, refused_rooms_data(["a"]))
    fits("error", json.loads(refused))


@pytest.mark.parametrize("message", FROM_CLIENT, ids=lambda message: message.key)
def test_the_documented_client_messages_are_accepted(message: Message) -> None:
    """Sealed or plain, the protocol accepts the example without an error."""
    machine = Protocol(0.0)
    if message.event not in ("authenticate", "hello"):
        machine.accept("ann", KeyPair.generate().public_b64, "2026-01-01T12:00:00.000Z", 0.0)
    frame = json.dumps({"event": message.event, "data": message.example}).encode()
    if message.event in ("resume", "refresh"):
        decisions = machine._receive_sealed(frame, 0.0)
    else:
        decisions = machine.receive(frame, 0.0)
    expected = {"heartbeat": [], "encrypted": ["SendFrame"]}.get(message.event, [message.event.title()])
    assert [type(decision).__name__ for decision in decisions] == expected

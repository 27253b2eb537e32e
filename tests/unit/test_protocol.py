"""The stream's protocol without sockets: messages and time in, decisions out."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nx_signal.websocket.decisions import (
    Authenticate,
    Close,
    Credential,
    Decision,
    Join,
    Leave,
    Refresh,
    Resume,
    SendFrame,
)
from nx_signal.websocket.protocol import REMEMBERED_IVS
from nx_signal.websocket.sealing import Sealer, unb64
from stream_kit import TIMESTAMP, Client


@pytest.fixture
def client() -> Client:
    return Client()


@pytest.fixture
def live(client: Client) -> Client:
    client.handshake()
    return client


def plain_error(decision: Decision) -> str:
    assert isinstance(decision, SendFrame)
    frame = json.loads(decision.text)
    assert frame["event"] == "error"
    return str(frame["data"]["message"])


def test_the_handshake_ends_in_connected_with_the_server_s_key_and_nothing_private(live: Client) -> None:
    assert set(live.connected) == {"id", "userId", "time", "serverPublicKey", "salt"}
    assert live.connected["userId"] == "u1" and live.connected["id"] == live.protocol.client_id
    assert live.connected["time"] == TIMESTAMP
    assert len(unb64(live.connected["salt"])) == 32


def test_every_connection_has_its_own_server_key_and_salt() -> None:
    one, two = Client(), Client()
    one.handshake()
    two.handshake()
    assert one.connected["serverPublicKey"] != two.connected["serverPublicKey"]
    assert one.connected["salt"] != two.connected["salt"]


def test_without_authenticate_the_connection_closes_4001_after_5_s(client: Client) -> None:
    assert client.protocol.deadline_s == 5.0
    client.send("heartbeat", now_s=4.0)
    client.send("join", {"rooms": ["a"]}, now_s=4.0)
    assert client.protocol.deadline_s == 5.0, "other messages buy no time"
    assert client.protocol.timed_out(99.0) == [Close(4001, "Authentication timeout")]


def test_once_authenticate_is_sent_there_are_15_s_to_finish(client: Client) -> None:
    client.send("authenticate", {"token": "t"}, now_s=4.0)
    assert client.protocol.deadline_s == 19.0
    assert client.protocol.timed_out(99.0) == [Close(4001, "Authentication timeout")]


def test_90_s_without_a_message_close_4002(live: Client) -> None:
    assert live.send("heartbeat", now_s=50.0) == []
    assert live.protocol.deadline_s == 140.0
    assert live.protocol.timed_out(140.0) == [Close(4002, "Heartbeat timeout")]


def test_a_minute_before_its_token_s_end_the_client_is_warned_and_then_closed_4005(live: Client) -> None:
    live.protocol.expires(1_000.0)
    live.send("heartbeat", now_s=900.0)
    assert live.protocol.deadline_s == 940.0
    (answer,) = live.protocol.timed_out(940.0)
    assert live.opened(answer) == {"event": "expiring", "data": {"expiresInMs": 60_000}}
    live.send("heartbeat", now_s=950.0)
    assert live.protocol.deadline_s == 1_000.0
    assert live.protocol.timed_out(1_000.0) == [Close(4005, "Token expired")]


def test_a_refreshed_token_moves_the_end_and_warns_again(live: Client) -> None:
    live.protocol.expires(100.0)
    assert len(live.protocol.timed_out(40.0)) == 1
    live.protocol.expires(200.0)
    live.send("heartbeat", now_s=120.0)
    assert live.protocol.deadline_s == 140.0
    assert len(live.protocol.timed_out(140.0)) == 1


def test_a_replayed_sealed_frame_gets_encryption_required(live: Client) -> None:
    assert live.sealer
    sealed = live.sealer.seal(b'{"event":"resume","data":{"rev":1}}')
    assert live.protocol.receive(sealed, 1.0) == [Resume(1)]
    (answer,) = live.protocol.receive(sealed, 1.0)
    assert live.opened(answer)["data"] == {"message": "Encryption required"}


def test_what_is_remembered_against_replays_is_small_and_the_latest(live: Client) -> None:
    assert live.sealer
    sealed = [live.sealer.seal(b'{"event":"heartbeat"}') for _ in range(REMEMBERED_IVS + 200)]
    tracemalloc.start()
    for frame in sealed:
        assert live.protocol.receive(frame, 1.0) == []
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 20_000
    assert live.protocol.receive(sealed[199], 1.0) == [], "forgotten"
    for frame in (sealed[201], sealed[-1]):
        (answer,) = live.protocol.receive(frame, 1.0)
        assert live.opened(answer)["data"] == {"message": "Encryption required"}


@pytest.mark.parametrize("raw", ["", "{", "nope", b"\xff\xfe", "[1]", "null", '"x"', "[" * 5000])
def test_what_is_not_a_json_object_gets_invalid_message_format(client: Client, raw: str | bytes) -> None:
    (answer,) = client.protocol.receive(raw, 1.0)
    assert plain_error(answer) == "Invalid message format"


@pytest.mark.parametrize("raw", ["{}", '{"event":""}', '{"event":null}', '{"event":5}', '{"event":{}}'])
def test_a_frame_without_an_event_gets_no_answer(client: Client, raw: str) -> None:
    assert client.protocol.receive(raw, 1.0) == []


def test_a_binary_frame_with_the_same_json_is_accepted(client: Client) -> None:
    (request,) = client.protocol.receive(
        b'{"event":"authenticate","data":{"token":"t","publicKey":"k"}}', 1.0
    )
    assert request == Authenticate(Credential("t"), "k", None)


@pytest.mark.parametrize("event", ["join", "leave", "encrypted", "resume", "refresh", "whatever"])
def test_before_the_handshake_everything_else_gets_not_authenticated(client: Client, event: str) -> None:
    (answer,) = client.send(event, {"rooms": ["a"]})
    assert plain_error(answer) == "Not authenticated"


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        "x",
        {},
        {"token": 5},
        {"token": None},
        {"type": "Basic", "token": "t"},
        {"type": 1, "token": "t"},
        {"type": "Ticket", "token": 5},
    ],
)
def test_an_authenticate_without_a_bearer_token_is_verified_as_an_empty_one(
    client: Client, data: Any
) -> None:
    (request,) = client.send("authenticate", data)
    assert isinstance(request, Authenticate) and not request.credential.text


@pytest.mark.parametrize(
    ("scheme", "is_ticket"), [("Bearer", False), ("bearer", False), ("Ticket", True), ("TICKET", True)]
)
def test_the_type_of_authenticate_distinguishes_a_ticket_from_a_token(
    client: Client, scheme: str, is_ticket: bool
) -> None:
    (request,) = client.send("authenticate", {"type": scheme, "token": "t"})
    assert isinstance(request, Authenticate) and request.credential == Credential("t", is_ticket)


def test_a_refused_token_gets_authentication_failed_and_4003(client: Client) -> None:
    answer, close = client.protocol.refuse()
    assert plain_error(answer) == "Authentication failed"
    assert close == Close(4003, "Authentication failed")
    assert client.send("heartbeat") == [], "nothing is answered after a close"


def test_a_missing_public_key_gets_encryption_handshake_failed_and_4004(client: Client) -> None:
    answer, close = client.protocol.accept("u1", None, TIMESTAMP, 1.0)
    assert plain_error(answer) == "Encryption handshake failed"
    assert close == Close(4004, "Encryption required")


@pytest.mark.parametrize("key", ["", "zz", 5, {}, "AAAA"])
def test_a_bad_public_key_gets_authentication_error_and_4003(client: Client, key: object) -> None:
    answer, close = client.protocol.accept("u1", key, TIMESTAMP, 1.0)
    assert plain_error(answer) == "Authentication error"
    assert close == Close(4003, "Authentication failed")
    assert not client.protocol.live


def test_a_second_authenticate_gets_already_authenticated_sealed(live: Client) -> None:
    for decisions in (
        live.send("authenticate", {"token": "t"}),
        live.send_sealed(b'{"event":"authenticate"}'),
    ):
        assert live.opened(decisions[0]) == {"event": "error", "data": {"message": "Already authenticated"}}


@pytest.mark.parametrize("event", ["resume", "refresh", "anything", "message"])
def test_other_plaintext_events_after_the_handshake_get_encryption_required(live: Client, event: str) -> None:
    (answer,) = live.send(event, {"rev": 1})
    assert live.opened(answer)["data"] == {"message": "Encryption required"}


def test_a_sealed_frame_that_does_not_open_gets_encryption_required(live: Client) -> None:
    (answer,) = live.protocol.receive(Sealer(bytes(32)).seal(b'{"event":"heartbeat"}'), 1.0)
    assert live.opened(answer)["data"] == {"message": "Encryption required"}


def test_sealed_frames_carry_the_same_events(live: Client) -> None:
    assert live.send_sealed(b'{"event":"heartbeat"}') == []
    assert live.send_sealed(b'{"event":"join","data":{"rooms":["a","b","a"]}}') == [Join(("a", "b"), ())]
    assert live.send_sealed(b'{"event":"leave","data":{"rooms":["a"]}}') == [Leave(("a",))]
    assert live.send_sealed(b'{"event":"resume","data":{"rev":7}}') == [Resume(7)]
    held = b'{"event":"resume","data":{"rev":7,"history":"9f"}}'
    assert live.send_sealed(held) == [Resume(7, "9f")]
    assert live.send_sealed(b'{"event":"refresh","data":{"token":"t2"}}') == [Refresh(Credential("t2"))]
    assert live.send_sealed(b'{"event":"refresh","data":{"type":"Ticket","token":"t3"}}') == [
        Refresh(Credential("t3", is_ticket=True))
    ]
    assert live.send_sealed(b'{"event":"unknown"}') == []
    assert live.send_sealed(b'{"event":"encrypted","data":{}}') == []
    assert live.opened(live.send_sealed(b"not json")[0])["data"] == {"message": "Invalid message format"}


def test_join_and_leave_are_accepted_in_plaintext_after_the_handshake(live: Client) -> None:
    assert live.send("join", {"rooms": ["signal/merchant/m1"]}) == [Join(("signal/merchant/m1",), ())]
    assert live.send("leave", {"rooms": ["x"]}) == [Leave(("x",))]


def test_room_names_are_1_to_256_characters_and_never_start_with_ws_colon(live: Client) -> None:
    rooms = ["a" * 256, "a" * 257, "ws:x", "", "ws-ok", 5, None]
    (join,) = live.send("join", {"rooms": rooms})
    assert join == Join(("a" * 256, "ws-ok"), ("a" * 257, "ws:x", ""))


@pytest.mark.parametrize(
    "data", [None, {}, {"rooms": []}, {"rooms": "abc"}, {"rooms": 5}, [], {"rooms": {"a": 1}}]
)
def test_a_join_without_rooms_does_nothing(live: Client, data: Any) -> None:
    assert live.send("join", data) == []


def test_a_message_of_more_than_131072_bytes_closes_1009(client: Client) -> None:
    fits = json.dumps({"event": "x", "data": ""})
    padding = "é" * ((131_072 - len(fits)) // 2)
    assert client.protocol.receive(json.dumps({"event": "x", "data": padding}, ensure_ascii=False), 1.0) != []
    assert client.protocol.receive("é" * 65_537, 1.0) == [Close(1009, "Message too big")]


def test_the_revision_to_resume_from_may_come_with_authenticate(client: Client) -> None:
    for resume, expected in [
        (5, Resume(5)),
        ({"rev": 5}, Resume(5)),
        ({"rev": 5, "history": None}, Resume(5)),
        ({"rev": 5, "history": "9f"}, Resume(5, "9f")),
        ({"rev": 5, "history": 9}, None),
        (None, None),
        (-1, None),
        (True, None),
        (2**63, None),
        ("5", None),
        (1.0, None),
    ]:
        (request,) = client.send("authenticate", {"token": "t", "resume": resume})
        assert isinstance(request, Authenticate) and request.resume == expected, resume


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda x: st.lists(x) | st.dictionaries(st.text(), x),
        max_leaves=8,
    ),
    st.sampled_from(["authenticate", "join", "leave", "encrypted", "resume", "heartbeat", "x"]),
)
def test_no_data_of_any_shape_breaks_the_protocol_or_draws_plaintext(data: Any, event: str) -> None:
    client = Client()
    client.send(event, data)
    if not client.protocol.live:
        client = Client()
        client.handshake()
    for decision in client.send(event, data) + client.send_sealed(
        json.dumps({"event": event, "data": data}).encode()
    ):
        if isinstance(decision, SendFrame):
            client.opened(decision)

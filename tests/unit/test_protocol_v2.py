"""The stream's protocol with version 2 of the cryptography, and which versions a server takes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nx_signal.delivery.topics import REFRESHED
from nx_signal.websocket.channel import Hello
from nx_signal.websocket.decisions import (
    Authenticate,
    Close,
    Credential,
    Join,
    Leave,
    Refresh,
    Resume,
    SendFrame,
)
from nx_signal.websocket.noise import NoiseError
from nx_signal.websocket.sealing import KeyPair
from stream_kit import TIMESTAMP, Client, Client2

NOT_SEALED = Close(4004, "Encryption required")
NOT_AUTHENTIC = Close(4010, "Message not authentic")


@pytest.fixture
def client() -> Client2:
    client = Client2()
    client.hello()
    return client


@pytest.fixture
def live(client: Client2) -> Client2:
    client.authenticate()
    return client


def test_connected_is_sealed_and_states_who_the_client_is(client: Client2) -> None:
    connected = client.authenticate(user_id="ann")
    assert connected == {"id": client.protocol.client_id, "userId": "ann", "time": TIMESTAMP}
    assert client.protocol.live


def test_the_token_and_a_resume_are_taken_from_the_sealed_message(client: Client2) -> None:
    sent = client.send(
        "authenticate", {"type": "Bearer", "token": "t", "resume": {"rev": 7, "history": "9f"}}
    )
    assert sent == [Authenticate(Credential("t"), None, Resume(7, "9f"))]


def test_a_ticket_is_taken_from_a_sealed_message_alone(client: Client2) -> None:
    ticket = {"type": "Ticket", "token": "t"}
    assert client.send("authenticate", ticket) == [Authenticate(Credential("t", is_ticket=True), None, None)]
    assert client.protocol.receive(json.dumps({"event": "authenticate", "data": ticket}), 1.0) == [NOT_SEALED]


def test_before_authenticate_nothing_else_is_done(client: Client2) -> None:
    for event, data in (("join", {"rooms": ["a"]}), ("resume", {"rev": 0}), ("refresh", {"token": "t"})):
        (error,) = client.send(event, data)
        assert client.opened(error)["data"] == {"message": "Not authenticated"}
    assert client.channel
    client.channel.rekey_sending()
    assert client.send("heartbeat") == []


def test_a_hello_gives_no_more_time_to_authenticate() -> None:
    client = Client2()
    client.hello(now_s=4.0)
    assert client.protocol.deadline_s == 5.0
    assert client.protocol.timed_out(5.0) == [Close(4001, "Authentication timeout")]


def test_a_live_client_does_all_that_one_of_version_1_does(live: Client2) -> None:
    assert live.send("join", {"rooms": ["a"]}) == [Join(("a",), ())]
    assert live.send("leave", {"rooms": ["a"]}) == [Leave(("a",))]
    assert live.send("resume", {"rev": 7}) == [Resume(7)]
    assert live.send("heartbeat", now_s=50.0) == []
    assert live.protocol.deadline_s == 140.0
    (error,) = live.send("authenticate", {"token": "t"})
    assert live.opened(error)["data"] == {"message": "Already authenticated"}


@pytest.mark.parametrize("authenticated", [False, True])
@pytest.mark.parametrize(
    ("message", "close"),
    [
        ('{"event":"authenticate","data":{"token":"t"}}', NOT_SEALED),
        ('{"event":"heartbeat"}', NOT_SEALED),
        ('{"event":"hello","data":{"versions":[2],"message":""}}', NOT_SEALED),
        (
            '{"event":"encrypted","data":{"iv":"AAAAAAAAAAAAAAAA","ct":"AAAAAAAAAAAAAAAAAAAAAA=="}}',
            NOT_SEALED,
        ),
        (b'{"event":"heartbeat"}', NOT_AUTHENTIC),
        (b"", NOT_AUTHENTIC),
        (bytes(40), NOT_AUTHENTIC),
        (bytes(131_073), Close(1009, "Message too big")),
    ],
)
def test_what_is_not_sealed_for_this_connection_ends_it(
    client: Client2, authenticated: bool, message: str | bytes, close: Close
) -> None:
    if authenticated:
        client.authenticate()
    assert client.protocol.receive(message, 1.0) == [close]
    assert client.protocol.receive(message, 1.0) == [], "nothing is read after it"


def test_a_repeated_message_ends_the_connection(live: Client2) -> None:
    assert live.channel
    sealed = live.channel.seal(b'{"event":"resume","data":{"rev":1}}')
    assert live.protocol.receive(sealed, 1.0) == [Resume(1)]
    assert live.protocol.receive(sealed, 1.0) == [NOT_AUTHENTIC]


def test_a_frame_of_the_server_that_is_sent_back_ends_the_connection(live: Client2) -> None:
    assert live.protocol.receive(live.protocol.seal(b'{"event":"x"}'), 1.0) == [NOT_AUTHENTIC]


def test_what_opens_and_is_no_event_is_an_error_as_on_version_1(live: Client2) -> None:
    assert live.channel
    (error,) = live.protocol.receive(live.channel.seal(b"[]"), 1.0)
    assert live.opened(error)["data"] == {"message": "Invalid message format"}


# --- new keys at a refresh ---------------------------------------------------------------------------


def test_a_refresh_gives_both_directions_new_keys(live: Client2) -> None:
    assert live.channel
    assert live.send("refresh", {"token": "new"}) == [Refresh(Credential("new"))]
    live.channel.rekey_sending()
    assert live.send("resume", {"rev": 1}) == [Resume(1)]
    (refreshed,) = live.protocol.refreshed()
    assert live.opened(refreshed) == {"event": REFRESHED, "data": {}}
    sealed = live.protocol.seal(b"after")
    with pytest.raises(NoiseError):
        live.channel.open(sealed)
    live.channel.rekey_receiving()
    assert live.channel.open(sealed) == b"after"


def test_a_client_that_keeps_its_key_after_a_refresh_is_not_understood(live: Client2) -> None:
    live.send("refresh", {"token": "new"})
    assert live.send("heartbeat") == [NOT_AUTHENTIC]


def test_a_refresh_before_authenticate_changes_the_key_as_well(client: Client2) -> None:
    assert client.channel
    client.opened(client.send("refresh", {"token": "new"})[0])
    client.channel.rekey_sending()
    client.authenticate()


def test_frames_between_a_refresh_and_its_answer_have_the_present_key(live: Client2) -> None:
    assert live.channel
    live.send("refresh", {"token": "new"})
    assert live.channel.open(live.protocol.seal(b"meanwhile")) == b"meanwhile"


def test_version_1_gets_no_answer_to_a_refresh() -> None:
    client = Client()
    client.handshake()
    assert client.protocol.refreshed() == []


# --- which versions a server takes -----------------------------------------------------------------


def refusal(decisions: list[Any]) -> dict[str, Any]:
    error, close = decisions
    assert isinstance(error, SendFrame) and not error.sealed and close == NOT_SEALED
    return json.loads(error.text)["data"]  # type: ignore[no-any-return]


def test_a_server_of_version_2_alone_refuses_version_1_before_it_looks_at_the_token() -> None:
    client = Client2(versions={2})
    data = {"token": "t", "publicKey": KeyPair.generate().public_b64}
    refused = client.protocol.receive(json.dumps({"event": "authenticate", "data": data}), 1.0)
    assert refusal(refused) == {"message": "Encryption handshake failed", "versions": [2]}


def test_a_server_of_version_1_alone_refuses_a_hello() -> None:
    client = Client2(versions={1})
    refused = client.protocol.receive(json.dumps({"event": "hello", "data": Hello().data}), 1.0)
    assert refusal(refused) == {"message": "Encryption handshake failed", "versions": [1]}


@pytest.mark.parametrize("data", [None, {"versions": [3]}, {"versions": [2], "message": "AA=="}])
def test_a_hello_that_cannot_be_used_is_refused(data: Any) -> None:
    client = Client2()
    refused = client.protocol.receive(json.dumps({"event": "hello", "data": data}), 1.0)
    assert refusal(refused)["versions"] == [1, 2]


def test_a_client_of_version_1_cannot_change_to_version_2() -> None:
    client = Client()
    client.handshake()
    (error,) = client.send("hello", Hello().data)
    assert client.opened(error)["data"] == {"message": "Encryption required"}


@given(st.binary(max_size=300) | st.text(max_size=100))
def test_no_message_breaks_the_protocol(message: str | bytes) -> None:
    client = Client2()
    client.hello()
    client.authenticate()
    (close,) = client.protocol.receive(message, 1.0)
    assert close in (NOT_SEALED, NOT_AUTHENTIC)


# --- version 1: what can be checked there --------------------------------------------------------


def test_on_version_1_a_frame_of_the_server_that_is_sent_back_is_not_accepted() -> None:
    client = Client()
    client.handshake()
    sealed = client.protocol.seal(b'{"event":"resume","data":{"rev":1}}')
    (error,) = client.protocol.receive(sealed, 1.0)
    assert client.opened(error)["data"] == {"message": "Encryption required"}

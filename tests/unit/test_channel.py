"""Version 2 of the stream: as a second implementation has it, to the byte, and what it refuses."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

import noise_peer
from nx_signal.identity.stream_keys import public_jwk
from nx_signal.websocket import channel as channel_module
from nx_signal.websocket.channel import BadHello, Channel, Hello, Offer, UnknownServerKey, answer, read_offer
from nx_signal.websocket.noise import NoiseError
from nx_signal.websocket.sealing import b64, unb64
from stream_kit import SERVER_KEY, STATIC_KEY

VECTORS: dict[str, Any] = json.loads(
    (Path(__file__).parent.parent / "vectors" / "stream_v2.json").read_text("utf-8")
)
Break = Callable[[list[bytes]], list[bytes]]


def private(name: str) -> X25519PrivateKey:
    return X25519PrivateKey.from_private_bytes(bytes.fromhex(VECTORS[name]))


def connect() -> tuple[Channel, Channel]:
    """The client's and the server's side of one connection."""
    hello = Hello()
    data, server = answer(read_offer(hello.data), STATIC_KEY)
    return hello.finish(data, [SERVER_KEY]), server


# --- a second implementation -----------------------------------------------------------------------


def test_the_second_implementation_makes_the_vectors() -> None:
    assert noise_peer.vectors() == VECTORS


def test_both_sides_are_to_the_byte_as_in_the_vectors() -> None:
    hello = Hello(private("clientEphemeralPrivate"))
    assert {"event": "hello", "data": hello.data} == json.loads(VECTORS["clientHello"])
    data, server = answer(
        read_offer(hello.data), private("serverStaticPrivate"), private("serverEphemeralPrivate")
    )
    assert {"event": "hello", "data": data} == json.loads(VECTORS["serverHello"])
    client = hello.finish(data, [bytes.fromhex(VECTORS["serverStaticPublic"])])
    assert client.binding.hex() == server.binding.hex() == VECTORS["handshakeHash"]
    for message in VECTORS["messages"]:
        sends, reads = (client, server) if message["from"] == "client" else (server, client)
        sends._sending._cipher.n = reads._receiving._cipher.n = message["counter"]
        if "plaintext" in message:
            plaintext, sealed = message["plaintext"].encode(), bytes.fromhex(message["sealed"])
            assert sends.seal(plaintext) == sealed
        else:
            plaintext = json.dumps(
                {"event": "long", "data": "x" * message["padded"]}, separators=(",", ":")
            ).encode()
            sealed = sends.seal(plaintext)
            assert (len(sealed), hashlib.sha256(sealed).hexdigest()) == (message["bytes"], message["sha256"])
        assert reads.open(sealed) == plaintext
        if message.get("thenRekey"):
            sends.rekey_sending()
            reads.rekey_receiving()


def test_our_client_and_the_other_server_understand_each_other() -> None:
    static = X25519PrivateKey.generate()
    other = noise_peer.Peer("server", static=static.private_bytes_raw())
    hello = Hello()
    data = json.loads(other.answer(json.dumps({"event": "hello", "data": hello.data})))["data"]
    client = hello.finish(data, [static.public_key().public_bytes_raw()])
    assert other.open(client.seal(b"to the server")) == b"to the server"
    assert client.open(other.seal(b"y" * 200_000)) == b"y" * 200_000


def test_the_other_client_and_our_server_understand_each_other() -> None:
    other = noise_peer.Peer("client")
    data, server = answer(read_offer(json.loads(other.hello())["data"]), STATIC_KEY)
    assert other.finish(json.dumps({"event": "hello", "data": data})) == SERVER_KEY
    assert other.open(server.seal(b"z" * 131_038)) == b"z" * 131_038
    assert server.open(other.seal(b"to the server")) == b"to the server"


# --- sealed messages -------------------------------------------------------------------------------


@given(st.lists(st.binary(max_size=200), max_size=8))
def test_what_is_sealed_in_order_opens_in_order(plaintexts: list[bytes]) -> None:
    client, server = connect()
    assert [server.open(client.seal(each)) for each in plaintexts] == plaintexts
    assert [client.open(server.seal(each)) for each in plaintexts] == plaintexts


BREAKS: dict[str, Break] = {
    "repeated": lambda sealed: [sealed[0], sealed[0]],
    "left out": lambda sealed: [sealed[0], sealed[2]],
    "swapped": lambda sealed: [sealed[1]],
    "cut off": lambda sealed: [sealed[0][:-1]],
    "cut to its tag": lambda sealed: [sealed[0][-16:]],
    "empty": lambda sealed: [b""],
    "longer": lambda sealed: [sealed[0] + b"\0"],
    "changed": lambda sealed: [sealed[0][:3] + bytes([sealed[0][3] ^ 1]) + sealed[0][4:]],
    "two in one": lambda sealed: [sealed[0] + sealed[1]],
}


@pytest.mark.parametrize("how", BREAKS)
@pytest.mark.parametrize("from_client", [True, False])
def test_a_message_that_is_not_the_next_one_does_not_open(how: str, from_client: bool) -> None:
    client, server = connect()
    sends, reads = (client, server) if from_client else (server, client)
    *good, bad = BREAKS[how]([sends.seal(b'{"n":%d}' % number) for number in range(3)])
    for sealed in good:
        reads.open(sealed)
    with pytest.raises(NoiseError):
        reads.open(bad)


def test_a_message_that_is_sent_back_does_not_open() -> None:
    client, server = connect()
    with pytest.raises(NoiseError):
        client.open(client.seal(b"x"))
    with pytest.raises(NoiseError):
        server.open(server.seal(b"x"))


def test_a_message_of_another_connection_does_not_open() -> None:
    """So a sealed token is of no use on another connection than its own."""
    client, _ = connect()
    _, other_server = connect()
    with pytest.raises(NoiseError):
        other_server.open(client.seal(b'{"event":"authenticate"}'))


@pytest.mark.parametrize("size", [65_519, 65_520, 131_038, 131_039])
def test_a_message_of_several_parts_opens_whole_or_not_at_all(size: int) -> None:
    plaintext = b"p" * size
    client, server = connect()
    sealed = server.seal(plaintext)
    assert len(sealed) == size + 16 * -(-size // 65_519)
    assert client.open(sealed) == plaintext
    if size > 65_519:
        client, server = connect()
        with pytest.raises(NoiseError):
            client.open(server.seal(plaintext)[:65_535])


def test_each_direction_has_its_own_key() -> None:
    """Also with the associated data of the other direction nothing opens."""
    client, _ = connect()
    sealed = client.seal(b"x")
    client._receiving._ad = client._sending._ad
    with pytest.raises(NoiseError):
        client.open(sealed)


def test_a_refresh_changes_the_key_of_its_direction_and_the_count_goes_on() -> None:
    client, server = connect()
    server.open(client.seal(b"before"))
    client.rekey_sending()
    sealed = client.seal(b"after")
    with pytest.raises(NoiseError):
        server.open(sealed)
    server.rekey_receiving()
    assert server.open(sealed) == b"after"
    assert client.open(server.seal(b"other way")) == b"other way", "with the key that it had"


def test_after_many_messages_both_sides_change_the_key_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel_module, "REKEY_AFTER", 3)
    client, server = connect()
    keys = set()
    for _ in range(7):
        keys.add(client._sending._cipher._aead)
        assert server.open(client.seal(b"x")) == b"x"
    assert len(keys) == 3


# --- the handshake ---------------------------------------------------------------------------------


def test_a_server_with_another_key_is_refused() -> None:
    hello = Hello()
    data, _ = answer(read_offer(hello.data), X25519PrivateKey.generate())
    with pytest.raises(UnknownServerKey):
        hello.finish(data, [SERVER_KEY])


def test_a_server_that_states_the_key_of_another_without_having_it_is_refused() -> None:
    hello = Hello()
    liar = noise_peer.Peer("server", static=X25519PrivateKey.generate().private_bytes_raw())
    liar.noise.noise_protocol.handshake_state.s.public_bytes = SERVER_KEY
    data = json.loads(liar.answer(json.dumps({"event": "hello", "data": hello.data})))["data"]
    with pytest.raises(BadHello):
        hello.finish(data, [SERVER_KEY])


@pytest.mark.parametrize("offered", [(2, 3), (1, 2), (3, 2), (2, 2)])
def test_a_changed_offer_makes_the_handshake_fail(offered: tuple[int, ...]) -> None:
    """Whatever a machine in between adds or takes away: the client's transcript has what it offered."""
    hello = Hello()
    data, _ = answer(Offer(offered, read_offer(hello.data).message), STATIC_KEY)
    with pytest.raises(BadHello):
        hello.finish(data, [SERVER_KEY])


def test_a_stripped_offer_makes_the_handshake_fail() -> None:
    """A client that offers more than version 2 does not end on it where the offer was reduced."""
    other = noise_peer.Peer("client", offered=(3, 2))
    message = read_offer(json.loads(other.hello())["data"]).message
    data, _ = answer(Offer((2,), message), STATIC_KEY)
    with pytest.raises(InvalidTag):
        other.finish(json.dumps({"event": "hello", "data": data}))


def test_a_client_that_offers_more_gets_version_2() -> None:
    other = noise_peer.Peer("client", offered=(3, 2, 1))
    data, server = answer(read_offer(json.loads(other.hello())["data"]), STATIC_KEY)
    assert other.finish(json.dumps({"event": "hello", "data": data})) == SERVER_KEY
    assert server.open(other.seal(b"x")) == b"x"


GOOD = b64(bytes(32))


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        {},
        {"versions": [2]},
        {"versions": [], "message": GOOD},
        {"versions": 2, "message": GOOD},
        {"versions": [1], "message": GOOD},
        {"versions": [3], "message": GOOD},
        {"versions": ["2"], "message": GOOD},
        {"versions": [True, 2], "message": GOOD},
        {"versions": [2.0], "message": GOOD},
        {"versions": [0, 2], "message": GOOD},
        {"versions": [2, 65_536], "message": GOOD},
        {"versions": [2] * 17, "message": GOOD},
        {"versions": [2], "message": 5},
        {"versions": [2], "message": GOOD.rstrip("=")},
        {"versions": [2], "message": b64(bytes(31))},
        {"versions": [2], "message": b64(bytes(33))},
        {"versions": [2], "message": "é" * 44},
    ],
)
def test_what_is_no_offer_is_refused(data: object) -> None:
    with pytest.raises(BadHello):
        read_offer(data)


def test_an_offer_with_a_key_that_gives_no_secret_is_refused() -> None:
    with pytest.raises(BadHello):
        answer(read_offer({"versions": [2], "message": GOOD}), STATIC_KEY)


@pytest.mark.parametrize("change", ["version", "message", "cut", "longer", "nothing"])
def test_an_answer_that_was_changed_is_refused(change: str) -> None:
    hello = Hello()
    data, _ = answer(read_offer(hello.data), STATIC_KEY)
    message = unb64(data["message"])
    changed: object = {
        "version": {**data, "version": 1},
        "message": {**data, "message": b64(message[:-1] + bytes([message[-1] ^ 1]))},
        "cut": {**data, "message": b64(message[:80])},
        "longer": {**data, "message": b64(message + b"\0")},
        "nothing": None,
    }[change]
    with pytest.raises(BadHello):
        hello.finish(changed, [SERVER_KEY])


# --- the document ----------------------------------------------------------------------------------


def test_the_beginning_of_the_vectors_is_as_the_document_has_it() -> None:
    text = (Path(__file__).parent.parent.parent / "docs" / "stream-v2.md").read_text("utf-8")
    names = ("clientEphemeralPrivate", "serverEphemeralPrivate", "serverStaticPrivate", "prologue")
    given = [VECTORS[name] for name in (*names, "clientHello", "serverHello", "handshakeHash")]
    first = VECTORS["messages"][0]
    for value in (*given, first["plaintext"], first["sealed"]):
        assert value in text
    (shown,) = [line for line in text.splitlines() if line.startswith('{"kty": "OKP"')]
    assert json.loads(shown) == public_jwk(private("serverStaticPrivate"))

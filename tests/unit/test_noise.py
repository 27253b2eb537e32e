"""Noise NX against vectors that another implementation published."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from nx_signal.websocket.noise import MAX_NONCE, CipherState, Handshake, NoiseError

VECTOR: dict[str, Any] = json.loads(
    (Path(__file__).parent.parent / "vectors" / "noise_nx.json").read_text("utf-8")
)["vector"]


def private(name: str) -> X25519PrivateKey:
    return X25519PrivateKey.from_private_bytes(bytes.fromhex(VECTOR[name]))


def sides() -> tuple[Handshake, Handshake]:
    initiator = Handshake(
        initiator=True,
        prologue=bytes.fromhex(VECTOR["init_prologue"]),
        ephemeral=private("init_ephemeral"),
    )
    responder = Handshake(
        initiator=False,
        prologue=bytes.fromhex(VECTOR["resp_prologue"]),
        static=private("resp_static"),
        ephemeral=private("resp_ephemeral"),
    )
    return initiator, responder


def test_a_published_handshake_and_its_messages_are_made_and_read_to_the_byte() -> None:
    initiator, responder = sides()
    first, second, *transport = [
        (bytes.fromhex(each["payload"]), bytes.fromhex(each["ciphertext"])) for each in VECTOR["messages"]
    ]
    assert initiator.write(first[0]) == first[1] and responder.read(first[1]) == first[0]
    assert responder.write(second[0]) == second[1] and initiator.read(second[1]) == second[0]
    assert initiator.h == responder.h == bytes.fromhex(VECTOR["handshake_hash"])
    assert initiator.remote_static == private("resp_static").public_key().public_bytes_raw()
    (to_responder, from_responder), (to_initiator, from_initiator) = initiator.split(), responder.split()
    for number, (payload, ciphertext) in enumerate(transport):
        sends, reads = (to_responder, from_initiator) if number % 2 == 0 else (to_initiator, from_responder)
        assert sends.encrypt(b"", payload) == ciphertext
        assert reads.decrypt(b"", ciphertext) == payload


@pytest.mark.parametrize("at", [0, 31, 32, 79, 80, 95])
def test_a_changed_answer_is_refused(at: int) -> None:
    initiator, responder = sides()
    responder.read(initiator.write())
    answer = bytearray(responder.write())
    answer[at] ^= 1
    with pytest.raises(NoiseError):
        initiator.read(bytes(answer))


@pytest.mark.parametrize("length", [0, 31])
def test_a_message_that_is_cut_off_is_refused(length: int) -> None:
    _, responder = sides()
    with pytest.raises(NoiseError, match="too short"):
        responder.read(bytes(length))


@pytest.mark.parametrize("point", [bytes(32), b"\x01" + bytes(31)])
def test_a_public_key_that_gives_no_secret_is_refused(point: bytes) -> None:
    """RFC 7748 §6.1: the shared secret would be known to everybody."""
    _, responder = sides()
    responder.read(point)
    with pytest.raises(NoiseError, match="no secret"):
        responder.write()


def test_another_prologue_makes_the_handshake_fail() -> None:
    initiator = Handshake(initiator=True, prologue=b"one")
    responder = Handshake(initiator=False, prologue=b"other", static=private("resp_static"))
    responder.read(initiator.write())
    with pytest.raises(NoiseError):
        initiator.read(responder.write())


def test_a_message_that_does_not_open_leaves_the_counter() -> None:
    sends, reads = CipherState(bytes(32)), CipherState(bytes(32))
    with pytest.raises(NoiseError):
        reads.decrypt(b"", bytes(16))
    assert reads.decrypt(b"ad", sends.encrypt(b"ad", b"text")) == b"text"


def test_no_message_has_the_last_nonce() -> None:
    cipher = CipherState(bytes(32))
    cipher.n = MAX_NONCE
    for refused in (cipher.encrypt, cipher.decrypt):
        with pytest.raises(NoiseError, match="used up"):
            refused(b"", bytes(16))


def test_after_a_rekey_the_earlier_key_opens_nothing() -> None:
    sends, reads = CipherState(bytes(32)), CipherState(bytes(32))
    sends.rekey()
    sealed = sends.encrypt(b"", b"text")
    with pytest.raises(NoiseError):
        reads.decrypt(b"", sealed)
    reads.rekey()
    assert reads.decrypt(b"", sealed) == b"text"

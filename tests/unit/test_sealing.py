"""Key agreement and sealing, checked against cases that the original client library made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from nx_signal.websocket.sealing import (
    BadPublicKey,
    KeyPair,
    Sealer,
    Unopenable,
    agree,
    b64,
    read_public_key,
    unb64,
)

CASES = json.loads((Path(__file__).parent.parent / "vectors" / "ecdh.json").read_text())["cases"]


def private_key(d_b64url: str) -> ec.EllipticCurvePrivateKey:
    raw = unb64(d_b64url.replace("-", "+").replace("_", "/") + "=" * (-len(d_b64url) % 4))
    return ec.derive_private_key(int.from_bytes(raw, "big"), ec.SECP256R1())


@pytest.mark.parametrize("case", CASES)
def test_a_frame_of_the_original_library_opens_with_the_key_of_either_side(case: dict[str, Any]) -> None:
    salt = unb64(case["salt"])
    server, client = (
        KeyPair(private_key(case["serverPrivateKeyD"])),
        KeyPair(private_key(case["clientPrivateKeyD"])),
    )
    assert server.public_b64 == case["serverPublicKey"]
    keys = {
        agree(server, read_public_key(case["clientPublicKey"]), salt),
        agree(client, read_public_key(case["serverPublicKey"]), salt),
    }
    assert len(keys) == 1
    assert Sealer(keys.pop()).open(case["encrypted"]).decode() == case["plaintext"]


def test_a_compressed_point_agrees_on_the_same_key() -> None:
    server, client = KeyPair.generate(), KeyPair.generate()
    compressed = client.private.public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    assert len(compressed) == 33
    salt = bytes(32)
    assert agree(server, read_public_key(b64(compressed)), salt) == agree(
        server, read_public_key(client.public_b64), salt
    )


GOOD = KeyPair.generate().public_b64


@pytest.mark.parametrize(
    "key",
    [
        None,
        5,
        [],
        "",
        "%%%",
        GOOD[:-1],
        GOOD.rstrip("="),
        GOOD + "\n",
        " " + GOOD,
        GOOD[:5] + "-" + GOOD[6:],
        b64(bytes(65)),
        b64(b"\x04" + b"\xff" * 64),
        b64(b"\x02" * 34),
        b64(b"\x00"),
        b64(b"\x02" + b"\xff" * 32),
        "é" * 88,
    ],
)
def test_what_is_not_a_point_of_the_curve_in_padded_base64_is_refused(key: object) -> None:
    with pytest.raises(BadPublicKey):
        read_public_key(key)


def test_no_iv_repeats_and_what_is_sealed_opens() -> None:
    sealer = Sealer(bytes(32))
    frames = [json.loads(sealer.seal(b'{"n":%d}' % n)) for n in range(1000)]
    assert len({frame["data"]["iv"] for frame in frames}) == 1000
    assert all(frame["event"] == "encrypted" for frame in frames)
    assert Sealer(bytes(32)).open(frames[7]["data"]) == b'{"n":7}'


@given(st.binary(max_size=300))
def test_any_plaintext_is_sealed_and_opened_unchanged(plaintext: bytes) -> None:
    assert Sealer(bytes(32)).open(json.loads(Sealer(bytes(32)).seal(plaintext))["data"]) == plaintext


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        {},
        {"iv": 1, "ct": "AA=="},
        {"iv": "AAAA", "ct": "AAAA"},
        {"iv": "A" * 16, "ct": ""},
        {"iv": "A" * 16, "ct": "A" * 64},
        {"iv": "A" * 16, "ct": "!"},
        {"iv": "é", "ct": "é"},
    ],
)
def test_what_was_not_sealed_with_the_key_does_not_open(data: object) -> None:
    with pytest.raises(Unopenable):
        Sealer(bytes(32)).open(data)

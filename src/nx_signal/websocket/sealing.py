"""Key agreement and sealing on the stream (CONTRACT §1, Handshake): P-256 ECDH, HKDF-SHA256 (RFC 5869),
AES-256-GCM (NIST SP 800-38D). The vectors of the original client library hold it in tests/unit."""

from __future__ import annotations

import binascii
import os
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

HKDF_INFO = b"ignis-ecdh-p256-aes-256-gcm-v1"
KEY_BYTES = 32
SALT_BYTES = 32
IV_BYTES = 12
POINT_BYTES = (33, 65)  # compressed, uncompressed: SEC 1 §2.3.3

_CURVE = ec.SECP256R1()


class BadPublicKey(ValueError):
    """Not padded standard base64 of a point on P-256."""


class Unopenable(ValueError):
    """A sealed frame that was not made with this key, or was changed on the way."""


def b64(raw: bytes) -> str:
    return binascii.b2a_base64(raw, newline=False).decode("ascii")


def unb64(text: str) -> bytes:
    """Padded standard base64 (RFC 4648 §4), nothing else. Raises ValueError."""
    return binascii.a2b_base64(text.encode("ascii"), strict_mode=True)


@dataclass(frozen=True, slots=True)
class KeyPair:
    """An ephemeral key pair: one for each connection."""

    private: ec.EllipticCurvePrivateKey

    @classmethod
    def generate(cls) -> KeyPair:
        return cls(ec.generate_private_key(_CURVE))

    @property
    def public_b64(self) -> str:
        """The uncompressed point, 65 bytes, as base64."""
        return b64(self.private.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint))


def read_public_key(text: object) -> ec.EllipticCurvePublicKey:
    """Raises BadPublicKey for anything but base64 of 33 or 65 bytes that are a point of the curve."""
    if not isinstance(text, str):
        raise BadPublicKey("a public key is base64 text")
    try:
        raw = unb64(text)
        if len(raw) not in POINT_BYTES:
            raise BadPublicKey("a public key has 33 or 65 bytes")
        return ec.EllipticCurvePublicKey.from_encoded_point(_CURVE, raw)
    except ValueError as error:
        raise BadPublicKey(str(error)) from None


def agree(pair: KeyPair, peer: ec.EllipticCurvePublicKey, salt: bytes) -> bytes:
    """The session key, 32 bytes, from our pair, the peer's point and the server's salt."""
    shared = pair.private.exchange(ec.ECDH(), peer)
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=salt, info=HKDF_INFO).derive(shared)


class Sealer:
    """Seals the frames of one direction of one connection.

    The IV is a random 4-byte prefix and a counter: it cannot repeat under a key that lives for one
    connection (SP 800-38D §8.2.1). The peer seals under the same key with IVs of its own choice: the
    random prefix keeps the two apart as well as random IVs would."""

    __slots__ = ("_cipher", "_counter", "_prefix", "_start")

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)
        self._prefix = os.urandom(4)
        self._counter = self._start = int.from_bytes(os.urandom(4), "big")

    def seal(self, plaintext: bytes) -> bytes:
        """The whole frame `{"event":"encrypted","data":{"iv","ct"}}` as JSON text."""
        self._counter += 1
        iv = self._prefix + self._counter.to_bytes(8, "big")
        ct = self._cipher.encrypt(iv, plaintext, None)
        return b'{"event":"encrypted","data":{"iv":"%b","ct":"%b"}}' % (
            binascii.b2a_base64(iv, newline=False),
            binascii.b2a_base64(ct, newline=False),
        )

    def open(self, data: object) -> bytes:
        """The plaintext of a frame's `data` from the peer. Raises Unopenable."""
        if not isinstance(data, dict):
            raise Unopenable("a sealed frame has data {iv, ct}")
        iv, ct = data.get("iv"), data.get("ct")
        if not isinstance(iv, str) or not isinstance(ct, str):
            raise Unopenable("iv and ct are base64 text")
        try:
            raw_iv = unb64(iv)
            if len(raw_iv) != IV_BYTES:
                raise Unopenable("an iv has 12 bytes")
            if self._made(raw_iv):
                raise Unopenable("the frame is one of our own, sent back")
            return self._cipher.decrypt(raw_iv, unb64(ct), None)
        except InvalidTag:
            raise Unopenable("the frame does not open with this session's key") from None
        except ValueError as error:
            raise Unopenable(str(error)) from None

    def _made(self, iv: bytes) -> bool:
        """One key serves both directions: only the IV shows whose frame it is."""
        return iv[:4] == self._prefix and self._start < int.from_bytes(iv[4:], "big") <= self._counter


class IncreasingIvs:
    """What a client of version 1 can check of the server's frames, as the server counts its IVs. That a frame
    was left out stays unnoticed."""

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last = b""

    def check(self, iv: bytes) -> None:
        """The IV of a frame that opens. Raises Unopenable unless it is of the same count, and later."""
        if self._last and (iv[:4] != self._last[:4] or iv <= self._last):
            raise Unopenable("the frame is repeated, or out of order")
        self._last = iv

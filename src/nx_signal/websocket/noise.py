"""Noise_NX_25519_AESGCM_SHA256 of the Noise Protocol Framework, revision 34 (https://noiseprotocol.org),
and nothing else of it. No I/O. Names and sections are the specification's. Published vectors and a second
implementation hold it in tests/unit."""

from __future__ import annotations

import hashlib
import hmac
from typing import TypeVar

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

T = TypeVar("T")

PROTOCOL_NAME = b"Noise_NX_25519_AESGCM_SHA256"
DHLEN = HASHLEN = KEY_BYTES = 32
TAG_BYTES = 16
MAX_MESSAGE_BYTES = 65_535
"""§3: of a handshake message and of a transport message."""
MAX_NONCE = 2**64 - 1
"""§5.1: reserved for Rekey(); no message has it."""

MESSAGES = (("e",), ("e", "ee", "s", "es"))
"""§7.5, NX: the initiator's message, then the responder's."""


class NoiseError(ValueError):
    """A message that the peer cannot have made for this connection, or that was changed on the way."""


class CipherState:
    """§5.1, with a key: one direction. Encrypts or decrypts, each message with the next nonce."""

    __slots__ = ("_aead", "n")

    def __init__(self, key: bytes) -> None:
        self._aead = AESGCM(key)
        self.n = 0

    def encrypt(self, ad: bytes, plaintext: bytes) -> bytes:
        """EncryptWithAd. Raises NoiseError after 2^64 - 1 messages."""
        ciphertext = self._aead.encrypt(self._nonce(), plaintext, ad)
        self.n += 1
        return ciphertext

    def decrypt(self, ad: bytes, ciphertext: bytes) -> bytes:
        """DecryptWithAd. Raises NoiseError; the nonce then stays."""
        try:
            plaintext = self._aead.decrypt(self._nonce(), ciphertext, ad)
        except InvalidTag:
            raise NoiseError("the message does not open with this direction's key and counter") from None
        self.n += 1
        return plaintext

    def rekey(self) -> None:
        """§11.3: another key; the nonce goes on."""
        self._aead = AESGCM(self._aead.encrypt(_nonce(MAX_NONCE), bytes(KEY_BYTES), b"")[:KEY_BYTES])

    def _nonce(self) -> bytes:
        if self.n >= MAX_NONCE:
            raise NoiseError("this direction's counter is used up")
        return _nonce(self.n)


def _nonce(n: int) -> bytes:
    """§12.3"""
    return n.to_bytes(12, "big")


class Handshake:
    """§5.3 for NX: each side writes one message and reads one, then both `split`."""

    __slots__ = ("_cipher", "_ck", "_e", "_initiator", "_left", "_re", "_rs", "_s", "h")

    def __init__(
        self,
        *,
        initiator: bool,
        prologue: bytes,
        static: X25519PrivateKey | None = None,
        ephemeral: X25519PrivateKey | None = None,
    ) -> None:
        """`static`: the responder's key. `ephemeral`: for tests; otherwise a fresh one."""
        self._initiator = initiator
        self._s = static
        self._e = ephemeral or X25519PrivateKey.generate()
        self._re: X25519PublicKey | None = None
        self._rs: X25519PublicKey | None = None
        self._ck = PROTOCOL_NAME.ljust(HASHLEN, b"\0")
        self._cipher: CipherState | None = None
        self._left = list(MESSAGES)
        self.h = self._ck
        """the handshake hash: after the last message it identifies the session (§11.2)"""
        self._mix_hash(prologue)

    @property
    def remote_static(self) -> bytes:
        """The responder's static key, proven once its message was read."""
        return _known(self._rs).public_bytes_raw()

    def write(self, payload: bytes = b"") -> bytes:
        """WriteMessage. Raises NoiseError for a key of the peer that gives no secret."""
        message = b""
        for step in self._left.pop(0):
            if step == "e":
                raw = self._e.public_key().public_bytes_raw()
                self._mix_hash(raw)
                message += raw
            elif step == "s":
                message += self._encrypt_and_hash(_known(self._s).public_key().public_bytes_raw())
            else:
                self._mix_key(self._dh(step))
        return message + self._encrypt_and_hash(payload)

    def read(self, message: bytes) -> bytes:
        """ReadMessage: the payload. Raises NoiseError; the handshake is then of no further use."""
        for step in self._left.pop(0):
            if step in ("e", "s"):
                size = DHLEN + (TAG_BYTES if self._cipher else 0)
                part, message = message[:size], message[size:]
                if len(part) < size:
                    raise NoiseError("the handshake message is too short")
                if step == "e":
                    self._mix_hash(part)
                    self._re = X25519PublicKey.from_public_bytes(part)
                else:
                    self._rs = X25519PublicKey.from_public_bytes(self._decrypt_and_hash(part))
            else:
                self._mix_key(self._dh(step))
        return self._decrypt_and_hash(message)

    def split(self) -> tuple[CipherState, CipherState]:
        """§5.2: what we send with, and what we receive with."""
        to_responder, to_initiator = (CipherState(key) for key in _hkdf(self._ck, b""))
        return (to_responder, to_initiator) if self._initiator else (to_initiator, to_responder)

    def _dh(self, step: str) -> bytes:
        """`ee` or `es`: the initiator's e with the responder's e or s."""
        own = self._e if step == "ee" or self._initiator else self._s
        peer = self._rs if step == "es" and self._initiator else self._re
        try:
            return _known(own).exchange(_known(peer))
        except ValueError:  # of low order: RFC 7748 §6.1
            raise NoiseError("the peer's public key gives no secret") from None

    def _mix_hash(self, data: bytes) -> None:
        self.h = hashlib.sha256(self.h + data).digest()

    def _mix_key(self, material: bytes) -> None:
        self._ck, key = _hkdf(self._ck, material)
        self._cipher = CipherState(key)

    def _encrypt_and_hash(self, plaintext: bytes) -> bytes:
        ciphertext = self._cipher.encrypt(self.h, plaintext) if self._cipher else plaintext
        self._mix_hash(ciphertext)
        return ciphertext

    def _decrypt_and_hash(self, ciphertext: bytes) -> bytes:
        plaintext = self._cipher.decrypt(self.h, ciphertext) if self._cipher else ciphertext
        self._mix_hash(ciphertext)
        return plaintext


def _hkdf(chaining_key: bytes, material: bytes) -> tuple[bytes, bytes]:
    """§4.3, two outputs."""
    secret = hmac.digest(chaining_key, material, "sha256")
    first = hmac.digest(secret, b"\x01", "sha256")
    return first, hmac.digest(secret, first + b"\x02", "sha256")


def _known(key: T | None) -> T:
    assert key is not None  # noqa: S101 - the order of the messages gives it
    return key

"""Version 2 of the stream's cryptography (docs/stream-v2.md): the offer, the answer, and sealed messages.
Both sides, over Noise; no I/O."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from nx_signal.websocket.noise import DHLEN, MAX_MESSAGE_BYTES, TAG_BYTES, CipherState, Handshake, NoiseError
from nx_signal.websocket.sealing import b64, unb64

VERSION = 2
MAX_OFFERED = 16
MAX_VERSION = 65_535
REKEY_AFTER = 2**20
"""Messages of one direction under one key: at most 2^32 blocks of AES, which leaves no usable bias."""

LABEL = b"nx-signal stream 2"
TO_SERVER, TO_CLIENT = b"\x01", b"\x02"
MORE, LAST = b"\x00", b"\x01"
"""A part of a sealed message, and its last or only one."""
MAX_PLAIN_BYTES = MAX_MESSAGE_BYTES - TAG_BYTES


class BadHello(ValueError):
    """What is no offer, or no answer to one, of version 2."""


class UnknownServerKey(ValueError):
    """The server proved a static key that the client does not know."""


def prologue(offered: Sequence[int], chosen: int) -> bytes:
    """Binds the versions to the handshake: a changed offer or choice makes it fail."""
    versions = ",".join(map(str, offered))
    return f"nx-signal stream;offered:{versions};chosen:{chosen}".encode()


class _Direction:
    """One direction. The associated data of a message: LABEL, the direction, MORE or LAST, the counter."""

    __slots__ = ("_ad", "_cipher")

    def __init__(self, cipher: CipherState, direction: bytes) -> None:
        self._cipher = cipher
        self._ad = LABEL + direction

    def seal(self, plaintext: bytes, part: bytes) -> bytes:
        cipher = self._cipher
        sealed = cipher.encrypt(self._ad + part + cipher.n.to_bytes(8, "big"), plaintext)
        if cipher.n % REKEY_AFTER == 0:
            cipher.rekey()
        return sealed

    def open(self, sealed: bytes, part: bytes) -> bytes:
        cipher = self._cipher
        plaintext = cipher.decrypt(self._ad + part + cipher.n.to_bytes(8, "big"), sealed)
        if cipher.n % REKEY_AFTER == 0:
            cipher.rekey()
        return plaintext

    def rekey(self) -> None:
        self._cipher.rekey()


class Channel:
    """One side of a connection after the handshake. Messages open in the order in which they were sealed:
    one that was changed, repeated, moved or sent back does not, and none after a loss. It ends then."""

    __slots__ = ("_receiving", "_sending", "binding")

    def __init__(self, handshake: Handshake, *, client: bool) -> None:
        send, receive = handshake.split()
        self._sending = _Direction(send, TO_SERVER if client else TO_CLIENT)
        self._receiving = _Direction(receive, TO_CLIENT if client else TO_SERVER)
        self.binding = handshake.h
        """identifies this connection to both of its ends (Noise §11.2)"""

    def seal(self, plaintext: bytes) -> bytes:
        """The binary message. More than 65,519 bytes are several parts, each but the last of full length."""
        if len(plaintext) <= MAX_PLAIN_BYTES:
            return self._sending.seal(plaintext, LAST)
        starts = range(0, len(plaintext), MAX_PLAIN_BYTES)
        return b"".join(
            self._sending.seal(plaintext[at : at + MAX_PLAIN_BYTES], LAST if at == starts[-1] else MORE)
            for at in starts
        )

    def open(self, sealed: bytes) -> bytes:
        """Raises NoiseError."""
        if len(sealed) <= MAX_MESSAGE_BYTES:
            return self._receiving.open(sealed, LAST)
        starts = range(0, len(sealed), MAX_MESSAGE_BYTES)
        return b"".join(
            self._receiving.open(sealed[at : at + MAX_MESSAGE_BYTES], LAST if at == starts[-1] else MORE)
            for at in starts
        )

    def rekey_sending(self) -> None:
        self._sending.rekey()

    def rekey_receiving(self) -> None:
        self._receiving.rekey()


# --- the client's side of the handshake -----------------------------------------------------------


class Hello:
    """The client's offer of version 2 alone: so nothing that a middle box answers makes it take less."""

    def __init__(self, ephemeral: X25519PrivateKey | None = None) -> None:
        self._handshake = Handshake(
            initiator=True, prologue=prologue([VERSION], VERSION), ephemeral=ephemeral
        )
        self.data = {"versions": [VERSION], "message": b64(self._handshake.write())}

    def finish(self, data: object, trusted: Collection[bytes]) -> Channel:
        """`trusted`: public keys of the server, 32 bytes each. Raises BadHello, UnknownServerKey."""
        if not isinstance(data, dict) or data.get("version") != VERSION:
            raise BadHello("the answer does not choose version 2")
        try:
            payload = self._handshake.read(_message(data))
        except NoiseError as error:
            raise BadHello(str(error)) from None
        if payload:
            raise BadHello("the answer has a payload")
        if self._handshake.remote_static not in trusted:
            raise UnknownServerKey("the server proves a key that is not the one expected of it")
        return Channel(self._handshake, client=True)


# --- the server's side ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Offer:
    """A client's hello: the versions as it listed them, and its first handshake message."""

    versions: tuple[int, ...]
    message: bytes


def read_offer(data: Any) -> Offer:
    """Raises BadHello."""
    versions = data.get("versions") if isinstance(data, dict) else None
    if not isinstance(versions, list) or not 0 < len(versions) <= MAX_OFFERED:
        raise BadHello(f"a hello offers 1 to {MAX_OFFERED} versions")
    if not all(type(version) is int and 0 < version <= MAX_VERSION for version in versions):
        raise BadHello("a version is a small whole number")
    if VERSION not in versions:
        raise BadHello("version 2 is not offered")
    message = _message(data)
    if len(message) != DHLEN:
        raise BadHello("the first handshake message has 32 bytes")
    return Offer(tuple(versions), message)


def answer(
    offer: Offer, static: X25519PrivateKey, ephemeral: X25519PrivateKey | None = None
) -> tuple[dict[str, Any], Channel]:
    """The data of the server's hello, and its side of the channel. Raises BadHello."""
    handshake = Handshake(
        initiator=False, prologue=prologue(offer.versions, VERSION), static=static, ephemeral=ephemeral
    )
    try:
        handshake.read(offer.message)
        message = handshake.write()
    except NoiseError as error:
        raise BadHello(str(error)) from None
    return {"version": VERSION, "message": b64(message)}, Channel(handshake, client=False)


def _message(data: dict[str, Any]) -> bytes:
    text = data.get("message")
    if not isinstance(text, str):
        raise BadHello("a hello has a handshake message in base64")
    try:
        return unb64(text)
    except ValueError:
        raise BadHello("a handshake message is padded standard base64") from None

"""The handshakes of a client of the stream, and the sealed connection that each ends in (CONTRACT §1)."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Protocol

import msgspec

from nx_signal.client.frames import Frame, decode, encode
from nx_signal.client.websocket import ABNORMAL, PROTOCOL_ERROR, StreamClosed, StreamUnavailable, WebSocket
from nx_signal.delivery.topics import CONNECTED, ERROR, HELLO, REFRESHED
from nx_signal.errors import SignalError
from nx_signal.model import Json
from nx_signal.websocket.channel import BadHello, Channel, Hello, UnknownServerKey
from nx_signal.websocket.noise import NoiseError
from nx_signal.websocket.protocol import ENCRYPTION_REQUIRED, NOT_AUTHENTIC
from nx_signal.websocket.sealing import (
    BadPublicKey,
    IncreasingIvs,
    KeyPair,
    Sealer,
    Unopenable,
    agree,
    read_public_key,
    unb64,
)


class HandshakeRefused(SignalError):
    """The server refuses the handshake, or the client does: `message` is the error text, `code` that of the
    close."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(f"The server refuses the handshake with {code}: {message}.")
        self.message = message
        self.code = code


class Sealed(Protocol):
    """One side's cryptography after the handshake."""

    plain_heartbeats: bool
    """whether these are sent in clear, as by the clients of the original"""

    def seal(self, event: str, data: Json) -> str | bytes:
        """Called in the order of writing."""
        ...

    def open(self, message: str | bytes) -> Frame:
        """Raises StreamClosed, after which nothing more is to be taken from the server."""
        ...


class Version1:
    """One key for both directions. The server's frames have to come in order; a lost one is not noticed."""

    plain_heartbeats = True

    def __init__(self, sealer: Sealer) -> None:
        self._sealer = sealer
        self._ivs = IncreasingIvs()

    def seal(self, event: str, data: Json) -> str:
        return self._sealer.seal(encode(event, data)).decode()

    def open(self, message: str | bytes) -> Frame:
        outer = decode(message)
        if outer.event != "encrypted":
            raise StreamClosed(PROTOCOL_ERROR, f"the server sent a frame {outer.event!r} that is not sealed")
        try:
            opened = self._sealer.open(outer.data)
            self._ivs.check(unb64(outer.data["iv"]))
        except Unopenable as error:
            raise StreamClosed(PROTOCOL_ERROR, str(error)) from None
        return decode(opened)


class Version2:
    """A key for each direction, changed by a refresh (docs/stream-v2.md)."""

    plain_heartbeats = False

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def seal(self, event: str, data: Json) -> bytes:
        sealed = self._channel.seal(encode(event, data))
        if event == "refresh":
            self._channel.rekey_sending()
        return sealed

    def open(self, message: str | bytes) -> Frame:
        if isinstance(message, str):
            raise StreamClosed(*NOT_AUTHENTIC)
        try:
            frame = decode(self._channel.open(message))
        except NoiseError:
            raise StreamClosed(*NOT_AUTHENTIC) from None
        if frame.event == REFRESHED:
            self._channel.rekey_receiving()
        return frame


class Connected(msgspec.Struct, frozen=True):
    id: str
    userId: str


class AgreedOn(Connected, frozen=True):
    serverPublicKey: str
    salt: str


async def authenticate_1(socket: WebSocket, credentials: dict[str, Json]) -> tuple[Sealed, dict[str, Json]]:
    """As the clients of the original do it. What the server's `connected` has. Raises HandshakeRefused,
    StreamUnavailable."""
    pair = KeyPair.generate()
    text = encode("authenticate", credentials | {"publicKey": pair.public_b64}).decode()
    frame = await _answer(socket, text, CONNECTED)
    try:
        connected = msgspec.convert(frame.data, AgreedOn)
        key = agree(pair, read_public_key(connected.serverPublicKey), unb64(connected.salt))
    except (msgspec.ValidationError, BadPublicKey, ValueError) as error:
        raise HandshakeRefused(f"the server's key cannot be used: {error}", PROTOCOL_ERROR) from None
    return Version1(Sealer(key)), dict(frame.data)


async def authenticate_2(
    socket: WebSocket, credentials: dict[str, Json], trusted: Collection[bytes]
) -> tuple[Sealed, dict[str, Json]]:
    """The token is sent once the server has proven one of the keys in `trusted`. Raises HandshakeRefused,
    StreamUnavailable."""
    hello = Hello()
    answer = await _answer(socket, encode(HELLO, hello.data).decode(), HELLO)
    try:
        link = Version2(hello.finish(answer.data, trusted))
    except UnknownServerKey as error:
        raise HandshakeRefused(str(error), PROTOCOL_ERROR) from None
    except BadHello as error:
        raise HandshakeRefused(f"the server's hello cannot be used: {error}", PROTOCOL_ERROR) from None
    frame = await _answer(socket, link.seal("authenticate", credentials), CONNECTED, link)
    try:
        msgspec.convert(frame.data, Connected)
    except msgspec.ValidationError as error:
        raise HandshakeRefused(f"the server's answer cannot be used: {error}", PROTOCOL_ERROR) from None
    return link, dict(frame.data)


async def _answer(socket: WebSocket, message: str | bytes, event: str, link: Sealed | None = None) -> Frame:
    """Send, and wait for this event; in clear without `link`."""
    text, open = "", decode if link is None else link.open
    try:
        await socket.send(lambda: message)
        while (frame := await receive_frame(socket, open)).event == ERROR:
            text = str(frame.data.get("message", "")) if isinstance(frame.data, dict) else ""
            if text == "Not authenticated" and event == HELLO:
                raise HandshakeRefused(
                    "it has version 1 of the stream alone, as earlier releases do, or a machine in between "
                    "pretends so; over TLS that version may be asked for by name",
                    ENCRYPTION_REQUIRED[0],
                )
    except StreamClosed as closed:
        if closed.code == ABNORMAL and not text:
            raise StreamUnavailable("The connection broke during the handshake.") from None
        raise HandshakeRefused(text or closed.reason or "no reason given", closed.code) from None
    if frame.event != event:
        raise HandshakeRefused(f"the server sent {frame.event!r} before the handshake", PROTOCOL_ERROR)
    return frame


async def receive_frame(socket: WebSocket, open: Callable[[str | bytes], Frame]) -> Frame:
    """Raises StreamClosed. Where `open` raises it, the connection is closed with the same code and reason."""
    message = await socket.receive()
    try:
        return open(message)
    except StreamClosed as broken:
        await socket.fail(broken.code, broken.reason)
        raise

"""A client of the stream (CONTRACT §1): handshake, sealing, heartbeat, and the revision to resume from.

async with open_stream("ws://127.0.0.1:31090/stream", token) as stream:
    while True:
        frame = await stream.receive()
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import msgspec
import trio

from nx_signal.client.websocket import (
    ABNORMAL,
    PROTOCOL_ERROR,
    StreamClosed,
    StreamUnavailable,
    WebSocket,
    open_websocket,
)
from nx_signal.errors import SignalError
from nx_signal.model import Json
from nx_signal.stream.sealing import BadPublicKey, KeyPair, Sealer, Unopenable, agree, read_public_key, unb64
from nx_signal.stream.topics import CREATED, DELETED, READ, STATE

__all__ = ["Frame", "HandshakeRefused", "Stream", "StreamClosed", "StreamUnavailable", "open_stream"]

HEARTBEAT_S = 30.0
"""The server gives up after 90 s: two may get lost."""

HANDSHAKE_TIMEOUT_S = 20.0
"""The server gives itself 15 s."""

REVISIONED = frozenset({CREATED, READ, DELETED, STATE})


class HandshakeRefused(SignalError):
    """The server does not let us in: `message` is its own text, `code` that of its close."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(f"The server refuses the handshake with {code}: {message}.")
        self.message = message
        self.code = code


@dataclass(frozen=True, slots=True)
class Frame:
    """One event as the server meant it, unsealed."""

    event: str
    data: Json = None


class Stream:
    """An authenticated connection. Heartbeats go out while `receive` waits or returns: a program that
    stops reading for 90 s is dropped by the server, as it should be."""

    def __init__(
        self, socket: WebSocket, sealer: Sealer, connected: dict[str, Json], heartbeat_s: float
    ) -> None:
        self._socket = socket
        self._sealer = sealer
        self._heartbeat_s = heartbeat_s
        self._heartbeat_at = trio.current_time() + heartbeat_s
        self.connected = connected
        self.client_id: str = connected["id"]
        self.user_id: str = connected["userId"]
        self.rev: int | None = None
        """The last revision seen; what to resume from. None until there was one."""

    async def receive(self) -> Frame:
        """The next event. Cancelling loses none. Raises StreamClosed."""
        while True:
            if trio.current_time() >= self._heartbeat_at:
                await self.heartbeat()
            with trio.move_on_at(self._heartbeat_at):
                return self._open(await self._socket.receive())

    async def send(self, event: str, data: Json = None, *, sealed: bool = True) -> None:
        """Raises StreamClosed."""
        text = encode(event, data)
        await self._socket.send((self._sealer.seal(text) if sealed else text).decode())

    async def heartbeat(self) -> None:
        self._heartbeat_at = trio.current_time() + self._heartbeat_s
        await self.send("heartbeat", sealed=False)

    def _open(self, message: str | bytes) -> Frame:
        outer = decode(message)
        if outer.event != "encrypted":
            raise StreamClosed(PROTOCOL_ERROR, f"the server sent a frame {outer.event!r} that is not sealed")
        try:
            frame = decode(self._sealer.open(outer.data))
        except Unopenable as error:
            raise StreamClosed(PROTOCOL_ERROR, str(error)) from None
        if frame.event in REVISIONED and isinstance(frame.data, dict):
            rev = frame.data.get("rev")
            if type(rev) is int:
                self.rev = rev
        return frame


@asynccontextmanager
async def open_stream(
    url: str,
    token: str,
    *,
    resume: int | None = None,
    subprotocols: Sequence[str] = (),
    heartbeat_s: float = HEARTBEAT_S,
    connect_timeout_s: float = 10.0,
    handshake_timeout_s: float = HANDSHAKE_TIMEOUT_S,
    ssl_context: ssl.SSLContext | None = None,
) -> AsyncIterator[Stream]:
    """Connect, authenticate, agree on a key. With `resume`, what changed after that revision comes first.

    Raises StreamUnavailable (try again later), HandshakeRefused, SettingsError for a bad URL."""
    async with open_websocket(
        url, subprotocols=subprotocols, connect_timeout_s=connect_timeout_s, ssl_context=ssl_context
    ) as socket:
        try:
            with trio.fail_after(handshake_timeout_s):
                sealer, connected = await _authenticate(socket, token, resume)
        except trio.TooSlowError:
            raise StreamUnavailable(
                f"{url} did not finish the handshake within {handshake_timeout_s:g} seconds."
            ) from None
        yield Stream(socket, sealer, connected, heartbeat_s)


async def _authenticate(socket: WebSocket, token: str, resume: int | None) -> tuple[Sealer, dict[str, Json]]:
    pair = KeyPair.generate()
    data: dict[str, Json] = {"type": "Bearer", "token": token, "publicKey": pair.public_b64}
    if resume is not None:
        data["resume"] = {"rev": resume}
    said = ""
    try:
        await socket.send(encode("authenticate", data).decode())
        while (frame := decode(await socket.receive())).event == "error":
            said = str(frame.data.get("message", "")) if isinstance(frame.data, dict) else ""
    except StreamClosed as closed:
        if closed.code == ABNORMAL and not said:
            raise StreamUnavailable("The connection broke during the handshake.") from None
        raise HandshakeRefused(said or closed.reason or "no reason given", closed.code) from None
    if frame.event != "connected":
        raise HandshakeRefused(f"the server sent {frame.event!r} before the handshake", PROTOCOL_ERROR)
    try:
        connected = msgspec.convert(frame.data, Connected)
        key = agree(pair, read_public_key(connected.serverPublicKey), unb64(connected.salt))
    except (msgspec.ValidationError, BadPublicKey, ValueError) as error:
        raise HandshakeRefused(f"the server's key cannot be used: {error}", PROTOCOL_ERROR) from None
    return Sealer(key), dict(frame.data)


class Connected(msgspec.Struct, frozen=True):
    id: str
    userId: str
    serverPublicKey: str
    salt: str


def encode(event: str, data: Json) -> bytes:
    return msgspec.json.encode({"event": event} if data is None else {"event": event, "data": data})


def decode(message: str | bytes) -> Frame:
    """Raises StreamClosed when the server did not send `{"event","data"?}`."""
    try:
        raw = msgspec.json.decode(message)
        return Frame(raw["event"], raw.get("data"))
    except (msgspec.DecodeError, UnicodeError, RecursionError, KeyError, TypeError, AttributeError):
        raise StreamClosed(PROTOCOL_ERROR, "the server sent something that is no event") from None

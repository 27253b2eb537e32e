"""A client of the stream (CONTRACT §1): handshake, sealing, heartbeat, and the revision to resume from.

async with open_stream("ws://127.0.0.1:31090/stream", token) as stream:
    while True:
        frame = await stream.receive()
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Literal

import trio

from nx_signal.client.frames import Frame, encode
from nx_signal.client.handshake import HandshakeRefused, Sealed, authenticate_1, authenticate_2, receive_frame
from nx_signal.client.http import tls_for
from nx_signal.client.server_keys import fetch_server_keys
from nx_signal.client.websocket import (
    StreamClosed,
    StreamUnavailable,
    WebSocket,
    open_websocket,
    split_url,
)
from nx_signal.delivery.topics import STATE
from nx_signal.model import Json
from nx_signal.model.wire import FRAMES
from nx_signal.websocket.channel import VERSION

__all__ = ["Frame", "HandshakeRefused", "Stream", "StreamClosed", "StreamUnavailable", "open_stream"]

HEARTBEAT_S = 30.0
"""The server closes after 90 s without a message."""

HANDSHAKE_TIMEOUT_S = 20.0
"""The server allows 15 s for its part."""

REVISIONED = frozenset({STATE, *(frame.topic for frame in FRAMES)})


class Stream:
    """An authenticated connection. `receive` sends the heartbeats: a program that does not call
    it for 90 s is disconnected by the server."""

    def __init__(
        self, socket: WebSocket, link: Sealed, connected: dict[str, Json], heartbeat_s: float
    ) -> None:
        self._socket = socket
        self._link = link
        self._heartbeat_s = heartbeat_s
        self._heartbeat_at = trio.current_time() + heartbeat_s
        self.connected = connected
        self.client_id: str = connected["id"]
        self.user_id: str = connected["userId"]
        self.rev: int | None = None
        """The last revision seen; what to resume from. None until there was one."""
        self.history: str | None = None
        """what identifies it: to resume with, too. None where the server does not state it."""

    async def receive(self) -> Frame:
        """The next event. Cancelling loses none. Raises StreamClosed."""
        while True:
            if trio.current_time() >= self._heartbeat_at:
                await self.heartbeat()
            with trio.move_on_at(self._heartbeat_at):
                return self._noted(await receive_frame(self._socket, self._link.open))

    async def send(self, event: str, data: Json = None) -> None:
        """Raises StreamClosed."""
        await self._socket.send(lambda: self._link.seal(event, data))

    async def heartbeat(self) -> None:
        self._heartbeat_at = trio.current_time() + self._heartbeat_s
        if self._link.plain_heartbeats:
            await self._socket.send(encode("heartbeat", None).decode())
        else:
            await self.send("heartbeat")

    async def refresh(self, token: str) -> None:
        """Go on with another token of the same user; on version 2 new keys follow. Raises StreamClosed."""
        await self.send("refresh", {"token": token})

    def _noted(self, frame: Frame) -> Frame:
        if frame.event in REVISIONED and isinstance(frame.data, dict):
            rev, history = frame.data.get("rev"), frame.data.get("history")
            if type(rev) is int:
                self.rev, self.history = rev, history if isinstance(history, str) else None
        return frame


@asynccontextmanager
async def open_stream(
    url: str,
    token: str,
    *,
    scheme: Literal["Bearer", "Ticket"] = "Bearer",
    resume: int | None = None,
    history: str | None = None,
    subprotocols: Sequence[str] = (),
    heartbeat_s: float = HEARTBEAT_S,
    connect_timeout_s: float = 10.0,
    handshake_timeout_s: float = HANDSHAKE_TIMEOUT_S,
    ssl_context: ssl.SSLContext | None = None,
    version: int = VERSION,
    server_keys: Collection[bytes] | None = None,
) -> AsyncIterator[Stream]:
    """Connect, agree on keys, authenticate. With `resume`, what changed after that revision comes first;
    with its `history`, a store that went back since is noticed: then there is a `state` with `reset`.

    `scheme` `Ticket`: `token` is a ticket, which is good for one call of this.

    `version` of the cryptography: 2, or 1 as the original has it; none is a substitute for the other.
    `server_keys`: what the server may prove on version 2, 32 bytes each; without them those of its JWK Set.

    Raises StreamUnavailable (try again later), HandshakeRefused, SettingsError for a bad URL."""
    split_url(url)
    try:
        with trio.fail_after(connect_timeout_s):
            if version == VERSION and server_keys is None:
                server_keys = await fetch_server_keys(url, ssl_context)
    except trio.TooSlowError:
        raise StreamUnavailable(f"{url} did not answer within {connect_timeout_s:g} seconds.") from None
    async with open_websocket(
        url,
        subprotocols=subprotocols,
        connect_timeout_s=connect_timeout_s,
        ssl_context=ssl_context or tls_for(url),
    ) as socket:
        credentials: dict[str, Json] = {"type": scheme, "token": token}
        if resume is not None:
            credentials["resume"] = (
                {"rev": resume} if history is None else {"rev": resume, "history": history}
            )
        try:
            with trio.fail_after(handshake_timeout_s):
                if version == VERSION:
                    link, connected = await authenticate_2(socket, credentials, server_keys or ())
                else:
                    link, connected = await authenticate_1(socket, credentials)
        except trio.TooSlowError:
            raise StreamUnavailable(
                f"{url} did not finish the handshake within {handshake_timeout_s:g} seconds."
            ) from None
        yield Stream(socket, link, connected, heartbeat_s)

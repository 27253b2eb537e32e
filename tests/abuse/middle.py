"""A machine in between: passes the messages of stream clients and a server on, keeps and changes them."""

from __future__ import annotations

import base64
import re
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TypeAlias

import trio
from trio_websocket import (
    CloseReason,
    ConnectionClosed,
    WebSocketConnection,
    WebSocketRequest,
    open_websocket_url,
    serve_websocket,
)

CLIENT, SERVER = "client", "server"
OTHER = {CLIENT: SERVER, SERVER: CLIENT}
PATIENCE_S = 20.0
_URLSAFE = bytes.maketrans(b"+/", b"-_")
Message: TypeAlias = str | bytes


@dataclass
class Seen:
    """A message on its way: the `number`-th of this sender on this connection, from 0."""

    sender: str
    number: int
    message: Message

    @property
    def receiver(self) -> str:
        return OTHER[self.sender]


Tamper: TypeAlias = Callable[[Seen], Iterable[tuple[str, Message]]]
"""What becomes of a message: messages with their receivers."""


def pass_on(seen: Seen) -> Iterable[tuple[str, Message]]:
    return [(seen.receiver, seen.message)]


@dataclass
class Middle:
    url: str
    target: str
    tamper: Tamper = pass_on
    seen: list[Seen] = field(default_factory=list)
    closes: dict[str, CloseReason | None] = field(default_factory=dict)
    """by which side the first connection was closed, and how"""
    _closed: Mapping[str, trio.Event] = field(
        default_factory=lambda: {side: trio.Event() for side in (CLIENT, SERVER)}
    )

    def sent_by(self, sender: str) -> list[Message]:
        return [each.message for each in self.seen if each.sender == sender]

    def holds(self, secret: str) -> bool:
        """Whether it was anywhere on the wire: plain, or in base64 that stands in a message."""
        return any(secret.encode() in text for each in self.seen for text in _readings(each.message))

    async def closed_by(self, side: str) -> tuple[int, str | None]:
        await self._closed[side].wait()
        reason = self.closes[side]
        return (reason.code, reason.reason) if reason else (1006, None)

    async def _connection(self, request: WebSocketRequest) -> None:
        near = await request.accept()
        async with open_websocket_url(self.target) as far:
            try:
                async with trio.open_nursery() as nursery:
                    ends = {CLIENT: near, SERVER: far}
                    nursery.start_soon(self._pass, CLIENT, ends, nursery.cancel_scope)
                    nursery.start_soon(self._pass, SERVER, ends, nursery.cancel_scope)
            finally:  # a cancelled close of trio-websocket leaves its socket open
                with trio.CancelScope(shield=True):
                    for end in (near, far):
                        await trio.aclose_forcefully(end._stream)

    async def _pass(
        self, sender: str, ends: dict[str, WebSocketConnection], connection: trio.CancelScope
    ) -> None:
        number = 0
        try:
            while True:
                seen = Seen(sender, number, await ends[sender].get_message())
                number += 1
                self.seen.append(seen)
                for receiver, message in self.tamper(seen):
                    with suppress(ConnectionClosed):
                        await ends[receiver].send_message(message)
        except ConnectionClosed as closed:
            self.closes.setdefault(sender, closed.reason)
            self._closed[sender].set()
            if closed.reason is not None:
                with suppress(ConnectionClosed, ValueError):
                    await ends[OTHER[sender]].aclose(closed.reason.code, closed.reason.reason)
            connection.cancel()


def _readings(message: Message) -> list[bytes]:
    raw = message.encode() if isinstance(message, str) else message
    readings = [raw]
    for found in re.findall(rb"[A-Za-z0-9+/_-]{16,}={0,2}", raw):
        for cut in range(4):
            text = found.rstrip(b"=")[cut:]
            if len(text) % 4 != 1:
                readings.append(base64.urlsafe_b64decode(text.translate(_URLSAFE) + b"=" * (-len(text) % 4)))
    return readings


@asynccontextmanager
async def between(target: str, tamper: Tamper = pass_on) -> AsyncIterator[Middle]:
    async with trio.open_nursery() as nursery:
        nursery.cancel_scope.deadline = trio.current_time() + PATIENCE_S
        middle = Middle("", target, tamper)
        serving = await nursery.start(serve_websocket, middle._connection, "127.0.0.1", 0, None)
        middle.url = f"ws://127.0.0.1:{serving.port}/stream"
        yield middle
        assert not nursery.cancel_scope.cancel_called, "it took too long"
        nursery.cancel_scope.cancel()

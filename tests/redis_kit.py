"""What the tests of the Redis relay share: a relay that runs, and a client without it."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import trio

from nx_signal.adapters.redis.naming import Deployment
from nx_signal.adapters.redis.relay import RedisRelay
from nx_signal.model import RelayMessage
from nx_signal.ports import RelayEvent

PATIENCE_S = 30.0
HERE = Deployment(b"secret")


def relay_to(url: str, server_id: str, deployment: Deployment = HERE) -> RedisRelay:
    async def ready() -> Deployment:
        return deployment

    return RedisRelay(url, server_id, ready)


@asynccontextmanager
async def running(
    relay: RedisRelay, room: float = 1_000
) -> AsyncIterator[
    tuple[trio.MemorySendChannel[tuple[RelayMessage, ...]], trio.MemoryReceiveChannel[RelayEvent]]
]:
    to_relay, outbound = trio.open_memory_channel[tuple[RelayMessage, ...]](1_000)
    from_relay, inbound = trio.open_memory_channel[RelayEvent](room)
    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            await nursery.start(relay.run, outbound, from_relay)
            yield to_relay, inbound
            nursery.cancel_scope.cancel()


class Raw:
    """A connection to the server without the relay: what a sister service, or any other client, may send."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._socket = socket.create_connection((parts.hostname, parts.port), timeout=5)
        self._answers = self._socket.makefile("rb")

    def command(self, *words: str | bytes) -> bytes:
        """The first line of the answer."""
        coded = [word.encode() if isinstance(word, str) else word for word in words]
        lines = b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in coded)
        self._socket.sendall(b"*%d\r\n%b" % (len(coded), lines))
        return self.line()

    def line(self) -> bytes:
        return self._answers.readline()

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *_: object) -> None:
        self._answers.close()
        self._socket.close()

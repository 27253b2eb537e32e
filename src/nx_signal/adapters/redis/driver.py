"""redis-py, on asyncio's side of the bridge: two connections to a server.

redis-py's own PubSub would subscribe again silently after a lost connection and hide the messages missed
meanwhile; with bare connections a lost connection is an error. Each `aio_…` method is one unit of work with a
deadline. It raises SettingsError where waiting cannot help, and RelayLost otherwise."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import structlog
from redis.asyncio.connection import (
    AbstractConnection,
)

from nx_signal.adapters.redis.address import RedisAddress
from nx_signal.adapters.redis.errors import LOSSES, another_protocol, is_final, meaning, wrong_tls
from nx_signal.adapters.redis.servers import (
    CONNECT_TIMEOUT_S,
    SEED_TIMEOUT_S,
    Command,
    Server,
    aio_send,
    reason_of,
    servers_of,
)
from nx_signal.errors import SettingsError

log = structlog.get_logger()

REQUEST_TIMEOUT_S = 10.0
"""For one pipeline and its replies; a server that takes longer is considered lost."""


class RedisConnections:
    """A subscribed connection and a publishing one, to the same server; the first error ends both."""

    def __init__(self, address: RedisAddress) -> None:
        """Raises SettingsError."""
        self._servers = servers_of(address)
        self.server_name = self._servers.name
        """for errors; once connecting, of the server itself"""
        self._subscribed: AbstractConnection | None = None
        self._publishing: AbstractConnection | None = None
        self._transports: list[asyncio.WriteTransport] = []

    async def aio_connect(self) -> None:
        """To the first candidate that answers and passes the check."""
        with self._translated(connecting=True):
            try:
                await self._aio_connect_to_candidates()
            except LOSSES as error:
                if not is_final(error) and (final := await _aio_probe(self._servers.servers[0])):
                    raise final from None
                raise

    async def _aio_connect_to_candidates(self) -> None:
        *others, last = await self._servers.aio_candidates()
        for server in others:
            try:
                await self._aio_connect_to(server, SEED_TIMEOUT_S)
            except LOSSES as error:
                if is_final(error):
                    raise
                log.info("relay_server_skipped", server=server.name, reason=reason_of(error))
                await self.aio_close()
            else:
                return
        await self._aio_connect_to(last, CONNECT_TIMEOUT_S)

    async def _aio_connect_to(self, server: Server, timeout_s: float) -> None:
        self.server_name = server.name
        async with asyncio.timeout(timeout_s):
            self._subscribed = server.connection()
            self._publishing = server.connection()
            for connection in (self._subscribed, self._publishing):
                await connection.connect()  # type: ignore[no-untyped-call]
                assert connection._writer is not None  # noqa: S101 - connected
                self._transports.append(connection._writer.transport)
            await self._aio_check()
        log.info("relay_connected", server=server.name)

    async def aio_check(self) -> None:
        """Whether this is still the right server; it also keeps an idle connection open."""
        with self._translated():
            await self._aio_check()

    async def _aio_check(self) -> None:
        self._servers.verify(await self._aio_request([self._servers.check]))

    async def aio_read(self, on_reply: Callable[[object], None]) -> None:
        """Pass each reply of the subscribed connection (lists, bytes and int) to `on_reply`, until the
        connection is lost. No crossing for each: `on_reply` queues it for Trio's side."""
        assert self._subscribed is not None  # noqa: S101 - connected before
        with self._translated():
            while True:
                on_reply(
                    await self._subscribed.read_response(disable_decoding=True, disconnect_on_error=False)
                )

    async def aio_send(self, commands: Sequence[Command]) -> None:
        """Send on the subscribed connection; `aio_read` gets the replies."""
        assert self._subscribed is not None  # noqa: S101 - connected before
        with self._translated():
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                await aio_send(self._subscribed, commands)

    async def aio_publish(self, commands: Sequence[Command]) -> None:
        """Send on the publishing connection, as one pipeline, and read the replies."""
        with self._translated():
            await self._aio_request(commands)

    async def _aio_request(self, commands: Sequence[Command]) -> object:
        """The last reply."""
        assert self._publishing is not None  # noqa: S101 - connected before
        async with asyncio.timeout(REQUEST_TIMEOUT_S):
            await aio_send(self._publishing, commands)
            reply: object = None
            for _ in commands:
                reply = await self._publishing.read_response(disable_decoding=True)
            return reply

    async def aio_close(self) -> None:
        for connection in (self._subscribed, self._publishing):
            if connection is not None:
                await connection.disconnect(nowait=True)
        for transport in self._transports:
            # A close would wait, without bound, until a frozen peer has read what is in the buffers.
            transport.abort()
        self._transports.clear()
        await asyncio.sleep(0)  # which closes the sockets

    @contextmanager
    def _translated(self, *, connecting: bool = False) -> Iterator[None]:
        try:
            yield
        except LOSSES as error:
            raise meaning(error, self.server_name, connecting=connecting) from None


async def _aio_probe(server: Server) -> SettingsError | None:
    """What a server is that gave no answer to Redis' greeting, where that is another one than the address
    names: it may close the connection, or wait for more, without a word."""
    if "host" not in server.options:
        return None
    answer = await _aio_ping(server, None)
    if answer[:1] in (b"+", b"-"):
        return wrong_tls(server.name, uses_tls=True) if server.uses_tls else None
    if server.uses_tls:
        return None
    if answer:
        return another_protocol(repr(answer), server.name)
    return wrong_tls(server.name, uses_tls=False) if await _aio_ping(server, _any_certificate()) else None


async def _aio_ping(server: Server, context: ssl.SSLContext | None) -> bytes:
    """The first bytes of the answer to a PING, with TLS where a context is given; none without an answer."""
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(SEED_TIMEOUT_S):
            host, port = server.options["host"], server.options["port"]
            reader, writer = await asyncio.open_connection(host, port, ssl=context)
            writer.write(b"PING\r\n")
            return await reader.read(64)
    except (OSError, TimeoutError):
        return b""
    finally:
        if writer is not None:
            writer.transport.abort()


def _any_certificate() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context

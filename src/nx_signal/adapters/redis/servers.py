"""Which server an address of Redis means: one, the master that sentinels name, or a node of a cluster."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol, TypeAlias

import structlog
from redis.asyncio.connection import (
    AbstractConnection,
    Connection,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.exceptions import AuthenticationError

from nx_signal.adapters.redis.address import RedisAddress
from nx_signal.adapters.redis.errors import LOSSES, is_final
from nx_signal.errors import SettingsError

log = structlog.get_logger()

CONNECT_TIMEOUT_S = 5.0
SEED_TIMEOUT_S = 2.0
"""For one of several addresses while there is another to try."""

Command: TypeAlias = Sequence[str | bytes]


@dataclass(frozen=True, slots=True)
class Server:
    """One server, and how to connect to it. `name` is for errors and logs."""

    connection_class: type[AbstractConnection]
    options: Mapping[str, Any]
    name: str

    def connection(self) -> AbstractConnection:
        return self.connection_class(**self.options)

    def at(self, host: str, port: int) -> Server:
        return replace(self, options={**self.options, "host": host, "port": port}, name=f"{host}:{port}")

    @property
    def uses_tls(self) -> bool:
        return issubclass(self.connection_class, SSLConnection)

    def without(self, *names: str) -> Server:
        return replace(self, options={key: self.options[key] for key in self.options if key not in names})


class Servers(Protocol):
    """The servers of an address. `check` is sent right after connecting and every few seconds afterwards."""

    @property
    def name(self) -> str: ...

    @property
    def servers(self) -> Sequence[Server]:
        """Those of the address."""

    @property
    def check(self) -> Command: ...

    async def aio_candidates(self) -> Sequence[Server]:
        """At least one, to be tried in this order. Raises LOSSES or SettingsError."""

    def verify(self, reply: object) -> None:
        """Raises ConnectionError when, by its reply to `check`, the server is not the right one."""


@dataclass(frozen=True, slots=True)
class OneServer:
    server: Server
    check: ClassVar[Command] = ("PING",)

    @property
    def servers(self) -> Sequence[Server]:
        return [self.server]

    @property
    def name(self) -> str:
        return self.server.name

    async def aio_candidates(self) -> Sequence[Server]:
        return self.servers

    def verify(self, reply: object) -> None:
        pass


@dataclass(frozen=True, slots=True)
class Sentinels:
    """They are queried for the master at each connect, as
    https://redis.io/docs/latest/develop/reference/sentinel-clients/ requires. A master that fails drops the
    connection; one that was replaced unnoticed is recognized by its role."""

    sentinels: tuple[Server, ...]
    service: str
    check: ClassVar[Command] = ("ROLE",)

    @property
    def servers(self) -> Sequence[Server]:
        return self.sentinels

    @property
    def name(self) -> str:
        return f"the sentinels {_names(self.sentinels)}"

    async def aio_candidates(self) -> Sequence[Server]:
        failures: list[str] = []
        for sentinel in self.sentinels:
            try:
                async with asyncio.timeout(SEED_TIMEOUT_S):
                    reply = await self._aio_query_master(sentinel)
            except LOSSES as error:
                if is_final(error):
                    raise
                failures.append(f"{sentinel.name}: {reason_of(error)}")
                continue
            match reply:
                case [bytes(host), bytes(port)]:
                    return [sentinel.at(host.decode(), int(port))]
                case None:
                    pass  # this sentinel does not monitor the service
                case _:
                    failures.append(f"{sentinel.name}: it gives no address")
        if not failures:
            raise SettingsError(
                f"No sentinel of {_names(self.sentinels)} monitors a service {self.service!r}: "
                "check its name in APP_ENV_REDIS_URL."
            )
        raise ConnectionError(f"no sentinel names the master of {self.service} ({'; '.join(failures)})")

    async def _aio_query_master(self, sentinel: Server) -> object:
        """The URL's user is the master's; it is sent to a sentinel only when that requires authentication."""
        query = ("SENTINEL", "get-master-addr-by-name", self.service)
        try:
            return await _aio_query(sentinel.without("db", "username", "password"), query)
        except AuthenticationError:
            if "password" not in sentinel.options:
                raise
            return await _aio_query(sentinel.without("db"), query)

    def verify(self, reply: object) -> None:
        match reply:
            case [b"master", *_]:
                return
        raise ConnectionError(f"it is not the master of {self.service}.")


@dataclass(frozen=True, slots=True)
class Cluster:
    """Any node will do: each forwards every PUBLISH to all others, and a client may subscribe at any
    (https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/#publishsubscribe).
    Sharded channels would not reach sister services, which use plain PUBLISH (CONTRACT §2)."""

    nodes: tuple[Server, ...]
    # Refused by a server outside a cluster: messages would not reach the other servers from there.
    check: ClassVar[Command] = ("CLUSTER", "INFO")

    @property
    def servers(self) -> Sequence[Server]:
        return self.nodes

    @property
    def name(self) -> str:
        return f"the cluster {_names(self.nodes)}"

    async def aio_candidates(self) -> Sequence[Server]:
        return random.sample(self.nodes, len(self.nodes))  # so that instances spread over them

    def verify(self, reply: object) -> None:
        pass


def servers_of(address: RedisAddress) -> Servers:
    """Raises SettingsError, which never shows the URL."""
    if address.ignored:
        log.info("redis_parameters_ignored", parameters=address.ignored)
    options: dict[str, Any] = {
        **address.options,
        "protocol": 2,  # subscriptions and messages are replies like any other
        "socket_timeout": None,  # redis-py can lose a cancellation in it; every call is bounded here
        "socket_connect_timeout": CONNECT_TIMEOUT_S,
        "health_check_interval": 0,
    }
    if address.path:
        return OneServer(Server(UnixDomainSocketConnection, {**options, "path": address.path}, address.path))
    connection_class = SSLConnection if address.tls else Connection
    servers = tuple(
        Server(connection_class, {**options, "host": host, "port": port}, f"{host}:{port}")
        for host, port in address.hosts
    )
    _check_certificates(servers[0])
    match address.topology:
        case "sentinel":
            return Sentinels(servers, address.service)
        case "cluster":
            return Cluster(servers)
        case _:
            return OneServer(servers[0])


def _check_certificates(server: Server) -> None:
    connection = server.connection()
    if isinstance(connection, SSLConnection):
        try:
            connection.ssl_context.get()
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            names = [name for name in server.options if name.startswith("ssl_")]
            raise SettingsError(
                f"A file of certificates in APP_ENV_REDIS_URL ({', '.join(names)}) cannot be used: "
                f"{getattr(error, 'strerror', None) or error}."
            ) from None


async def aio_send(connection: AbstractConnection, commands: Sequence[Command]) -> None:
    if not connection.is_connected:
        raise ConnectionResetError("the connection is closed")  # redis-py would open a new one
    packed = b"".join(part for command in commands for part in connection.pack_command(*command))
    await connection.send_packed_command(packed, check_health=False)


async def _aio_query(server: Server, command: Command) -> object:
    """One command on a connection of its own."""
    connection = server.connection()
    try:
        await connection.connect()  # type: ignore[no-untyped-call]
        await aio_send(connection, [command])
        return await connection.read_response(disable_decoding=True)
    finally:
        await connection.disconnect(nowait=True)


def reason_of(error: BaseException) -> str:
    return str(error) or type(error).__name__


def _names(servers: Sequence[Server]) -> str:
    return ",".join(server.name for server in servers)

"""Where APP_ENV_REDIS_URL leads: to one server, to the master that sentinels name, or to any node of a
cluster. What runs on asyncio's side is called aio_…"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol, TypeAlias
from urllib.parse import unquote, urlunsplit

from redis.asyncio.connection import AbstractConnection, Connection, parse_url
from redis.exceptions import (
    AuthenticationError,
    AuthenticationWrongNumberOfArgsError,
    AuthorizationError,
    NoPermissionError,
    RedisError,
    ResponseError,
)

from nx_signal.adapters._aio import DriverCancelled
from nx_signal.errors import SettingsError

CONNECT_TIMEOUT_S = 5.0
SEED_TIMEOUT_S = 2.0
"""For one of several addresses while there is another to try."""
SENTINEL_PORT = 26_379
SEVERAL = re.compile(r"(?P<login>[^/?#]*@)?(?P<hosts>[^/?#@]*)(?P<path>[^?#@]*)(\?(?P<query>[^#]*))?")
HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\[\]:,\s]+)(:\d{1,5})?")

REFUSALS = (AuthenticationError, AuthenticationWrongNumberOfArgsError, AuthorizationError, NoPermissionError)
LOSSES = (RedisError, OSError, TimeoutError, DriverCancelled, ValueError)
"""ValueError: asyncio's reader, when the peer speaks something else than Redis' protocol."""

Command: TypeAlias = Sequence[str | bytes]


@dataclass(frozen=True, slots=True)
class Server:
    """One server, and how to connect to it."""

    make: type[AbstractConnection]
    options: Mapping[str, Any]
    shown: str

    def connection(self) -> AbstractConnection:
        return self.make(**self.options)

    def at(self, host: str, port: int) -> Server:
        return replace(self, options={**self.options, "host": host, "port": port}, shown=f"{host}:{port}")

    def without(self, *names: str) -> Server:
        return replace(self, options={key: self.options[key] for key in self.options if key not in names})


class Servers(Protocol):
    """What a URL names. `check` is sent right after connecting and every few seconds from then on."""

    @property
    def shown(self) -> str: ...

    @property
    def check(self) -> Command: ...

    async def aio_candidates(self) -> Sequence[Server]:
        """Servers to try in this order; one at least. Raises LOSSES, REFUSALS or SettingsError."""

    def verify(self, answer: object) -> None:
        """Raises ConnectionError when by its answer to `check` the server is not the one to be at."""


@dataclass(frozen=True, slots=True)
class One:
    """redis://, rediss:// or unix://"""

    server: Server
    check: ClassVar[Command] = ("PING",)

    @property
    def shown(self) -> str:
        return self.server.shown

    async def aio_candidates(self) -> Sequence[Server]:
        return [self.server]

    def verify(self, answer: object) -> None:
        pass


@dataclass(frozen=True, slots=True)
class Sentinels:
    """redis+sentinel://host:port,…/service: asked for the master at each connect, as
    https://redis.io/docs/latest/develop/reference/sentinel-clients/ says. A master that fails drops the
    connection; one that was replaced unnoticed is told by its role."""

    sentinels: tuple[Server, ...]
    service: str
    check: ClassVar[Command] = ("ROLE",)

    @property
    def shown(self) -> str:
        return f"the sentinels {_listed(self.sentinels)}"

    async def aio_candidates(self) -> Sequence[Server]:
        failures: list[str] = []
        for sentinel in self.sentinels:
            try:
                async with asyncio.timeout(SEED_TIMEOUT_S):
                    answer = await self._aio_ask(sentinel)
            except (ResponseError, *REFUSALS):
                raise
            except LOSSES as error:
                failures.append(f"{sentinel.shown}: {why(error)}")
                continue
            match answer:
                case [bytes(host), bytes(port)]:
                    return [sentinel.at(host.decode(), int(port))]
                case None:
                    pass  # it knows no such service
                case _:
                    failures.append(f"{sentinel.shown}: it gives no address")
        if not failures:
            raise SettingsError(
                f"No sentinel of {_listed(self.sentinels)} knows a service {self.service!r}: "
                "check its name in APP_ENV_REDIS_URL."
            )
        raise ConnectionError(f"no sentinel names the master of {self.service} ({'; '.join(failures)})")

    async def _aio_ask(self, sentinel: Server) -> object:
        """The user of the URL is the master's; a sentinel is told of it only where it asks for one."""
        question = ("SENTINEL", "get-master-addr-by-name", self.service)
        try:
            return await _aio_ask_once(sentinel.without("db", "username", "password"), question)
        except AuthenticationError:
            if "password" not in sentinel.options:
                raise
            return await _aio_ask_once(sentinel.without("db"), question)

    def verify(self, answer: object) -> None:
        match answer:
            case [b"master", *_]:
                return
        raise ConnectionError(f"it is not the master of {self.service}.")


@dataclass(frozen=True, slots=True)
class Cluster:
    """redis+cluster://host:port,…: any node will do. In a cluster each node passes every PUBLISH on to all
    others, and a client may subscribe at any of them
    (https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/#publishsubscribe).
    Sharded channels would not reach sister services, which use plain PUBLISH (CONTRACT §2)."""

    nodes: tuple[Server, ...]
    # A server that is in no cluster refuses this: several of those would hear only themselves.
    check: ClassVar[Command] = ("CLUSTER", "INFO")

    @property
    def shown(self) -> str:
        return f"the cluster {_listed(self.nodes)}"

    async def aio_candidates(self) -> Sequence[Server]:
        return random.sample(self.nodes, len(self.nodes))  # so that instances spread over them

    def verify(self, answer: object) -> None:
        pass


def servers_of(url: str) -> Servers:
    """Take APP_ENV_REDIS_URL apart; no I/O. Raises SettingsError, which never shows the URL."""
    form, _, rest = url.partition("://")
    scheme, _, kind = form.partition("+")
    try:
        if not kind:
            return One(_server(url))
        parts = SEVERAL.fullmatch(rest)
        if parts is None:
            raise ValueError("[user:password@]host:port,… is expected, with / ? # in a password escaped")
        login, hosts, path, query = parts["login"] or "", parts["hosts"], parts["path"], parts["query"]
        service, database = "", path
        if kind == "sentinel":
            service, _, database = path.removeprefix("/").partition("/")
            if not service:
                raise ValueError("after the sentinels comes the name of the service, as in /mymaster")
        if not all(HOST.fullmatch(host) for host in hosts.split(",")):
            raise ValueError("host:port pairs separated by commas are expected")
        if database.strip("/") and not database.strip("/").isdecimal():
            raise ValueError("the database is a number")
        servers = tuple(
            _server(urlunsplit((scheme, f"{login}{host}", database, query, "")), kind)
            for host in hosts.split(",")
        )
    except (TypeError, ValueError, RedisError) as error:
        raise SettingsError(f"APP_ENV_REDIS_URL has a part that is not understood: {error}.") from None
    return Sentinels(servers, unquote(service)) if kind == "sentinel" else Cluster(servers)


def _server(url: str, kind: str = "") -> Server:
    """Of an ordinary URL with one host. Raises TypeError, ValueError or RedisError."""
    options: dict[str, Any] = dict(parse_url(url))
    make: type[AbstractConnection] = options.pop("connection_class", Connection)
    if kind == "sentinel":
        options.setdefault("port", SENTINEL_PORT)
    options |= {
        "protocol": 2,  # subscriptions and messages are answers like any other
        "socket_timeout": None,  # a cancellation can get lost in it; all calls are bounded by us
        "socket_connect_timeout": CONNECT_TIMEOUT_S,
        "health_check_interval": 0,
    }
    make(**options)
    shown = options.get("path") or f"{options.get('host', 'localhost')}:{options.get('port', 6379)}"
    return Server(make, options, shown)


async def aio_send(connection: AbstractConnection, commands: Sequence[Command]) -> None:
    if not connection.is_connected:
        raise ConnectionResetError("the connection is closed")  # redis-py would open a new one
    packed = b"".join(part for command in commands for part in connection.pack_command(*command))
    await connection.send_packed_command(packed, check_health=False)


async def _aio_ask_once(server: Server, command: Command) -> object:
    connection = server.connection()
    try:
        await connection.connect()  # type: ignore[no-untyped-call]
        await aio_send(connection, [command])
        return await connection.read_response(disable_decoding=True)
    finally:
        await connection.disconnect(nowait=True)


def why(error: BaseException) -> str:
    return str(error) or type(error).__name__


def _listed(servers: Sequence[Server]) -> str:
    return ",".join(server.shown for server in servers)

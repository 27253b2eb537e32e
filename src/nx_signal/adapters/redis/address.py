"""What APP_ENV_REDIS_URL names: one server, the sentinels of a master, or nodes of a cluster. No I/O."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias
from urllib.parse import parse_qsl, unquote

from nx_signal.errors import SettingsError

Topology: TypeAlias = Literal["server", "sentinel", "cluster"]

PORT, SENTINEL_PORT = 6_379, 26_379

_REST = re.compile(
    r"(?P<authority>[^/?#]*)(?P<path>[^?#]*)(\?(?P<query>[^#]*))?(?P<fragment>#.*)?", re.DOTALL
)
_HOST = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]+\]|[^\[\]:,\s]+)?(:(?P<port>\d{1,5}))?")
_PARAMETER = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,40}")

ESCAPE = "in a user or a password / is written %2F, ? is %3F and # is %23"


def _text(value: str) -> str:
    if not value:
        raise ValueError("a value")
    return value


def _flag(value: str) -> bool:
    found = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}.get(value.lower())
    if found is None:
        raise ValueError("true or false")
    return found


def _certificates(value: str) -> str:
    found = value.lower().removeprefix("cert_")
    if found not in ("none", "optional", "required"):
        raise ValueError("none, optional or required")
    return found


def _verify(value: str) -> str:
    return "required" if _flag(value) else "none"


def _no_verify(value: str) -> str:
    return "none" if _flag(value) else "required"


def _number(value: str) -> int:
    if not re.fullmatch(r"\d{1,5}", value, re.ASCII):
        raise ValueError("a number")
    return int(value)


UNDERSTOOD: Mapping[str, tuple[str, Callable[[str], object]]] = {
    "db": ("db", _number),
    "username": ("username", _text),
    "password": ("password", _text),
    "client_name": ("client_name", _text),
    "clientName": ("client_name", _text),
    "ssl": ("tls", _flag),
    "tls": ("tls", _flag),
    "ssl_ca_certs": ("ssl_ca_certs", _text),
    "ssl_ca_path": ("ssl_ca_path", _text),
    "ssl_certfile": ("ssl_certfile", _text),
    "ssl_keyfile": ("ssl_keyfile", _text),
    "ssl_cert_reqs": ("ssl_cert_reqs", _certificates),
    "ssl_check_hostname": ("ssl_check_hostname", _flag),
    "rejectUnauthorized": ("ssl_cert_reqs", _verify),
    "verify": ("ssl_cert_reqs", _verify),
    "skip_verify": ("ssl_cert_reqs", _no_verify),
}
"""redis-py's names for what changes the connection, and those of other clients that providers print: the
option of redis-py, and how its value is read."""

_TUNING = """
protocol timeout socket_timeout socket_connect_timeout socket_keepalive socket_read_size retry_on_timeout
retry_on_error health_check_interval max_connections decode_responses encoding encoding_errors
legacy_responses lib_name lib_version family connectTimeout keepAlive lazyConnect maxRetriesPerRequest
enableReadyCheck dial_timeout read_timeout write_timeout max_retries min_retry_backoff max_retry_backoff
pool_size pool_fifo pool_timeout min_idle_conns max_idle_conns max_active_conns conn_max_idle_time
conn_max_lifetime idle_timeout context_timeout_enabled libraryName libraryVersion
"""
TUNING = frozenset(_TUNING.split())
"""Of redis-py, ioredis, go-redis and lettuce: pools, timeouts and encodings, which are set here already."""


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """`hosts`: (host, port) of the server, of each sentinel or of each node; none for a socket at `path`.
    `options` are redis-py's beside these, with the password."""

    topology: Topology
    hosts: tuple[tuple[str, int], ...]
    path: str
    tls: bool
    options: Mapping[str, object] = field(repr=False)
    service: str = ""
    """the name under which the sentinels monitor the master"""
    ignored: tuple[str, ...] = ()
    """parameters that are left out of account"""


def parse_address(url: str) -> RedisAddress:
    """Takes redis://, rediss:// and unix://, each with user:password@ before the host; with several hosts
    redis+sentinel://host:port,…/service[/db] and redis+cluster://host:port,…, each also with rediss. Raises
    SettingsError, which never shows the URL."""
    scheme_and_topology, _, rest = url.partition("://")
    scheme, _, topology = scheme_and_topology.partition("+")
    try:
        return _parse(scheme, topology, rest)
    except ValueError as error:
        raise malformed(str(error)) from None


def malformed(reason: str) -> SettingsError:
    return SettingsError(f"APP_ENV_REDIS_URL has a part that is not understood: {reason}.")


def _parse(scheme: str, topology: str, rest: str) -> RedisAddress:
    parts = _REST.fullmatch(rest)
    if parts is None or parts["fragment"]:
        raise ValueError(f"a # ends the address; {ESCAPE}")
    path = parts["path"]
    options, ignored = _parameters(parts["query"] or "")
    login, _, hosts = parts["authority"].rpartition("@")
    user, _, password = login.partition(":")
    options |= {name: unquote(value) for name, value in (("username", user), ("password", password)) if value}
    if "@" in path:
        raise ValueError(f"there is an @ after the host; {ESCAPE}")
    tls = bool(options.pop("tls", False)) or scheme == "rediss"
    if not tls and any(name.startswith("ssl_") for name in options):
        raise ValueError("the parameters of certificates are for TLS: use rediss://")
    if scheme == "unix":
        if hosts or not path.strip("/"):
            raise ValueError("a socket is written unix:///path/of/the/socket, its database ?db=1")
        return RedisAddress("server", (), unquote(path), tls=False, options=options, ignored=ignored)
    service, database = "", path
    if topology == "sentinel":
        service, _, database = path.removeprefix("/").partition("/")
        if not service:
            raise ValueError("after the sentinels comes the name of the service, as in /mymaster")
    if database.strip("/"):
        options.setdefault("db", _database(database.strip("/")))
    found = tuple(_host(host, topology) for host in hosts.split(","))
    if len(found) > 1 and not topology:
        raise ValueError("several servers are sentinels, redis+sentinel://, or a cluster, redis+cluster://")
    kinds: Mapping[str, Topology] = {"": "server", "sentinel": "sentinel", "cluster": "cluster"}
    return RedisAddress(kinds[topology], found, "", tls, options, unquote(service), ignored)


def _host(text: str, topology: str) -> tuple[str, int]:
    parts = _HOST.fullmatch(text)
    if parts is None or (topology and not parts["name"]):
        several = "host:port pairs separated by commas are" if topology else "host:port is"
        raise ValueError(f"{several} expected, with a port from 1 to 65535; {ESCAPE}")
    port = int(parts["port"] or (SENTINEL_PORT if topology == "sentinel" else PORT))
    if not 1 <= port <= 65_535:
        raise ValueError(f"a port is a number from 1 to 65535; {ESCAPE}")
    return (parts["name"] or "localhost").strip("[]"), port


def _database(text: str) -> int:
    try:
        return _number(text)
    except ValueError:
        raise ValueError(f"the database after the host is a number; {ESCAPE}") from None


def _parameters(query: str) -> tuple[dict[str, object], tuple[str, ...]]:
    """(options, those left out of account). The first of two counts. An error shows only what looks like a
    parameter's name: other text may be the end of a password."""
    options: dict[str, object] = {}
    ignored: list[str] = []
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name in TUNING:
            ignored.append(name)
            continue
        if name not in UNDERSTOOD:
            if "@" in query or not _PARAMETER.fullmatch(name):
                raise ValueError(f"after the ? come name=value pairs; {ESCAPE}")
            known = ", ".join(sorted(UNDERSTOOD))
            raise ValueError(f"the parameter {name} is not known; these are: {known}")
        option, parse = UNDERSTOOD[name]
        try:
            options.setdefault(option, parse(value))
        except ValueError as expected:
            raise ValueError(f"the parameter {name} takes {expected}") from None
    return options, tuple(ignored)

"""Opens a connection to the one host of an address that accepts writes, and makes it ready."""

from __future__ import annotations

import asyncio
import configparser
import os
import pwd
import ssl
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import asyncpg
import structlog

from nx_signal.adapters.postgres.address import PostgresAddress, Tls
from nx_signal.adapters.postgres.errors import refused
from nx_signal.errors import Fatal, SettingsError, SignalError, StoreReadOnly, StoreUnavailable, Unsupported
from nx_signal.store.sql import query

log = structlog.get_logger()

STATEMENT_S = 10.0
LOCK_S = 8.0
"""Below it, so that a wait for others is distinguished from a statement that takes too long by itself. The
address may name another one."""
COMMAND_S = 12.0
"""The server gives up first; this is for a server that does not answer at all."""
IDLE_IN_TRANSACTION_S = 10.0
"""As long as the others' statements wait for a lock; between two statements pass milliseconds."""
CACHED_STATEMENTS = 100
OLDEST = 13
"""The oldest major version of PostgreSQL: gen_random_uuid is built in from it on."""

SETTINGS = {
    "statement_timeout": f"{STATEMENT_S:.0f}s",
    # An instance that froze or vanished with a locked head blocks the others for no longer than this.
    "idle_in_transaction_session_timeout": f"{IDLE_IN_TRANSACTION_S:.0f}s",
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
    "jit": "off",  # costs more than any of these statements
    # A plan kept from when a table was nearly empty reads all of it when it has grown: 8 ms instead of 0.1
    # for one row at 70,000.
    "plan_cache_mode": "force_custom_plan",
}
"""Of a session. Not start-up parameters: a pooler refuses those that it does not know."""
REFUSED_THIS_WAY = (
    OSError,
    asyncpg.InvalidAuthorizationSpecificationError,  # pg_hba.conf
    asyncpg.ProtocolViolationError,  # PgBouncer's "SSL required"
)
"""What the other of TLS and no TLS may mend."""
SSL_REQUEST = bytes.fromhex("0000000804d2162f")
OF_A_CONNECTION = ("tcp_keepalives_",)
"""Settings that are not a transaction's."""


class Connector:
    """`schema` None: the one in which this service's tables are found, else `public`."""

    def __init__(self, address: PostgresAddress, schema: str | None) -> None:
        self.address = address
        self.pooled = address.pooled
        """Whether a pooler is in front; None until the first connection. It may give each transaction another
        session: then nothing is kept in a session, neither settings nor prepared statements nor locks."""
        self._settings = {"lock_timeout": f"{LOCK_S:.0f}s", **address.settings, **SETTINGS}
        self._schema = schema
        self._first = 0
        self._server: str | None = None
        self.moves = 0
        """how often another server was found than before: at another host, or behind the same address"""

    @property
    def longest_s(self) -> float:
        """For one connection: each host may take its time, with all attempts that TLS and a pooler need."""
        return self.address.connect_s * len(self.address.hosts) + 1

    async def aio_connect(self, **options: Any) -> asyncpg.Connection:
        """To the first host that accepts writes, beginning with the last that did; its address is looked up
        each time. Raises a Fatal where waiting cannot help with any host, else StoreUnavailable.

        `options` are the pool's."""
        failures: list[SignalError] = []
        for turn in range(len(self.address.hosts)):
            n = (self._first + turn) % len(self.address.hosts)
            host, port = self.address.hosts[n]
            try:
                connection = await self._aio_connect_in_time(host, port, options)
            except SignalError as failure:
                failures.append(failure)
            else:
                self._first = n
                return connection
        waited_for = [failure for failure in failures if not isinstance(failure, Fatal)]
        if not waited_for:
            raise failures[0]
        raise waited_for[0] if len(failures) == 1 else _all_of(self.address.place, failures)

    async def _aio_connect_in_time(
        self, host: str, port: int, options: Mapping[str, Any]
    ) -> asyncpg.Connection:
        """A host that accepts a connection and is silent from then on leaves the others their time."""
        place = self._place(host, port)
        try:
            async with asyncio.timeout(self.address.connect_s):
                return await self._aio_connect_to(host, port, place, options)
        except TimeoutError:
            raise StoreUnavailable(
                f"PostgreSQL at {place} does not answer within {self.address.connect_s:g} s."
            ) from None

    def _place(self, host: str, port: int) -> str:
        database = self.address.database or _user(self.address.user)
        return (f"[{host}]" if ":" in host else host) + f":{port}/{database}"

    async def _aio_connect_to(
        self, host: str, port: int, place: str, options: Mapping[str, Any]
    ) -> asyncpg.Connection:
        prepared = self.pooled is False
        connection = await self._aio_open(host, port, place, prepared, options)
        ready = False
        try:
            (facts,) = await connection.fetch(query("postgres", "session_facts"))
            self._require(facts, place)
            self._notice(facts["server"])
            if self.address.pooled is None and not self.pooled:
                self.pooled = connection.get_server_pid() != facts["pid"]
                if self.pooled:
                    log.info("pooler_found", place=place, advice="pool_mode=session if it keeps sessions")
            if self.pooled is prepared:  # opened for the other kind: once in the life of a pool
                connection.terminate()
                return await self._aio_connect_to(host, port, place, options)
            if not self.pooled:
                await connection.execute(self.settings_sql(of_transaction=False))
            ready = True
            return connection
        except Exception as error:
            raise refused(error, place, host) or error from None
        finally:
            if not ready:
                connection.terminate()

    async def _aio_open(
        self, host: str, port: int, place: str, prepared: bool, options: Mapping[str, Any]
    ) -> asyncpg.Connection:
        address = self.address
        startup = {"application_name": address.application_name}
        if address.startup_options:
            startup["options"] = address.startup_options
        arguments = {
            "host": host,
            "port": port,
            "user": _user(address.user),
            "database": address.database or _user(address.user),
            "password": address.password,
            "passfile": address.password_file,
            "direct_tls": address.tls.direct,
            "timeout": address.connect_s,
            "command_timeout": COMMAND_S,
            "statement_cache_size": CACHED_STATEMENTS if prepared else 0,
            "server_settings": startup,
            # Given, so that the driver reads no variable in their place.
            "target_session_attrs": "any",
            "gsslib": "gssapi",
            **options,
        }
        failure: Exception = StoreUnavailable(f"PostgreSQL at {place} was not tried.")
        for context in _attempts(address.tls, host):
            try:
                return await asyncpg.connect(ssl=context, **arguments)
            except REFUSED_THIS_WAY as error:
                failure = failure if _is_final(failure) else error
                if _is_final(error) or isinstance(error, TimeoutError):
                    break
            except Exception as error:
                failure = error
                break
        if _may_be_another_protocol(failure) and await _aio_is_another_protocol(
            host, port, address.connect_s
        ):
            raise SettingsError(
                f"What listens at {place} is no PostgreSQL: check host and port in APP_ENV_DATABASE_URL."
            )
        raise refused(failure, place, host) or failure from None

    def _require(self, facts: Any, place: str) -> None:
        if facts["version"] < OLDEST * 10_000:
            raise Unsupported(
                f"PostgreSQL at {place} is version {facts['version'] // 10_000}: it takes {OLDEST} or later."
            )
        if facts["encoding"] != "UTF8":
            raise Unsupported(
                f"The database {self.address.place} has the encoding {facts['encoding']}, which cannot hold "
                "every text. Make one that can: CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0."
            )
        if facts["client_encoding"] != "UTF8":
            raise Unsupported(
                f"PostgreSQL at {place} sets client_encoding to {facts['client_encoding']} for this "
                "connection. Leave it at UTF8 in the pooler and the role."
            )
        if facts["read_only"]:
            raise StoreReadOnly(f"PostgreSQL at {place} accepts no writes now ({facts['read_only']}).")

    def _notice(self, server: str) -> None:
        """Not behind a pooler, which may have connections to several."""
        if self.pooled:
            return
        self.moves += self._server not in (None, server)
        self._server = server

    def settings_sql(self, *, of_transaction: bool) -> str:
        """One statement without a semicolon, for a session or for the transaction that is open."""
        pairs = [
            (_literal(name), _literal(value))
            for name, value in self._settings.items()
            if not (of_transaction and name.startswith(OF_A_CONNECTION))
        ]
        pairs.append(("'search_path'", self._search_path()))
        local = str(of_transaction).lower()
        return "SELECT " + ", ".join(f"set_config({name}, {value}, {local})" for name, value in pairs)

    def _search_path(self) -> str:
        """One schema. Without pg_temp, where tables would be made should that schema be missing."""
        if self._schema is not None:
            return _literal('"' + self._schema.replace('"', '""') + '"')
        return query("postgres", "own_search_path").removesuffix(";")


def read_service(name: str, file: str | None) -> Mapping[str, str]:
    """libpq's service file: the one named, PGSERVICEFILE, or ~/.pg_service.conf."""
    path = Path(file or os.environ.get("PGSERVICEFILE") or "~/.pg_service.conf").expanduser()
    services = configparser.ConfigParser(interpolation=None, delimiters=("=",), strict=False)
    try:
        services.read_string(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, configparser.Error) as error:
        raise ValueError(f"the service file {path} cannot be read ({type(error).__name__})") from None
    if not services.has_section(name):
        raise ValueError(f"the service file {path} has no service {name!r}")
    return dict(services[name])


def _user(user: str | None) -> str:
    if user:
        return user
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        raise SettingsError(
            "The database's address names no user: add one in APP_ENV_DATABASE_URL."
        ) from None


def _attempts(tls: Tls, host: str) -> Sequence[ssl.SSLContext | bool]:
    """As libpq orders them. `False` is without TLS."""
    if host.startswith("/") or tls.mode == "disable":
        return (False,)
    context = _context(tls)
    if tls.mode == "allow":
        return (False, context)
    return (context, False) if tls.mode == "prefer" else (context,)


def _context(tls: Tls) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = tls.verifies_host
    context.verify_mode = ssl.CERT_REQUIRED if tls.verifies else ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion[tls.minimum.replace(".", "_")]
    if tls.maximum:
        context.maximum_version = ssl.TLSVersion[tls.maximum.replace(".", "_")]
    if ssl.HAS_ALPN:
        context.set_alpn_protocols(["postgresql"])
    name = "the system's certificates"
    try:
        if tls.root_file:
            name = f"sslrootcert {tls.root_file}"
            context.load_verify_locations(cafile=tls.root_file)
        elif tls.verifies:
            context.load_default_certs()
        if tls.revoked_file:
            name = f"sslcrl {tls.revoked_file}"
            context.load_verify_locations(cafile=tls.revoked_file)
            context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
        if tls.certificate_file:
            name = f"sslcert {tls.certificate_file} with its key"
            context.load_cert_chain(tls.certificate_file, tls.key_file, lambda: tls.key_password or "")
    except (OSError, ValueError) as error:  # an SSLError is an OSError
        words = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
        raise SettingsError(
            f"APP_ENV_DATABASE_URL: {name} cannot be used ({words}). Name a PEM file that this user may read."
        ) from None
    return context


def _is_final(error: Exception) -> bool:
    """Trying the other of TLS and no TLS does not change it."""
    return isinstance(error, asyncpg.InvalidPasswordError | ssl.SSLCertVerificationError)


def _may_be_another_protocol(failure: Exception) -> bool:
    return isinstance(failure, asyncpg.ConnectionDoesNotExistError) or "rejected SSL" in str(failure)


async def _aio_is_another_protocol(host: str, port: int, timeout_s: float) -> bool:
    """Whether the answer to PostgreSQL's request for TLS is none that it gives."""
    if host.startswith("/"):
        return False
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(SSL_REQUEST)
                answer = await reader.read(64)
                return answer not in (b"S", b"N", b"") and not answer.startswith(b"E")
            finally:
                writer.transport.abort()
    except OSError:
        return False


def _all_of(place: str, failures: Sequence[SignalError]) -> StoreUnavailable:
    return StoreUnavailable(
        f"No PostgreSQL of {place} can be used now: " + " ".join(dict.fromkeys(map(str, failures)))
    )


def _literal(text: str) -> str:
    return "E'" + text.replace("\\", "\\\\").replace("'", "''") + "'"

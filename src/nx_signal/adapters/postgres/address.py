"""What APP_ENV_DATABASE_URL names: hosts, user, TLS and the settings of a session. No I/O."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from urllib.parse import unquote

from nx_signal.adapters.postgres import parameters
from nx_signal.adapters.postgres.parameters import canonical
from nx_signal.errors import SettingsError

URL_SETTING = "APP_ENV_DATABASE_URL"
DEFAULT_PORT = 5432
CONNECT_S = 5.0
LONGEST_CONNECT_S = 60.0
SOCKETS = ("/run/postgresql", "/var/run/postgresql", "/tmp", "localhost")  # noqa: S108 - where servers listen
"""Where a server is looked for that the address does not name."""

ReadService = Callable[[str, str | None], Mapping[str, str]]
"""The parameters of a service, by its name and the file where the address names one. Raises ValueError."""

_SCHEME = re.compile(r"(postgresql|postgres)(\+\w+)?://")
_HOST = r"(?:\[[0-9A-Za-z:.%]+\]|[^\[\]:,/?#@\s]*)(?::\d{1,5})?"
_WHERE = re.compile(
    rf"(?P<hosts>{_HOST}(?:,{_HOST})*)(?:/(?P<database>[^/?#@]*))?(?:\?(?P<query>(?:[^=&@]+=[^&]*(?:&|$))*))?"
)
_PAIR = re.compile(r"\s*(\w+)\s*=\s*('(?:[^'\\]|\\.)*'|[^'\s]*)\s*")
_OPTION = re.compile(r"(?:-c\s*|--)([A-Za-z_][\w.\-]*)=((?:[^\s\\]|\\.)*)\s*", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """`root_file`: None are the system's certificates. `direct`: without PostgreSQL's own negotiation."""

    mode: str = "prefer"
    root_file: str | None = None
    certificate_file: str | None = None
    key_file: str | None = None
    key_password: str | None = field(default=None, repr=False)
    revoked_file: str | None = None
    minimum: str = "TLSv1.2"
    maximum: str | None = None
    direct: bool = False

    @property
    def verifies_host(self) -> bool:
        """The system's certificates are given to anybody: with them the name has to match."""
        return self.mode == "verify-full" or (self.mode == "verify-ca" and self.root_file is None)

    @property
    def verifies(self) -> bool:
        """As libpq does, `require` with a root certificate verifies."""
        return self.mode.startswith("verify-") or (self.mode == "require" and self.root_file is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresAddress:
    hosts: tuple[tuple[str, int], ...]
    """a name or an address, or the directory of a Unix socket; and the port"""
    database: str | None
    """None is the user's"""
    user: str | None
    """None is that of the process"""
    password: str | None = field(repr=False)
    """None: PGPASSWORD or the password file"""
    password_file: str | None
    tls: Tls
    connect_s: float
    application_name: str
    startup_options: str | None
    """what a provider's proxy reads from `options`, sent as it is"""
    settings: Mapping[str, str]
    schema: str | None
    pooled: bool | None
    """whether a pooler may give each transaction another session; None is found out"""
    ignored: tuple[str, ...]
    place: str
    """for messages; never a user, a password or a parameter"""


def parse_address(url: str, read_service: ReadService) -> PostgresAddress:
    """A URL, `key=value` pairs as libpq takes them, or both forms of other drivers. In a password only what
    makes the URL ambiguous has to be escaped. Raises SettingsError, which shows no value of the address."""
    try:
        values, given = _values(url.strip(), read_service)
        return _address(values, given)
    except ValueError as error:
        raise SettingsError(f"{URL_SETTING} or --database-url is not understood: {error}.") from None


def _values(text: str, read_service: ReadService) -> tuple[dict[str, str], dict[str, str]]:
    """canonical name → value, and → the name as it was given"""
    scheme = _SCHEME.match(text)
    pairs = _of_url(text[scheme.end() :]) if scheme else _of_pairs(text)
    given = {canonical(name): name for name, _ in pairs}
    values = {canonical(name): value for name, value in pairs if value}
    for name, value in pairs:
        if "\0" in value:
            raise ValueError(f"{name} holds the character NUL")
    if service := values.pop("service", None):
        found = read_service(service, values.pop("servicefile", None))
        given = {canonical(name): name for name in found} | given
        values = {canonical(name): value for name, value in found.items()} | values
    return values, given


def _of_url(rest: str) -> list[tuple[str, str]]:
    """The first reading in which what follows the user is hosts, a database and parameters."""
    ends = (-1, *(found.start() for found in re.finditer("@", rest)))
    for end in ends:
        if (parts := _WHERE.fullmatch(rest, end + 1)) and _may_be_query(parts["query"] or ""):
            break
    else:
        raise ValueError(
            "it takes postgresql://user:password@host:port,host:port/database?parameter=value, with "
            "@ / ? # % in a password written as %40 %2F %3F %23 %25"
        )
    user, _, password = rest[: max(end, 0)].partition(":")
    hosts, ports = [], []
    for host in parts["hosts"].split(","):
        address, _, port = host.rpartition(":") if re.search(r":\d+$", host) else (host, "", "")
        hosts.append(unquote(address.removeprefix("[").removesuffix("]")))
        ports.append(port)
    pairs = [
        ("user", unquote(user)),
        ("password", unquote(password)),
        ("host", ",".join(hosts)),
        ("port", ",".join(ports).strip(",") and ",".join(port or str(DEFAULT_PORT) for port in ports)),
        ("dbname", unquote(parts["database"] or "")),
    ]
    for pair in filter(None, (parts["query"] or "").split("&")):
        name, _, value = pair.partition("=")
        pairs.append((unquote(name), unquote(value)))
    # As in libpq, a parameter counts where the part before it names nothing.
    first = dict(pair for pair in reversed(pairs) if pair[1])
    return [(name, first.get(name, "")) for name in dict(pairs)]


def _may_be_query(text: str) -> bool:
    """An @ in it may also be the end of a password that holds digits, ? and =: the names decide."""
    names = [pair.partition("=")[0] for pair in filter(None, text.split("&"))]
    return "@" not in text or all(canonical(unquote(name)) in parameters.KNOWN for name in names)


def _of_pairs(text: str) -> list[tuple[str, str]]:
    pairs, at = [], 0
    while at < len(text):
        found = _PAIR.match(text, at)
        if found is None:
            raise ValueError("it takes a URL that starts with postgresql://, or key=value pairs")
        value = found[2]
        if value.startswith("'"):
            value = value[1:-1]
        pairs.append((found[1], re.sub(r"\\(.)", r"\1", value)))
        at = found.end()
    return pairs


def _address(values: dict[str, str], given: Mapping[str, str]) -> PostgresAddress:
    _require_known(values, given)
    settings, schemas, startup_options, left_out = _options(values.pop("options", ""))
    ignored = {given[name] for name in values if name in parameters.IGNORED} | left_out
    settings |= {setting: values[name] for name, setting in parameters.SETTINGS.items() if values.get(name)}
    for name in ("schema", "currentschema", "searchpath"):
        schemas += _schemas(values.get(name, ""))
    hosts = _hosts(values)
    database = values.get("dbname") or values.get("database")
    password = values.get("password")
    return PostgresAddress(
        hosts=hosts,
        database=database,
        user=values.get("user") or values.get("username"),
        password=password,
        password_file=values.get("passfile"),
        tls=_tls(values),
        connect_s=_connect_s(values.get("connecttimeout")),
        application_name=values.get("applicationname", "nx-signal"),
        startup_options=startup_options,
        settings=MappingProxyType(settings),
        schema=schemas[-1] if schemas else None,
        pooled=_pooled(values),
        ignored=tuple(sorted(ignored)),
        place=_place(values, database),
    )


def _require_known(values: Mapping[str, str], given: Mapping[str, str]) -> None:
    for name in values:
        if name in parameters.REFUSED:
            raise ValueError(f"{given[name]}: {parameters.REFUSED[name]}")
        if name not in parameters.KNOWN:
            near = difflib.get_close_matches(name, parameters.KNOWN, 1)
            hint = f"; perhaps {near[0]} is meant" if near else ""
            raise ValueError(
                f"the parameter {given[name][:64]!r} is not known{hint} (a setting of the server goes into "
                "options=-c%20name=value)"
            )
    if values.get("gssencmode") == "require":
        raise ValueError("gssencmode=require: encryption by GSSAPI cannot be used; use sslmode=verify-full")
    if values.get("clientencoding", "utf8").lower().replace("-", "") not in ("utf8", "auto", "unicode"):
        raise ValueError("client_encoding: the connection is always UTF8; leave it out")
    for name in ("targetsessionattrs", "targetservertype"):
        if name in values and canonical(values[name]) not in map(canonical, parameters.TARGETS):
            raise ValueError(f"{given[name]}: this service writes, use read-write")


def _hosts(values: Mapping[str, str]) -> tuple[tuple[str, int], ...]:
    text = values.get("host") or values.get("hostaddr") or ""
    hosts = text.split(",") if text else list(SOCKETS)
    ports = (values.get("port") or str(DEFAULT_PORT)).split(",")
    if len(ports) == 1:
        ports *= len(hosts)
    if len(ports) != len(hosts):
        raise ValueError(f"{len(hosts)} hosts have {len(ports)} ports")
    if not all(port.isascii() and port.isdigit() and 0 < int(port[:6]) < 65536 for port in ports if port):
        raise ValueError("a port is a number from 1 to 65535")
    if any(not host or set(host) & set(";= '\"") for host in hosts):
        raise ValueError("a host is empty, or holds a character that no host has")
    return tuple((host, int(port or DEFAULT_PORT)) for host, port in zip(hosts, ports, strict=True))


def _place(values: Mapping[str, str], database: str | None) -> str:
    hosts = (values.get("host") or values.get("hostaddr") or "the local socket").split(",")
    ports = values.get("port", "").split(",")
    ports = ports * len(hosts) if len(ports) == 1 else ports
    shown = [
        (f"[{host}]" if ":" in host else host) + (f":{port}" if port else "")
        for host, port in zip(hosts, ports, strict=True)
    ]
    return ",".join(shown) + (f"/{database}" if database else "")


def _tls(values: Mapping[str, str]) -> Tls:
    mode = values.get("sslmode") or values.get("ssl") or ""
    mode = parameters.SSL_WORDS.get(mode.lower(), mode.lower())
    if not mode and values.get("requiressl") == "1":
        mode = "require"
    if values.get("sslaccept", "").lower() == "strict":
        mode = "verify-full"
    root_file = values.get("sslrootcert")
    if root_file == "system":
        mode, root_file = "verify-full", None
    # The driver cannot bind to the channel. Verifying the server keeps out the same attacker.
    if values.get("channelbinding") == "require" and not mode.startswith("verify-"):
        mode = "verify-full"
    mode = mode or "prefer"
    if mode not in parameters.SSL_MODES:
        raise ValueError("sslmode is one of " + ", ".join(parameters.SSL_MODES))
    negotiation = values.get("sslnegotiation", "postgres")
    if negotiation not in ("postgres", "direct"):
        raise ValueError("sslnegotiation is postgres or direct")
    if negotiation == "direct" and mode in ("disable", "allow", "prefer"):
        raise ValueError("sslnegotiation=direct needs sslmode=require, verify-ca or verify-full")
    versions = [values.get(f"ssl{end}protocolversion") for end in ("min", "max")]
    for version in versions:
        if version not in (None, "TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3"):
            raise ValueError("ssl_min_protocol_version and ssl_max_protocol_version are TLSv1.2 or TLSv1.3")
    return Tls(
        mode=mode,
        root_file=root_file,
        certificate_file=values.get("sslcert"),
        key_file=values.get("sslkey"),
        key_password=values.get("sslpassword"),
        revoked_file=values.get("sslcrl"),
        minimum=versions[0] or "TLSv1.2",
        maximum=versions[1],
        direct=negotiation == "direct",
    )


def _connect_s(text: str | None) -> float:
    """As in libpq, 0 and less are no limit of the address's own."""
    if text is None:
        return CONNECT_S
    try:
        seconds = float(text)
    except ValueError:
        raise ValueError("connect_timeout is a number of seconds") from None
    return min(seconds, LONGEST_CONNECT_S) if seconds > 0 else CONNECT_S


def _pooled(values: Mapping[str, str]) -> bool | None:
    mode = values.get("poolmode", "").lower()
    if mode == "session":
        return False
    if mode in ("transaction", "statement") or values.get("pgbouncer", "").lower() in ("true", "1"):
        return True
    if any(values.get(name, "").lower() == value for name, value in parameters.UNPREPARED.items()):
        return True
    return None


def _options(text: str) -> tuple[dict[str, str], list[str], str | None, set[str]]:
    """The settings in `options`, the schemas of its search_path, what is in it otherwise, and which settings
    are ignored."""
    settings: dict[str, str] = {}
    ignored: set[str] = set()
    schemas: list[str] = []
    other, at = [], 0
    text = text.strip()
    while at < len(text):
        if found := _OPTION.match(text, at):
            name, value = found[1].lower().replace("-", "_"), re.sub(r"\\(.)", r"\1", found[2])
            if name == "search_path":
                schemas = _schemas(value)
            elif canonical(name) in parameters.IGNORED:
                ignored.add(name)
            else:
                settings[name] = value
            at = found.end()
        else:
            word = re.compile(r"(?:[^\s\\]|\\.)+\s*", re.DOTALL).match(text, at)
            at = word.end() if word else len(text)
            other.append(word[0].strip() if word else "")
    return settings, schemas, " ".join(filter(None, other)) or None, ignored


def _schemas(search_path: str) -> list[str]:
    """The one schema in which tables would be made: the first that is not the user's or a system's."""
    names = [name.strip().strip('"') for name in search_path.split(",")]
    return [name for name in names if name and name != "$user" and not name.startswith("pg_")][:1]

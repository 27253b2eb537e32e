"""Settings from `APP_ENV_*` variables and flags, and nothing else. No I/O.

The dataclass below is the only list of settings: flags, `--help` and the table in README.md are made
from it (tests/unit/test_config.py holds the README to it)."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from nx_signal.errors import SettingsError

HIDDEN = "***"


def default_data_dir() -> Path:
    base = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(base) / "nx-signal"


def _whole(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise ValueError(f"a whole number from {low} to {high}") from None
        if not low <= value <= high:
            raise ValueError(f"a whole number from {low} to {high}")
        return value

    return parse


def _seconds(low: float, high: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise ValueError(f"seconds from {low:g} to {high:g}") from None
        if not low <= value <= high:  # also refuses nan
            raise ValueError(f"seconds from {low:g} to {high:g}")
        return value

    return parse


def _url(*schemes: str) -> Callable[[str], str]:
    expected = "a URL that starts with " + " or ".join(f"{s}://" for s in schemes)

    def parse(text: str) -> str:
        scheme, _, rest = text.partition("://")
        if "+" in scheme and scheme in schemes and rest:
            return text  # several hosts, which urlsplit does not know: the adapter takes them apart
        try:
            parts = urlsplit(text)
            _ = parts.port
        except ValueError:
            raise ValueError(expected) from None
        if parts.scheme not in schemes or not (parts.netloc or parts.path):
            raise ValueError(expected)
        return text

    return parse


def _choice(*options: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in options:
            raise ValueError("one of " + ", ".join(options))
        return text

    return parse


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _servers(text: str) -> str:
    for server in text.split(","):
        host, _, port = server.strip().rpartition(":")
        if not host or not port.isdigit() or not 0 < int(port) < 65536:
            raise ValueError("host:port pairs separated by commas")
    return text


def _zone(text: str) -> str:
    try:
        ZoneInfo(text)
    except (KeyError, ValueError, OSError):
        raise ValueError("an IANA time zone such as UTC or Asia/Ho_Chi_Minh") from None
    return text


def _networks(text: str) -> tuple[IPv4Network | IPv6Network, ...]:
    try:
        return tuple(ip_network(word) for word in _words(text))
    except ValueError:
        raise ValueError("addresses or networks such as 10.0.0.0/8, separated by commas") from None


def _number(low: float, high: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise ValueError(f"a number from {low:g} to {high:g}") from None
        if not low <= value <= high:  # also refuses nan
            raise ValueError(f"a number from {low:g} to {high:g}")
        return value

    return parse


def _path(text: str) -> Path:
    return Path(text).expanduser()


def _text(text: str) -> str:
    return text


def redact(url: str) -> str:
    """The URL without its user's password and without its query, which may hold one too."""
    scheme, mark, rest = url.partition("://")
    # Not by urlsplit: an unescaped / in a password would end the host there, and show the rest of it.
    user, at, where = re.split("[?#]", rest, maxsplit=1)[0].rpartition("@")
    shown_user = f"{user.partition(':')[0]}:***" if at else ""
    return f"{scheme}{mark}{shown_user}{at}{where}" if mark else HIDDEN


def _hide(_: str) -> str:
    return HIDDEN


def _setting(
    env: str,
    default: Any,
    parse: Callable[[str], Any],
    help: str,
    *,
    secret: Callable[[str], str] | None = None,
) -> Any:
    """`secret`: what may be shown of the value."""
    metadata = {"env": f"APP_ENV_{env}", "parse": parse, "help": help, "secret": secret}
    if callable(default):
        return dataclasses.field(default_factory=default, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All that one process can be told. Printing one never shows a password."""

    host: str = _setting("HOST", "127.0.0.1", _text, "Address to listen on.")
    port: int = _setting(
        "PORT", 31090, _whole(0, 65535), "TCP port of REST and the stream; 0 takes any free one."
    )
    data_dir: Path = _setting(
        "DATA_DIR",
        default_data_dir,
        _path,
        "Directory of the embedded store, the journal and the embedded issuer's key; made if missing.",
    )
    database_url: str | None = _setting(
        "DATABASE_URL",
        None,
        _url("postgresql", "postgres"),
        "PostgreSQL as the store, instead of SQLite in the data directory.",
        secret=redact,
    )
    redis_url: str | None = _setting(
        "REDIS_URL",
        None,
        _url(
            *("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel"),
            *("redis+cluster", "rediss+cluster"),
        ),
        "Redis as the relay between instances, instead of one process by itself: one server, "
        "redis+sentinel://host:port,.../service or redis+cluster://host:port,...; rediss for TLS.",
        secret=redact,
    )
    kafka_bootstrap_servers: str | None = _setting(
        "KAFKA_BOOTSTRAP_SERVERS",
        None,
        _servers,
        "Kafka as a source of activities, besides the journal.",
    )
    jwks_url: str | None = _setting(
        "JWKS_URL",
        None,
        _url("http", "https"),
        "Where the token issuer serves its keys, instead of the embedded issuer.",
    )
    jwt_issuer: str | None = _setting("JWT_ISSUER", None, _text, "Required `iss` of a token.")
    jwt_audience: str | None = _setting("JWT_AUDIENCE", None, _text, "Required `aud` of a token.")
    jwt_user_claim: str = _setting("JWT_USER_CLAIM", "sub", _text, "Claim that holds the user id.")
    kafka_topic: str = _setting(
        "KAFKA_TOPIC", "signal.activity-notification", _text, "Topic of the activities."
    )
    kafka_group_id: str = _setting(
        "KAFKA_GROUP_ID", "SVC-00090-SIGNAL_NOTIF_CONSUMER_GROUP", _text, "Consumer group."
    )
    kafka_client_id: str = _setting(
        "KAFKA_CLIENT_ID", "SVC-00090-SIGNAL_NOTIF_CONSUMER", _text, "Client id towards Kafka."
    )
    kafka_fallback_mode: str = _setting(
        "KAFKA_FALLBACK_MODE",
        "latest",
        _choice("latest", "earliest"),
        "Where a new consumer group starts.",
    )
    kafka_session_timeout_ms: int = _setting(
        "KAFKA_SESSION_TIMEOUT_MS",
        10_000,
        _whole(100, 300_000),
        "How long the group waits for a silent consumer; its heartbeat is a third of that.",
    )
    kafka_security_protocol: str = _setting(
        "KAFKA_SECURITY_PROTOCOL",
        "PLAINTEXT",
        _choice("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"),
        "How to talk to Kafka: with TLS (SSL), with a user (SASL), with both or neither.",
    )
    kafka_sasl_mechanism: str = _setting(
        "KAFKA_SASL_MECHANISM",
        "PLAIN",
        _choice("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"),
        "How Kafka checks the user.",
    )
    kafka_sasl_username: str | None = _setting("KAFKA_SASL_USERNAME", None, _text, "Kafka's user.")
    kafka_sasl_password: str | None = _setting(
        "KAFKA_SASL_PASSWORD", None, _text, "The password of that user.", secret=_hide
    )
    kafka_ssl_cafile: Path | None = _setting(
        "KAFKA_SSL_CAFILE",
        None,
        _path,
        "File of the authorities (PEM) that may vouch for Kafka's brokers, instead of the system's.",
    )
    time_zone: str = _setting("TIME_ZONE", "UTC", _zone, "Time zone of dates in rendered content.")
    room_patterns: tuple[str, ...] = _setting(
        "ROOM_PATTERNS",
        (),
        _words,
        "Further rooms that any client may join: shell patterns, separated by commas.",
    )
    resume_limit: int = _setting(
        "RESUME_LIMIT",
        500,
        _whole(1, 10_000),
        "Changes replayed to a returning client; further behind, it is told to refetch.",
    )
    sweep_s: float = _setting(
        "SWEEP_S",
        10.0,
        _seconds(0.1, 3600),
        "How often all connected inboxes are compared with the store, in one query.",
    )
    client_buffer_bytes: int = _setting(
        "CLIENT_BUFFER_BYTES",
        262_144,
        _whole(16_384, 16_777_216),
        "Unsent bytes held for one client before its backlog is left to the store.",
    )
    max_connections: int = _setting(
        "MAX_CONNECTIONS",
        20_000,
        _whole(1, 1_000_000),
        "Open connections, REST and stream together; a further one is refused.",
    )
    rate_factor: float = _setting(
        "RATE_FACTOR",
        1.0,
        _number(0, 1000),
        "Scales the rate limits: REST requests, and the stream's handshakes, messages, rooms; 0 lifts them.",
    )
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...] = _setting(
        "TRUSTED_PROXIES",
        (),
        _networks,
        "Proxies whose X-Forwarded-For tells a client's address: networks, separated by commas.",
    )
    cors_origins: tuple[str, ...] = _setting(
        "CORS_ORIGINS", (), _words, "Origins that browsers may call REST from, or *."
    )
    drain_s: float = _setting(
        "DRAIN_S", 10.0, _seconds(0.5, 600), "Total time that a stop may take, from signal to exit."
    )
    database_pool_size: int = _setting(
        "DATABASE_POOL_SIZE", 8, _whole(2, 200), "PostgreSQL connections of this instance."
    )
    retention_days: int = _setting(
        "RETENTION_DAYS",
        0,
        _whole(0, 36_500),
        "Days after which notifications are removed, longer than any source may deliver again; 0 keeps them.",
    )
    log_level: str = _setting(
        "LOG_LEVEL", "info", _choice("debug", "info", "warning", "error"), "Least level that is logged."
    )
    log_format: str = _setting(
        "LOG_FORMAT", "auto", _choice("auto", "json", "console"), "auto: console on a terminal, else json."
    )

    @classmethod
    def load(cls, flags: Mapping[str, str | None], environ: Mapping[str, str] | None = None) -> Settings:
        """A flag wins over its variable; an empty variable counts as unset.

        `flags` maps field names to raw text. Raises SettingsError naming the variable or flag."""
        env = os.environ if environ is None else environ
        values: dict[str, Any] = {}
        for field in dataclasses.fields(cls):
            name, raw = field.metadata["env"], flags.get(field.name)
            source = flag_of(field.name)
            if raw is None:
                source, raw = name, env.get(name) or None
            if raw is None:
                continue
            try:
                values[field.name] = field.metadata["parse"](raw)
            except ValueError as error:
                shown = "(hidden)" if field.metadata["secret"] else repr(raw)
                raise SettingsError(f"{source} is {shown}; it takes {error}.") from None
        return cls(**values)

    def __repr__(self) -> str:
        shown = (
            f"{f.name}={hide(v) if (hide := f.metadata['secret']) else v!r}"
            for f in dataclasses.fields(self)
            if (v := getattr(self, f.name)) is not None
        )
        return f"Settings({', '.join(shown)})"


def flag_of(field_name: str) -> str:
    return "--" + field_name.replace("_", "-")


def settings_table() -> str:
    """The Markdown table of README.md."""
    rows = ["| variable | default | meaning |", "| --- | --- | --- |"]
    for field in dataclasses.fields(Settings):
        if field.name == "data_dir":
            default = "`~/.local/share/nx-signal` (or below `XDG_DATA_HOME`)"
        elif field.default in (None, ()):
            default = "-"
        else:
            default = f"`{field.default}`"
        rows.append(f"| `{field.metadata['env']}` | {default} | {field.metadata['help']} |")
    return "\n".join(rows)

"""Settings from `APP_ENV_*` variables and flags, and nothing else. No I/O.

The dataclass below is the only list of settings: flags and `--help` are made from it, and
tests/unit/test_config.py holds the table in README.md to it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address
from pathlib import Path
from typing import Any

from nx_signal import setting_values as values
from nx_signal.errors import SettingsError
from nx_signal.setting_fields import flag_of, require_known, setting


def default_data_dir() -> Path:
    """Raises SettingsError for a user without a home directory, as in many containers."""
    base = os.environ.get("XDG_DATA_HOME")
    try:
        return (Path(base) if base else Path.home() / ".local" / "share") / "nx-signal"
    except RuntimeError:
        raise SettingsError("This user has no home directory: set APP_ENV_DATA_DIR.") from None


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The configuration of one process. Printing it never shows a password."""

    host: str = setting(
        "HOST", "127.0.0.1", values.host, "Address to listen on; * is all addresses, of IPv4 and of IPv6."
    )
    port: int = setting(
        "PORT", 31090, values.whole(0, 65535), "TCP port of REST and the stream; 0 takes any free one."
    )
    operations_port: int | None = setting(
        "OPERATIONS_PORT",
        None,
        values.whole(0, 65535),
        "TCP port of its own for /healthz, /readyz and /metrics, which PORT then does not serve.",
    )
    operations_host: str | None = setting(
        "OPERATIONS_HOST", None, values.host, "Address of that port, instead of APP_ENV_HOST."
    )
    data_dir: Path = setting(
        "DATA_DIR",
        default_data_dir,
        values.path,
        "Directory of the embedded store, the journal and the embedded issuer's key; made if missing.",
    )
    database_url: str | None = setting(
        "DATABASE_URL",
        None,
        values.database,
        "PostgreSQL as the store, instead of SQLite in the data directory: postgresql://user@host:port/name, "
        "with several hosts and the parameters of libpq.",
        secret=values.redact,
    )
    database_schema: str | None = setting(
        "DATABASE_SCHEMA",
        None,
        values.schema,
        "Schema of this service's tables in PostgreSQL; without one that of an installation, else public.",
    )
    redis_url: str | None = setting(
        "REDIS_URL",
        None,
        values.url(
            *("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel"),
            *("redis+cluster", "rediss+cluster"),
        ),
        "Redis as the relay between instances, instead of one process by itself: one server, "
        "redis+sentinel://host:port,.../service or redis+cluster://host:port,...; rediss for TLS.",
        secret=values.redact,
    )
    redis_prefix: str | None = setting(
        "REDIS_PREFIX",
        None,
        values.name(
            "ASCII letters, digits and . : _ / - of at most 64 characters", r"[A-Za-z0-9._:/-]{1,64}"
        ),
        "Put before the name of every channel on Redis, also those of sister services, such as staging:.",
    )
    redis_namespace: str | None = setting(
        "REDIS_NAMESPACE",
        None,
        values.name("ASCII letters, digits and . _ - of at most 64 characters", r"[A-Za-z0-9._-]{1,64}"),
        "Name of the instances' own channels on Redis, instead of one that is derived from the store.",
    )
    kafka_bootstrap_servers: str | None = setting(
        "KAFKA_BOOTSTRAP_SERVERS",
        None,
        values.servers,
        "Kafka as a source of activities, besides the journal.",
    )
    jwks_url: str | None = setting(
        "JWKS_URL",
        None,
        values.url("http", "https"),
        "JWKS URL of the token issuer, instead of the embedded issuer.",
    )
    embedded_issuer: str = setting(
        "EMBEDDED_ISSUER",
        "loopback",
        values.choice("loopback", "always"),
        "Where the embedded issuer may stand in for a JWKS URL: on a loopback address only, or always.",
    )
    jwks_proxy: str | None = setting(
        "JWKS_PROXY",
        None,
        values.url("http", "https"),
        "HTTP proxy for fetching the issuer's keys; HTTPS_PROXY and the like are not used.",
        secret=values.redact,
    )
    jwks_cafile: Path | None = setting(
        "JWKS_CAFILE",
        None,
        values.path,
        "CA certificates (PEM) for fetching the issuer's keys, instead of the public and the system's ones.",
    )
    jwt_issuer: str | None = setting(
        "JWT_ISSUER", None, values.text, "Required `iss` of a token; one of several, separated by commas."
    )
    jwt_audience: str | None = setting(
        "JWT_AUDIENCE", None, values.text, "Required `aud` of a token; one of several, separated by commas."
    )
    jwt_leeway_s: float = setting(
        "JWT_LEEWAY_S",
        60.0,
        values.seconds(0, 3600),
        "By how much the clocks of the token issuer and of this machine may differ: for `exp`, `nbf`, `iat`.",
    )
    jwt_user_claim: str = setting("JWT_USER_CLAIM", "sub", values.text, "Claim that holds the user id.")
    kafka_topic: str = setting(
        "KAFKA_TOPIC", "signal.activity-notification", values.text, "Topic of the activities."
    )
    kafka_group_id: str = setting(
        "KAFKA_GROUP_ID", "SVC-00090-SIGNAL_NOTIF_CONSUMER_GROUP", values.text, "Consumer group."
    )
    kafka_client_id: str = setting(
        "KAFKA_CLIENT_ID", "SVC-00090-SIGNAL_NOTIF_CONSUMER", values.text, "Kafka client id."
    )
    kafka_fallback_mode: str = setting(
        "KAFKA_FALLBACK_MODE",
        "latest",
        values.choice("latest", "earliest"),
        "Where a new consumer group starts.",
    )
    kafka_session_timeout_ms: int = setting(
        "KAFKA_SESSION_TIMEOUT_MS",
        10_000,
        values.whole(100, 300_000),
        "Session timeout of the consumer; its heartbeat interval is a third of that.",
    )
    kafka_security_protocol: str = setting(
        "KAFKA_SECURITY_PROTOCOL",
        "PLAINTEXT",
        values.choice("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"),
        "Kafka's security protocol: TLS (SSL), a user (SASL), both or neither.",
    )
    kafka_sasl_mechanism: str = setting(
        "KAFKA_SASL_MECHANISM",
        "PLAIN",
        values.choice("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"),
        "SASL mechanism.",
    )
    kafka_sasl_username: str | None = setting("KAFKA_SASL_USERNAME", None, values.text, "SASL user name.")
    kafka_sasl_password: str | None = setting(
        "KAFKA_SASL_PASSWORD", None, values.text, "SASL password.", secret=values.hide
    )
    kafka_ssl_cafile: Path | None = setting(
        "KAFKA_SSL_CAFILE",
        None,
        values.path,
        "CA certificates (PEM) for Kafka's brokers, instead of the system's.",
    )
    cloudevent_types: tuple[tuple[str, str], ...] = setting(
        "CLOUDEVENT_TYPES",
        (),
        values.pairs,
        "Event types of CloudEvents by their type, such as com.acme.payment.cleared=PAYMENT_SUCCESS, "
        "separated by commas; any other type is the event type itself.",
    )
    time_zone: str = setting(
        "TIME_ZONE",
        "UTC",
        values.zone,
        "Time zone of dates in rendered content, where the organization has none of its own.",
    )
    room_patterns: tuple[str, ...] = setting(
        "ROOM_PATTERNS",
        (),
        values.words,
        "Further rooms that any client may join: shell patterns, separated by commas.",
    )
    stream_versions: str = setting(
        "STREAM_VERSIONS",
        "1,2",
        values.choice("1,2", "2", "1"),
        "Versions of the stream's cryptography that clients may use; 2 refuses those of the original.",
    )
    stream_key_file: Path | None = setting(
        "STREAM_KEY_FILE",
        None,
        values.path,
        "X25519 private keys (PEM, mode 0600) of stream version 2: the first is used, all are published, "
        "instead of one that is derived from the store's secret.",
    )
    notification_bytes: int = setting(
        "NOTIFICATION_BYTES",
        32_768,
        values.whole(1_024, 1_048_576),
        "Bytes that one notification may store, its texts and its data as JSON; an activity with more "
        "becomes a dead letter.",
    )
    resume_limit: int = setting(
        "RESUME_LIMIT",
        500,
        values.whole(1, 10_000),
        "Changes replayed to a returning client; with more to replay, it gets a reset and refetches.",
    )
    sweep_s: float = setting(
        "SWEEP_S",
        10.0,
        values.seconds(0.1, 3600),
        "How often all connected inboxes are compared with the store, in one query.",
    )
    client_buffer_bytes: int = setting(
        "CLIENT_BUFFER_BYTES",
        262_144,
        values.whole(16_384, 16_777_216),
        "Unsent bytes held for one client before its backlog is left to the store.",
    )
    max_connections: int = setting(
        "MAX_CONNECTIONS",
        20_000,
        values.whole(1, 1_000_000),
        "Open connections, REST and stream together; fewer where the limit of open files allows no more. "
        "Beyond them only the probes are answered.",
    )
    max_connections_per_address: int | None = setting(
        "MAX_CONNECTIONS_PER_ADDRESS",
        None,
        values.whole(1, 1_000_000),
        "Of these, open at once from one address, or one /64 of IPv6; without it a half.",
    )
    max_unauthenticated: int | None = setting(
        "MAX_UNAUTHENTICATED",
        None,
        values.whole(1, 1_000_000),
        "Of these, open at once without a valid token so far; without it three quarters.",
    )
    max_sessions_per_user: int = setting(
        "MAX_SESSIONS_PER_USER",
        200,
        values.whole(1, 1_000_000),
        "Stream sessions of one user on one instance; a further one is refused.",
    )
    events_plaintext: bool = setting(
        "EVENTS_PLAINTEXT",
        False,
        values.switch,
        "true: /events also without TLS, beyond this machine; its contents are not sealed.",
    )
    rate_factor: float = setting(
        "RATE_FACTOR",
        1.0,
        values.number(0, 1000),
        "Scales the rate limits: REST requests, and the stream's handshakes, frames, bytes, messages, rooms; "
        "0 lifts them.",
    )
    path_prefix: str = setting(
        "PATH_PREFIX",
        "",
        values.prefix,
        "Path below which a proxy shows this service, such as /signal, whether it removes it or not.",
    )
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...] = setting(
        "TRUSTED_PROXIES",
        (),
        values.networks,
        "Proxies whose X-Forwarded-For or Forwarded is trusted for a client's address: networks, separated "
        "by commas.",
    )
    cors_origins: tuple[str, ...] = setting(
        "CORS_ORIGINS", (), values.words, "Origins that browsers may call REST from, or *."
    )
    drain_s: float = setting(
        "DRAIN_S", 10.0, values.seconds(0.5, 600), "Total time that a stop may take, from signal to exit."
    )
    lame_duck_s: float = setting(
        "LAME_DUCK_S",
        3.0,
        values.seconds(0, 300),
        "After SIGTERM: how long the instance still accepts connections while /readyz answers 503, so that "
        "balancers notice; at most half of APP_ENV_DRAIN_S. Ctrl-C does not wait.",
    )
    database_pool_size: int = setting(
        "DATABASE_POOL_SIZE", 8, values.whole(2, 200), "PostgreSQL connections of this instance."
    )
    retention_days: int = setting(
        "RETENTION_DAYS",
        0,
        values.whole(0, 36_500),
        "Days after which notifications are removed, longer than any source may deliver again; 0 keeps them.",
    )
    dead_letter_days: int = setting(
        "DEAD_LETTER_DAYS",
        90,
        values.whole(0, 36_500),
        "Days after which dead letters are removed; 0 keeps them, up to their number.",
    )
    dead_letters: int = setting(
        "DEAD_LETTERS",
        10_000,
        values.whole(1, 10_000_000),
        "Dead letters that are kept, of 1 GiB at most in total; beyond that the oldest are removed.",
    )
    trace_days: int = setting(
        "TRACE_DAYS",
        90,
        values.whole(0, 36_500),
        "Days that explain knows an activity, and that corrections wait for it; 0 is for ever, up to TRACES.",
    )
    traces: int = setting(
        "TRACES",
        2_000_000,
        values.whole(1, 1_000_000_000),
        "Activities that explain can show, and corrections kept; beyond that the oldest are removed.",
    )
    foreign_variables: tuple[str, ...] = setting(
        "FOREIGN_VARIABLES",
        (),
        values.words,
        "Variables APP_ENV_* of other programs, not refused as unknown: shell patterns, separated by commas.",
    )
    log_level: str = setting(
        "LOG_LEVEL",
        "info",
        values.choice("debug", "info", "warning", "error"),
        "Minimum level that is logged.",
    )
    log_format: str = setting(
        "LOG_FORMAT",
        "auto",
        values.choice("auto", "json", "console"),
        "auto: console on a terminal, else json.",
    )

    @classmethod
    def load(cls, flags: Mapping[str, str | None], environ: Mapping[str, str] | None = None) -> Settings:
        """A flag wins over its variable; an empty variable counts as unset.

        `flags` maps field names to raw text. Raises SettingsError naming the variable or flag, also for a
        variable `APP_ENV_*` that is not a setting: a misspelt one would leave its setting at the default."""
        env = os.environ if environ is None else environ
        given: dict[str, Any] = {}
        for field in dataclasses.fields(cls):
            name, raw = field.metadata["env"], flags.get(field.name)
            source = flag_of(field.name)
            if raw is None:
                source, raw = name, env.get(name) or None
            if raw is None:
                continue
            try:
                given[field.name] = field.metadata["parse"](raw)
            except ValueError as error:
                shown = "(hidden)" if field.metadata["secret"] or "@" in raw else repr(raw)
                raise SettingsError(f"{source} is {shown}; it takes {error}.") from None
        settings = cls(**given)
        known = [field.metadata["env"] for field in dataclasses.fields(cls)]
        require_known(known, [name for name, value in env.items() if value], settings.foreign_variables)
        return settings

    def __repr__(self) -> str:
        shown = (
            f"{f.name}={hide(v) if (hide := f.metadata['secret']) else _shown(v)}"
            for f in dataclasses.fields(self)
            if (v := getattr(self, f.name)) is not None
        )
        return f"Settings({', '.join(shown)})"

    @property
    def reachable_host(self) -> str:
        """The host in a URL of this server, as this machine reaches it."""
        if self.host in ("0.0.0.0", "::", ""):  # noqa: S104 - compared, not bound
            return "127.0.0.1"
        return f"[{self.host}]" if ":" in self.host else self.host

    @property
    def listens_beyond_this_machine(self) -> bool:
        """Whether `host` is anything but a loopback address."""
        try:
            return not ip_address(self.host.strip("[]")).is_loopback
        except ValueError:
            return self.host != "localhost"


def _shown(value: object) -> str:
    """A URL, such as that of the token issuer, may have a password as well."""
    return values.redact(value) if isinstance(value, str) and "://" in value else repr(value)

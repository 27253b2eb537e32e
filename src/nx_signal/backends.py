"""Opens the backends that the settings name: the database, the relay, the sources and the keys of tokens."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

import trio

from nx_signal.adapters.jwks import JwksUrl
from nx_signal.adapters.kafka.security import KafkaSecurity
from nx_signal.adapters.kafka.source import KafkaSource
from nx_signal.adapters.local_relay import LocalRelay
from nx_signal.adapters.postgres.store import open_postgres
from nx_signal.adapters.redis.naming import Deployment
from nx_signal.adapters.redis.relay import RedisRelay
from nx_signal.adapters.sqlite.journal import SqliteJournal
from nx_signal.adapters.sqlite.store import open_sqlite
from nx_signal.config import Settings
from nx_signal.errors import SettingsError
from nx_signal.identity.issuer import Issuer, open_issuer
from nx_signal.identity.stream_keys import StreamKeys, keys_of_file, keys_of_secret
from nx_signal.identity.tokens import TokenVerifier
from nx_signal.model.timestamps import now
from nx_signal.ports import Journal, Relay, Source
from nx_signal.store import Database


@dataclass(frozen=True, slots=True)
class Backends:
    database: Database
    relay: Relay
    journal: Journal
    kafka: KafkaSource | None
    tokens: TokenVerifier
    jwks: Mapping[str, object] | None
    """the embedded issuer's public keys; None with another issuer"""
    stream_keys: StreamKeys

    @property
    def sources(self) -> tuple[Source, ...]:
        return (self.journal,) if self.kafka is None else (self.journal, self.kafka)


@asynccontextmanager
async def open_backends(settings: Settings, server_id: str) -> AsyncIterator[Backends]:
    """No connection is made before it is used. Raises SettingsError for settings that do not belong
    together, and where a key of a file cannot be used."""
    issuer = None
    if not settings.jwks_url:
        _require_embedded_issuer_allowed(settings)
        issuer = await trio.to_thread.run_sync(open_issuer, settings.data_dir)
    file_keys = None
    if settings.stream_key_file is not None:
        file_keys = await trio.to_thread.run_sync(keys_of_file, settings.stream_key_file)
    async with open_database(settings) as database:
        yield Backends(
            database=database,
            relay=_relay(settings, server_id, database),
            journal=SqliteJournal(settings.data_dir / "journal.db", now),
            kafka=_kafka_source(settings, settings.kafka_bootstrap_servers, database),
            tokens=_token_verifier(settings, issuer),
            jwks=issuer.public_jwks if issuer else None,
            stream_keys=file_keys or keys_of_secret(database.secret),
        )


def _relay(settings: Settings, server_id: str, database: Database) -> Relay:
    if not settings.redis_url:
        return LocalRelay()

    async def deployment() -> Deployment:
        return Deployment(await database.secret(), settings.redis_prefix or "", settings.redis_namespace)

    return RedisRelay(settings.redis_url, server_id, deployment)


def open_database(settings: Settings) -> AbstractAsyncContextManager[Database]:
    """PostgreSQL where a URL is set, else the file in the data directory. No I/O before its first use."""
    if settings.database_url:
        return open_postgres(
            settings.database_url, now, settings.database_pool_size, settings.database_schema
        )
    return open_sqlite(settings.data_dir / "signal.db", now)


def kafka_security(settings: Settings) -> KafkaSecurity:
    """Raises SettingsError for settings that do not belong together."""
    return KafkaSecurity(
        settings.kafka_security_protocol,
        settings.kafka_sasl_mechanism,
        settings.kafka_sasl_username,
        settings.kafka_sasl_password,
        settings.kafka_ssl_cafile,
    )


def _kafka_source(settings: Settings, servers: str | None, database: Database) -> KafkaSource | None:
    if not servers:
        return None
    return KafkaSource(
        servers,
        settings.kafka_topic,
        settings.kafka_group_id,
        settings.kafka_client_id,
        settings.kafka_fallback_mode,
        settings.kafka_session_timeout_ms,
        database.source_positions,
        kafka_security(settings),
    )


def _require_embedded_issuer_allowed(settings: Settings) -> None:
    if settings.embedded_issuer != "always" and settings.listens_beyond_this_machine:
        raise SettingsError(
            f"Other machines reach {settings.host or 'all addresses'}, and no APP_ENV_JWKS_URL names the "
            "issuer of their tokens: set it, or APP_ENV_EMBEDDED_ISSUER=always where the key in the data "
            "directory shall sign and verify them, or listen on 127.0.0.1."
        )


def _token_verifier(settings: Settings, issuer: Issuer | None) -> TokenVerifier:
    if issuer is not None:  # its key identifies it: neither `iss` nor `aud` is required
        return TokenVerifier(
            issuer,
            now=now,
            issuer=None,
            audience=None,
            user_claim=settings.jwt_user_claim,
            trusted_grants=True,
        )
    return TokenVerifier(
        JwksUrl(settings.jwks_url or "", proxy=settings.jwks_proxy, ca_file=settings.jwks_cafile),
        now=now,
        issuer=settings.jwt_issuer,
        audience=settings.jwt_audience,
        user_claim=settings.jwt_user_claim,
        trusted_grants=False,
        leeway_s=settings.jwt_leeway_s,
        expiry_leeway_s=settings.jwt_leeway_s,
    )

"""What a real server refuses, one case for each line of the list in nx_signal/errors.py: what cannot pass by
itself is a Fatal, what may pass is StoreUnavailable; each one sentence without a secret."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from debian import NoDebian
from nx_signal.adapters.postgres.store import open_postgres
from nx_signal.errors import Fatal, SettingsError, SignalError, StoreUnavailable, Unsupported
from pgbouncer import PgBouncer
from services import Postgres, fresh_database, psql


def now() -> datetime:
    return datetime.now(UTC)


async def error_of(url: str, *, migrating: bool = False) -> SignalError:
    async with open_postgres(url, now, 2) as store:
        with pytest.raises(SignalError) as caught:
            await (store.migrate() if migrating else store.check())
    text = str(caught.value)
    assert text.endswith(".") and "\n" not in text and "s3cret" not in text, text
    return caught.value


def is_a(kind: type[SignalError], words: str, error: SignalError) -> None:
    assert isinstance(error, kind) and words in str(error), repr(error)
    assert isinstance(error, Fatal) != isinstance(error, StoreUnavailable)


# --- the encoding --------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1", "WIN1258"])
async def test_a_database_that_is_not_utf8_is_refused_by_migrate_and_at_start(
    postgres_server: str, encoding: str
) -> None:
    url = fresh_database(postgres_server)
    name = url.rpartition("/")[2]
    psql(postgres_server, f"DROP DATABASE {name}")
    psql(postgres_server, f"CREATE DATABASE {name} TEMPLATE template0 ENCODING '{encoding}' LOCALE 'C'")
    for migrating in (True, False):
        is_a(Unsupported, f"the encoding {encoding}", await error_of(url, migrating=migrating))
    assert psql(url, "SELECT count(*) FROM pg_class WHERE relname = 'activity_notification'") == "0"


async def test_a_role_with_another_client_encoding_changes_nothing(postgres_server: str) -> None:
    url = fresh_database(postgres_server)
    name = url.rpartition("/")[2]
    psql(postgres_server, f"ALTER DATABASE {name} SET client_encoding = 'LATIN1'")
    async with open_postgres(url, now, 2) as store:
        await store.migrate()
        await store.check()


# --- rights and names ----------------------------------------------------------------------------


async def test_a_missing_right_to_create_is_a_sentence_of_migrate(postgres_server: str) -> None:
    url = fresh_database(postgres_server)
    user = f"u_{url.rpartition('_')[2]}"
    psql(url, f"CREATE ROLE {user} LOGIN")
    psql(url, "REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    is_a(
        SettingsError,
        "permission denied for schema public",
        await error_of(url.replace("signal@", f"{user}@"), migrating=True),
    )


async def test_a_missing_right_to_connect_and_to_a_table_are_sentences(postgres_server: str) -> None:
    url = fresh_database(postgres_server)
    name = url.rpartition("/")[2]
    user = f"u_{url.rpartition('_')[2]}"
    async with open_postgres(url, now, 2) as store:
        await store.migrate()
    psql(url, f"CREATE ROLE {user} LOGIN")
    is_a(SettingsError, "permission denied", await error_of(url.replace("signal@", f"{user}@")))
    psql(url, f"REVOKE CONNECT ON DATABASE {name} FROM PUBLIC")
    is_a(SettingsError, "permission denied for database", await error_of(url.replace("signal@", f"{user}@")))


async def test_a_user_that_may_only_read_ends_serving_at_the_start_and_still_reads(
    postgres_server: str,
) -> None:
    """Else the first activity, which was accepted, would end the process."""
    url = fresh_database(postgres_server)
    user = f"u_{url.rpartition('_')[2]}"
    async with open_postgres(url, now, 2) as store:
        await store.migrate()
        await store.check_serving()
    psql(url, f"CREATE ROLE {user} LOGIN")
    psql(url, f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {user}")
    async with open_postgres(url.replace("signal@", f"{user}@"), now, 2) as store:
        await store.check()
        with pytest.raises(SettingsError, match=r"lacks rights: .*INSERT on activity_notification"):
            await store.check_serving()
        psql(url, f"GRANT INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {user}")
        psql(url, f"REVOKE UPDATE ON recipient_head FROM {user}")
        with pytest.raises(SettingsError, match=r"lacks rights: UPDATE on recipient_head[.]"):
            await store.check_serving()
        psql(url, f"GRANT UPDATE ON recipient_head TO {user}")
        # What a platform may keep to itself, and what only retention needs.
        psql(url, f"REVOKE INSERT ON policy_definition, organizer, recipient_locale FROM {user}")
        psql(url, f"REVOKE DELETE ON activity_notification FROM {user}")
        await store.check_serving()


async def test_a_refused_parameter_is_a_sentence(postgres_server: str) -> None:
    url = fresh_database(postgres_server)
    for parameters in (
        "options=-c%20work_mem%3Dlots",
        "options=-c%20no_such_setting%3D1",
        "role=nobody_at_all",
    ):
        is_a(SettingsError, "refuses a parameter", await error_of(f"{url}?{parameters}"))


# --- what may pass -------------------------------------------------------------------------------


async def test_too_many_connections_are_waited_for(own_postgres: Postgres) -> None:
    psql(own_postgres.url, "CREATE ROLE few LOGIN CONNECTION LIMIT 0")
    is_a(
        StoreUnavailable,
        "too many connections",
        await error_of(f"postgresql://few@{own_postgres.address}/postgres"),
    )


async def test_a_name_that_is_not_resolved_is_waited_for() -> None:
    is_a(StoreUnavailable, "nowhere.invalid", await error_of("postgresql://u:s3cret@nowhere.invalid/db"))


async def test_a_missing_socket_is_waited_for_and_one_that_is_not_allowed_is_not(tmp_path: Path) -> None:
    is_a(StoreUnavailable, str(tmp_path), await error_of(f"postgresql://u:s3cret@/db?host={tmp_path}"))
    if os.geteuid() == 0:
        return  # every socket may be opened
    (tmp_path / ".s.PGSQL.5432").touch(mode=0)
    is_a(SettingsError, "allow it", await error_of(f"postgresql://u:s3cret@/db?host={tmp_path}"))


async def test_one_host_that_refuses_and_one_that_is_away_are_waited_for(own_postgres: Postgres) -> None:
    url = f"postgresql://nobody_known:s3cret@{own_postgres.address},127.0.0.1:1/postgres"
    is_a(StoreUnavailable, "nobody_known", await error_of(url))


# --- another protocol ----------------------------------------------------------------------------


@contextmanager
def listener(answer: bytes) -> Iterator[str]:
    """A server that gives each client `answer` and closes."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    client, _ = server.accept()
                except OSError:
                    return
                with client:
                    if answer:
                        client.sendall(answer)
                    client.settimeout(1)
                    try:
                        while client.recv(1024):
                            if answer:
                                break
                    except OSError:
                        pass

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield "{}:{}".format(*server.getsockname())
        server.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("sslmode", ["disable", "prefer", "require"])
@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-x\r\n", b"\x15\x03\x01\x00\x02\x02\x16"]
)
async def test_what_is_no_postgresql_is_a_sentence(answer: bytes, sslmode: str) -> None:
    with listener(answer) as address:
        is_a(
            SettingsError,
            "no PostgreSQL",
            await error_of(f"postgresql://u:s3cret@{address}/db?sslmode={sslmode}"),
        )


async def test_what_closes_without_an_answer_is_waited_for() -> None:
    with listener(b"") as address:
        is_a(
            StoreUnavailable, address, await error_of(f"postgresql://u:s3cret@{address}/db?connect_timeout=1")
        )


# --- TLS -----------------------------------------------------------------------------------------


def certificate_for(name: str) -> tuple[bytes, bytes]:
    """(certificate, private key) in PEM, signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    certificate = (
        x509.CertificateBuilder(subject, subject, key.public_key(), 1)
        .not_valid_before(now() - timedelta(days=1))
        .not_valid_after(now() + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return certificate.public_bytes(serialization.Encoding.PEM), private


@pytest.fixture(scope="module")
def tls_server(
    postgres_server: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[PgBouncer, Path]]:
    """With a certificate for `localhost`, and nothing without TLS. PgBouncer, since the wheel of PostgreSQL
    is made without TLS; the protocol is the same."""
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = certificate_for("localhost")
    (folder / "ca.pem").write_bytes(certificate)
    try:
        server = PgBouncer(fresh_database(postgres_server), "session", client_tls_sslmode="require")
    except NoDebian as why:
        pytest.skip(str(why))
    for name, content in (("server.crt", certificate), ("server.key", key)):
        (server.directory / name).write_bytes(content)
        server._settings[f"client_tls_{name[-3:].replace('crt', 'cert')}_file"] = str(server.directory / name)
    with server:
        yield server, folder / "ca.pem"


async def in_use(url: str) -> None:
    async with open_postgres(url, now, 2) as store:
        await store.migrate()
        await store.check()


async def test_tls_is_preferred_required_and_verified(tls_server: tuple[PgBouncer, Path]) -> None:
    server, ca = tls_server
    by_name = f"postgresql://signal@localhost:{server.port}/alias"
    for parameters in ("", "sslmode=allow", "sslmode=require", f"sslmode=verify-full&sslrootcert={ca}"):
        await in_use(f"{by_name}?{parameters}")
    await in_use(server.url(parameters=f"?sslmode=verify-ca&sslrootcert={ca}"))


@pytest.mark.parametrize(
    ("host", "parameters", "words"),
    [
        ("localhost", "sslmode=disable", "SSL required"),
        ("localhost", "sslmode=verify-full", "is not trusted"),
        ("localhost", "sslmode=require&channel_binding=require", "is not trusted"),
        ("127.0.0.1", "sslmode=verify-full&sslrootcert={ca}", "is not trusted"),
        ("localhost", "sslmode=verify-full&sslrootcert=/nowhere.pem", "sslrootcert /nowhere.pem cannot be"),
        ("localhost", "sslmode=require&sslcert=/nowhere.pem", "sslcert /nowhere.pem"),
    ],
)
async def test_tls_that_is_refused_is_a_sentence(
    tls_server: tuple[PgBouncer, Path], host: str, parameters: str, words: str
) -> None:
    server, ca = tls_server
    url = f"postgresql://signal:s3cret@{host}:{server.port}/alias?{parameters.format(ca=ca)}"
    is_a(SettingsError, words, await error_of(url))


async def test_tls_that_is_not_offered_is_a_sentence(own_postgres: Postgres) -> None:
    url = f"postgresql://signal:s3cret@{own_postgres.address}/postgres?sslmode=require"
    is_a(SettingsError, "does not offer TLS", await error_of(url))


# --- the environment -----------------------------------------------------------------------------


async def test_variables_and_files_of_libpq_change_nothing_but_a_password_that_the_url_lacks(
    own_postgres: Postgres, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    psql(own_postgres.url, "ALTER USER signal PASSWORD 's3cret'")
    rules = own_postgres.directory / "data" / "pg_hba.conf"
    rules.write_text("host all all 127.0.0.1/32 scram-sha-256\n")
    psql(own_postgres.url, "SELECT pg_reload_conf()")
    (tmp_path / ".postgresql").mkdir()
    for name in ("root.crt", "postgresql.crt", "postgresql.key", "root.crl"):
        (tmp_path / ".postgresql" / name).write_text("no certificate")
    for name, value in {
        "HOME": str(tmp_path),
        "PGHOST": "nowhere.invalid",
        "PGPORT": "1",
        "PGUSER": "nobody",
        "PGDATABASE": "nowhere",
        "PGSSLMODE": "verify-full",
        "PGSSLROOTCERT": "/nowhere",
        "PGOPTIONS": "-c search_path=nowhere",
        "PGTARGETSESSIONATTRS": "standby",
        "PGSERVICE": "nowhere",
        "PGGSSLIB": "nonsense",
        "PGSSLNEGOTIATION": "nonsense",
        "PGCLIENTENCODING": "LATIN1",
        "PGCONNECT_TIMEOUT": "x",
    }.items():
        monkeypatch.setenv(name, value)
    await in_use(f"postgresql://signal:s3cret@{own_postgres.address}/postgres")
    monkeypatch.setenv("PGPASSWORD", "s3cret")
    await in_use(f"postgresql://signal@{own_postgres.address}/postgres")
    monkeypatch.delenv("PGPASSWORD")
    (tmp_path / ".pgpass").write_text(f"127.0.0.1:{own_postgres.port}:*:signal:s3cret\n")
    (tmp_path / ".pgpass").chmod(0o600)
    await in_use(f"postgresql://signal@{own_postgres.address}/postgres")


async def test_a_service_file_that_the_url_names_is_read(own_postgres: Postgres, tmp_path: Path) -> None:
    file = tmp_path / "services"
    file.write_text(f"[prod]\nhost=127.0.0.1\nport={own_postgres.port}\ndbname=postgres\nuser=signal\n")
    await in_use(f"postgresql:///?service=prod&servicefile={file}")
    with pytest.raises(SettingsError, match="no service 'test'"):
        async with open_postgres(f"postgresql:///?service=test&servicefile={file}", now, 2):
            raise AssertionError
    await trio.lowlevel.checkpoint()

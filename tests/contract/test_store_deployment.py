"""The secret by which the instances of one store recognize each other, on every store."""

from __future__ import annotations

import pytest

from contract.store_suite import Clock, OpenDatabase, Sql
from nx_signal.adapters.postgres.store import open_postgres
from nx_signal.errors import SchemaOutdated
from nx_signal.store import Database
from services import fresh_database, psql


async def test_every_process_of_a_store_has_the_same_secret(
    database: Database, open_database: OpenDatabase
) -> None:
    secret = await database.secret()
    assert len(secret) >= 32
    async with open_database() as again:
        assert await again.secret() == secret


async def test_the_secret_is_that_of_the_store(database: Database, sql: Sql) -> None:
    secret = await database.secret()
    sql("UPDATE signal_deployment SET secret = 'another'")
    changed = await database.secret()
    assert changed != secret and changed.startswith(b"another")


async def test_a_lost_secret_is_a_sentence(database: Database, sql: Sql) -> None:
    sql("DELETE FROM signal_deployment")
    try:
        with pytest.raises(SchemaOutdated, match="restore it from a backup"):
            await database.secret()
    finally:
        sql("INSERT INTO signal_deployment (id, secret) VALUES (1, 'a new one')")


async def test_a_dump_that_was_restored_into_another_database_is_another_deployment(
    postgres_server: str, clock: Clock
) -> None:
    secrets = []
    for _ in range(2):
        url = fresh_database(postgres_server)
        async with open_postgres(url, clock, pool_size=2) as database:
            await database.migrate()
            psql(url, "UPDATE signal_deployment SET secret = 'from the dump'")
            secrets.append(await database.secret())
    assert secrets[0] != secrets[1]
    assert all(secret.startswith(b"from the dump") for secret in secrets)

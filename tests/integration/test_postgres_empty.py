"""Instances that meet at an empty database: some migrate it, the others serve as soon as it is there."""

from __future__ import annotations

import random
from datetime import UTC, datetime

import pytest
import trio

from contract.store_suite import a_draft
from nx_signal.adapters.postgres.store import open_postgres
from nx_signal.errors import SchemaOutdated
from nx_signal.store import Database
from nx_signal.store.sql import steps
from services import fresh_database, psql

ROUNDS = 2
WITHIN_S = 60.0


def now() -> datetime:
    return datetime.now(UTC)


async def migrate(database: Database, taken: list[str]) -> None:
    taken += await database.migrate()
    await serve(database, "migrated")


async def serve(database: Database, name: str) -> None:
    """As one that is started again for as long as the schema is not there."""
    while True:
        try:
            await database.check_serving()
            break
        except SchemaOutdated:
            await trio.lowlevel.checkpoint()
    await database.inbox.insert([a_draft("u", activity_id=name)])


@pytest.mark.parametrize("schema", [None, "Its own"])
async def test_instances_that_start_at_once_on_an_empty_database_make_one_schema_and_serve(
    postgres_server: str, schema: str | None
) -> None:
    for _ in range(ROUNDS):
        url = fresh_database(postgres_server)
        taken: list[str] = []
        with trio.fail_after(WITHIN_S):
            async with (
                open_postgres(url, now, 2, schema) as one,
                open_postgres(url, now, 2, schema) as two,
                open_postgres(url, now, 2, schema) as three,
                trio.open_nursery() as nursery,
            ):
                nursery.start_soon(migrate, one, taken)
                nursery.start_soon(migrate, two, taken)
                nursery.start_soon(serve, three, "served")
        assert sorted(taken) == sorted(step.name for step in steps("postgres"))
        assert psql(url, "SELECT count(*) FROM pg_tables WHERE tablename = 'activity_notification'") == "1"


async def test_a_migration_that_was_interrupted_anywhere_is_finished_by_the_next(
    postgres_server: str,
) -> None:
    moments = random.Random(3)
    for _ in range(ROUNDS):
        url = fresh_database(postgres_server)
        taken: list[str] = []
        async with open_postgres(url, now, 2) as first:
            with trio.move_on_after(moments.uniform(0.01, 0.3)):
                await first.migrate()
        async with open_postgres(url, now, 2) as second:
            await migrate(second, taken)
        applied = psql(url, "SELECT name FROM signal_schema ORDER BY version").splitlines()
        assert applied == [step.name for step in steps("postgres")]

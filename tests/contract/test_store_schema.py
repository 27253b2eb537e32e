"""store.schema on every database: the schemas that a release works with."""

from __future__ import annotations

import pytest

from contract.store_suite import Sql
from nx_signal.errors import SchemaOutdated
from nx_signal.store import Database, schema
from nx_signal.store.driver import Tx
from nx_signal.store.sql import steps

FUTURE = 999


def tables(database: Database) -> tuple[str, str]:
    """Of the steps that end releases of before, and of those that do not."""
    if database.driver.dialect.name == "postgres":
        return "signal_schema", "signal_schema"
    return "schema_version", "schema_addition"


def add_addition(database: Database, sql: Sql, version: int, name: str) -> None:
    if database.driver.dialect.name == "postgres":
        sql(f"INSERT INTO signal_schema (version, name, additive) VALUES ({version}, '{name}', true)")  # noqa: S608
    else:
        sql(f"INSERT INTO schema_addition (version, name) VALUES ({version}, '{name}')")  # noqa: S608


async def versions(tx: Tx) -> list[int]:
    return sorted(version for version, additive in (await schema.applied_steps(tx)).items() if not additive)


async def test_a_release_that_does_not_know_the_additive_steps_sees_its_own_schema(
    database: Database,
) -> None:
    """It compares the greatest version in schema_version with the number of its steps."""
    breaking = [step.version for step in steps(database.driver.dialect.name) if not step.additive]
    assert await database.driver.read_one(versions) == breaking == list(range(1, len(breaking) + 1))


async def test_a_database_that_lacks_an_additive_step_names_the_command_that_takes_it(
    database: Database, sql: Sql
) -> None:
    *_, last = (step for step in steps(database.driver.dialect.name) if step.additive)
    _, table = tables(database)
    sql(f"DELETE FROM {table} WHERE version = {last.version}")  # noqa: S608
    with pytest.raises(
        SchemaOutdated, match=rf"lacks the step {last.version}, {last.name}.*nx-signal migrate"
    ):
        await schema.check(database.driver)
    add_addition(database, sql, last.version, last.name)
    await schema.check(database.driver)


async def test_a_database_with_an_unknown_step_asks_for_the_release_that_took_it(
    database: Database, sql: Sql
) -> None:
    table, _ = tables(database)
    sql(f"UPDATE {table} SET version = {FUTURE} WHERE version = 2")  # noqa: S608
    for call in (database.check, database.migrate):
        with pytest.raises(SchemaOutdated, match=f"schema version {FUTURE}.*install the newer release"):
            await call()
    sql(f"UPDATE {table} SET version = 2 WHERE version = {FUTURE}")  # noqa: S608
    await database.check()


async def test_an_unknown_additive_step_is_accepted(database: Database, sql: Sql) -> None:
    add_addition(database, sql, FUTURE, "x")
    await database.check()
    assert list(await database.migrate()) == []
    sql(f"DELETE FROM {tables(database)[1]} WHERE version = {FUTURE}")  # noqa: S608


async def test_a_taken_step_is_not_taken_again(database: Database) -> None:
    for step in steps(database.driver.dialect.name):
        assert await database.driver.write(schema.take, step) is False

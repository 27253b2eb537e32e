"""store.driver on every database: what a script may do, and how its mistakes end."""

from __future__ import annotations

import sqlite3

import pytest
import trio

from contract.store_suite import Clock, a_draft, a_letter, unique, written
from nx_signal.errors import StoreRejected
from nx_signal.store import Database
from nx_signal.store.driver import Tx


@pytest.fixture
def user() -> str:
    return unique("user")


async def set_locale(tx: Tx, user: str) -> None:
    await tx.many("load_locale", [{"user_id": user, "locale": "vi"}])


async def is_untouched(database: Database, user: str) -> bool:
    """Whether set_locale left nothing; and the database goes on working."""
    key = (user, "")
    before = await database.directory.locales([key])
    await database.driver.write(set_locale, user)
    after = await database.directory.locales([key])
    return (before, after) == ({}, {key: "vi"})


async def test_a_script_that_ends_is_written_and_gives_its_result(database: Database, user: str) -> None:
    async def script(tx: Tx, user: str, result: int) -> int:
        await set_locale(tx, user)
        return result

    assert await database.driver.write(script, user, 7) == 7
    assert await database.directory.locales([(user, "")]) == {(user, ""): "vi"}


async def test_a_script_that_raises_leaves_nothing(database: Database, user: str) -> None:
    async def script(tx: Tx) -> None:
        await set_locale(tx, user)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await database.driver.write(script)
    assert await is_untouched(database, user)


async def test_a_statement_that_fails_in_the_middle_leaves_nothing(database: Database, user: str) -> None:
    async def script(tx: Tx) -> None:
        await set_locale(tx, user)
        await tx.run("add_schema_step", version=999, name=None, additive=True, applied_at=tx.now())
        await tx.run("load_role", identifier="x")

    with pytest.raises(StoreRejected):
        await database.driver.write(script)
    assert await is_untouched(database, user)


async def test_a_script_that_awaits_something_else_than_its_transaction_is_an_error(
    database: Database, user: str
) -> None:
    async def script(tx: Tx) -> None:
        await set_locale(tx, user)
        await trio.lowlevel.checkpoint()

    with pytest.raises(RuntimeError, match=r"awaits something else|bad yield"):
        await database.driver.write(script)
    assert await is_untouched(database, user)


async def test_a_query_that_does_not_exist_is_named(database: Database, user: str) -> None:
    async def script(tx: Tx) -> None:
        await set_locale(tx, user)
        await tx.run("no_such_query")

    with pytest.raises(LookupError, match="There is no query no_such_query for"):
        await database.driver.write(script)
    assert await is_untouched(database, user)


async def test_a_missing_argument_is_named(database: Database, user: str) -> None:
    async def script(tx: Tx) -> None:
        await set_locale(tx, user)
        await tx.all("letters", before_id=1)

    with pytest.raises((TypeError, sqlite3.ProgrammingError), match="limit"):
        await database.driver.write(script)
    assert await is_untouched(database, user)


async def test_a_script_takes_ids_only_where_it_is_played_with_them(database: Database, user: str) -> None:
    async def script(tx: Tx, count: int) -> list[int]:
        await set_locale(tx, user)
        return tx.ids(count)

    with pytest.raises(RuntimeError, match="takes_ids=True"):
        await database.driver.write(script, 1)
    assert await is_untouched(database, user)
    ids = await database.driver.write(script, 3, takes_ids=True)
    assert len(set(ids)) == 3
    assert ids == sorted(ids)


async def test_ids_ascend_over_rows_and_letters_alike(database: Database, user: str, clock: Clock) -> None:
    (first,) = await written(database.inbox, user)
    await database.dead_letters.add([a_letter(1, unique("topic"))])
    (letter,) = await database.dead_letters.page(1, None)
    (last,) = await written(database.inbox, user)
    assert first.id < letter.id < last.id


async def test_a_script_that_only_reads_sees_one_state(database: Database, user: str) -> None:
    async def heads(tx: Tx) -> list[int]:
        return [row["rev"] for row in await tx.all("heads", recipient_ids=[user])]

    await database.inbox.insert([a_draft(user)])
    assert await database.driver.read(heads) == await database.driver.read_one(heads) == [1]

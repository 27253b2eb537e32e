"""store.Database on every database."""

from __future__ import annotations

from unittest.mock import ANY

import trio

from contract.store_suite import OpenDatabase, a_draft, row_of, unique
from nx_signal.adapters.sqlite.memory import MemoryDatabase
from nx_signal.model import InboxSummary
from nx_signal.store import Database


async def test_migrating_again_takes_no_step(database: Database) -> None:
    assert list(await database.migrate()) == []
    await database.check()


async def test_what_one_opening_wrote_the_next_one_reads(open_database: OpenDatabase) -> None:
    user = unique("user")
    async with open_database() as database:
        await database.migrate()
        (change,) = await database.inbox.insert([a_draft(user)])
        if isinstance(database, MemoryDatabase):
            return  # keeps nothing, and says so
    async with open_database() as database:
        await database.check()
        assert await database.inbox.get(user, row_of(change).id) == row_of(change)
        (next_one,) = await database.inbox.insert([a_draft(user)])
        assert next_one.rev == 2
        assert row_of(next_one).id > row_of(change).id


async def test_two_instances_share_one_truth_and_no_id(open_database: OpenDatabase) -> None:
    user = unique("user")
    ids: list[int] = []
    async with open_database() as one, open_database() as two:
        if isinstance(one, MemoryDatabase):
            two = one  # noqa: PLW2901 - is itself what several instances share
        await one.migrate()
        await two.check()

        async def write(database: Database) -> None:
            for _ in range(5):
                changes = await database.inbox.insert([a_draft(user) for _ in range(20)])
                ids.extend(row_of(change).id for change in changes)

        async with trio.open_nursery() as nursery:
            for database in (one, two, one, two):
                nursery.start_soon(write, database)
        assert len(set(ids)) == 400
        for database in (one, two):
            assert (await database.inbox.summaries([user]))[user] == InboxSummary(
                user, 400, 400, 400, ANY, unseen=400
            )


async def test_two_instances_may_migrate_at_once(open_database: OpenDatabase) -> None:
    async with open_database() as one, open_database() as two:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.migrate)
            nursery.start_soon(two.migrate)
        await one.check()
        await two.check()


async def test_a_call_cancelled_before_it_began_does_nothing(database: Database) -> None:
    user = unique("user")
    with trio.CancelScope() as scope:
        scope.cancel()
        await database.inbox.insert([a_draft(user)])
    assert scope.cancelled_caught
    assert (await database.inbox.summaries([user]))[user].rev == 0


async def test_nothing_is_opened_by_entering(open_database: OpenDatabase) -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        async with open_database():
            entered = True
    assert entered

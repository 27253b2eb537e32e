"""What the database in memory adds for simulations: delays and outages at a chosen instant."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
import trio
import trio.testing

from nx_signal.adapters.memory.store import MemoryDatabase
from nx_signal.errors import StoreUnavailable
from nx_signal.model import Draft

USER = "u1"


@pytest.fixture
def database() -> MemoryDatabase:
    return MemoryDatabase(lambda: datetime(2026, 3, 1, tzinfo=UTC))


def a_draft() -> Draft:
    return Draft(USER, "activity", "A", None, None, None, "en", "text", "<p>text</p>", None, {})


async def rev(database: MemoryDatabase) -> int:
    return (await database.inbox.heads([USER]))[USER].rev


async def test_while_unavailable_every_face_says_so_and_nothing_is_written(database: MemoryDatabase):
    database.unavailable = True
    for call in (
        database.check,
        database.migrate,
        lambda: database.inbox.insert([a_draft()]),
        lambda: database.directory.memberships([USER]),
        lambda: database.dead_letters.page(1, None),
    ):
        with pytest.raises(StoreUnavailable):
            await call()
    database.unavailable = False
    assert await rev(database) == 0


async def test_a_call_cancelled_during_its_delay_wrote_nothing(database: MemoryDatabase):
    database.delay = trio.sleep_forever
    async with trio.open_nursery() as nursery:
        nursery.start_soon(database.inbox.insert, [a_draft()])
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    database.delay = None
    assert await rev(database) == 0


async def test_a_call_cancelled_during_the_delay_after_was_written(database: MemoryDatabase):
    database.delay_after = trio.sleep_forever
    async with trio.open_nursery() as nursery:
        nursery.start_soon(database.inbox.insert, [a_draft()])
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    database.delay_after = None
    assert await rev(database) == 1


async def test_an_outage_during_the_delay_comes_before_the_write(database: MemoryDatabase):
    async def outage() -> None:
        database.unavailable = True

    database.delay = outage
    with pytest.raises(StoreUnavailable):
        await database.inbox.insert([a_draft()])
    database.delay, database.unavailable = None, False
    assert await rev(database) == 0


async def test_what_a_draft_held_is_not_changed_from_outside(database: MemoryDatabase):
    data = {"list": [1]}
    draft = Draft(USER, "activity", "A", None, None, None, "en", "", "", None, data)
    (change,) = await database.inbox.insert([draft])
    data["list"].append(2)
    assert change.notification.data == {"list": [1]}

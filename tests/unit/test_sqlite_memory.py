"""What the database in memory adds for simulations: delays and outages at a chosen instant."""

from __future__ import annotations

import threading
from datetime import UTC, datetime

import pytest
import trio
import trio.testing

from nx_signal.adapters.sqlite.memory import MemoryDatabase
from nx_signal.errors import StoreUnavailable
from nx_signal.model import Draft

USER = "u1"


@pytest.fixture
def database() -> MemoryDatabase:
    return MemoryDatabase(lambda: datetime(2026, 3, 1, tzinfo=UTC))


def a_draft() -> Draft:
    return Draft(
        recipient_id=USER,
        activity_id="activity",
        type="A",
        organizer_id=None,
        merchant_id=None,
        subject=None,
        locale="en",
        content="text",
        content_html="<p>text</p>",
        action_url=None,
        data={},
    )


async def rev(database: MemoryDatabase) -> int:
    return (await database.inbox.summaries([USER]))[USER].rev


async def test_while_unavailable_every_face_says_so_and_nothing_is_written(database: MemoryDatabase) -> None:
    database.driver.unavailable = True
    for call in (
        database.check,
        database.migrate,
        lambda: database.inbox.insert([a_draft()]),
        lambda: database.directory.memberships([USER]),
        lambda: database.dead_letters.page(1, None),
    ):
        with pytest.raises(StoreUnavailable):
            await call()
    database.driver.unavailable = False
    assert await rev(database) == 0


@pytest.mark.parametrize(("hook", "written"), [("delay", 0), ("delay_after", 1)])
async def test_a_call_cancelled_before_its_instant_wrote_nothing_and_after_it_all(
    database: MemoryDatabase, hook: str, written: int
) -> None:
    setattr(database.driver, hook, trio.sleep_forever)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(database.inbox.insert, [a_draft()])
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    setattr(database.driver, hook, None)
    assert await rev(database) == written


async def test_an_outage_during_the_delay_comes_before_the_write(database: MemoryDatabase) -> None:
    async def outage() -> None:
        database.driver.unavailable = True

    database.driver.delay = outage
    with pytest.raises(StoreUnavailable):
        await database.inbox.insert([a_draft()])
    database.driver.delay, database.driver.unavailable = None, False
    assert await rev(database) == 0


async def test_what_a_draft_held_is_not_changed_from_outside(database: MemoryDatabase) -> None:
    data = {"list": [1]}
    draft = Draft(
        recipient_id=USER,
        activity_id="activity",
        type="A",
        organizer_id=None,
        merchant_id=None,
        subject=None,
        locale="en",
        content="",
        content_html="",
        action_url=None,
        data=data,
    )
    (change,) = await database.inbox.insert([draft])
    data["list"].append(2)
    assert change.notification.data == {"list": [1]}


def test_the_garbage_collector_may_close_it_in_any_thread(database: MemoryDatabase) -> None:
    thread = threading.Thread(target=database.driver.connection.close)
    errors: list[object] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading, "excepthook", errors.append)
        thread.start()
        thread.join()
    assert errors == []

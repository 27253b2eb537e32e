"""inbox/service.py: self-scoped, and every change announced once it is stored."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import pytest
import trio

from nx_signal.adapters.sqlite.memory import MemoryDatabase
from nx_signal.inbox.service import Inbox
from nx_signal.model import Change, Created, Deleted, Draft, InboxFilter, Read, Updated
from nx_signal.store import read_all
from nx_signal.store.marks import MarkAll

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def draft(recipient_id: str, activity_id: str, **more: str) -> Draft:
    given = {"type": "PAYMENT_SUCCESS", "subject": None, **more}
    return Draft(
        recipient_id=recipient_id,
        activity_id=activity_id,
        organizer_id="o1",
        merchant_id=None,
        locale="en",
        content="Paid",
        content_html="<p>Paid</p>",
        action_url=None,
        data={},
        **given,  # type: ignore[arg-type]
    )


class Office:
    def __init__(self) -> None:
        self.database = MemoryDatabase(lambda: NOW)
        self.announced: list[Change] = []
        self.inbox = Inbox(self.database.inbox, self.announce)

    def announce(self, changes: Sequence[Change]) -> None:
        self.announced.extend(changes)

    async def give(self, *drafts: Draft) -> list[int]:
        created = await self.database.inbox.insert(drafts)
        return [change.notification.id for change in created if isinstance(change, Created)]


@pytest.fixture
def office() -> Office:
    return Office()


async def test_reading_a_notification_is_announced_with_its_origin(office: Office) -> None:
    (id,) = await office.give(draft("u1", "a1"))
    row = await office.inbox.mark("u1", id, "read", "client-1")
    assert row
    assert row.is_read
    (change,) = office.announced
    assert isinstance(change, Read)
    assert (change.ids, change.rev, change.unread, change.origin) == ((id,), 2, 0, "client-1")


async def test_reading_it_again_announces_nothing(office: Office) -> None:
    (id,) = await office.give(draft("u1", "a1"))
    first = await office.inbox.mark("u1", id, "read")
    again = await office.inbox.mark("u1", id, "read")
    assert first == again
    assert len(office.announced) == 1


async def test_reading_all_is_one_change(office: Office) -> None:
    await office.give(draft("u1", "a1"), draft("u1", "a2"), draft("u2", "a1"))
    updated, head, read_at = await office.inbox.mark_all_read("u1")
    assert (updated, head.rev, head.unread, read_at) == (2, 3, 0, NOW)
    assert [change.recipient_id for change in office.announced] == ["u1"]
    updated, head, _ = await office.inbox.mark_all_read("u1")
    assert (updated, head.rev, len(office.announced)) == (0, 3, 1)


async def test_deleting_is_announced(office: Office) -> None:
    (id,) = await office.give(draft("u1", "a1"))
    assert await office.inbox.delete("u1", id)
    assert [type(change) for change in office.announced] == [Deleted]
    assert not await office.inbox.delete("u1", id)
    assert len(office.announced) == 1


async def test_another_users_row_is_treated_as_missing(office: Office) -> None:
    (id,) = await office.give(draft("u1", "a1"))
    assert await office.inbox.get("u2", id) is None
    assert await office.inbox.mark("u2", id, "read") is None
    assert not await office.inbox.delete("u2", id)
    assert (await office.inbox.page("u2", InboxFilter(), 10)).rows == ()
    assert (await office.inbox.count("u2", InboxFilter()))[0] == 0
    assert office.announced == []
    row = await office.inbox.get("u1", id)
    assert row
    assert not row.is_read


async def test_nothing_is_announced_that_was_not_stored(office: Office) -> None:
    (id,) = await office.give(draft("u1", "a1"))
    office.database.driver.delay = trio.sleep_forever
    with trio.move_on_after(0):
        await office.inbox.mark("u1", id, "read")
    office.database.driver.delay = None
    assert office.announced == []
    row = await office.inbox.get("u1", id)
    assert row
    assert not row.is_read


async def test_each_portion_of_a_mark_of_all_is_announced_in_turn(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_all, "PORTION", 2)
    await office.give(*(draft("u1", f"a{n}") for n in range(5)))
    updated, head = await office.inbox.mark_all(MarkAll("u1", "archive", None, "client-1"))
    assert (updated, head.total, head.rev) == (5, 0, 8)
    stated = [
        (change.rev, change.up_to_rev, change.total)
        for change in office.announced
        if isinstance(change, Updated)
    ]
    assert stated == [(6, 2, 3), (7, 4, 1), (8, 5, 0)]


async def test_a_mark_that_changes_nothing_is_not_announced(office: Office) -> None:
    (id,) = await office.give(draft("u1", "a1"))
    assert await office.inbox.mark("u1", id, "unarchive")
    assert await office.inbox.mark("u2", id, "archive") is None
    assert (await office.inbox.mark_ids("u1", [id, 7], "unread")).unknown == (7,)
    assert await office.inbox.mark_all_seen("u1", 0)
    assert (await office.inbox.mark_all(MarkAll("u1", "unarchive", None, None)))[0] == 0
    assert office.announced == []

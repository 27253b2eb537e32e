"""Which rooms a client may join, and the error that names those that it may not."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from uuid import uuid4

import pytest

from nx_signal.adapters.sqlite.memory import MemoryDatabase
from nx_signal.delivery.rooms import RoomRules, refused_rooms_data


def test_the_first_of_many_refused_rooms_are_named_and_the_others_counted() -> None:
    error = json.loads(refused_rooms_data([f"room{n}" for n in range(50)]))
    assert error["rooms"] == [f"room{n}" for n in range(20)]
    assert '"room0"' in error["message"] and error["message"].endswith("and 30 more")


def test_a_few_refused_rooms_are_all_named() -> None:
    error = json.loads(refused_rooms_data(["a", "b"]))
    assert error == {"message": 'Not allowed to join: "a", "b"', "rooms": ["a", "b"]}


CLIENT, OTHER_CLIENT = str(uuid4()), str(uuid4())


@pytest.mark.parametrize(
    "pattern", ["*", "?*", "signal/*", "[a-z0-9]*", OTHER_CLIENT, "signal/notification/u2"]
)
async def test_no_pattern_opens_a_room_of_another_client_a_user_or_members(pattern: str) -> None:
    rules = RoomRules(
        MemoryDatabase(lambda: datetime(2026, 1, 1, tzinfo=UTC)).directory, (pattern, "public/*")
    )
    others = [
        *(OTHER_CLIENT, OTHER_CLIENT.upper(), "signal/notification/u2", "Signal/Notification/u2"),
        *("signal/organizer/o1", "signal/merchant/m1", "SIGNAL/MERCHANT/m1"),
    ]
    own = [CLIENT, "ws-default", "ws-notification", "signal/notification/u1", "public/news"]
    assert await rules.allowed("u1", CLIENT, [*others, *own]) == frozenset(own)


async def test_a_pattern_opens_the_rooms_that_it_matches() -> None:
    rules = RoomRules(MemoryDatabase(lambda: datetime(2026, 1, 1, tzinfo=UTC)).directory, ("*",))
    rooms = ["lobby", "signal/lobby", f"order-{OTHER_CLIENT}"]
    assert await rules.allowed("u1", CLIENT, rooms) == frozenset(rooms)

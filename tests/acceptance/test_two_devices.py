"""One person on two devices: what one does over REST arrives at both as one change each, with the counts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from test_embedded import Embedded

from nx_signal.client.rest import Rest, open_rest
from nx_signal.client.stream import Stream, open_stream
from serving import ROSTER

USER = "u1"
NOTIFICATION = "observation/signal/notification/"


@pytest.fixture
def embedded(tmp_path: Path) -> Iterator[Embedded]:
    embedded = Embedded(tmp_path / "data")
    embedded.run("members", "load", "-", input=json.dumps(ROSTER))
    yield embedded
    embedded.close()


def an_activity(n: int) -> dict[str, Any]:
    return {
        "eventType": "PAYMENT_SUCCESS",
        "recipientScope": "users",
        "recipientIds": [USER],
        "actorId": "shop",
        "organizerId": "o1",
        "eventId": f"payment-{n}",
        "data": {"payment": {"amount": n, "currency": "VND"}},
        "occurredAt": "2026-01-01T10:00:00Z",
    }


async def read(stream: Stream, count: int) -> list[tuple[str, dict[str, Any]]]:
    """The next frames of the log."""
    frames: list[tuple[str, dict[str, Any]]] = []
    while len(frames) < count:
        frame = await stream.receive()
        if frame.event.startswith(NOTIFICATION) and not frame.event.endswith("/state"):
            assert isinstance(frame.data, dict)
            frames.append((frame.event.removeprefix(NOTIFICATION), frame.data))
    return frames


async def test_each_mark_of_one_device_arrives_at_both_as_one_change_with_the_counts(
    embedded: Embedded,
) -> None:
    instance = embedded.instance
    instance.start()
    await trio.to_thread.run_sync(instance.wait_ready)
    token = embedded.run("token", "--user", USER)
    publish = partial(embedded.run, "publish", "-", "--url", instance.url)
    async with (
        open_stream(instance.stream_url, token) as phone,
        open_stream(instance.stream_url, token, version=1) as desktop,
        open_rest(instance.url, token) as rest,
    ):
        lines = "\n".join(json.dumps(an_activity(n)) for n in range(3))
        await trio.to_thread.run_sync(partial(publish, input=lines))
        created = await both(phone, desktop, 3)
        assert [(data["unread"], data["unseen"], data["total"]) for _, data in created] == [
            (1, 1, 1),
            (2, 2, 2),
            (3, 3, 3),
        ]
        first, second, third = (data["id"] for _, data in created)
        for mark, kind, stated, counts in marks(rest, first, second, third):
            await mark()
            ((event, data),) = await both(phone, desktop, 1)
            assert event == kind
            assert {name: data[name] for name in stated} == stated
            assert (data["unread"], data["unseen"], data["total"]) == counts
        page = await rest.list()
        assert (page.rev, page.unread, page.unseen, page.total) == (data["rev"], *counts)
        assert page.history == data["history"]


def marks(
    rest: Rest, first: str, second: str, third: str
) -> list[tuple[Callable[[], Any], str, dict[str, Any], tuple[int, int, int]]]:
    """(the call, the kind of its frame, what the frame states, unread, unseen and total after it)"""
    return [
        (partial(rest.mark_all_seen, 4), "updated", {"upToRev": 3, "seen": True}, (3, 0, 3)),
        (partial(rest.mark_read, first), "read", {"ids": [first]}, (2, 0, 3)),
        (partial(rest.mark_unread, first), "updated", {"ids": [first], "isRead": False}, (3, 0, 3)),
        (partial(rest.archive, first), "updated", {"ids": [first], "archived": True}, (2, 0, 2)),
        (partial(rest.unarchive, first), "updated", {"ids": [first], "archived": False}, (3, 0, 3)),
        (partial(rest.mark_ids, [second, third], "read"), "read", {"ids": [second, third]}, (1, 0, 3)),
        (
            partial(rest.archive_all, only_read=True),
            "updated",
            {"upToRev": 9, "onlyRead": True, "archived": True},
            (1, 0, 1),
        ),
        (partial(rest.unarchive_all, 2), "updated", {"upToRev": 2, "archived": False}, (1, 0, 2)),
        (partial(rest.mark_all_unread), "updated", {"upToRev": 11, "isRead": False}, (2, 0, 2)),
        (partial(rest.mark_ids, [third, first], "delete"), "deleted", {"ids": [third, first]}, (1, 0, 1)),
    ]


async def both(phone: Stream, desktop: Stream, count: int) -> list[tuple[str, dict[str, Any]]]:
    """What both read next: the same."""
    with trio.fail_after(30):
        frames = await read(phone, count)
        assert await read(desktop, count) == frames
    return frames

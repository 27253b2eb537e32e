"""What callers do to notifications of their own inbox, over REST (CONTRACT §4)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from test_rest_api import BASE, Desk

from nx_signal.identity.issuer import Issuer, open_issuer
from nx_signal.model import Deleted, Read, Updated

INBOX = f"{BASE}/notifications"


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Issuer:
    return open_issuer(Path(tmp_path_factory.mktemp("data")))


@pytest.fixture
def desk(issuer: Issuer) -> Desk:
    return Desk(issuer, rate_factor=0.0)


async def counts(desk: Desk, user: str = "u1") -> tuple[int, int, int]:
    """(total, unread, unseen)"""
    body = (await desk.call("GET", f"{INBOX}/count", user)).json
    return body["total"], body["unread"], body["unseen"]


async def listed(desk: Desk, query: str = "") -> list[str]:
    return [row["id"] for row in (await desk.call("GET", f"{INBOX}?{query}")).json["data"]]


async def test_opening_the_bell_makes_all_seen_and_nothing_read(desk: Desk) -> None:
    first, _ = await desk.give(("u1", "A", None), ("u1", "A", None))
    reply = await desk.call("PATCH", f"{INBOX}/mark-all-seen")
    (change,) = desk.announced
    assert reply.json == {
        "updated": 2, "unread": 2, "unseen": 0, "total": 2, "rev": 3, "history": change.history,
    }  # fmt: skip
    row = (await desk.call("GET", f"{INBOX}/{first}")).json
    assert (row["isSeen"], row["isRead"]) == (True, False)
    again = await desk.call("PATCH", f"{INBOX}/mark-all-seen", body={"upToRev": 2})
    assert (again.json["updated"], again.json["rev"]) == (0, 3)
    assert len(desk.announced) == 1


async def test_what_is_unread_again_counts_as_unread_and_stays_seen(desk: Desk) -> None:
    (id,) = await desk.give(("u1", "A", None))
    await desk.call("PATCH", f"{INBOX}/{id}/mark-read")
    reply = await desk.call("PATCH", f"{INBOX}/{id}/mark-unread")
    assert (reply.json["isRead"], reply.json["readAt"], reply.json["isSeen"]) == (False, None, True)
    assert await counts(desk) == (1, 1, 0)
    assert (await desk.call("PATCH", f"{INBOX}/{id}/mark-unread")).body == reply.body
    assert len(desk.announced) == 2


async def test_what_is_archived_is_in_the_archive_alone_until_it_comes_back(desk: Desk) -> None:
    first, last = await desk.give(("u1", "A", None), ("u1", "A", None))
    reply = await desk.call("PATCH", f"{INBOX}/{first}/archive")
    assert reply.json["archivedAt"] == "2026-01-01T12:00:02.000Z"
    assert (await desk.call("GET", f"{INBOX}/{first}")).json == reply.json
    assert (await listed(desk), await listed(desk, "archived=false")) == ([last], [last])
    assert await listed(desk, "archived=true") == [first]
    page = (await desk.call("GET", f"{INBOX}?archived=true")).json
    assert (page["total"], page["unread"], page["unseen"]) == (1, 1, 1)
    assert (await desk.call("GET", f"{INBOX}/count?archived=true&isRead=true")).json["count"] == 0
    assert await counts(desk) == (1, 1, 1)
    reply = await desk.call("PATCH", f"{INBOX}/{first}/unarchive")
    assert reply.json["archivedAt"] is None
    assert await listed(desk) == [last, first]
    assert await counts(desk) == (2, 2, 2)


async def test_the_filter_form_selects_the_archive_as_the_parameter_does(desk: Desk) -> None:
    first, last = await desk.give(("u1", "A", None), ("u1", "A", None))
    await desk.call("PATCH", f"{INBOX}/{first}/archive")
    for where, expected in (
        ('{"archived":true}', [first]),
        ('{"archived":{"neq":false}}', [first]),
        ('{"archived":false}', [last]),
        ('{"archived":{"neq":true}}', [last]),
    ):
        assert await listed(desk, f'filter={{"where":{where}}}') == expected
    assert await listed(desk, 'archived=true&filter={"where":{"archived":false}}') == []


async def test_an_archive_that_changed_is_not_answered_with_304(desk: Desk) -> None:
    (id,) = await desk.give(("u1", "A", None))
    await desk.call("PATCH", f"{INBOX}/{id}/archive")
    tag = (await desk.call("GET", f"{INBOX}?archived=true")).headers["ETag"]
    await desk.call("PATCH", f"{INBOX}/mark-all-seen")
    reply = await desk.call("GET", f"{INBOX}?archived=true", headers={"If-None-Match": tag})
    assert (reply.status, reply.json["data"][0]["isSeen"]) == (200, True)


@pytest.mark.parametrize(
    ("op", "kind", "after"),
    [
        ("read", Read, (3, 1, 1)),
        ("seen", Updated, (3, 3, 1)),
        ("archive", Updated, (1, 1, 1)),
        ("delete", Deleted, (1, 1, 1)),
    ],
)
async def test_several_change_at_once_and_ids_of_others_are_named(
    desk: Desk, op: str, kind: type, after: tuple[int, int, int]
) -> None:
    *mine, theirs = await desk.give(
        ("u1", "A", None), ("u1", "A", None), ("u1", "A", None), ("u2", "A", None)
    )
    missing, too_large = str(int(theirs) + 1), str(2**63)
    sent = {"ids": [mine[0], theirs, mine[1], mine[0], missing, too_large], "op": op}
    reply = await desk.call("PATCH", INBOX, body=sent, headers={"X-Client-Id": "phone"})
    (change,) = desk.announced
    total, unread, unseen = after
    assert reply.json == {
        "updated": 2, "unknown": [theirs, missing, too_large], "unread": unread, "unseen": unseen,
        "total": total, "rev": 4, "history": change.history,
    }  # fmt: skip
    assert isinstance(change, kind)
    assert getattr(change, "origin", "phone") == "phone"
    assert (await counts(desk), await counts(desk, "u2")) == (after, (1, 1, 1))


async def test_several_that_are_so_already_make_no_revision(desk: Desk) -> None:
    (id,) = await desk.give(("u1", "A", None))
    for op in ("unread", "unarchive"):
        reply = await desk.call("PATCH", INBOX, body={"ids": [id], "op": op})
        assert (reply.json["updated"], reply.json["rev"], reply.json["unknown"]) == (0, 1, [])
    assert desk.announced == []


@pytest.mark.parametrize(
    "sent",
    [
        {},
        {"ids": [], "op": "read"},
        {"ids": ["1"] * 101, "op": "read"},
        {"ids": ["1"]},
        {"ids": ["1"], "op": "forget"},
        {"ids": ["one"], "op": "read"},
        {"ids": [1], "op": "read"},
        {"ids": ["-1"], "op": "read"},
        {"ids": "1", "op": "read"},
    ],
)
async def test_a_change_of_several_that_is_not_understood_is_refused(
    desk: Desk, sent: dict[str, Any]
) -> None:
    await desk.give(("u1", "A", None))
    reply = await desk.call("PATCH", INBOX, body=sent)
    assert (reply.status, reply.code) == (400, "invalid_parameter")
    assert desk.announced == []


async def test_all_that_are_read_go_to_the_archive_and_come_back(desk: Desk) -> None:
    first, second = await desk.give(("u1", "A", None), ("u1", "A", None))
    await desk.call("PATCH", f"{INBOX}/{first}/mark-read")
    reply = await desk.call("PATCH", f"{INBOX}/archive-all", body={"isRead": True})
    assert (reply.json["updated"], reply.json["total"]) == (1, 1)
    assert await listed(desk, "archived=true") == [first]
    assert (await desk.call("PATCH", f"{INBOX}/archive-all")).json["total"] == 0
    reply = await desk.call("PATCH", f"{INBOX}/unarchive-all", body={"upToRev": 1})
    assert (reply.json["updated"], reply.json["unread"], reply.json["total"]) == (1, 0, 1)
    reply = await desk.call("PATCH", f"{INBOX}/mark-all-unread")
    assert (reply.json["updated"], reply.json["unread"], reply.json["unseen"]) == (1, 1, 0)
    assert await listed(desk, "archived=true") == [second]


async def test_archiving_the_unread_ones_alone_is_not_offered(desk: Desk) -> None:
    await desk.give(("u1", "A", None))
    reply = await desk.call("PATCH", f"{INBOX}/archive-all", body={"isRead": False})
    assert (reply.status, reply.json["detail"]) == (400, "isRead takes true, or is left out.")
    assert desk.announced == []


@pytest.mark.parametrize("step", ["mark-all-seen", "mark-all-unread", "archive-all", "unarchive-all"])
async def test_all_up_to_a_change_that_is_lost_is_a_conflict(desk: Desk, step: str) -> None:
    first, _ = await desk.give(("u1", "A", None), ("u1", "A", None))
    reply = await desk.call("PATCH", f"{INBOX}/{step}", body={"upToRev": 2, "history": first})
    assert (reply.status, reply.code) == (409, "history_lost")
    assert desk.announced == []


@pytest.mark.parametrize("step", ["mark-unread", "archive", "unarchive"])
async def test_another_users_notification_is_answered_as_a_missing_one(desk: Desk, step: str) -> None:
    (id,) = await desk.give(("u1", "A", None))
    replies = [
        await desk.call("PATCH", f"{INBOX}/{some}/{step}", "u2", headers={"X-Request-Id": "r"})
        for some in (id, str(int(id) + 1), "nonsense", "9" * 40)
    ]
    assert {reply.status for reply in replies} == {404}
    assert {reply.body for reply in replies} == {replies[0].body}
    assert desk.announced == []

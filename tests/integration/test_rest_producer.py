"""Collapse keys, expiry and priority of activities, as REST shows and takes them (CONTRACT §3 and §4)."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from test_rest_api import ACTIVITY, BASE, Desk

from nx_signal.identity.issuer import Issuer, open_issuer
from nx_signal.model import Created, DeadLetter, Position, Record
from nx_signal.model.timestamps import format_timestamp

INBOX = f"{BASE}/notifications"
TO_U1 = ACTIVITY | {"recipientScope": "users", "recipientIds": ["u1"]}


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Issuer:
    return open_issuer(Path(tmp_path_factory.mktemp("data")))


@pytest.fixture
def desk(issuer: Issuer) -> Desk:
    return Desk(issuer, rate_factor=0.0)


async def arrives(desk: Desk, offset: int, **changes: Any) -> None:
    value = json.dumps(TO_U1 | {"eventId": f"e{offset}"} | changes).encode()
    (done,) = await desk.processor.process([Record(Position("t", 0, offset), None, value)], {})
    await desk.database.traces.add([done.trace])


async def test_a_list_shows_how_a_notification_is_kept_and_what_took_its_place(desk: Desk) -> None:
    later = format_timestamp(desk.time + timedelta(days=1))
    await arrives(desk, 1, collapseKey="order/42", occurredAt="2026-01-01T10:00:00Z")
    await arrives(
        desk, 2, collapseKey="order/42", occurredAt="2026-01-01T11:00:00Z", priority="high", expiresAt=later
    )
    body = (await desk.call("GET", INBOX)).json
    (row,) = body["data"]
    assert (row["priority"], row["expiresAt"], row["collapseKey"]) == ("high", later, "order/42")
    assert (body["total"], body["unread"], body["unseen"], body["rev"]) == (1, 1, 1, 2)
    first, second = desk.announced
    assert isinstance(first, Created) and isinstance(second, Created)
    assert second.replaces == (first.notification.id,)
    assert (await desk.call("GET", f"{INBOX}/{first.notification.id}")).status == 404


async def test_lists_and_counts_are_filtered_by_priority(desk: Desk) -> None:
    await arrives(desk, 1)
    await arrives(desk, 2, priority="high")
    for query, ids in (
        ("priority=high", ["e2"]),
        ("priority=normal", ["e1"]),
        ('filter={"where":{"priority":{"neq":"high"}}}', ["e1"]),
    ):
        body = (await desk.call("GET", f"{INBOX}?{query}")).json
        assert [row["activityId"] for row in body["data"]] == ids
        assert body["total"] == 1
        assert (await desk.call("GET", f"{INBOX}/count?{query}")).json["count"] == 1
    refused = await desk.call("GET", f"{INBOX}?priority=urgent")
    assert refused.status == 400 and "priority" in refused.json["detail"]


async def test_publishing_refuses_what_is_no_priority_expiry_or_key_with_a_sentence(desk: Desk) -> None:
    for changes, sentence in (
        ({"priority": "urgent"}, "priority: expected `normal` or `high`."),
        ({"expiresAt": "soon"}, "expiresAt must be an ISO 8601 date and time"),
        ({"collapseKey": ""}, "collapseKey: expected `str` of length >= 1."),
    ):
        reply = await desk.call(
            "POST", f"{BASE}/activities", body=ACTIVITY | changes, permissions=["Activity.publish"]
        )
        assert (reply.status, reply.code) == (400, "invalid_message")
        assert reply.json["detail"].startswith(sentence)


async def test_a_preview_shows_how_it_would_be_kept_and_that_it_has_expired(desk: Desk) -> None:
    body = TO_U1 | {"priority": "high", "collapseKey": "k", "expiresAt": format_timestamp(desk.time)}
    shown = (
        await desk.call("POST", f"{BASE}/activities/preview", body=body, permissions=["Activity.preview"])
    ).json
    assert {name: shown[name] for name in ("priority", "collapseKey", "expiresAt", "expired")} == {
        "priority": "high",
        "collapseKey": "k",
        "expiresAt": body["expiresAt"],
        "expired": True,
    }


@pytest.mark.parametrize(
    ("changes", "outcome", "why"),
    [
        ({"expiresAt": "2020-01-01T00:00:00Z"}, "expired", "it was handled after its expiresAt."),
        (
            {"collapseKey": "k", "occurredAt": "2026-01-01T09:00:00Z"},
            "superseded",
            "each recipient had a newer notification with its collapseKey.",
        ),
    ],
)
async def test_explain_shows_why_an_activity_made_nothing(
    desk: Desk, changes: dict[str, Any], outcome: str, why: str
) -> None:
    await arrives(desk, 1, collapseKey="k", occurredAt="2026-01-01T10:00:00Z")
    await arrives(desk, 2, **changes)
    path = f"{BASE}/activities/e2/explain?recipientId=u1"
    body = (await desk.call("GET", path, permissions=["Activity.explain"])).json
    assert (body["trace"]["outcome"], body["rows"]) == (outcome, 0)
    assert body["trace"]["reason"]
    assert body["deliveries"][0]["why"].endswith(why)


async def test_a_replay_of_what_expired_removes_the_dead_letter(desk: Desk) -> None:
    value = json.dumps(TO_U1 | {"eventId": "e", "expiresAt": "2020-01-01T00:00:00Z"}).encode()
    await desk.database.dead_letters.add([DeadLetter(0, Position("t", 0, 1), None, value, {}, "a bug")])
    (letter,) = await desk.database.dead_letters.page(1, None)
    path = f"{BASE}/dead-letters/{letter.id}/replay"
    reply = await desk.call("POST", path, permissions=["DeadLetter.replay"])
    assert reply.json == {"eventId": "e", "outcome": "expired", "recipients": 0}
    assert await desk.database.dead_letters.page(1, None) == []

"""Preview, explain and dead letters over REST, on memory adapters."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from test_rest_api import ACTIVITY, BASE, START, Desk

from nx_signal.delivery.sessions import LiveSessions, SessionState
from nx_signal.identity.issuer import Issuer, open_issuer
from nx_signal.model import DeadLetter, Position, Record
from nx_signal.rest.dead_letters import MAX_LISTED_BYTES

READ = ["DeadLetter.find"]
REPLAY = ["DeadLetter.replay"]
DELETE = ["DeadLetter.delete"]
EXPLAIN = ["Activity.explain"]
PREVIEW = ["Activity.preview"]
ANONYMOUS = {key: value for key, value in ACTIVITY.items() if key != "eventId"}


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Issuer:
    return open_issuer(Path(tmp_path_factory.mktemp("data")))


@pytest.fixture
def desk(issuer: Issuer) -> Desk:
    return Desk(issuer)


async def set_aside(desk: Desk, *values: bytes, **changes: Any) -> list[str]:
    """Ids in the order of the values."""
    given: dict[str, Any] = {"key": None, "headers": {}, "error": "It failed.", **changes}
    dead_letters = [
        DeadLetter(0, Position("a/b", 0, n), given["key"], value, given["headers"], given["error"])
        for n, value in enumerate(values)
    ]
    await desk.database.dead_letters.add(dead_letters)
    return [str(dead_letter.id) for dead_letter in await desk.database.dead_letters.page(1000, None)][::-1]


# --- dead letters ---


async def test_dead_letters_are_listed_newest_first_page_by_page(desk: Desk) -> None:
    ids = await set_aside(desk, *[b"x"] * 25)
    seen: list[str] = []
    cursor: str | None = ""
    pages = 0
    while cursor is not None:
        path = f"{BASE}/dead-letters?limit=12&cursor={cursor}"
        body = (await desk.call("GET", path, permissions=READ)).json
        seen += [dead_letter["id"] for dead_letter in body["data"]]
        cursor, pages = body["nextCursor"], pages + 1
    assert (seen, pages) == (ids[::-1], 3)
    whole = await desk.call("GET", f"{BASE}/dead-letters?limit=25", permissions=READ)
    assert len(whole.json["data"]) == 25 and whole.json["nextCursor"] is None


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "limit=x", "cursor=x", "cursor=-1"])
async def test_a_wrong_page_is_a_400(desk: Desk, query: str) -> None:
    reply = await desk.call("GET", f"{BASE}/dead-letters?{query}", permissions=READ)
    assert (reply.status, reply.code) == (400, "invalid_parameter")


async def test_a_dead_letter_is_shown_as_text_or_else_as_base64(desk: Desk) -> None:
    (text, raw) = await set_aside(
        desk, "Đơn\0".encode(), b"\xff\0", key="\udcff", headers={"ce_id": b"e1", "\ud800": b"\xfe"}
    )
    shown = (await desk.call("GET", f"{BASE}/dead-letters/{text}", permissions=READ)).json
    assert shown["value"] == {"encoding": "utf-8", "text": "Đơn\0", "bytes": 6, "truncated": False}
    assert (shown["position"], shown["error"]) == ("a/b/0/0", "It failed.")
    assert shown["createdAt"] == "2026-01-01T12:00:00.000Z"
    shown = (await desk.call("GET", f"{BASE}/dead-letters/{raw}", permissions=READ)).json
    assert shown["value"] == {"encoding": "base64", "text": "/wA=", "bytes": 2, "truncated": False}
    assert shown["key"]["encoding"] == "base64"
    assert shown["headers"]["ce_id"]["text"] == "e1"
    assert shown["headers"]["\\ud800"] == {
        "encoding": "base64", "text": "/g==", "bytes": 1, "truncated": False,
    }  # fmt: skip


async def test_a_list_shows_long_values_in_part_and_one_dead_letter_whole(desk: Desk) -> None:
    long = ("x" + "Đ" * MAX_LISTED_BYTES).encode()
    text, _ = await set_aside(desk, long, b"\xff" * 10_000)
    listed = (await desk.call("GET", f"{BASE}/dead-letters", permissions=READ)).json["data"]
    assert [len(base64.b64decode(listed[0]["value"]["text"])), listed[0]["value"]["truncated"]] == [
        MAX_LISTED_BYTES, True,
    ]  # fmt: skip
    part = listed[1]["value"]
    assert (part["bytes"], part["truncated"]) == (len(long), True)
    assert long.decode().startswith(part["text"]) and len(part["text"].encode()) == MAX_LISTED_BYTES - 1
    whole = (await desk.call("GET", f"{BASE}/dead-letters/{text}", permissions=READ)).json["value"]
    assert (whole["text"].encode(), whole["truncated"]) == (long, False)


async def test_a_replay_writes_the_rows_notifies_the_clients_and_removes_the_dead_letter(desk: Desk) -> None:
    (id,) = await set_aside(desk, json.dumps(ANONYMOUS).encode())
    reply = await desk.call("POST", f"{BASE}/dead-letters/{id}/replay", permissions=REPLAY)
    assert reply.status == 200
    assert reply.json == {"eventId": "a/b/0/0", "outcome": "stored", "recipients": 1}
    assert [change.recipient_id for change in desk.announced] == ["u1"]
    assert await desk.database.dead_letters.page(10, None) == []
    assert (await desk.call("GET", f"{BASE}/notifications")).json["total"] == 1
    again = await desk.call("POST", f"{BASE}/dead-letters/{id}/replay", permissions=REPLAY)
    assert again.status == 404


async def test_a_replay_of_a_stored_activity_writes_nothing_twice(desk: Desk) -> None:
    value = json.dumps(ACTIVITY).encode()
    await desk.processor.process([Record(Position("a/b", 0, 9), None, value)], {})
    (id,) = await set_aside(desk, value)
    reply = await desk.call("POST", f"{BASE}/dead-letters/{id}/replay", permissions=REPLAY)
    assert reply.json == {"eventId": "e1", "outcome": "duplicate", "recipients": 1}
    assert (await desk.call("GET", f"{BASE}/notifications")).json["total"] == 1


async def test_a_replay_that_fails_again_is_a_422_with_the_reason_and_the_dead_letter_stays(
    desk: Desk,
) -> None:
    (id,) = await set_aside(desk, b"[]")
    reply = await desk.call("POST", f"{BASE}/dead-letters/{id}/replay", permissions=REPLAY)
    assert (reply.status, reply.code) == (422, "replay_failed")
    shown = (await desk.call("GET", f"{BASE}/dead-letters/{id}", permissions=READ)).json
    assert shown["error"] == reply.json["detail"] != "It failed."


async def test_a_replay_without_the_store_is_a_503_and_the_dead_letter_stays(desk: Desk) -> None:
    (id,) = await set_aside(desk, json.dumps(ACTIVITY).encode())
    desk.database.driver.unavailable = True
    reply = await desk.call("POST", f"{BASE}/dead-letters/{id}/replay", permissions=REPLAY)
    assert reply.status == 503
    desk.database.driver.unavailable = False
    assert len(await desk.database.dead_letters.page(10, None)) == 1


async def test_a_discarded_dead_letter_is_removed(desk: Desk) -> None:
    first, second = await set_aside(desk, b"x", b"y")
    assert (await desk.call("DELETE", f"{BASE}/dead-letters/{first}", permissions=DELETE)).status == 204
    assert (await desk.call("DELETE", f"{BASE}/dead-letters/{first}", permissions=DELETE)).status == 404
    assert [str(dead_letter.id) for dead_letter in await desk.database.dead_letters.page(10, None)] == [
        second
    ]


@pytest.mark.parametrize("id", ["7", "x", "-1", "9" * 19, "9" * 40, "%00"])
async def test_an_unknown_dead_letter_is_a_404(desk: Desk, id: str) -> None:
    await set_aside(desk, b"x")
    path = f"{BASE}/dead-letters/{id}"
    for method, address, permissions in (
        ("GET", path, READ),
        ("POST", f"{path}/replay", REPLAY),
        ("DELETE", path, DELETE),
    ):
        assert (await desk.call(method, address, permissions=permissions)).status == 404


# --- explain ---


@pytest.mark.parametrize("encode", [lambda path: path, lambda path: quote(path, safe="")], ids=["/", "%2F"])
async def test_an_activity_is_explained_by_its_position(desk: Desk, encode: Any) -> None:
    position = Position("signal.activity-notification", 3, 41)
    (processed,) = await desk.processor.process([Record(position, None, json.dumps(ANONYMOUS).encode())], {})
    await desk.database.traces.add([processed.trace])
    reply = await desk.call("GET", f"{BASE}/activities/{encode(str(position))}/explain", permissions=EXPLAIN)
    assert reply.status == 200
    body = reply.json
    assert (body["eventId"], body["rows"], body["unanswered"]) == (str(position), 1, [])
    assert body["trace"] == {
        "position": str(position), "type": "PAYMENT_SUCCESS", "scope": "users", "rule": "users",
        "recipients": 1, "outcome": "stored", "reason": None, "handledAt": "2026-01-01T12:00:00.000Z",
        "audience": [], "excludedActor": None, "traceparent": None, "tracestate": None, "dataschema": None,
    }  # fmt: skip
    (delivery,) = body["deliveries"]
    assert (delivery["recipientId"], delivery["delivery"], delivery["sessions"]) == (
        "u1",
        "not_connected",
        [],
    )
    assert delivery["row"]["rev"] == 1 and delivery["row"]["deleted"] is False


@pytest.mark.parametrize("id", ["/orders/42", "//x", "a//b/", "42", '["42","/orders"]', "journal/0/7"])
@pytest.mark.parametrize("source", [None, "/orders"])
async def test_an_activity_is_explained_by_its_id_whatever_that_holds(
    desk: Desk, id: str, source: str | None
) -> None:
    message = ANONYMOUS | {"eventId": id, "eventSource": source}
    (processed,) = await desk.processor.process(
        [Record(Position("journal", 0, 7), None, json.dumps(message).encode())], {}
    )
    await desk.database.traces.add([processed.trace])
    queries = [""] if source is None else ["", "?source=/orders"]
    for address in [f"{quote(id, safe='/')}/explain{query}" for query in queries]:
        reply = await desk.call("GET", f"{BASE}/activities/{address}", permissions=EXPLAIN)
        assert (reply.status, reply.json["rows"]) == (200, 1), address
        assert reply.json["eventId"] == id
    activity_id = quote(reply.json["activityId"], safe="")
    again = await desk.call("GET", f"{BASE}/activities/{activity_id}/explain", permissions=EXPLAIN)
    assert again.json["trace"] == reply.json["trace"]


async def test_of_several_sources_one_must_be_named(desk: Desk) -> None:
    for offset, source in enumerate(("/orders", "/payments")):
        message = ANONYMOUS | {"eventId": "42", "eventSource": source}
        (processed,) = await desk.processor.process(
            [Record(Position("t", 0, offset), None, json.dumps(message).encode())], {}
        )
        await desk.database.traces.add([processed.trace])
    path = f"{BASE}/activities/42/explain"
    reply = await desk.call("GET", path, permissions=EXPLAIN)
    assert reply.status == 400 and "/orders, /payments" in reply.json["detail"]
    found = await desk.call("GET", f"{path}?source=/payments", permissions=EXPLAIN)
    assert found.json["trace"]["position"] == "t/0/1"
    assert (await desk.call("GET", f"{path}?source=/refunds", permissions=EXPLAIN)).status == 404


async def test_each_session_of_the_recipient_is_listed_with_the_reason(desk: Desk) -> None:
    await desk.processor.process([Record(Position("t", 0, 0), None, json.dumps(ACTIVITY).encode())], {})
    desk.operator.live = LiveSessions(
        (
            SessionState("c1", "s1", "u1", START, 0, 0, True, True, 70_000),
            SessionState("c2", "s2", "u1", START, 1, 1, False, False, 0),
        ),
        ("s3",),
    )
    body = (await desk.call("GET", f"{BASE}/activities/e1/explain?recipientId=u1", permissions=EXPLAIN)).json
    assert body["trace"] is None, "it is pruned"
    (delivery,) = body["deliveries"]
    assert [(s["id"], s["serverId"], s["delivery"], s["queued"]) for s in delivery["sessions"]] == [
        ("c1", "s1", "slow_consumer", 70_000),
        ("c2", "s2", "fetched", 0),
    ]
    assert delivery["delivery"] == "slow_consumer"
    assert "does not read fast enough" in delivery["why"]
    assert body["unanswered"] == ["s3"]


async def test_a_user_who_is_not_a_recipient_has_no_row_of_it(desk: Desk) -> None:
    await desk.processor.process([Record(Position("t", 0, 0), None, json.dumps(ACTIVITY).encode())], {})
    body = (await desk.call("GET", f"{BASE}/activities/e1/explain?recipientId=u2", permissions=EXPLAIN)).json
    assert [(d["recipientId"], d["row"], d["delivery"]) for d in body["deliveries"]] == [
        ("u2", None, "no_row")
    ]


@pytest.mark.parametrize("event_id", ["e2", "t/0/1", "%00", "a%00b", "x" * 5000])
async def test_an_unknown_activity_is_a_404(desk: Desk, event_id: str) -> None:
    await desk.processor.process([Record(Position("t", 0, 0), None, json.dumps(ACTIVITY).encode())], {})
    reply = await desk.call("GET", f"{BASE}/activities/{event_id}/explain", permissions=EXPLAIN)
    assert reply.status == 404


# --- preview ---


async def test_a_preview_shows_recipients_and_texts_and_writes_nothing(desk: Desk) -> None:
    reply = await desk.call("POST", f"{BASE}/activities/preview", body=ACTIVITY, permissions=PREVIEW)
    assert reply.status == 200
    body = reply.json
    assert (body["eventId"], body["rule"], body["total"], body["unknownType"]) == ("e1", "users", 1, False)
    assert body["recipients"] == [
        {"recipientId": "u1", "why": "Named in recipientIds.", "locale": "en", "localeFrom": "default"}
    ]
    assert set(body["renderings"]) == {"en"}
    assert (await desk.call("GET", f"{BASE}/notifications")).json["total"] == 0
    assert desk.journal.appended == [] and desk.announced == []
    assert await desk.database.traces.get("e1") is None


async def test_a_preview_of_an_unknown_type_reports_it(desk: Desk) -> None:
    sent = ACTIVITY | {"eventType": "COFFEE_SPILLED"}
    body = (await desk.call("POST", f"{BASE}/activities/preview", body=sent, permissions=PREVIEW)).json
    assert (body["unknownType"], body["total"], body["renderings"]) == (True, 0, {})


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff", json.dumps([ACTIVITY]).encode(), b"{}"])
async def test_a_preview_of_a_malformed_message_is_a_422_with_the_reason(desk: Desk, data: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    reply = await desk.call(
        "POST", f"{BASE}/activities/preview", data=data, headers=headers, permissions=PREVIEW
    )
    assert (reply.status, reply.code) == (422, "invalid_message")
    assert reply.json["detail"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/dead-letters"),
        ("GET", "/dead-letters/7"),
        ("POST", "/dead-letters/7/replay"),
        ("DELETE", "/dead-letters/7"),
        ("GET", "/activities/a/0/1/explain"),
        ("POST", "/activities/preview"),
    ],
)
async def test_each_call_needs_its_permission(desk: Desk, method: str, path: str) -> None:
    assert (await desk.call(method, BASE + path, body={})).status == 403
    assert (await desk.call(method, BASE + path, None, body={})).status == 401

"""The REST calls of CONTRACT §4 over memory adapters, through quart-trio's test client."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast
from unittest.mock import ANY

import pytest
import structlog
import trio
from trio.testing import MockClock

from nx_signal.activities.cloud_events import NO_TYPES
from nx_signal.activities.compose import compose_activities
from nx_signal.activities.content import Renderer
from nx_signal.activities.explain import Explain
from nx_signal.activities.registry import Registry
from nx_signal.adapters.local_relay import LocalRelay
from nx_signal.adapters.sqlite.memory import MemoryDatabase
from nx_signal.composition import compose
from nx_signal.delivery.operator import ClientsPage
from nx_signal.delivery.sessions import LiveSessions
from nx_signal.errors import IssuerUnavailable, RelayLost, StoreUnavailable
from nx_signal.identity.issuer import ISSUER, Issuer, open_issuer
from nx_signal.identity.permissions import Access
from nx_signal.identity.stream_keys import keys_of_secret
from nx_signal.identity.tickets import Tickets
from nx_signal.identity.tokens import TokenVerifier
from nx_signal.inbox.service import Inbox
from nx_signal.model import Change, Created, Draft, Grant, Json, RelayMessage, Roster
from nx_signal.ports import Journal
from nx_signal.rest import app as rest_app
from nx_signal.rest.access import Authorizer
from nx_signal.rest.app import create_app
from nx_signal.rest.openapi import declared
from nx_signal.rest.operations import StreamJwks
from nx_signal.server.limits import RequestLimits
from nx_signal.telemetry.health import Health
from nx_signal.telemetry.metrics import Metrics
from stream_kit import static_key

BASE = "/v1/api/signal"
JWKS = "/.well-known/jwks.json"
REGISTRY = Registry.shipped()
RENDERER = Renderer(REGISTRY, "UTC")
START = datetime(2026, 1, 1, 12, tzinfo=UTC)
ACTIVITY = {
    "eventType": "PAYMENT_SUCCESS",
    "recipientScope": "users",
    "actorId": "a",
    "actor": {"id": "a", "name": "A", "type": "user"},
    "organizerId": "o1",
    "recipientIds": ["u1"],
    "data": {"payment": {"subject": "Order 1", "amount": 10, "currency": "VND"}},
    "occurredAt": "2026-01-01T12:00:00Z",
    "eventId": "e1",
}


class FakeJournal:
    def __init__(self) -> None:
        self.appended: list[tuple[str, bytes]] = []
        self.durable = trio.Event()
        self.durable.set()

    async def append(self, messages: Sequence[tuple[str, bytes]]) -> None:
        await self.durable.wait()
        self.appended.extend(messages)


class FakeOperator:
    """Records the calls; `c1` is the only client, and the instance `far` does not answer."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.live = LiveSessions((), ())
        self.unreached: tuple[str, ...] = ()
        self.relay_is_away = False

    def status(self) -> Mapping[str, Json]:
        return {"status": "ok", "clients": 0}

    async def clients(self, *query: Any) -> ClientsPage:
        self.calls.append(("clients", *query))
        return ClientsPage(({"id": "c1"},), 7, "c1", ("far",))

    async def client(self, client_id: str) -> Any:
        known = {"c1": ({"id": "c1"}, ()), "c2": (None, ("far",))}
        return known.get(client_id, (None, ()))

    async def sessions_of(self, user_ids: Sequence[str]) -> LiveSessions:
        return self.live

    async def broadcast(self, *what: Any) -> tuple[str, ...]:
        return self._called("broadcast", *what)

    async def send_to_room(self, *what: Any) -> tuple[str, ...]:
        return self._called("room", *what)

    async def send_to_client(self, *what: Any) -> tuple[str, ...]:
        return self._called("client", *what)

    async def disconnect(self, *what: Any) -> tuple[str, ...]:
        return self._called("disconnect", *what)

    def _called(self, *call: Any) -> tuple[str, ...]:
        self.calls.append(call)
        if self.relay_is_away:
            raise RelayLost("The relay is away.")
        return self.unreached


class Reply:
    def __init__(self, status: int, headers: Any, body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        assert self.headers["Content-Type"] == "application/problem+json"
        return str(self.json["code"])


class Desk:
    """A whole REST application, and a caller."""

    def __init__(
        self,
        issuer: Issuer,
        *,
        jwks: Mapping[str, object] | None = None,
        stream_jwks: StreamJwks | None = None,
        cors_origins: Sequence[str] = (),
        rate_factor: float = 1.0,
        event_types: frozenset[str] | None = None,
        cloud_event_types: Mapping[str, str] = NO_TYPES,
    ) -> None:
        self.time = START
        self.issuer = issuer
        self.database = MemoryDatabase(lambda: self.time)
        self.journal = FakeJournal()
        self.operator = FakeOperator()
        self.metrics = Metrics()
        self.health = Health(("store",), self.metrics)
        self.announced: list[Change] = []
        activities = compose_activities(
            database=self.database,
            registry=REGISTRY,
            renderer=RENDERER,
            announce=self.announced.extend,
            metrics=self.metrics,
            types=cloud_event_types,
            now=lambda: self.time,
        )
        self.processor = activities.processor
        tokens = TokenVerifier(
            issuer,
            now=lambda: self.time,
            issuer=ISSUER,
            audience=None,
            user_claim="sub",
            trusted_grants=True,
        )
        to_relay, _ = trio.open_memory_channel[tuple[RelayMessage, ...]](100)
        parts = compose(
            server_id="desk",
            database=self.database,
            relay=LocalRelay(),
            to_relay=to_relay,
            registry=REGISTRY,
            renderer=RENDERER,
            verify=tokens.verify,
            static_key=static_key,
            now=lambda: self.time,
            resume_limit=500,
            sweep_s=3600,
            client_buffer_bytes=262_144,
            rate_factor=rate_factor,
        )
        tickets = Tickets(self.database.tickets)
        self.app = create_app(
            authorizer=Authorizer(
                tokens.verify, tickets, Access(self.database.directory), RequestLimits(rate_factor)
            ),
            inbox=Inbox(self.database.inbox, self.announced.extend),
            renderer=RENDERER,
            event_types=event_types,
            cloud_event_types=cloud_event_types,
            journal=cast(Journal, self.journal),
            preview=activities.preview,
            explain=Explain(
                self.database.inbox,
                self.database.traces,
                self.database.corrections,
                self.database.directory,
                self.operator.sessions_of,
            ),
            dead_letters=self.database.dead_letters,
            replay=activities.replay,
            directory=self.database.directory,
            members=self.database.members,
            tickets=tickets,
            operator=cast("Any", self.operator),
            polling=parts.polling,
            events=parts.events,
            health=self.health,
            metrics=self.metrics,
            jwks=jwks,
            stream_jwks=stream_jwks,
            cors_origins=cors_origins,
        )

    def token(self, user: str = "u1", permissions: Sequence[str] = (), ttl_s: int = 3600) -> str:
        return self.issuer.sign(user, ttl_s, permissions, (), self.time)

    async def call(
        self,
        method: str,
        path: str,
        user: str | None = "u1",
        *,
        body: Any = None,
        data: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        permissions: Sequence[str] = (),
    ) -> Reply:
        sent = dict(headers or {})
        if user is not None:
            sent.setdefault("Authorization", f"Bearer {self.token(user, permissions)}")
        if body is not None:
            data = json.dumps(body).encode()
            sent.setdefault("Content-Type", "application/json")
        client: Any = self.app.test_client()  # its type demands a body of JSON
        response = await client.open(path, method=method, headers=sent, data=data)
        return Reply(response.status_code, response.headers, await response.get_data(as_text=False))

    async def give(self, *drafts: tuple[str, str, str | None]) -> list[str]:
        """(recipient, type, subject) each, a second apart"""
        ids = []
        for recipient, type, subject in drafts:
            self.time += timedelta(seconds=1)
            (created,) = await self.database.inbox.insert(
                [
                    Draft(
                        recipient_id=recipient,
                        activity_id=f"a{self.time.timestamp()}",
                        type=type,
                        organizer_id="o1",
                        merchant_id=None,
                        subject=subject,
                        locale="vi",
                        content="Đã trả",
                        content_html="<p>Đã trả</p>",
                        action_url="/x",
                        data={"n": 1},
                    )
                ]
            )
            assert isinstance(created, Created)
            ids.append(str(created.notification.id))
        return ids


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Issuer:
    return open_issuer(Path(tmp_path_factory.mktemp("data")))


@pytest.fixture
def desk(issuer: Issuer) -> Desk:
    return Desk(issuer)


# --- notifications ---


async def test_the_list_is_newest_first_with_its_counts_and_revision(desk: Desk) -> None:
    ids = await desk.give(("u1", "A", None), ("u1", "B", "s"), ("u2", "A", None))
    reply = await desk.call("GET", f"{BASE}/notifications")
    assert reply.status == 200
    body = reply.json
    assert [row["id"] for row in body["data"]] == [ids[1], ids[0]]
    assert {k: v for k, v in body.items() if k != "data"} == {
        "total": 2, "unread": 2, "unseen": 2, "rev": 2, "history": ids[1], "nextCursor": None,
    }  # fmt: skip
    assert body["data"][0] == {
        "id": ids[1],
        "activityId": "a1767268802.0",
        "priority": "normal",
        "expiresAt": None,
        "collapseKey": None,
        "recipientId": "u1",
        "type": "B",
        "organizerId": "o1",
        "merchantId": None,
        "subject": "s",
        "content": "Đã trả",
        "contentHtml": "<p>Đã trả</p>",
        "locale": "vi",
        "actionUrl": "/x",
        "data": {"n": 1},
        "isRead": False,
        "readAt": None,
        "isSeen": False,
        "archivedAt": None,
        "rev": 2,
        "createdAt": "2026-01-01T12:00:02.000Z",
    }


async def test_cursors_walk_through_everything_once(desk: Desk) -> None:
    ids = await desk.give(*[("u1", "A", None)] * 7)
    seen: list[str] = []
    cursor = ""
    for _ in range(4):
        body = (await desk.call("GET", f"{BASE}/notifications?limit=2&cursor={cursor}")).json
        seen += [row["id"] for row in body["data"]]
        assert body["total"] == 7
        cursor = body["nextCursor"]
    assert cursor is None
    assert seen == ids[::-1]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("type=A", [2, 0]),
        ("subject=s", [1]),
        ("isRead=false", [2, 1]),
        ("isRead=true", [0]),
        ("organizerId=o2", []),
        ("from=2026-01-01T12:00:02Z", [2, 1]),
        ("to=2026-01-01T12:00:02Z", [0]),
        ("limit=1", [2]),
        ('filter={"where":{"type":"A"},"limit":1,"skip":1,"order":["createdAt DESC"]}', [0]),
    ],
)
async def test_the_list_is_narrowed_by_its_parameters(desk: Desk, query: str, expected: list[int]) -> None:
    ids = await desk.give(("u1", "A", None), ("u1", "B", "s"), ("u1", "A", None))
    await desk.call("PATCH", f"{BASE}/notifications/{ids[0]}/mark-read")
    body = (await desk.call("GET", f"{BASE}/notifications?{query}")).json
    assert [ids.index(row["id"]) for row in body["data"]] == expected


async def test_a_wrong_parameter_is_a_400_that_names_it(desk: Desk) -> None:
    reply = await desk.call("GET", f"{BASE}/notifications?limit=1000")
    assert (reply.status, reply.code) == (400, "invalid_parameter")
    assert "limit" in reply.json["detail"]


async def test_the_count_has_what_matches_beside_the_totals(desk: Desk) -> None:
    ids = await desk.give(("u1", "A", None), ("u1", "B", None), ("u1", "A", None))
    await desk.call("PATCH", f"{BASE}/notifications/{ids[0]}/mark-read")
    reply = await desk.call("GET", f"{BASE}/notifications/count?isRead=false&type=A")
    assert reply.json == {
        "count": 1, "total": 3, "unread": 2, "unseen": 2, "rev": 4, "history": ANY,
    }  # fmt: skip


async def test_reading_one_is_idempotent_and_announced_once_with_its_client(desk: Desk) -> None:
    (id,) = await desk.give(("u1", "A", None))
    path = f"{BASE}/notifications/{id}/mark-read"
    first = await desk.call("PATCH", path, headers={"X-Client-Id": "c-1"})
    assert first.json["isRead"] is True
    assert first.json["readAt"] == "2026-01-01T12:00:01.000Z"
    desk.time += timedelta(seconds=5)
    assert (await desk.call("PATCH", path)).body == first.body
    assert (await desk.call("GET", f"{BASE}/notifications/{id}")).body == first.body
    (change,) = desk.announced
    assert getattr(change, "origin", None) == "c-1"


@pytest.mark.parametrize(
    ("sent", "updated"),
    [
        ({"data": None}, 3),
        ({"data": b"", "headers": {"Content-Type": "application/json"}}, 3),
        ({"data": b"", "headers": {"Content-Type": "text/plain"}}, 3),
        ({"data": b"{}"}, 3),
        ({"body": {}}, 3),
        ({"body": {"upToRev": 2}}, 2),
        ({"body": {"upToRev": 10**15}}, 3),
        ({"body": {"type": "A"}}, 2),
        ({"body": {"type": "A", "subject": "s"}}, 1),
        ({"body": {"upToRev": None, "type": None, "subject": None}}, 3),
    ],
)
async def test_reading_all_takes_a_body_or_none(desk: Desk, sent: dict[str, Any], updated: int) -> None:
    await desk.give(("u1", "A", None), ("u1", "A", "s"), ("u1", "B", None), ("u2", "A", None))
    reply = await desk.call("PATCH", f"{BASE}/notifications/mark-all-read", **sent)
    assert reply.json == {
        "updated": updated, "unread": 3 - updated, "unseen": 3 - updated, "total": 3, "rev": 4,
        "history": desk.announced[0].history, "readAt": "2026-01-01T12:00:04.000Z",
    }  # fmt: skip
    assert len(desk.announced) == 1


async def test_reading_all_up_to_a_change_that_is_lost_is_a_conflict(desk: Desk) -> None:
    first, last = await desk.give(("u1", "A", None), ("u1", "A", None))
    body = {"upToRev": 2, "history": first}
    reply = await desk.call("PATCH", f"{BASE}/notifications/mark-all-read", body=body)
    assert (reply.status, reply.json["code"]) == (409, "history_lost")
    assert desk.announced == []
    reply = await desk.call("PATCH", f"{BASE}/notifications/mark-all-read", body={**body, "history": last})
    assert (reply.status, reply.json["updated"]) == (200, 2)


@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        ({"data": b"{"}, 400, "invalid_json"),
        ({"data": b"\xff"}, 400, "invalid_json"),
        ({"data": b"[" * 100_000}, 400, "invalid_json"),
        ({"body": []}, 400, "invalid_json"),
        ({"body": {"upToRev": "1"}}, 400, "invalid_parameter"),
        ({"body": {"upToRev": -1}}, 400, "invalid_parameter"),
        ({"body": {"upToRev": 2**63}}, 400, "invalid_parameter"),
        ({"body": {"upToRev": True}}, 400, "invalid_parameter"),
        ({"body": {"upToRev": 1.5}}, 400, "invalid_parameter"),
        ({"body": {"type": 7}}, 400, "invalid_parameter"),
        ({"body": {"subject": "a\x00b"}}, 400, "invalid_parameter"),
        ({"data": b"{}", "headers": {"Content-Type": "text/xml"}}, 415, "unsupported_media_type"),
        ({"data": b"x" * 1_048_577}, 413, "too_large"),
    ],
)
async def test_a_wrong_body_is_refused(desk: Desk, sent: dict[str, Any], status: int, code: str) -> None:
    await desk.give(("u1", "A", None))
    reply = await desk.call("PATCH", f"{BASE}/notifications/mark-all-read", **sent)
    assert (reply.status, reply.code) == (status, code)
    assert desk.announced == []


async def test_a_deleted_notification_is_not_found(desk: Desk) -> None:
    (id,) = await desk.give(("u1", "A", None))
    reply = await desk.call("DELETE", f"{BASE}/notifications/{id}")
    assert (reply.status, reply.body) == (204, b"")
    for method, path in (("GET", ""), ("DELETE", ""), ("PATCH", "/mark-read")):
        assert (await desk.call(method, f"{BASE}/notifications/{id}{path}")).status == 404
    assert len(desk.announced) == 1


@pytest.mark.parametrize(("method", "path"), [("GET", ""), ("DELETE", ""), ("PATCH", "/mark-read")])
async def test_another_users_notification_is_answered_exactly_as_a_missing_one(
    issuer: Issuer, method: str, path: str
) -> None:
    desk = Desk(issuer, rate_factor=0.0)
    (id,) = await desk.give(("u1", "A", None))
    replies = [
        await desk.call(method, f"{BASE}/notifications/{some}{path}", "u2", headers={"X-Request-Id": "r"})
        for some in (id, str(int(id) + 1), "nonsense", "9" * 40, "%00", "-1")
    ]
    assert {reply.body for reply in replies} == {replies[0].body}
    assert {str(reply.headers) for reply in replies} == {str(replies[0].headers)}
    assert (replies[0].status, replies[0].code) == (404, "not_found")
    assert desk.announced == []
    assert (await desk.call("GET", f"{BASE}/notifications/{id}")).json["isRead"] is False


# --- activities ---


async def test_activities_are_accepted_once_they_are_durable(desk: Desk) -> None:
    desk.journal.durable = trio.Event()
    replies: list[Reply] = []

    async def publish() -> None:
        replies.append(
            await desk.call("POST", f"{BASE}/activities", body=ACTIVITY, permissions=["Activity.publish"])
        )

    async with trio.open_nursery() as nursery:
        nursery.start_soon(publish)
        await trio.testing.wait_all_tasks_blocked()
        assert replies == []
        desk.journal.durable.set()
    assert (replies[0].status, replies[0].json) == (202, {"accepted": [{"eventId": "e1"}]})
    ((event_id, stored),) = desk.journal.appended
    assert (event_id, json.loads(stored)) == ("e1", ACTIVITY)


async def test_an_unknown_event_type_is_accepted_and_named_and_refused_where_that_is_asked_for(
    issuer: Issuer,
) -> None:
    desk = Desk(issuer, event_types=frozenset({"PAYMENT_SUCCESS"}))
    body = [ACTIVITY, ACTIVITY | {"eventId": "e2", "eventType": "PAYMNT_SUCCESS"}]
    permissions = ["Activity.publish"]
    strict = await desk.call("POST", f"{BASE}/activities?strict=true", body=body, permissions=permissions)
    assert (strict.status, strict.code) == (422, "unknown_type")
    assert strict.json["detail"] == (
        "The event type PAYMNT_SUCCESS is not known here; the nearest that is known is PAYMENT_SUCCESS."
    )
    assert desk.journal.appended == []
    taken = await desk.call("POST", f"{BASE}/activities", body=body, permissions=permissions)
    assert taken.json == {"accepted": [{"eventId": "e1"}, {"eventId": "e2", "unknownType": True}]}
    known = await desk.call("POST", f"{BASE}/activities?strict=true", body=ACTIVITY, permissions=permissions)
    assert known.status == 202


async def test_one_event_id_of_two_sources_is_named_unknown_for_its_own_type_alone(issuer: Issuer) -> None:
    desk = Desk(issuer, event_types=frozenset({"PAYMENT_SUCCESS"}))
    known = ACTIVITY | {"eventId": "42", "eventSource": "/payments"}
    body = [ACTIVITY | {"eventId": "42", "eventSource": "/orders", "eventType": "NOPE"}, known]
    answer = await desk.call("POST", f"{BASE}/activities", body=body, permissions=["Activity.publish"])
    assert answer.json == {"accepted": [{"eventId": "42", "unknownType": True}, {"eventId": "42"}]}


async def test_a_list_of_activities_is_accepted_in_order(desk: Desk) -> None:
    messages = [{**ACTIVITY, "eventId": f"e{n}"} for n in range(3)]
    reply = await desk.call("POST", f"{BASE}/activities", body=messages, permissions=["Activity.publish"])
    assert [entry["eventId"] for entry in reply.json["accepted"]] == ["e0", "e1", "e2"]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "invalid_message"),
        (b"{", "invalid_message"),
        (b"7", "invalid_message"),
        (b"[7]", "invalid_message"),
        (b'{"eventType":"PAYMENT_SUCCESS"}', "invalid_message"),
        (b"[" + b",".join([json.dumps(ACTIVITY).encode()] * 1001) + b"]", "invalid_message"),
        (json.dumps({**ACTIVITY, "data": {"note": "x" * 40_000}}).encode(), "invalid_message"),
        (b"x" * 1_048_577, "too_large"),
    ],
)
async def test_malformed_activities_are_refused_whole(desk: Desk, data: bytes, code: str) -> None:
    reply = await desk.call("POST", f"{BASE}/activities", data=data, permissions=["Activity.publish"])
    assert (reply.status, reply.code) == (413 if code == "too_large" else 400, code)
    assert desk.journal.appended == []


async def test_a_correction_is_accepted_once_it_is_durable_with_the_digits_that_were_sent(desk: Desk) -> None:
    body = (
        '{"data": {"payment": {"amount": 1.10000000000000000001}}, "eventSource": "/p", "eventId": "other"}'
    )
    reply = await desk.call(
        "PUT", f"{BASE}/activities/orders/42%20b", data=body.encode(), permissions=["Activity.publish"]
    )
    assert (reply.status, reply.json) == (202, {"eventId": "orders/42 b"})
    ((event_id, stored),) = desk.journal.appended
    assert event_id == "orders/42 b" and b"1.10000000000000000001" in stored
    assert json.loads(stored) == {
        "action": "update",
        "eventId": "orders/42 b",
        "eventSource": "/p",
        "data": {"payment": {"amount": 1.1}},
    }


async def test_a_retraction_is_accepted_once_it_is_durable(desk: Desk) -> None:
    reply = await desk.call(
        "DELETE", f"{BASE}/activities/e1?eventSource=/p%3Fa", permissions=["Activity.publish"]
    )
    assert (reply.status, reply.json) == (202, {"eventId": "e1"})
    ((event_id, stored),) = desk.journal.appended
    assert event_id == "e1"
    assert json.loads(stored) == {"action": "retract", "eventId": "e1", "eventSource": "/p?a"}


async def test_corrections_may_be_posted_among_activities(desk: Desk) -> None:
    messages = [
        ACTIVITY,
        {"action": "update", "eventId": "e1", "data": {}},
        {"action": "retract", "eventId": "e1"},
    ]
    reply = await desk.call("POST", f"{BASE}/activities", body=messages, permissions=["Activity.publish"])
    assert reply.json == {"accepted": [{"eventId": "e1"}] * 3}
    assert [json.loads(stored) for _, stored in desk.journal.appended] == messages


@pytest.mark.parametrize(
    ("data", "detail"),
    [
        (b"", "The body is not a JSON object."),
        (b"[]", "The body is not a JSON object."),
        (b"{}", "data is missing."),
        (b'{"data": null}', "data is missing."),
        (b'{"data": []}', "data: expected `object | null`, got `array`."),
        (b'{"data": {}, "occurredAt": "soon"}', "occurredAt must be an ISO 8601 date and time"),
        (b'{"data": {}} {"data": {}}', "The body is not a JSON object."),
        (b'{"data": {"note": "' + b"x" * 40_000 + b'"}}', "data has 40011 bytes as JSON"),
        (
            b'{"data": {}, "specversion": "1.0", "id": "other", "source": "/p", "type": "T"}',
            "specversion: send a CloudEvent to POST /activities.",
        ),
    ],
)
async def test_a_malformed_correction_is_refused_with_a_sentence(
    desk: Desk, data: bytes, detail: str
) -> None:
    reply = await desk.call("PUT", f"{BASE}/activities/e1", data=data, permissions=["Activity.publish"])
    assert reply.status == 400 and reply.json["detail"].startswith(detail)
    assert desk.journal.appended == []


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
async def test_correcting_needs_the_permission_to_publish(desk: Desk, method: str) -> None:
    reply = await desk.call(method, f"{BASE}/activities/e1", data=b'{"data": {}}')
    assert (reply.status, reply.code) == (403, "forbidden") and desk.journal.appended == []


async def test_an_update_has_no_preview(desk: Desk) -> None:
    body = {"action": "update", "eventId": "e1", "data": {}}
    reply = await desk.call("POST", f"{BASE}/activities/preview", body=body, permissions=["Activity.preview"])
    assert (reply.status, reply.code) == (422, "invalid_message")
    assert reply.json["detail"].startswith("action: update has no preview")


async def test_publishing_needs_its_permission(desk: Desk) -> None:
    reply = await desk.call("POST", f"{BASE}/activities", body=ACTIVITY)
    assert (reply.status, reply.code) == (403, "forbidden")
    await desk.database.directory.load(Roster((), (), [Grant("op", None, "Activity.publish")]))
    assert (await desk.call("POST", f"{BASE}/activities", "op", body=ACTIVITY)).status == 202
    assert len(desk.journal.appended) == 1


# --- authentication ---

PRIVATE = [
    ("GET", "/notifications"),
    ("GET", "/notifications/count"),
    ("GET", "/notifications/1"),
    ("PATCH", "/notifications"),
    *(("PATCH", f"/notifications/1/{step}") for step in ("mark-read", "mark-unread", "archive", "unarchive")),
    *(("PATCH", f"/notifications/mark-all-{state}") for state in ("read", "unread", "seen")),
    *(("PATCH", f"/notifications/{step}-all") for step in ("archive", "unarchive")),
    ("DELETE", "/notifications/1"),
    ("POST", "/activities"),
    ("PUT", "/activities/1"),
    ("DELETE", "/activities/1"),
    ("POST", "/activities/preview"),
    ("GET", "/activities/1/explain"),
    ("GET", "/activities/explain"),
    ("POST", "/tickets"),
    ("GET", "/dead-letters"),
    ("GET", "/dead-letters/1"),
    ("POST", "/dead-letters/1/replay"),
    ("DELETE", "/dead-letters/1"),
    *((method, "/members") for method in ("GET", "POST", "PUT", "DELETE")),
    *((method, "/grants") for method in ("GET", "POST", "DELETE")),
    ("GET", "/socket/websocket/clients"),
    ("GET", "/socket/websocket/clients/1"),
    ("POST", "/socket/websocket/clients/broadcast"),
    ("POST", "/socket/websocket/clients/rooms/1/send"),
    ("POST", "/socket/websocket/clients/1/send"),
    ("POST", "/socket/websocket/clients/1/disconnect"),
    ("GET", "/notifications/changes"),
]
PARAMETER = re.compile(r"<[^>]+>")


@pytest.mark.parametrize(("method", "path"), PRIVATE)
async def test_every_private_call_needs_a_token(desk: Desk, method: str, path: str) -> None:
    reply = await desk.call(method, BASE + path, None)
    assert (reply.status, reply.code) == (401, "unauthorized")
    assert reply.headers["WWW-Authenticate"] == 'Bearer realm="signal"'


def test_no_private_route_is_missing_above(desk: Desk) -> None:
    routes = {
        (method, PARAMETER.sub("1", rule.rule.removeprefix(BASE)))
        for rule in desk.app.url_map.iter_rules()
        if rule.rule.startswith(BASE)
        and not rule.rule.endswith("/status")
        and not rule.rule.startswith(f"{BASE}/doc")
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    assert routes == set(PRIVATE)


@pytest.mark.parametrize(
    "header", ["Bearer", "Bearer ", "Basic dTpw", "é", "Bearer é", "Bearer a b", "bearer a.b.c"]
)
async def test_a_header_that_holds_no_token_is_refused(desk: Desk, header: str) -> None:
    reply = await desk.call("GET", f"{BASE}/notifications", None, headers={"Authorization": header})
    assert (reply.status, reply.code) == (401, "unauthorized")


async def test_an_expired_token_is_refused_without_being_shown(desk: Desk) -> None:
    token = desk.token(ttl_s=1)
    desk.time += timedelta(seconds=1)
    reply = await desk.call(
        "GET", f"{BASE}/notifications", None, headers={"Authorization": f"Bearer {token}"}
    )
    assert reply.status == 401
    assert 'error="invalid_token"' in reply.headers["WWW-Authenticate"]
    assert token.encode() not in reply.body


# --- when parts are unavailable ---


async def test_an_unavailable_store_is_503_with_retry_after(desk: Desk) -> None:
    desk.database.driver.unavailable = True
    reply = await desk.call("GET", f"{BASE}/notifications")
    assert (reply.status, reply.code) == (503, "unavailable")
    assert int(reply.headers["Retry-After"]) > 0


async def test_an_unavailable_issuer_is_503(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away() -> Mapping[str, object]:
        raise IssuerUnavailable("away")

    monkeypatch.setattr(desk.issuer, "jwks", away)
    reply = await desk.call("GET", f"{BASE}/notifications")
    assert (reply.status, reply.code) == (503, "unavailable")


async def test_a_call_to_a_store_that_hangs_times_out(desk: Desk, autojump_clock: MockClock) -> None:
    desk.database.driver.delay = trio.sleep_forever
    reply = await desk.call("GET", f"{BASE}/notifications")
    assert (reply.status, reply.code) == (503, "timeout")
    assert trio.current_time() >= rest_app.HANDLING_TIMEOUT_S


async def test_a_bug_is_500_without_details(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    async def bug(*args: Any) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr(desk.database.inbox, "page", bug)
    reply = await desk.call("GET", f"{BASE}/notifications")
    assert (reply.status, reply.code) == (500, "internal_error")
    assert b"secret" not in reply.body


# --- what holds for every request ---


@pytest.mark.parametrize(
    "path", ["/nowhere", BASE, f"{BASE}/nothing", f"/{BASE}//notifications", "/%00", "/%ff"]
)
async def test_an_unknown_address_is_a_problem(desk: Desk, path: str) -> None:
    reply = await desk.call("GET", path, None)
    assert (reply.status, reply.code) == (404, "not_found")


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("POST", "/notifications", "GET, HEAD, OPTIONS, PATCH"),
        ("PUT", "/notifications/1", "DELETE, GET, HEAD, OPTIONS"),
        ("GET", "/activities", "OPTIONS, POST"),
        ("BREW", "/notifications", "GET, HEAD, OPTIONS, PATCH"),
    ],
)
async def test_a_wrong_method_is_answered_with_the_allowed_ones(
    desk: Desk, method: str, path: str, allow: str
) -> None:
    reply = await desk.call(method, BASE + path)
    assert (reply.status, reply.code, reply.headers["Allow"]) == (405, "method_not_allowed", allow)


async def test_head_is_get_without_its_body(desk: Desk) -> None:
    whole = await desk.call("GET", f"{BASE}/notifications")
    head = await desk.call("HEAD", f"{BASE}/notifications")
    assert head.status == 200
    assert head.headers["Content-Length"] == whole.headers["Content-Length"]


async def test_options_lists_the_methods_without_a_token(desk: Desk) -> None:
    reply = await desk.call("OPTIONS", f"{BASE}/notifications", None)
    assert reply.status == 200
    assert set(reply.headers["Allow"].split(", ")) == {"GET", "HEAD", "OPTIONS", "PATCH"}


@pytest.mark.parametrize("path", ["/healthz", "/nowhere", f"{BASE}/notifications"])
async def test_every_answer_has_its_request_id_and_the_security_headers(desk: Desk, path: str) -> None:
    reply = await desk.call("GET", path, None, headers={"X-Request-Id": "mine-1"})
    assert reply.headers["X-Request-Id"] == "mine-1"
    assert reply.headers["X-Content-Type-Options"] == "nosniff"
    assert reply.headers["Cache-Control"] == "no-store"
    assert reply.headers["Content-Security-Policy"] == "default-src 'none'; frame-ancestors 'none'"


async def test_the_logs_name_a_request_by_its_id(desk: Desk) -> None:
    with structlog.testing.capture_logs(processors=[structlog.contextvars.merge_contextvars]) as logs:
        await desk.call("GET", "/healthz", None, headers={"X-Request-Id": "mine-1"})
        await desk.call("GET", "/healthz", None, headers={"X-Request-Id": "mine-2"})
    ids = [line["request_id"] for line in logs if line["event"] == "http_request"]
    assert ids == ["mine-1", "mine-2"]


@pytest.mark.parametrize("given", ["", "x" * 129, "a b", "é", '"}'])
async def test_a_request_without_a_valid_id_is_given_one(desk: Desk, given: str) -> None:
    reply = await desk.call("GET", "/healthz", None, headers={"X-Request-Id": given})
    assert reply.headers["X-Request-Id"] not in ("", given)


# --- browsers of other origins ---

PREFLIGHT = {"Origin": "https://shop.example", "Access-Control-Request-Method": "PATCH"}


async def test_no_origin_is_allowed_unless_it_is_set(desk: Desk) -> None:
    reply = await desk.call("OPTIONS", f"{BASE}/notifications/1/mark-read", None, headers=PREFLIGHT)
    assert "Access-Control-Allow-Origin" not in reply.headers


async def test_a_set_origin_may_call_with_a_token(issuer: Issuer) -> None:
    desk = Desk(issuer, cors_origins=("https://shop.example",))
    reply = await desk.call("OPTIONS", f"{BASE}/notifications/1/mark-read", None, headers=PREFLIGHT)
    assert reply.status == 200
    assert reply.headers["Access-Control-Allow-Origin"] == "https://shop.example"
    assert "PATCH" in reply.headers["Access-Control-Allow-Methods"]
    assert {"Authorization", "If-None-Match"} <= set(
        reply.headers["Access-Control-Allow-Headers"].split(", ")
    )
    assert {"ETag", "Retry-After", "RateLimit"} <= set(
        reply.headers["Access-Control-Expose-Headers"].split(", ")
    )
    error = await desk.call("GET", f"{BASE}/notifications", None, headers={"Origin": "https://shop.example"})
    assert error.headers["Access-Control-Allow-Origin"] == "https://shop.example"
    assert error.headers["Vary"] == "Origin"
    other = await desk.call("GET", f"{BASE}/notifications", None, headers={"Origin": "https://evil.example"})
    assert "Access-Control-Allow-Origin" not in other.headers


async def test_any_origin_may_be_allowed(issuer: Issuer) -> None:
    desk = Desk(issuer, cors_origins=("*",))
    reply = await desk.call("GET", "/healthz", None, headers={"Origin": "null"})
    assert reply.headers["Access-Control-Allow-Origin"] == "*"


async def test_an_origin_that_is_not_allowed_is_logged_once(desk: Desk) -> None:
    with structlog.testing.capture_logs() as logs:
        for origin in ("https://shop.example", "https://shop.example", "http://localhost"):
            await desk.call("GET", "/healthz", None, headers={"Origin": origin})  # itself is http://localhost
    (refused,) = [line for line in logs if line["event"] == "cors_refused"]
    assert refused["origin"] == "https://shop.example"
    assert "APP_ENV_CORS_ORIGINS" in refused["advice"]


# --- operations ---


async def test_readiness_shows_strangers_no_host_and_the_whole_reason_with_its_permission(desk: Desk) -> None:
    why = "postgresql://db.internal:5432 refused the connection of signal."
    desk.health.fail("store", why)
    desk.health.report("relay", "10.0.0.7 is away.")
    for headers in ({}, {"Authorization": "Basic eDp5"}, {"Authorization": "Bearer x.y.z"}):
        reply = await desk.call("GET", "/readyz", None, headers=headers)
        assert reply.status == 503
        assert reply.json["down"] == {"store": "unavailable"}
        assert reply.json["degraded"] == {"relay": "degraded"}
    assert (await desk.call("GET", "/readyz", "u1")).json["down"] == {"store": "unavailable"}
    reply = await desk.call("GET", "/readyz", "op", permissions=["Health.find"])
    assert (reply.status, reply.json["down"]) == (503, {"store": why})
    assert reply.json["degraded"] == {"relay": "10.0.0.7 is away."}
    desk.health.fail("store", "draining")
    assert (await desk.call("GET", "/readyz", None)).json["down"] == {"store": "draining"}


async def test_readiness_shows_the_whole_reason_on_the_port_of_operations(desk: Desk) -> None:
    desk.health.fail("store", "db.internal is away.")
    client: Any = desk.app.test_client()
    answer = await client.get("/readyz", scope_base={"operations": True})
    assert (await answer.get_json())["down"] == {"store": "db.internal is away."}


async def test_no_public_answer_names_a_host_or_a_version_of_another_program(desk: Desk) -> None:
    desk.health.fail("store", "The PostgreSQL 16.2 at db.internal:5432 is away.")
    desk.health.report("kafka", "kafka-1.internal:9092 lost 3 records.")
    for path in (
        "/",
        "/healthz",
        "/readyz",
        "/metrics",
        f"{BASE}/socket/websocket/clients/status",
        "/nothing",
    ):
        reply = await desk.call("GET", path, None)
        shown = f"{reply.body!r} {dict(reply.headers)}".lower()
        for word in ("internal", "5432", "16.2", "quart", "werkzeug", "hypercorn", "h11", "python"):
            assert word not in shown, (path, word)


async def test_the_root_leads_to_the_documentation(desk: Desk) -> None:
    reply = await desk.call("GET", "/", None)
    assert reply.status == 200
    for part in ("doc", "openapi", "asyncapi"):
        assert (await desk.call("GET", f"/{reply.json[part]}", None)).status == 200
    assert '<doc>; rel="service-doc"' in reply.headers["Link"]


async def test_health_and_readiness_are_public(desk: Desk) -> None:
    assert (await desk.call("GET", "/healthz", None)).status == 200
    desk.health.fail("store", "The database is unavailable.")
    reply = await desk.call("GET", "/readyz", None)
    assert (reply.status, reply.json["down"]) == (503, {"store": "unavailable"})
    desk.health.up("store")
    reply = await desk.call("GET", "/readyz", None)
    assert (reply.status, reply.json["down"]) == (200, {})


async def test_metrics_are_prometheus_text(desk: Desk) -> None:
    reply = await desk.call("GET", "/metrics", None)
    assert reply.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert b'signal_part_up{part="store"} 0.0' in reply.body


async def test_the_embedded_issuers_keys_are_public(issuer: Issuer) -> None:
    desk = Desk(issuer, jwks=issuer.public_jwks)
    assert (await desk.call("GET", JWKS, None)).json == issuer.public_jwks


async def test_the_streams_keys_are_published_beside_the_issuers_and_alone(issuer: Issuer) -> None:
    keys = keys_of_secret(secret)
    published = await keys.jwks()
    both = await Desk(issuer, jwks=issuer.public_jwks, stream_jwks=keys.jwks).call("GET", JWKS, None)
    assert both.json == {"keys": [*issuer.public_jwks["keys"], *published]}  # type: ignore[misc]
    assert (await Desk(issuer, stream_jwks=keys.jwks).call("GET", JWKS, None)).json == {"keys": published}


async def test_while_the_streams_keys_are_not_known_the_key_set_is_unavailable(issuer: Issuer) -> None:
    """Not without them: a client would take that for a server of an earlier release."""

    async def away() -> bytes:
        raise StoreUnavailable("The database is away.")

    desk = Desk(issuer, jwks=issuer.public_jwks, stream_jwks=keys_of_secret(away).jwks)
    assert (await desk.call("GET", JWKS, None)).status == 503


async def secret() -> bytes:
    return b"of the store"


async def test_with_an_external_issuer_no_keys_are_published(desk: Desk) -> None:
    assert (await desk.call("GET", JWKS, None)).status == 404


async def test_the_status_of_the_stream_is_public(desk: Desk) -> None:
    reply = await desk.call("GET", f"{BASE}/socket/websocket/clients/status", None)
    assert reply.json == {"status": "ok", "clients": 0}


async def test_a_plain_get_of_the_stream_is_426(desk: Desk) -> None:
    reply = await desk.call("GET", "/stream", None)
    assert (reply.status, reply.code, reply.headers["Upgrade"]) == (426, "upgrade_required", "websocket")


# --- clients ---

CLIENTS = f"{BASE}/socket/websocket/clients"


async def test_the_clients_of_all_instances_are_listed_and_unanswered_instances_are_named(desk: Desk) -> None:
    path = f"{CLIENTS}?userId=u1&room=signal%2Fmerchant%2Fm1&limit=5&cursor=c0"
    reply = await desk.call("GET", path, permissions=["WebSocketClient.find"])
    assert reply.json == {"data": [{"id": "c1"}], "total": 7, "nextCursor": "c1", "unanswered": ["far"]}
    assert desk.operator.calls == [("clients", "u1", "signal/merchant/m1", 5, "c0")]


async def test_one_client_is_found_or_missing_or_perhaps_on_an_unanswered_instance(desk: Desk) -> None:
    permissions = ["WebSocketClient.findById"]
    assert (await desk.call("GET", f"{CLIENTS}/c1", permissions=permissions)).json == {"id": "c1"}
    assert (await desk.call("GET", f"{CLIENTS}/c2", permissions=permissions)).status == 503
    assert (await desk.call("GET", f"{CLIENTS}/c3", permissions=permissions)).status == 404


@pytest.mark.parametrize(
    ("path", "permission", "call"),
    [
        ("broadcast", "broadcast", ("broadcast", "t", b'{"n":1}')),
        ("rooms/signal%2Fmerchant%2Fm1/send", "sendToRoom", ("room", "signal/merchant/m1", "t", b'{"n":1}')),
        ("c1/send", "sendToClient", ("client", "c1", "t", b'{"n":1}')),
        ("c1/disconnect", "disconnect", ("disconnect", "c1")),
    ],
)
async def test_each_control_has_its_own_permission(
    desk: Desk, path: str, permission: str, call: tuple[Any, ...]
) -> None:
    body = {"topic": "t", "data": {"n": 1}}
    others = {"broadcast", "sendToRoom", "sendToClient", "disconnect", "find", "findById"} - {permission}
    refused = await desk.call(
        "POST", f"{CLIENTS}/{path}", body=body, permissions=[f"WebSocketClient.{code}" for code in others]
    )
    assert refused.status == 403 and desk.operator.calls == []
    done = await desk.call(
        "POST", f"{CLIENTS}/{path}", body=body, permissions=[f"WebSocketClient.{permission}"]
    )
    assert done.status == 202 and desk.operator.calls == [call]
    assert done.json == {"accepted": True, "unreached": []}
    desk.operator.unreached = ("far", "*")
    partly = await desk.call(
        "POST", f"{CLIENTS}/{path}", body=body, permissions=[f"WebSocketClient.{permission}"]
    )
    assert (partly.status, partly.json) == (202, {"accepted": True, "unreached": ["far", "*"]})
    desk.operator.relay_is_away = True
    nowhere = await desk.call(
        "POST", f"{CLIENTS}/{path}", body=body, permissions=[f"WebSocketClient.{permission}"]
    )
    assert (nowhere.status, nowhere.json["code"]) == (503, "unavailable")


@pytest.mark.parametrize(
    "body",
    [{}, {"topic": ""}, {"topic": 5}, {"topic": "x" * 257}, {"topic": "disconnect"}, {"topic": "a\u0000"}],
)
async def test_a_send_without_a_valid_topic_is_refused(desk: Desk, body: Any) -> None:
    reply = await desk.call(
        "POST", f"{CLIENTS}/broadcast", body=body, permissions=["WebSocketClient.broadcast"]
    )
    assert reply.status == 400 and desk.operator.calls == []


@pytest.mark.parametrize(
    "topic",
    [
        "observation/signal/notification/created",
        "observation/signal/notification/state",
        "observation/signal/activity/created",
        "observation/signal/anything",
        *("connected", "encrypted", "expiring", "goaway"),
    ],
)
@pytest.mark.parametrize(
    ("path", "permission"),
    [
        ("broadcast", "broadcast"),
        ("rooms/signal%2Fnotification%2Fu1/send", "sendToRoom"),
        ("c1/send", "sendToClient"),
    ],
)
async def test_an_operator_cannot_send_what_a_client_takes_for_signal_s_own(
    desk: Desk, topic: str, path: str, permission: str
) -> None:
    body = {"topic": topic, "data": {"rev": 1}}
    reply = await desk.call(
        "POST", f"{CLIENTS}/{path}", body=body, permissions=[f"WebSocketClient.{permission}"]
    )
    assert (reply.status, reply.json["code"]) == (400, "bad_request")
    assert "send under another one" in reply.json["detail"]
    assert desk.operator.calls == []


async def test_a_send_of_too_much_data_is_refused(desk: Desk) -> None:
    body = {"topic": "t", "data": "x" * 65_536}
    reply = await desk.call(
        "POST", f"{CLIENTS}/broadcast", body=body, permissions=["WebSocketClient.broadcast"]
    )
    assert reply.status == 413 and desk.operator.calls == []


# --- conditional requests ---


@pytest.mark.parametrize("path", ["/notifications", "/notifications/count"])
async def test_an_unchanged_inbox_is_not_sent_again(desk: Desk, path: str) -> None:
    await desk.give(("u1", "A", None))
    first = await desk.call("GET", BASE + path)
    assert first.headers["Cache-Control"] == "private, no-cache"
    assert "Authorization" in first.headers["Vary"]
    again = await desk.call("GET", BASE + path, headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status, again.body) == (304, b"")
    assert again.headers["ETag"] == first.headers["ETag"]
    assert again.headers["Cache-Control"] == "private, no-cache"


async def test_any_change_of_the_inbox_changes_the_tag(desk: Desk) -> None:
    (id,) = await desk.give(("u1", "A", None))
    tags: list[str] = []
    for method, path in [("GET", ""), ("PATCH", f"/{id}/mark-read"), ("DELETE", f"/{id}")]:
        await desk.call(method, f"{BASE}/notifications{path}")
        reply = await desk.call("GET", f"{BASE}/notifications", headers={"If-None-Match": ", ".join(tags)})
        assert reply.status == 200
        tags.append(reply.headers["ETag"])
    await desk.give(("u2", "A", None))
    reply = await desk.call("GET", f"{BASE}/notifications", headers={"If-None-Match": tags[-1]})
    assert reply.status == 304


async def test_a_tag_is_specific_to_its_user_and_query(desk: Desk) -> None:
    await desk.give(("u1", "A", None), ("u2", "A", None))
    tag = (await desk.call("GET", f"{BASE}/notifications")).headers["ETag"]
    known = {"If-None-Match": tag}
    assert (await desk.call("GET", f"{BASE}/notifications", "u2", headers=known)).status == 200
    assert (await desk.call("GET", f"{BASE}/notifications?type=B", headers=known)).status == 200
    assert (await desk.call("GET", f"{BASE}/notifications/count", headers=known)).status == 200
    assert (await desk.call("GET", f"{BASE}/notifications?limit=x", headers=known)).status == 400
    assert (await desk.call("GET", f"{BASE}/notifications", None, headers=known)).status == 401


async def test_a_304_costs_one_read_of_the_head(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    await desk.give(("u1", "A", None))
    tag = (await desk.call("GET", f"{BASE}/notifications")).headers["ETag"]

    async def never(*args: Any) -> None:
        raise AssertionError("The rows were read.")

    monkeypatch.setattr(desk.database.inbox, "page", never)
    assert (await desk.call("GET", f"{BASE}/notifications", headers={"If-None-Match": tag})).status == 304


async def test_a_page_has_the_tag_of_its_own_revision(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """The inbox changes between the read of its head and the read of the page, and after that read."""
    await desk.give(("u1", "A", None))
    page = desk.database.inbox.page

    async def late(*args: Any) -> Any:
        await desk.give(("u1", "B", None))
        found = await page(*args)
        await desk.give(("u1", "C", None))
        return found

    monkeypatch.setattr(desk.database.inbox, "page", late)
    reply = await desk.call("GET", f"{BASE}/notifications", headers={"If-None-Match": '"1-0"'})
    monkeypatch.setattr(desk.database.inbox, "page", page)
    assert (reply.json["rev"], len(reply.json["data"])) == (2, 2)
    again = await desk.call("GET", f"{BASE}/notifications", headers={"If-None-Match": reply.headers["ETag"]})
    assert (again.status, len(again.json["data"])) == (200, 3)


@pytest.mark.parametrize("given", ["", "x", '"', "W/", '"a", , "b"', "é", '"' + "x" * 9000 + '"'])
async def test_a_malformed_if_none_match_matches_nothing(desk: Desk, given: str) -> None:
    reply = await desk.call("GET", f"{BASE}/notifications", headers={"If-None-Match": given})
    assert reply.status == 200


# --- rate limits ---


async def test_a_user_above_the_rate_limit_gets_429_with_retry_after(
    issuer: Issuer, autojump_clock: MockClock
) -> None:
    desk = Desk(issuer, rate_factor=0.003)  # 3 at once, then one in 3.33 s
    left = []
    for _ in range(3):
        reply = await desk.call("GET", f"{BASE}/notifications/count")
        assert reply.headers["RateLimit-Policy"] == '"user";q=3;w=10'
        left.append(reply.headers["RateLimit"])
        assert reply.status == 200
    assert left == ['"user";r=2;t=4', '"user";r=1;t=7', '"user";r=0;t=10']
    refused = await desk.call("GET", f"{BASE}/notifications/count")
    assert (refused.status, refused.code) == (429, "too_many_requests")
    assert 1 <= int(refused.headers["Retry-After"]) <= 4
    assert refused.headers["RateLimit"].startswith('"user";r=0;t=')
    assert (await desk.call("GET", f"{BASE}/notifications/count", "u2")).status == 200
    assert (await desk.call("GET", "/healthz", None)).status == 200


async def test_the_rate_limit_is_refilled_with_time(issuer: Issuer, autojump_clock: MockClock) -> None:
    desk = Desk(issuer, rate_factor=0.001)
    assert (await desk.call("GET", f"{BASE}/notifications")).status == 200
    refused = await desk.call("GET", f"{BASE}/notifications")
    assert (refused.status, refused.headers["Retry-After"]) == (429, "10")
    await trio.sleep(10)
    assert (await desk.call("GET", f"{BASE}/notifications")).status == 200


async def test_the_limits_can_be_lifted(issuer: Issuer) -> None:
    desk = Desk(issuer, rate_factor=0.0)
    replies = [await desk.call("GET", f"{BASE}/notifications/count") for _ in range(20)]
    assert {reply.status for reply in replies} == {200}
    assert not [name for name in replies[0].headers if str(name).startswith("RateLimit")]


@pytest.mark.parametrize(("path", "user"), [("/notifications", "u1"), ("/nothing", None)])
async def test_a_query_has_bounds(desk: Desk, path: str, user: str | None) -> None:
    fits = await desk.call("GET", f"{BASE}{path}?x={'y' * 16_382}", user)
    assert fits.status in (200, 404)
    reply = await desk.call("GET", f"{BASE}{path}?x={'y' * 16_383}", user)
    assert (reply.status, reply.code) == (414, "query_too_long")


# --- in another language ---


async def paid(desk: Desk, **changes: Any) -> str:
    """A stored payment of u1, in English."""
    values: dict[str, Any] = {
        "recipient_id": "u1",
        "activity_id": f"paid-{changes}",
        "type": "PAYMENT_SUCCESS",
        "organizer_id": "o1",
        "merchant_id": None,
        "subject": None,
        "locale": "en",
        "content": "stored",
        "content_html": "<p>stored</p>",
        "action_url": None,
        "data": {"payment": {"amount": 1250000, "currency": "VND", "subject": "Đơn <42>"}},
        "rendered_from": '{"occurredAt": "2025-12-31T23:59:00Z", "timeZone": "Asia/Ho_Chi_Minh"}',
    }
    (created,) = await desk.database.inbox.insert([Draft(**(values | changes))])
    assert isinstance(created, Created)
    return str(created.notification.id)


async def test_a_list_can_be_rendered_in_another_language(desk: Desk) -> None:
    id = await paid(desk)
    (stored,) = (await desk.call("GET", f"{BASE}/notifications")).json["data"]
    (rendered,) = (await desk.call("GET", f"{BASE}/notifications?locale=vi-VN")).json["data"]
    assert (stored["locale"], stored["content"]) == ("en", "stored")
    assert rendered["locale"] == "vi"
    assert "1.250.000" in rendered["content"] and "Đơn <42>" in rendered["content"]
    assert "06:59 UTC+7 1 thg 1, 2026" in rendered["content"], "not createdAt"
    assert "Đơn &lt;42&gt;" in rendered["contentHtml"]
    changed = ("locale", "content", "contentHtml")
    assert {k: v for k, v in rendered.items() if k not in changed} == {
        k: v for k, v in stored.items() if k not in changed
    }
    assert (await desk.call("GET", f"{BASE}/notifications/{id}?locale=vi")).json == rendered
    assert (await desk.call("GET", f"{BASE}/notifications/{id}")).json == stored


@pytest.mark.parametrize("locale", ["en", "en_US", "fr"])
async def test_what_is_in_the_language_already_stays_as_it_is_stored(desk: Desk, locale: str) -> None:
    await paid(desk)
    (row,) = (await desk.call("GET", f"{BASE}/notifications?locale={locale}")).json["data"]
    assert (row["locale"], row["content"]) == ("en", "stored")


@pytest.mark.parametrize(
    "changes",
    [{"type": "RETIRED"}, {"data": {}}, {"data": {"payment": {"amount": "much"}}}, {"data": {"payment": 7}}],
)
async def test_what_cannot_be_rendered_again_stays_as_it_is_stored(
    desk: Desk, changes: dict[str, Any]
) -> None:
    await paid(desk, **changes)
    (row,) = (await desk.call("GET", f"{BASE}/notifications?locale=vi")).json["data"]
    assert (row["locale"], row["content"], row["contentHtml"]) == ("en", "stored", "<p>stored</p>")


@pytest.mark.parametrize("locale", ["-", "v i", "vi" * 20, "%00"])
async def test_an_invalid_locale_is_refused(desk: Desk, locale: str) -> None:
    reply = await desk.call("GET", f"{BASE}/notifications?locale={locale}")
    assert (reply.status, reply.code) == (400, "invalid_parameter")
    assert "locale" in reply.json["detail"]


# --- other users ---


async def test_no_route_shows_or_touches_what_is_another_users(desk: Desk) -> None:
    """Each documented route that any user may call, with another's ids wherever it takes one."""
    theirs = await desk.give(("victim", "SECRET_TYPE", "secret-subject"))
    mine = await desk.give(("u1", "A", None))
    before = (await desk.call("GET", f"{BASE}/notifications", "victim")).json
    requests = 0
    for path, method, _, each in declared(desk.app):
        if each.public or each.permission:
            continue
        for id in theirs:
            address = re.sub(r"\{\w+\}", id, path)
            for query in (
                "",
                '?filter={"where":{"type":"SECRET_TYPE"}}',
                f'?filter={{"where":{{"id":"{id}"}}}}',
            ):
                reply = await desk.call(method, address + query, "u1", body=each.example.body)
                requests += 1
                assert reply.status == (404 if "{" in path else next(iter(each.answers))), (method, path)
                for secret in ("victim", "SECRET_TYPE", "secret-subject", *theirs):
                    assert secret.encode() not in reply.body, (method, path)
    assert requests > 20
    assert (await desk.call("GET", f"{BASE}/notifications", "victim")).json == before
    assert (await desk.call("GET", f"{BASE}/notifications", "u1")).json["data"][0]["id"] == mine[0]
    reply = await desk.call("GET", f'{BASE}/notifications?filter={{"where":{{"recipientId":"victim"}}}}')
    assert reply.status == 400


async def test_operators_routes_are_forbidden_to_other_users(desk: Desk) -> None:
    for path, method, _, each in declared(desk.app):
        if each.permission:
            address = re.sub(r"\{\w+\}", "1", path)
            reply = await desk.call(method, address, body=each.example.body)
            assert (reply.status, reply.code) == (403, "forbidden"), (method, path)


# --- tickets ---


async def test_a_ticket_has_the_rights_and_the_end_of_the_token_that_asks_for_it(desk: Desk) -> None:
    reply = await desk.call(
        "POST", f"{BASE}/tickets", body={"purpose": "events"}, permissions=["Activity.publish"]
    )
    assert reply.status == 201
    assert reply.json["purpose"] == "events"
    assert datetime.fromisoformat(reply.json["expiresAt"]) == desk.time + timedelta(seconds=30)
    principal = await Tickets(desk.database.tickets).use(reply.json["ticket"], "events")
    assert principal.user_id == "u1" and principal.permissions == {"Activity.publish"}
    assert principal.expires_at == desk.time + timedelta(hours=1)


async def test_the_answer_with_a_ticket_is_not_stored_and_sends_no_referrer(desk: Desk) -> None:
    reply = await desk.call("POST", f"{BASE}/tickets", body={"purpose": "stream"})
    assert reply.headers["Cache-Control"] == "no-store"
    assert reply.headers["Referrer-Policy"] == "no-referrer"


async def test_a_ticket_expires_with_its_token(desk: Desk) -> None:
    headers = {"Authorization": f"Bearer {desk.token(ttl_s=10)}"}
    reply = await desk.call("POST", f"{BASE}/tickets", body={"purpose": "stream"}, headers=headers)
    assert datetime.fromisoformat(reply.json["expiresAt"]) == desk.time + timedelta(seconds=10)


@pytest.mark.parametrize("body", [{}, {"purpose": "admin"}, {"purpose": None}, {"purpose": "stream", "x": 1}])
async def test_a_ticket_is_for_one_known_purpose(desk: Desk, body: Any) -> None:
    reply = await desk.call("POST", f"{BASE}/tickets", body=body)
    assert (reply.status, reply.code) == (400, "invalid_parameter")


async def test_a_ticket_is_no_token_of_rest(desk: Desk) -> None:
    ticket = (await desk.call("POST", f"{BASE}/tickets", body={"purpose": "events"})).json["ticket"]
    for headers in ({"Authorization": f"Bearer {ticket}"}, {"Authorization": f"Ticket {ticket}"}):
        reply = await desk.call("GET", f"{BASE}/notifications", headers=headers)
        assert (reply.status, reply.code) == (401, "unauthorized")
        assert ticket not in reply.body.decode()
    reply = await desk.call("GET", f"{BASE}/notifications?ticket={ticket}", None)
    assert reply.status == 401


async def test_tickets_count_for_their_user_s_rate(issuer: Issuer) -> None:
    desk = Desk(issuer, rate_factor=0.002)
    answers = [await desk.call("POST", f"{BASE}/tickets", body={"purpose": "stream"}) for _ in range(3)]
    assert [reply.status for reply in answers] == [201, 201, 429]


async def an_events_ticket(desk: Desk, purpose: str = "events") -> str:
    reply = await desk.call("POST", f"{BASE}/tickets", body={"purpose": purpose})
    return str(reply.json["ticket"])


async def test_a_ticket_opens_the_events_once_without_a_header(desk: Desk) -> None:
    ticket = await an_events_ticket(desk)
    answers = [await desk.call("GET", f"/events?ticket={ticket}", None) for _ in range(2)]
    assert [reply.status for reply in answers] == [200, 401]
    assert "make a new one" in answers[1].json["detail"]


async def test_the_events_refuse_every_other_ticket_alike(desk: Desk) -> None:
    tickets = [await an_events_ticket(desk, "stream"), "sgt_" + "A" * 43, desk.token(), "x"]
    answers = [await desk.call("GET", f"/events?ticket={ticket}", None) for ticket in tickets]
    assert {(reply.status, reply.json["detail"]) for reply in answers} == {(401, answers[0].json["detail"])}


async def test_a_token_in_the_header_comes_before_a_ticket_which_then_stays(desk: Desk) -> None:
    ticket = await an_events_ticket(desk)
    assert (await desk.call("GET", f"/events?ticket={ticket}")).status == 200
    assert (await desk.call("GET", f"/events?ticket={ticket}", None)).status == 200


async def test_without_either_the_events_name_both(desk: Desk) -> None:
    reply = await desk.call("GET", "/events?ticket=", None)
    assert reply.status == 401
    assert "Bearer" in reply.json["detail"] and "?ticket=" in reply.json["detail"]


async def test_no_other_route_takes_a_ticket(desk: Desk) -> None:
    for path, method, _, each in declared(desk.app):
        if not each.public and path != "/events":
            ticket = await an_events_ticket(desk)
            address = re.sub(r"\{\w+\}", "1", path)
            reply = await desk.call(method, f"{address}?ticket={ticket}", None, body=each.example.body)
            assert reply.status == 401, (method, path)

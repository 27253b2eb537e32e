"""CloudEvents over HTTP in each mode, and the trace context of requests (CONTRACT §3, CloudEvents)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from test_rest_api import Desk, Reply

from nx_signal.activities.cloud_events import NAMES
from nx_signal.activities.message import decode
from nx_signal.identity.issuer import Issuer, open_issuer
from nx_signal.model import Activity, Position, Record
from nx_signal.rest.cloud_events import CloudEvent

PATH = "/v1/api/signal/activities"
PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
OTHER = "00-0af7651916cd43dd8448eb211c80319c-b9c7c989f97918e1-01"
TYPES = {"com.acme.payment.cleared": "PAYMENT_SUCCESS"}
KNOWN = frozenset({"PAYMENT_SUCCESS"})
PAYLOAD = {"payment": {"amount": 5}}
KEPT = {
    "eventType": "PAYMENT_SUCCESS",
    "recipientScope": "org",
    "actorId": "u1",
    "organizerId": "o1",
    "occurredAt": "2026-01-01T10:00:00Z",
    "data": PAYLOAD,
}
EVENT: dict[str, Any] = {
    "specversion": "1.0",
    "id": "42",
    "source": "/orders",
    "type": "com.acme.payment.cleared",
    "time": "2026-01-01T10:00:00Z",
    "recipientscope": "org",
    "organizerid": "o1",
    "actorid": "u1",
    "data": PAYLOAD,
}
HEADERS = {f"ce-{name}": value for name, value in EVENT.items() if name != "data"}
JSON = {"Content-Type": "application/json"}
STRUCTURED = {"Content-Type": "application/cloudevents+json; charset=UTF-8"}
BATCH = {"Content-Type": "application/cloudevents-batch+json"}


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Issuer:
    return open_issuer(Path(tmp_path_factory.mktemp("data")))


@pytest.fixture
def desk(issuer: Issuer) -> Desk:
    return Desk(issuer, event_types=KNOWN, cloud_event_types=TYPES)


async def post(desk: Desk, value: Any, headers: Any, path: str = PATH) -> Reply:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    permissions = ["Activity.publish", "Activity.preview"]
    return await desk.call("POST", path, data=data, headers=headers, permissions=permissions)


def published(desk: Desk) -> list[Activity]:
    """As the pipeline reads them from the journal."""
    found = []
    for id, message in desk.journal.appended:
        record = Record(Position("journal", 0, 1), id, message, {"ce_id": id.encode()})
        activity = decode(record, KNOWN, types=TYPES)
        assert isinstance(activity, Activity)
        found.append(activity)
    return found


# --- the modes ---


@pytest.mark.parametrize(
    ("value", "headers"),
    [(PAYLOAD, JSON | HEADERS), (EVENT, STRUCTURED), ([EVENT], BATCH), (EVENT, JSON), ([EVENT], JSON)],
)
async def test_an_event_is_the_same_activity_in_every_mode(
    desk: Desk, value: Any, headers: dict[str, str]
) -> None:
    reply = await post(desk, value, headers)
    assert (reply.status, reply.json) == (202, {"accepted": [{"eventId": "42"}]})
    (activity,) = published(desk)
    assert (activity.id, activity.type, activity.data) == ('["42","/orders"]', "PAYMENT_SUCCESS", PAYLOAD)


async def test_a_binary_event_without_a_body_has_no_data(desk: Desk) -> None:
    assert (await post(desk, b"", HEADERS)).status == 202
    assert published(desk)[0].data == {}


async def test_the_kept_message_stays_one_and_takes_its_identity_from_the_headers(desk: Desk) -> None:
    for headers in (HEADERS, {"ce-id": "42", "ce-source": "/orders"}):
        assert (await post(desk, KEPT, JSON | headers)).json == {"accepted": [{"eventId": "42"}]}
    assert (await post(desk, KEPT | {"eventId": "7"}, JSON | HEADERS)).json == {
        "accepted": [{"eventId": "7"}]
    }
    assert [each.id for each in published(desk)] == [
        '["42","/orders"]',
        '["42","/orders"]',
        '["7","/orders"]',
    ]


async def test_an_unmapped_type_that_is_not_known_is_reported(desk: Desk) -> None:
    accepted = (await post(desk, EVENT | {"type": "com.acme.x"}, STRUCTURED)).json["accepted"]
    assert accepted == [{"eventId": "42", "unknownType": True}]
    strict = await post(desk, EVENT | {"type": "com.acme.x"}, STRUCTURED, f"{PATH}?strict=true")
    assert strict.status == 422


async def test_an_empty_batch_is_accepted(desk: Desk) -> None:
    reply = await post(desk, [], BATCH)
    assert (reply.status, reply.json) == (202, {"accepted": []})


async def test_a_preview_takes_an_event_in_binary_and_structured_mode(desk: Desk) -> None:
    for value, headers in ((PAYLOAD, JSON | HEADERS), (EVENT, STRUCTURED)):
        reply = await post(desk, value, headers, f"{PATH}/preview")
        assert (reply.status, reply.json["eventId"], reply.json["type"]) == (200, "42", "PAYMENT_SUCCESS")


# --- header values (HTTP binding §3.1.3.2) ---


@pytest.mark.parametrize(
    ("sent", "meant"),
    [
        ("Euro%20%E2%82%AC%20%F0%9F%98%80", "Euro € 😀"),
        ("Euro%20%e2%82%ac", "Euro €"),
        ("%41bc", "Abc"),
        ('"a \\"quoted\\" text"', 'a "quoted" text'),
        ("100%25", "100%"),
        ("%2525", "%25"),
        ("a=b;c", "a=b;c"),
    ],
)
async def test_a_header_value_is_unescaped_and_percent_decoded_once(
    desk: Desk, sent: str, meant: str
) -> None:
    assert (await post(desk, PAYLOAD, JSON | HEADERS | {"ce-subject": sent})).status == 202
    assert published(desk)[0].subject == meant


async def test_what_is_accepted_as_an_event_is_one_when_it_is_read_from_the_journal(desk: Desk) -> None:
    spelled = json.dumps(EVENT).replace("specversion", "specversi\\u006fn").encode()
    reply = await post(desk, spelled, STRUCTURED)
    assert reply.json == {"accepted": [{"eventId": "42"}]}
    assert published(desk)[0].data == PAYLOAD


def test_the_documentation_has_every_attribute_that_is_read() -> None:
    assert set(CloudEvent.__struct_fields__) == {*NAMES, "data", "data_base64"}


# --- what is refused ---


async def test_a_preview_refuses_a_batch(desk: Desk) -> None:
    reply = await post(desk, [EVENT], BATCH, PATH + "/preview")
    assert reply.status == 415 and "A preview takes one CloudEvent" in reply.json["detail"]


@pytest.mark.parametrize(
    ("value", "headers", "expected"),
    [
        (
            PAYLOAD,
            JSON | HEADERS | {"ce-subject": "%C0%A0"},
            "The header ce-subject is not UTF-8, percent-encoded.",
        ),
        (
            PAYLOAD,
            JSON | HEADERS | {"ce-datacontenttype": "application/json"},
            "ce-datacontenttype: leave it out",
        ),
        (PAYLOAD, JSON | HEADERS | {"ce-specversion": "0.3"}, "this is CloudEvents 0.3; send 1.0."),
        (PAYLOAD, JSON | {"ce-type": "PAYMENT_SUCCESS"}, "without a version"),
        (b"{", JSON | HEADERS, "message: not JSON"),
        (b'{}, "eventType": "X"', JSON | HEADERS, "message: not JSON"),
        ([PAYLOAD], JSON | HEADERS, "data: expected `object | null`"),
        ([EVENT], STRUCTURED, "send a batch of CloudEvents as application/cloudevents-batch+json."),
        (EVENT, BATCH, "message: a batch is a list"),
        ([EVENT, {"x": 1}], BATCH, "[1].specversion: this is CloudEvents without a version"),
        ([[EVENT]], BATCH, "[0]: a list where one message is expected"),
        ([EVENT] * 1_001, BATCH, "a list of at most 1000"),
        (EVENT | {"data_base64": "e30="}, STRUCTURED, "either `data` or `data_base64`"),
    ],
)
async def test_what_is_no_valid_event_is_refused_whole_with_a_sentence(
    desk: Desk, value: Any, headers: dict[str, str], expected: str
) -> None:
    reply = await post(desk, value, headers)
    assert reply.status in (400, 422) and expected in reply.json["detail"], reply.body
    assert desk.journal.appended == []


async def test_a_header_that_is_there_twice_is_refused(desk: Desk) -> None:
    client: Any = desk.app.test_client()
    headers = [*(JSON | HEADERS).items(), ("ce-id", "43")]
    headers.append(("Authorization", f"Bearer {desk.token('u1', ['Activity.publish'])}"))
    reply = await client.open(PATH, method="POST", headers=headers, data=json.dumps(PAYLOAD))
    assert reply.status_code == 400
    assert b"The header ce-id is there 2 times; send it once." in await reply.get_data()


@pytest.mark.parametrize(
    "kind", ["application/cloudevents+avro", "text/xml", "application/cloudevents-batch+xml"]
)
async def test_another_media_type_is_answered_with_415(desk: Desk, kind: str) -> None:
    for headers in ({}, HEADERS):
        assert (await post(desk, b"<x/>", headers | {"Content-Type": kind})).status == 415


# --- trace context ---


@pytest.mark.parametrize(
    ("value", "headers"),
    [(KEPT, JSON), ([KEPT, KEPT], JSON), (PAYLOAD, JSON | HEADERS), (EVENT, STRUCTURED), ([EVENT], BATCH)],
)
async def test_the_trace_context_of_a_request_is_kept_with_each_of_its_activities(
    desk: Desk, value: Any, headers: dict[str, str]
) -> None:
    await post(desk, value, headers | {"traceparent": PARENT, "tracestate": "a=1"})
    contexts = [each.context for each in published(desk)]
    assert contexts and all(
        c is not None and (c.traceparent, c.tracestate) == (PARENT, "a=1") for c in contexts
    )


async def test_the_trace_context_of_an_event_counts_before_that_of_its_request(desk: Desk) -> None:
    await post(desk, EVENT | {"traceparent": OTHER}, STRUCTURED | {"traceparent": PARENT})
    await post(desk, PAYLOAD, JSON | HEADERS | {"ce-traceparent": OTHER, "traceparent": PARENT})
    assert [each.context and each.context.traceparent for each in published(desk)] == [OTHER, OTHER]


async def test_a_trace_state_of_the_request_is_not_mixed_with_another_trace_parent(desk: Desk) -> None:
    await post(desk, KEPT | {"traceparent": OTHER}, {"traceparent": PARENT, "tracestate": "vendor=1"} | JSON)
    context = published(desk)[0].context
    assert context is not None and (context.traceparent, context.tracestate) == (OTHER, None)


async def test_an_invalid_trace_context_changes_nothing(desk: Desk) -> None:
    for parent in ("x", PARENT + "-1", '","eventId":"evil'):
        assert (await post(desk, KEPT, JSON | {"traceparent": parent, "tracestate": "a=1"})).status == 202
    assert [message for _, message in desk.journal.appended] == [json.dumps(KEPT).encode()] * 3


async def test_a_message_that_leaves_no_room_for_a_trace_context_is_accepted_without(desk: Desk) -> None:
    raw = json.dumps(KEPT).encode()
    large = raw + b" " * (1_048_576 - len(raw))
    assert (await post(desk, large, JSON | {"traceparent": PARENT})).status == 202
    assert published(desk)[0].context is None


async def test_explain_shows_what_came_with_an_activity(desk: Desk) -> None:
    event = EVENT | {"dataschema": "https://acme.example/p.json", "excludeactor": True}
    await post(desk, event, STRUCTURED | {"traceparent": PARENT, "tracestate": "a=1"})
    ((id, message),) = desk.journal.appended
    record = Record(Position("journal", 0, 1), id, message, {"ce_id": id.encode()})
    (processed,) = await desk.processor.process([record], {})
    await desk.database.traces.add([processed.trace])
    path = f"{PATH}/42/explain?recipientId=u1"
    trace = (await desk.call("GET", path, permissions=["Activity.explain"])).json["trace"]
    assert trace["traceparent"] == PARENT and trace["tracestate"] == "a=1"
    assert trace["dataschema"] == "https://acme.example/p.json" and trace["excludedActor"] == "u1"

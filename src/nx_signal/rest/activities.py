"""`/activities`: publish without Kafka, and see beforehand who would get what."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from msgspec import UNSET, DecodeError, Meta, Raw, Struct, UnsetType
from quart import Blueprint, request

from nx_signal.activities.cloud_events import BYTE_ORDER_MARK, NO_TYPES
from nx_signal.activities.fields import Source
from nx_signal.activities.message import (
    ActivityMessage,
    CorrectionMessage,
    event_type_of,
    split,
    unknown_type,
)
from nx_signal.activities.preview import MAX_SHOWN, LocaleFrom, Preview, Previewed
from nx_signal.activities.repair import repaired
from nx_signal.errors import MessageRejected
from nx_signal.model import Json, Priority, Rule, Scope
from nx_signal.model.json import JsonDecoder
from nx_signal.model.timestamps import format_timestamp
from nx_signal.model.wire import Count, Time, encode_json
from nx_signal.ports import Journal
from nx_signal.rest.access import Authorizer
from nx_signal.rest.cloud_events import BATCH_JSON, MEDIA, STRUCTURED_JSON, message_body, traced
from nx_signal.rest.problems import Problem
from nx_signal.rest.route import Call, Example, route
from nx_signal.rest.shapes import NO_NUL, PlainText

MAX_NAMED = 10
"""Unknown event types in one refusal: each is compared with all that are known."""

EVENT_PATH = {"event_id": PlainText}

ACTIVITY = {
    "eventType": "PAYMENT_SUCCESS",
    "eventId": "payment-42",
    "recipientScope": "merchant",
    "organizerId": "o1",
    "merchantId": "m1",
    "actorId": "customer",
    "actor": {"id": "customer", "name": "Mai", "type": "USER"},
    "data": {"payment": {"subject": "Order 42", "amount": 1250000, "currency": "VND"}},
    "occurredAt": "2026-01-01T10:00:00Z",
}
"""The example of the documentation."""


class PublishParameters(Struct, rename="camel"):
    """`strict`: accept nothing where an event type is not known here."""

    strict: bool = False


class AcceptedActivity(Struct, rename="camel"):
    """`unknownType`: its event type is not known here, so it will make no notification."""

    event_id: str
    unknown_type: bool | UnsetType = UNSET


class AcceptedActivities(Struct):
    """In the order of the messages; an eventId that was left out was generated."""

    accepted: list[AcceptedActivity]


class CorrectedActivity(Struct, rename="camel"):
    """What is right: `data` takes the place of the activity's, whole. `occurredAt`: since when, else since it
    is handled; the newest counts. `eventSource`: of the activity."""

    data: dict[str, Json]
    event_source: Source | None = None
    occurred_at: str | None = None


class RetractParameters(Struct, rename="camel"):
    """`eventSource`: of the activity."""

    event_source: Annotated[Source, Meta(pattern=NO_NUL)] | UnsetType = UNSET


class AcceptedCorrection(Struct, rename="camel"):
    """It is durable, and takes effect soon, before or after the activity itself."""

    event_id: str


class PreviewedRecipient(Struct, rename="camel"):
    """`locale`: the language of the content; `localeFrom`: whose choice that is."""

    recipient_id: str
    why: str
    locale: str
    locale_from: LocaleFrom


class Rendering(Struct, rename="camel"):
    content: str
    content_html: str
    action_url: str | None
    time_zone: str


class ActivityPreview(Struct, rename="camel"):
    """`rule`: what gave the recipients, `actor` where the scope is empty. `total`: how many recipients
    there are; the first 1,000 are named. `renderings`: by language. `unknownType`: the event type is
    not known here, and the message would be skipped. `eventId` is null where the message has none: it is
    given one when it is published. `expired`: its expiresAt has passed, and nothing would be written."""

    event_id: str | None
    type: str
    scope: Scope | None
    rule: Rule | None
    why: str
    recipients: Annotated[list[PreviewedRecipient], Meta(max_length=MAX_SHOWN)]
    total: Count
    renderings: dict[str, Rendering]
    unknown_type: bool
    priority: Priority
    expires_at: Time | None
    collapse_key: str | None
    expired: bool


_PREVIEW = {
    "eventId": "payment-42",
    "type": "PAYMENT_SUCCESS",
    "scope": "merchant",
    "rule": "merchant",
    "why": "A member of merchant m1 of organizer o1.",
    "recipients": [
        {
            "recipientId": "ann",
            "why": "A member of merchant m1 of organizer o1.",
            "locale": "en",
            "localeFrom": "reader",
        }
    ],
    "total": 1,
    "renderings": {
        "en": {
            "content": "Payment of ₫1,250,000 for Order 42 succeeded on Jan 1, 2026, 10:00\u202fAM UTC",
            "contentHtml": "<p>Payment of <strong>₫1,250,000</strong> for <strong>Order 42</strong> "
            "succeeded on Jan 1, 2026, 10:00\u202fAM UTC</p>",
            "actionUrl": None,
            "timeZone": "UTC",
        }
    },
    "unknownType": False,
    "priority": "normal",
    "expiresAt": None,
    "collapseKey": None,
    "expired": False,
}


def activity_routes(
    authorizer: Authorizer,
    journal: Journal,
    event_types: frozenset[str] | None,
    preview: Preview,
    notification_bytes: int,
    types: Mapping[str, str] = NO_TYPES,
) -> Blueprint:
    """Published messages are appended to the journal. Without `event_types` any type is accepted. `types`:
    the type of a CloudEvent → eventType."""
    routes = Blueprint("activities", __name__)

    @routes.post("/activities")
    @route(
        authorizer,
        "Publish activities",
        permission="Activity.publish",
        query=PublishParameters,
        problems=(422,),
        body=(ActivityMessage, CorrectionMessage, list[ActivityMessage], list[CorrectionMessage]),
        media=MEDIA,
        raw_body=True,
        answers={202: AcceptedActivities},
        example=Example(body=ACTIVITY, answer={"accepted": [{"eventId": "payment-42"}]}),
    )
    async def publish(call: Call[PublishParameters, bytes]) -> AcceptedActivities:
        """One message or a list of at most 1,000, activities and corrections of such, all or none. They are
        durable before they are accepted; repeating them with the same `eventId` makes no second
        notification. CloudEvents 1.0 are taken in all modes: with `ce-` headers, as
        application/cloudevents+json and application/cloudevents-batch+json. A `traceparent` header is kept
        with the activities."""
        body = await message_body(request)
        messages = split(body.messages, event_types, notification_bytes, types, events=body.events)
        unknown = [unknown_in(message) for _, message in messages]
        if call.query.strict and (named := [*dict.fromkeys(type for type in unknown if type)]):
            why = " ".join(unknown_type(type, event_types or ()) for type in named[:MAX_NAMED])
            raise Problem(422, why, "unknown_type")
        if messages:
            # Durable on return, and only then accepted.
            await journal.append([(event_id, traced(each, request.headers)) for event_id, each in messages])
        return AcceptedActivities(
            [
                AcceptedActivity(event_id, UNSET if type is None else True)
                for (event_id, _), type in zip(messages, unknown, strict=True)
            ]
        )

    def unknown_in(message: bytes) -> str | None:
        """Its event type, where that is not known."""
        type = event_type_of(message, types)
        return None if event_types is None or type in event_types else type

    async def append(message: bytes) -> AcceptedCorrection:
        (accepted,) = split(message, event_types, notification_bytes)
        await journal.append([accepted])
        return AcceptedCorrection(accepted[0])

    @routes.put("/activities/<path:event_id>")
    @route(
        authorizer,
        "Correct an activity",
        permission="Activity.publish",
        path=EVENT_PATH,
        problems=(422,),
        body=CorrectedActivity,
        raw_body=True,
        answers={202: AcceptedCorrection},
        example=Example(
            path={"eventId": "payment-42"},
            body={
                "data": {"payment": {"subject": "Order 42", "amount": 1350000, "currency": "VND"}},
                "occurredAt": "2026-01-01T10:05:00Z",
            },
            answer={"eventId": "payment-42"},
        ),
    )
    async def correct(call: Call[None, bytes], event_id: str) -> AcceptedCorrection:
        """Each of its notifications is rendered anew in its reader's language and stays as read as it is;
        clients get `observation/signal/notification/updated`. An activity that comes later is made with this
        data at once. One that was retracted stays so."""
        return await append(_update_of(event_id, call.body))

    @routes.delete("/activities/<path:event_id>")
    @route(
        authorizer,
        "Retract an activity",
        permission="Activity.publish",
        path=EVENT_PATH,
        query=RetractParameters,
        problems=(422,),
        answers={202: AcceptedCorrection},
        example=Example(path={"eventId": "payment-42"}, answer={"eventId": "payment-42"}),
    )
    async def retract(call: Call[RetractParameters, None], event_id: str) -> AcceptedCorrection:
        """Its notifications are removed, for good; an activity with this identity that comes later makes
        none."""
        source = call.query.event_source
        given = {} if source is UNSET else {"eventSource": source}
        return await append(encode_json({**given, "action": "retract", "eventId": event_id}))

    @routes.post("/activities/preview")
    @route(
        authorizer,
        "See who would get what",
        permission="Activity.preview",
        body=ActivityMessage,
        media={STRUCTURED_JSON: MEDIA[STRUCTURED_JSON]},
        raw_body=True,
        answers={200: ActivityPreview},
        problems=(422,),
        example=Example(body=ACTIVITY, answer=_PREVIEW),
    )
    async def preview_(call: Call[None, bytes]) -> ActivityPreview:
        """One message, taken through the steps of a real one; nothing is written or sent. One that does not
        fit is a 422 with the reason that its dead letter would have."""
        if request.mimetype == BATCH_JSON:
            raise Problem(415, f"A preview takes one CloudEvent; send it as {STRUCTURED_JSON}.")
        try:
            return _previewed(await preview.preview((await message_body(request)).messages))
        except MessageRejected as error:
            raise Problem(422, str(error), "invalid_message") from None

    return routes


_fields = JsonDecoder[dict[str, Raw]](dict[str, Raw])


def _update_of(event_id: str, body: bytes) -> bytes:
    """The body as it was sent, with what the address states: of two equal fields the last counts. Raises
    Problem."""
    try:
        given = _fields.decode(repaired(body)[0].removeprefix(BYTE_ORDER_MARK))
    except DecodeError:
        raise Problem(400, "The body is not a JSON object.", "invalid_json") from None
    if bytes(given.get("data", b"null")) == b"null":
        raise Problem(400, "data is missing.", "invalid_parameter")
    if "specversion" in given:
        raise Problem(400, "specversion: send a CloudEvent to POST /activities.", "invalid_parameter")
    named = encode_json({"action": "update", "eventId": event_id})
    return body.rstrip(b" \t\r\n").removesuffix(b"}") + b"," + named[1:]


def _previewed(found: Previewed) -> ActivityPreview:
    return ActivityPreview(
        event_id=found.event_id,
        type=found.type,
        scope=found.scope,
        rule=found.rule,
        why=found.why,
        recipients=[
            PreviewedRecipient(reader.recipient_id, found.why, reader.locale, reader.locale_from)
            for reader in found.recipients
        ],
        total=found.total,
        renderings={
            locale: Rendering(text.content, text.content_html, text.action_url, text.time_zone)
            for locale, text in found.renderings.items()
        },
        unknown_type=not found.known,
        priority=found.priority,
        expires_at=format_timestamp(found.expires_at),
        collapse_key=found.collapse_key,
        expired=found.expired,
    )

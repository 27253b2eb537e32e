"""`/activities`: publish without Kafka, see beforehand who would get what, and afterwards what was done."""

from __future__ import annotations

from typing import Annotated

from msgspec import UNSET, Meta, Struct, UnsetType
from quart import Blueprint

from nx_signal.activities.explain import MAX_EXPLAINED, REASONS, Delivery, Explained, RecipientDelivery
from nx_signal.activities.message import ActivityMessage
from nx_signal.activities.preview import MAX_SHOWN, LocaleFrom, Previewed
from nx_signal.errors import MessageRejected
from nx_signal.model import Outcome, Rule, Scope
from nx_signal.rest.access import Api
from nx_signal.rest.problems import Problem
from nx_signal.rest.route import Call, Example, route
from nx_signal.rest.shapes import Count, Id, PlainText, Revision, Time, instant

MAX_MESSAGES = 1000
"""Of one POST: as many as one transaction of the journal takes."""

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


class AcceptedActivity(Struct, rename="camel"):
    event_id: str


class AcceptedActivities(Struct):
    """In the order of the messages; an eventId that was left out was made up."""

    accepted: list[AcceptedActivity]


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


class ActivityPreview(Struct, rename="camel"):
    """`rule`: what gave the recipients, `actor` where the scope gives nobody. `total`: how many recipients
    there are; the first 1,000 are named. `renderings`: by language. `unknownType`: nobody here knows the
    event type, and the message would be skipped. `eventId` is null until the message is published where it
    names none."""

    event_id: str | None
    type: str
    scope: Scope | None
    rule: Rule | None
    why: str
    recipients: Annotated[list[PreviewedRecipient], Meta(max_length=MAX_SHOWN)]
    total: Count
    renderings: dict[str, Rendering]
    unknown_type: bool


class ExplainParameters(Struct, rename="camel"):
    """For whom."""

    recipient_id: PlainText | UnsetType = UNSET


class ExplainedRow(Struct, rename="camel"):
    """The recipient's notification, a deleted one too."""

    id: Id
    rev: Revision
    created_at: Time
    is_read: bool
    deleted: bool


class ExplainedSession(Struct, rename="camel"):
    """A connected client of the recipient. `rev`: the last revision handed to its socket; `since`: up to
    which one it fetches by itself; `queued`: bytes that it has not taken yet."""

    id: str
    server_id: str
    connected_at: Time
    since: Revision
    rev: Revision
    behind: bool
    lagging: bool
    queued: Count
    delivery: Delivery
    why: str


class ExplainedRecipient(Struct, rename="camel"):
    """`delivery`: the best of the sessions."""

    recipient_id: str
    row: ExplainedRow | None
    delivery: Delivery
    why: str
    sessions: list[ExplainedSession]


class ActivityTrace(Struct, rename="camel"):
    """What was done when it was handled. `recipients`: how many it was for; `reason`: why it was set
    aside. What could not be read of its message is null."""

    position: Annotated[str, Meta(description="topic/partition/offset")]
    type: str | None
    scope: Scope | None
    rule: Rule | None
    recipients: Count
    outcome: Outcome
    reason: str | None
    handled_at: Time | None


class ActivityExplanation(Struct, rename="camel"):
    """`trace` is null once it is pruned. `rows`: how many notifications there are; `deliveries`: of the
    recipient asked for, else of the first 20; `unanswered`: instances that did not answer in time, whose
    sessions are missing."""

    event_id: str
    trace: ActivityTrace | None
    rows: Count
    deliveries: Annotated[list[ExplainedRecipient], Meta(max_length=MAX_EXPLAINED)]
    unanswered: list[str]


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
            "content": "Payment of ₫1,250,000 for Order 42 succeeded on Jan 1, 2026, 10:00\u202fAM",
            "contentHtml": "<p>Payment of <strong>₫1,250,000</strong> for <strong>Order 42</strong> "
            "succeeded on Jan 1, 2026, 10:00\u202fAM</p>",
            "actionUrl": None,
        }
    },
    "unknownType": False,
}
_EXPLANATION = {
    "eventId": "payment-42",
    "trace": {
        "position": "signal.activity-notification/0/40",
        "type": "PAYMENT_SUCCESS",
        "scope": "merchant",
        "rule": "merchant",
        "recipients": 1,
        "outcome": "stored",
        "reason": None,
        "handledAt": "2026-01-01T12:00:00.000Z",
    },
    "rows": 1,
    "deliveries": [
        {
            "recipientId": "ann",
            "row": {
                "id": "132452764876836864",
                "rev": 1,
                "createdAt": "2026-01-01T12:00:00.000Z",
                "isRead": False,
                "deleted": False,
            },
            "delivery": "delivered",
            "why": REASONS["delivered"],
            "sessions": [
                {
                    "id": "0f8fad5b-d9cb-469f-a165-70867728950e",
                    "serverId": "7c9e6679-7425-40de-944b-e07fc1f90ae7",
                    "connectedAt": "2026-01-01T12:00:00.000Z",
                    "since": 0,
                    "rev": 1,
                    "behind": False,
                    "lagging": False,
                    "queued": 0,
                    "delivery": "delivered",
                    "why": REASONS["delivered"],
                }
            ],
        }
    ],
    "unanswered": [],
}


def activities(api: Api) -> Blueprint:
    routes = Blueprint("activities", __name__)

    @routes.post("/activities")
    @route(
        api,
        "Publish activities",
        permission="Activity.publish",
        body=ActivityMessage | list[ActivityMessage],
        raw_body=True,
        answers={202: AcceptedActivities},
        example=Example(body=ACTIVITY, answer={"accepted": [{"eventId": "payment-42"}]}),
    )
    async def publish(call: Call[None, bytes]) -> AcceptedActivities:
        """One message or a list of at most 1,000, all or none. They are durable before they are accepted;
        repeating them with the same `eventId` makes no second notification."""
        messages = api.split_activities(call.body)
        if len(messages) > MAX_MESSAGES:
            raise Problem(413, f"At most {MAX_MESSAGES} messages at once; these are {len(messages)}.")
        if messages:
            await api.journal.append(messages)  # durable on return, and only then accepted
        return AcceptedActivities([AcceptedActivity(event_id) for event_id, _ in messages])

    @routes.post("/activities/preview")
    @route(
        api,
        "See who would get what",
        permission="Activity.preview",
        body=ActivityMessage,
        raw_body=True,
        answers={200: ActivityPreview},
        problems=(422,),
        example=Example(body=ACTIVITY, answer=_PREVIEW),
    )
    async def preview(call: Call[None, bytes]) -> ActivityPreview:
        """One message, taken through the steps of a real one; nothing is written or sent. One that does not
        fit is a 422 with the reason that its dead letter would have."""
        try:
            return _previewed(await api.preview.preview(call.body))
        except MessageRejected as error:
            raise Problem(422, str(error), "invalid_message") from None

    @routes.get("/activities/<path:event_id>/explain")
    @route(
        api,
        "Explain what was done with an activity",
        permission="Activity.explain",
        query=ExplainParameters,
        answers={200: ActivityExplanation},
        problems=(404,),
        example=Example(path={"eventId": "payment-42"}, query={"recipientId": "ann"}, answer=_EXPLANATION),
    )
    async def explain(call: Call[ExplainParameters, None], event_id: str) -> ActivityExplanation:
        """From its source down to the sockets of its recipients. An activity without an eventId of its own
        goes by its position, `topic/partition/offset`."""
        recipient_id = None if call.query.recipient_id is UNSET else call.query.recipient_id
        explained = await api.explain.explain(event_id, recipient_id)
        if explained is None:
            raise Problem(404)
        return _explained(explained)

    return routes


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
            locale: Rendering(text.content, text.content_html, text.action_url)
            for locale, text in found.renderings.items()
        },
        unknown_type=not found.known,
    )


def _explained(found: Explained) -> ActivityExplanation:
    trace = found.trace
    return ActivityExplanation(
        event_id=found.activity_id,
        trace=None
        if trace is None
        else ActivityTrace(
            position=trace.position,
            type=trace.type,
            scope=trace.scope,
            rule=trace.rule,
            recipients=trace.recipients,
            outcome=trace.outcome,
            reason=trace.reason,
            handled_at=None if trace.handled_at is None else instant(trace.handled_at),
        ),
        rows=found.rows,
        deliveries=[_delivery(recipient) for recipient in found.recipients],
        unanswered=list(found.unanswered),
    )


def _delivery(recipient: RecipientDelivery) -> ExplainedRecipient:
    row = recipient.row
    return ExplainedRecipient(
        recipient_id=recipient.recipient_id,
        row=None
        if row is None
        else ExplainedRow(str(row.id), row.rev, instant(row.created_at), row.is_read, row.deleted),
        delivery=recipient.delivery,
        why=REASONS[recipient.delivery],
        sessions=[
            ExplainedSession(
                id=each.session.client_id,
                server_id=each.session.server_id,
                connected_at=instant(each.session.connected_at),
                since=each.session.since,
                rev=each.session.rev,
                behind=each.session.behind,
                lagging=each.session.lagging,
                queued=each.session.queued_bytes,
                delivery=each.delivery,
                why=REASONS[each.delivery],
            )
            for each in recipient.sessions
        ],
    )

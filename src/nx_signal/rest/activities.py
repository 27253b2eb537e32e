"""`/activities`: publish without Kafka."""

from __future__ import annotations

from msgspec import Struct
from quart import Blueprint

from nx_signal.activities.message import ActivityMessage
from nx_signal.rest.access import Api
from nx_signal.rest.problems import Problem
from nx_signal.rest.route import Call, Example, route

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

    return routes

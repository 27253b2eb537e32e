"""`/activities/…/explain`: what was done with an activity, from its source to the sockets."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from msgspec import UNSET, Meta, Struct, UnsetType
from quart import Blueprint

from nx_signal.activities.explain import (
    MAX_EXPLAINED,
    REASONS,
    Around,
    Explain,
    Explained,
    RecipientDelivery,
)
from nx_signal.activities.identity import source_of
from nx_signal.delivery.sessions import Delivery
from nx_signal.model import Action, ActivityContext, OneScope, Outcome, Rule, Scope, Trace
from nx_signal.model.timestamps import format_timestamp, now
from nx_signal.model.wire import Count, Id, Revision, Time
from nx_signal.rest.access import Authorizer
from nx_signal.rest.problems import Problem
from nx_signal.rest.queries import DEFAULT_LIMIT, Instant, moment
from nx_signal.rest.route import Call, Example, route
from nx_signal.rest.shapes import PlainText
from nx_signal.store.corrections import MAX_KEPT

MAX_AROUND = 50
"""Activities that are explained at once: some queries for each."""


class ExplainParameters(Struct, rename="camel"):
    """For whom. `source`: the activity's eventSource, or the `ce_source` of its record."""

    recipient_id: PlainText | UnsetType = UNSET
    source: PlainText | UnsetType = UNSET


class AroundParameters(Struct, rename="camel"):
    """Of whom, and from when (inclusive) to when (exclusive), else now; at most `limit` of each kind."""

    recipient_id: PlainText
    since: Instant
    until: Instant | UnsetType = UNSET
    limit: Annotated[int, Meta(ge=1, le=MAX_AROUND)] = DEFAULT_LIMIT


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


class AudiencePart(Struct, rename="camel"):
    """One entry of an audience; `named`: how many users it names."""

    scope: OneScope
    organizer_id: str
    merchant_id: str | None
    named: Count


class ActivityTrace(Struct, rename="camel"):
    """What was done when it was handled. `recipients`: how many it was for; `reason`: why it became a dead
    letter, what was changed in it, or what else is to be known. `audience`: the scopes that it unites, else
    empty; `excludedActor`: the actor, where that gets nothing; `traceparent` and `tracestate` (W3C Trace
    Context) and `dataschema` (of a CloudEvent) are as they came. What could not be read of its message is
    null."""

    position: Annotated[str, Meta(description="topic/partition/offset")]
    type: str | None
    scope: Scope | None
    rule: Rule | None
    recipients: Count
    outcome: Outcome
    reason: str | None
    handled_at: Time | None
    audience: list[AudiencePart]
    excluded_actor: str | None
    traceparent: str | None
    tracestate: str | None
    dataschema: str | None


class ActivityCorrection(Struct, rename="camel"):
    """A correction of the activity. The one that `stands` is what the notifications show; `changed`: how many
    it changed."""

    action: Action
    position: Annotated[str, Meta(description="topic/partition/offset")]
    occurred_at: Time
    handled_at: Time
    changed: Count
    stands: bool


class ActivityExplanation(Struct, rename="camel"):
    """`eventId` as it was asked for; `activityId` is the identity that is stored, of id and source.
    `trace` is null once it is pruned. `rows`: how many notifications there are; `deliveries`: of the
    recipient asked for, else of the first 20; `unanswered`: instances that did not answer in time or could
    not be asked, whose sessions are missing; `*` stands for those not known, as the relay is away.
    `corrections`: of the activity, the one that stands first; `trace` may be null where they came first."""

    event_id: str
    activity_id: str
    trace: ActivityTrace | None
    rows: Count
    deliveries: Annotated[list[ExplainedRecipient], Meta(max_length=MAX_EXPLAINED)]
    unanswered: list[str]
    corrections: Annotated[list[ActivityCorrection], Meta(max_length=MAX_KEPT)] = []


class ActivitiesAround(Struct, rename="camel"):
    """Newest first. `received`: the activities of which the recipient got a notification in this time;
    `missed`: those that were handled in it and gave the recipient none, each with the reason."""

    recipient_id: str
    since: Time
    until: Time
    received: list[ActivityExplanation]
    missed: list[ActivityExplanation]
    unanswered: list[str]


_EXPLANATION = {
    "eventId": "payment-42",
    "activityId": "payment-42",
    "trace": {
        "position": "signal.activity-notification/0/40",
        "type": "PAYMENT_SUCCESS",
        "scope": "merchant",
        "rule": "merchant",
        "recipients": 1,
        "outcome": "stored",
        "reason": None,
        "handledAt": "2026-01-01T12:00:00.000Z",
        "audience": [],
        "excludedActor": None,
        "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "tracestate": None,
        "dataschema": None,
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
    "corrections": [
        {
            "action": "update",
            "position": "signal.activity-notification/0/41",
            "occurredAt": "2026-01-01T12:00:00.000Z",
            "handledAt": "2026-01-01T12:00:00.000Z",
            "changed": 1,
            "stands": True,
        }
    ],
}


def explain_routes(authorizer: Authorizer, explain: Explain) -> Blueprint:
    routes = Blueprint("explain", __name__)

    @routes.get("/activities/<path:event_id>/explain")
    @route(
        authorizer,
        "Explain what was done with an activity",
        permission="Activity.explain",
        query=ExplainParameters,
        answers={200: ActivityExplanation},
        problems=(404,),
        example=Example(path={"eventId": "payment-42"}, query={"recipientId": "ann"}, answer=_EXPLANATION),
    )
    async def explain_(call: Call[ExplainParameters, None], event_id: str) -> ActivityExplanation:
        """From its source down to the sockets of its recipients. An activity without an eventId of its own
        goes by its position, `topic/partition/offset`; a notification's activityId is taken too. `source`
        is needed only where several sources have this eventId."""
        recipient_id = None if call.query.recipient_id is UNSET else call.query.recipient_id
        found = await explain.identities(event_id, None if call.query.source is UNSET else call.query.source)
        if len(found) > 1:
            sources = ", ".join(str(source_of(each)) for each in found)
            raise Problem(400, f"Several sources have this eventId; name one as `source`: {sources}.")
        activity = await explain.explain(found[0], recipient_id) if found else None
        if activity is None:
            raise Problem(404)
        return explained(event_id, activity)

    @routes.get("/activities/explain")
    @route(
        authorizer,
        "Explain what a person received, and what not",
        permission="Activity.explain",
        query=AroundParameters,
        answers={200: ActivitiesAround},
        example=Example(
            query={"recipientId": "ann", "since": "2026-01-01T10:00:00Z", "until": "2026-01-02T00:00:00Z"},
            answer={
                "recipientId": "ann",
                "since": "2026-01-01T10:00:00.000Z",
                "until": "2026-01-02T00:00:00.000Z",
                "received": [_EXPLANATION],
                "missed": [],
                "unanswered": [],
            },
        ),
    )
    async def around(call: Call[AroundParameters, None]) -> ActivitiesAround:
        """Where it is not known which activity it is about."""
        since = moment("since", call.query.since)
        until = now() if call.query.until is UNSET else moment("until", call.query.until)
        found = await explain.around(call.query.recipient_id, since, until, call.query.limit)
        return explained_around(call.query.recipient_id, since, until, found)

    return routes


def explained_around(recipient_id: str, since: datetime, until: datetime, found: Around) -> ActivitiesAround:
    return ActivitiesAround(
        recipient_id=recipient_id,
        since=format_timestamp(since),
        until=format_timestamp(until),
        received=[explained(each.activity_id, each) for each in found.received],
        missed=[explained(each.activity_id, each) for each in found.missed],
        unanswered=list(found.unanswered),
    )


def explained(event_id: str, found: Explained) -> ActivityExplanation:
    return ActivityExplanation(
        event_id=event_id,
        activity_id=found.activity_id,
        trace=None if found.trace is None else _trace(found.trace),
        rows=found.rows,
        deliveries=[_delivery(recipient) for recipient in found.recipients],
        unanswered=list(found.unanswered),
        corrections=[
            ActivityCorrection(
                each.action,
                each.position,
                format_timestamp(each.occurred_at),
                format_timestamp(each.handled_at),
                each.changed,
                stands=each is found.corrections[0],
            )
            for each in found.corrections
        ],
    )


def _trace(trace: Trace) -> ActivityTrace:
    context = trace.context or ActivityContext()
    return ActivityTrace(
        position=trace.position,
        type=trace.type,
        scope=trace.scope,
        rule=trace.rule,
        recipients=trace.recipients,
        outcome=trace.outcome,
        reason=trace.reason,
        handled_at=format_timestamp(trace.handled_at),
        audience=[AudiencePart(r.scope, r.organizer_id, r.merchant_id, r.named) for r in context.audience],
        excluded_actor=context.excluded_actor,
        traceparent=context.traceparent,
        tracestate=context.tracestate,
        dataschema=context.dataschema,
    )


def _delivery(recipient: RecipientDelivery) -> ExplainedRecipient:
    row = recipient.row
    return ExplainedRecipient(
        recipient_id=recipient.recipient_id,
        row=None
        if row is None
        else ExplainedRow(str(row.id), row.rev, format_timestamp(row.created_at), row.is_read, row.deleted),
        delivery=recipient.delivery,
        why=recipient.why,
        sessions=[
            ExplainedSession(
                id=each.session.client_id,
                server_id=each.session.server_id,
                connected_at=format_timestamp(each.session.connected_at),
                since=each.session.baseline_rev,
                rev=each.session.rev,
                behind=each.session.recovering,
                lagging=each.session.backpressured,
                queued=each.session.queued_bytes,
                delivery=each.delivery,
                why=REASONS[each.delivery],
            )
            for each in recipient.sessions
        ],
    )

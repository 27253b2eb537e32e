"""`/activities`: publish without Kafka."""

from __future__ import annotations

from quart import Blueprint, Response, request

from nx_signal.rest.access import Api, require
from nx_signal.rest.problems import Problem
from nx_signal.rest.shapes import answer, json_bytes

MAX_MESSAGES = 1000
"""Of one POST: as many as one transaction of the journal takes."""


def activities(api: Api) -> Blueprint:
    routes = Blueprint("activities", __name__)

    @routes.post("/activities")
    async def publish() -> Response:
        await require(api, "Activity.publish")
        messages = api.split_activities(await json_bytes(request))
        if len(messages) > MAX_MESSAGES:
            raise Problem(413, f"At most {MAX_MESSAGES} messages at once; these are {len(messages)}.")
        if messages:
            await api.journal.append(messages)  # durable on return, and only then accepted
        return answer({"accepted": [{"eventId": event_id} for event_id, _ in messages]}, 202)

    return routes

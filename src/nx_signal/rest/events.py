"""`/events`: the inbox's log as Server-Sent Events. Until the first event it is a request like any other;
then the connection is handed over to sse/connection.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, cast

from msgspec import Meta, Struct
from quart import Blueprint, Response, request

from nx_signal.delivery.rooms import MAX_ROOMS_PER_REQUEST
from nx_signal.rest.access import Authorizer
from nx_signal.rest.problems import Problem
from nx_signal.rest.route import TEXTS, Call, EventStream, Example, route
from nx_signal.server.gate import Visit
from nx_signal.server.http import Taker
from nx_signal.sse.encoding import Place, read_place
from nx_signal.sse.server import EventServer

PLAINTEXT = (
    "These events are not sealed: use https, or the WebSocket at /stream. A proxy that ends TLS states it in "
    "X-Forwarded-Proto and is named in APP_ENV_TRUSTED_PROXIES; APP_ENV_EVENTS_PLAINTEXT=true allows them "
    "without TLS."
)

_EXAMPLE = """\
retry: 2000

event: connected
data: {"id":"0f8fad5b-d9cb-469f-a165-70867728950e","userId":"ann","time":"2026-01-01T12:00:00.000Z"}

id: 8.132452764876836864
event: observation/signal/notification/state
data: {"rev":8,"history":"132452764876836864","unread":3,"unseen":2,"total":5,"reset":false}

id: 9.9f86d081884c7d65
event: observation/signal/notification/deleted
data: {"ids":["132452764876836863"],"rev":9,"unread":2,"unseen":1,"total":4,"history":"9f86d081884c7d65"}
"""


class EventParameters(Struct, rename="camel"):
    """Where to begin, and which rooms to join."""

    last_event_id: Annotated[
        str,
        Meta(
            description="The id of the last event that the client has; the header Last-Event-ID precedes it."
        ),
    ] = ""
    rooms: Annotated[
        str, Meta(description="Rooms to join, separated by commas; an `error` names those that are refused.")
    ] = ""


def event_routes(authorizer: Authorizer, events: EventServer, *, plaintext: bool) -> Blueprint:
    """`plaintext`: also where others may read it on its way."""
    routes = Blueprint("events", __name__)

    @routes.get("/events")
    @route(
        authorizer,
        "The stream, as Server-Sent Events",
        ticket="events",
        query=EventParameters,
        answers={200: EventStream},
        problems=(403,),
        example=Example(answer=_EXAMPLE),
    )
    async def events_(call: Call[EventParameters, None]) -> Response:
        """The frames of the stream: `event` is the topic, `data` one line of JSON, `id` the place in the
        inbox's log. With `Last-Event-ID` what came after it follows, then a `state`; without it a `state` is
        first. Only over TLS, or from this machine, unless the server allows it otherwise. `ticket` takes what
        `POST /tickets` gave for the purpose `events`: it is used by one request, whatever the answer."""
        visit = cast("Visit | None", request.scope.get("visit"))
        if not plaintext and visit is not None and not visit.is_confidential(request.scope["headers"]):
            raise Problem(403, PLAINTEXT, "plaintext_refused")
        place, rooms = _place(call.query.last_event_id), _rooms(call.query.rooms)
        hand_over = cast("Callable[[Taker], None] | None", request.scope.get("hand_over"))
        if hand_over is not None and request.method == "GET":
            address = (visit.client or visit.peer) if visit else ""
            hand_over(await events.open(call.caller, address, place, rooms))
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        response = Response(b"", 200, headers, content_type=TEXTS[EventStream])
        del response.headers["Content-Length"]  # which has no end
        return response

    return routes


def _place(parameter: str) -> Place | None:
    text = request.headers.get("Last-Event-ID", "") or parameter
    try:
        return read_place(text) if text else None
    except ValueError as error:
        detail = f"Last-Event-ID cannot be used: {error}; leave it out, and fetch the list."
        raise Problem(400, detail, "invalid_parameter") from None


def _rooms(names: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for name in names.split(",") if name))[:MAX_ROOMS_PER_REQUEST]

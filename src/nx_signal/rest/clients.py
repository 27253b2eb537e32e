"""`/socket/websocket/clients`: who is connected, on every instance, and what operators do about it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType
from quart import Blueprint

from nx_signal.delivery.operator import MAX_CLIENTS, Operator
from nx_signal.delivery.peers import ANY
from nx_signal.delivery.topics import (
    CONNECTED,
    DISCONNECT,
    EXPIRING,
    GOAWAY,
    OWN_TOPICS,
)
from nx_signal.model import Json
from nx_signal.model.wire import Count, Time
from nx_signal.rest.access import PUBLIC, Authorizer
from nx_signal.rest.problems import Problem
from nx_signal.rest.queries import DEFAULT_LIMIT
from nx_signal.rest.route import Call, Example, route
from nx_signal.rest.shapes import PlainText

PROTOCOL_EVENTS = frozenset({CONNECTED, EXPIRING, GOAWAY, "encrypted"})
"""A client takes these for the server's own (CONTRACT §1)."""
MAX_DATA_BYTES = 65_536
"""Of one send: sealed and in base64 it stays below what a client accepts in one frame."""

ClientId = Annotated[str, Meta(pattern="^[A-Za-z0-9-]{1,64}$", description="As the list shows it.")]
Unanswered = Annotated[
    list[str],
    Meta(description="serverIds. `*` stands for instances that are not known, as the relay is away."),
]
CLIENT_PATH = {"client_id": ClientId}
ROOM_PATH = {"room_name": PlainText}


class ClientsParameters(Struct, rename="camel"):
    """Which clients, and which page of them."""

    user_id: PlainText | UnsetType = UNSET
    room: PlainText | UnsetType = UNSET
    limit: Annotated[int, Meta(ge=1, le=MAX_CLIENTS, description="Clients of a page.")] = DEFAULT_LIMIT
    cursor: ClientId | UnsetType = UNSET


class Client(Struct, rename="camel"):
    """One authenticated connection. `queued`: bytes that it has not taken yet."""

    id: str
    user_id: str
    rooms: list[str]
    state: str
    encrypted: bool
    connected_at: Time
    last_activity: Time
    server_id: str
    queued: Count


class ClientPage(Struct, rename="camel"):
    """Ordered by id. `unanswered`: instances whose clients are missing, as they did not answer in time or
    could not be asked."""

    data: list[Client]
    total: Count
    next_cursor: str | None
    unanswered: Unanswered


class StreamStatus(Struct, rename="camel"):
    """Of this instance; `instances` counts those that are known to be up, itself included. `unanswered`:
    instances of which that cannot be known."""

    status: Literal["ok"]
    server_id: str
    instances: Count
    clients: Count
    users: Count
    rooms: Count
    started_at: Time | None
    unanswered: Unanswered


class Send(Struct):
    """An event for clients: they see `{"event": topic, "data": data}`."""

    topic: PlainText
    data: Any = None


class Accepted(Struct):
    """`unreached`: instances whose clients may not get it, as they did not confirm it in time or could not be
    reached."""

    unreached: Unanswered
    accepted: Literal[True] = True


_CLIENT_ID = "0f8fad5b-d9cb-469f-a165-70867728950e"
_CLIENT = {
    "id": _CLIENT_ID,
    "userId": "ann",
    "rooms": ["signal/notification/ann", "ws-default", "ws-notification"],
    "state": "authenticated",
    "encrypted": True,
    "connectedAt": "2026-01-01T12:00:00.000Z",
    "lastActivity": "2026-01-01T12:00:00.000Z",
    "serverId": "7c9e6679-7425-40de-944b-e07fc1f90ae7",
    "queued": 0,
}
_SEND = {"topic": "shop/notice", "data": {"text": "Closing in ten minutes."}}
_DONE = {"unreached": [], "accepted": True}


def client_routes(authorizer: Authorizer, operator: Operator) -> Blueprint:
    routes = Blueprint("clients", __name__, url_prefix="/socket/websocket/clients")

    @routes.get("/status")
    @route(
        PUBLIC,
        "Status of the stream",
        answers={200: StreamStatus},
        example=Example(
            answer={
                "status": "ok",
                "serverId": "7c9e6679-7425-40de-944b-e07fc1f90ae7",
                "instances": 1,
                "clients": 1,
                "users": 1,
                "rooms": 3,
                "startedAt": "2026-01-01T12:00:00.000Z",
                "unanswered": [],
            }
        ),
    )
    async def status(call: Call[None, None]) -> Json:
        """Public."""
        return dict(operator.status())

    @routes.get("")
    @route(
        authorizer,
        "List clients",
        permission="WebSocketClient.find",
        query=ClientsParameters,
        answers={200: ClientPage},
        example=Example(
            query={"userId": "ann", "limit": "10"},
            answer={"data": [_CLIENT], "total": 1, "nextCursor": None, "unanswered": []},
        ),
    )
    async def list_(call: Call[ClientsParameters, None]) -> Json:
        """The connected clients of all instances."""
        query = call.query
        user_id, room, after = (None if v is UNSET else v for v in (query.user_id, query.room, query.cursor))
        page = await operator.clients(user_id, room, query.limit, after)
        return {
            "data": page.clients,
            "total": page.total,
            "nextCursor": page.next_after,
            "unanswered": page.unanswered,
        }

    @routes.get("/<client_id>")
    @route(
        authorizer,
        "Get a client",
        permission="WebSocketClient.findById",
        answers={200: Client},
        problems=(404,),
        example=Example(path={"clientId": _CLIENT_ID}, answer=_CLIENT),
    )
    async def get(call: Call[None, None], client_id: str) -> Json:
        """On whichever instance it is; 503 where it may be on one that gave no answer."""
        client, unanswered = await operator.client(client_id)
        if client is not None:
            return dict(client)
        if unanswered:
            raise Problem(503, f"It may be on an instance that gave no answer: {_named(unanswered)}.")
        raise Problem(404)

    @routes.post("/broadcast")
    @route(
        authorizer,
        "Send to every client",
        permission="WebSocketClient.broadcast",
        body=Send,
        answers={202: Accepted},
        example=Example(body=_SEND, answer=_DONE),
    )
    async def broadcast(call: Call[None, Send]) -> Accepted:
        """On every instance."""
        return _accepted(await operator.broadcast(*_event(call.body)))

    @routes.post("/rooms/<path:room_name>/send")
    @route(
        authorizer,
        "Send to a room",
        permission="WebSocketClient.sendToRoom",
        path=ROOM_PATH,
        body=Send,
        answers={202: Accepted},
        example=Example(path={"roomName": "signal/merchant/m1"}, body=_SEND, answer=_DONE),
    )
    async def send_to_room(call: Call[None, Send], room_name: str) -> Accepted:
        """To each client in it, on every instance; the room may be empty. The name is URL-encoded."""
        return _accepted(await operator.send_to_room(room_name, *_event(call.body)))

    @routes.post("/<client_id>/send")
    @route(
        authorizer,
        "Send to a client",
        permission="WebSocketClient.sendToClient",
        path=CLIENT_PATH,
        body=Send,
        answers={202: Accepted},
        example=Example(path={"clientId": _CLIENT_ID}, body=_SEND, answer=_DONE),
    )
    async def send_to_client(call: Call[None, Send], client_id: str) -> Accepted:
        """On whichever instance it is; accepted whether or not it is there. 503 where it is not on this one
        and the others cannot be reached."""
        return _accepted(await operator.send_to_client(client_id, *_event(call.body)))

    @routes.post("/<client_id>/disconnect")
    @route(
        authorizer,
        "Disconnect a client",
        permission="WebSocketClient.disconnect",
        path=CLIENT_PATH,
        answers={202: Accepted},
        example=Example(path={"clientId": _CLIENT_ID}, answer=_DONE),
    )
    async def disconnect(call: Call[None, None], client_id: str) -> Accepted:
        """It is closed with 4006; accepted whether or not it is there. 503 where it is not on this instance
        and the others cannot be reached."""
        return _accepted(await operator.disconnect(client_id))

    return routes


def _accepted(unreached: Sequence[str]) -> Accepted:
    return Accepted(list(unreached))


def _named(server_ids: Sequence[str]) -> str:
    return ", ".join("one that is not known here" if id == ANY else id for id in server_ids)


def _event(send: Send) -> tuple[str, bytes]:
    """(topic, JSON of the data)"""
    if send.topic == DISCONNECT:
        raise Problem(400, f"The topic {DISCONNECT!r} ends connections: use …/disconnect for that.")
    if send.topic.startswith(OWN_TOPICS) or send.topic in PROTOCOL_EVENTS:
        raise Problem(400, f"The topic {send.topic[:100]!r} is of Signal itself: send under another one.")
    data = msgspec.json.encode(send.data)
    if len(data) > MAX_DATA_BYTES:
        raise Problem(413, f"data has at most {MAX_DATA_BYTES} bytes.")
    return send.topic, data

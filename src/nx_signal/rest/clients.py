"""`/socket/websocket/clients`: who is connected, on every instance, and what operators do about it."""

from __future__ import annotations

import re

import msgspec
from quart import Blueprint, Response, request

from nx_signal.model import Json
from nx_signal.rest import queries
from nx_signal.rest.access import Api, require
from nx_signal.rest.problems import Problem
from nx_signal.rest.shapes import answer, json_object
from nx_signal.stream.operator import MAX_CLIENTS
from nx_signal.stream.topics import DISCONNECT

MAX_DATA_BYTES = 65_536
"""Of one send: sealed and in base64 it stays below what a client accepts in one frame."""

_CLIENT_ID = re.compile(r"[A-Za-z0-9-]{1,64}", re.ASCII)


def clients(api: Api) -> Blueprint:
    routes = Blueprint("clients", __name__, url_prefix="/socket/websocket/clients")
    operator = api.operator

    @routes.get("/status")
    async def status() -> Response:
        return answer(dict(operator.status()))  # public

    @routes.get("")
    async def list_() -> Response:
        await require(api, "WebSocketClient.find")
        given = {name: value for name, value in request.args.items() if value}
        limit = queries.digits("limit", given.get("limit", str(queries.DEFAULT_LIMIT)), 1, MAX_CLIENTS)
        after = _client_id(given["cursor"], "cursor") if "cursor" in given else None
        page = await operator.clients(given.get("userId"), given.get("room"), limit, after)
        return answer(
            {
                "data": page.clients,
                "total": page.total,
                "nextCursor": page.next_after,
                "unanswered": page.unanswered,
            }
        )

    @routes.get("/<client_id>")
    async def get(client_id: str) -> Response:
        await require(api, "WebSocketClient.findById")
        client, unanswered = await operator.client(client_id)
        if client is not None:
            return answer(dict(client))
        if unanswered:
            raise Problem(503, f"These instances did not answer in time: {', '.join(unanswered)}.")
        raise Problem(404)

    @routes.post("/broadcast")
    async def broadcast() -> Response:
        await require(api, "WebSocketClient.broadcast")
        await operator.broadcast(*await _send())
        return _accepted()

    @routes.post("/rooms/<path:room>/send")
    async def send_to_room(room: str) -> Response:
        await require(api, "WebSocketClient.sendToRoom")
        await operator.send_to_room(queries.plain_text("roomName", room), *await _send())
        return _accepted()

    @routes.post("/<client_id>/send")
    async def send_to_client(client_id: str) -> Response:
        await require(api, "WebSocketClient.sendToClient")
        await operator.send_to_client(_client_id(client_id, "clientId"), *await _send())
        return _accepted()

    @routes.post("/<client_id>/disconnect")
    async def disconnect(client_id: str) -> Response:
        await require(api, "WebSocketClient.disconnect")
        await operator.disconnect(_client_id(client_id, "clientId"))
        return _accepted()

    return routes


def _accepted() -> Response:
    return answer({"accepted": True}, 202)


def _client_id(text: str, name: str) -> str:
    if not _CLIENT_ID.fullmatch(text):
        raise Problem(400, f"{name} is the id of a client, as the list shows it.")
    return text


async def _send() -> tuple[str, bytes]:
    """(topic, JSON of the data) of a body `{topic, data?}`."""
    body: dict[str, Json] = await json_object(request)
    topic = queries.plain_text("topic", body.get("topic"))
    if topic == DISCONNECT:
        raise Problem(400, f"The topic {DISCONNECT!r} ends connections: use …/disconnect for that.")
    data = msgspec.json.encode(body.get("data"))
    if len(data) > MAX_DATA_BYTES:
        raise Problem(413, f"data has at most {MAX_DATA_BYTES} bytes.")
    return topic, data

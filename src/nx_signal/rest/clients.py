"""`/socket/websocket/clients`: who is connected."""

from __future__ import annotations

from quart import Blueprint, Response

from nx_signal.rest.access import Api
from nx_signal.rest.shapes import answer


def clients(api: Api) -> Blueprint:
    routes = Blueprint("clients", __name__, url_prefix="/socket/websocket/clients")

    @routes.get("/status")
    async def status() -> Response:
        return answer(dict(api.stream.status()))  # public

    return routes

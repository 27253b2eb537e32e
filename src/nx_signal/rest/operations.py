"""Outside the base path, and public: health, metrics, the embedded issuer's keys."""

from __future__ import annotations

from quart import Blueprint, Response

from nx_signal.rest.access import Api
from nx_signal.rest.problems import RETRY_AFTER_S, Problem
from nx_signal.rest.shapes import answer


def operations(api: Api) -> Blueprint:
    routes = Blueprint("operations", __name__)

    @routes.get("/healthz")
    async def healthz() -> Response:
        return answer({"status": "ok"})

    @routes.get("/readyz")
    async def readyz() -> Response:
        down = dict(api.health.down)
        if not down:
            return answer({"status": "ready", "down": {}})
        response = answer({"status": "not ready", "down": down}, 503)
        response.headers["Retry-After"] = str(RETRY_AFTER_S)
        return response

    @routes.get("/metrics")
    async def metrics() -> Response:
        return Response(api.metrics.exposition(), content_type="text/plain; version=0.0.4; charset=utf-8")

    @routes.get("/stream")
    async def stream() -> Response:
        raise Problem(426, "The stream is a WebSocket.", headers={"Upgrade": "websocket"})

    if api.jwks is not None:
        keys = api.jwks

        @routes.get("/.well-known/jwks.json")
        async def jwks() -> Response:
            return answer(dict(keys))

    return routes

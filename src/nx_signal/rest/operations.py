"""Outside the base path, and public: health, metrics, the embedded issuer's keys."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct
from quart import Blueprint, Response

from nx_signal.model import Json
from nx_signal.rest.access import Api
from nx_signal.rest.problems import RETRY_AFTER_S, Problem
from nx_signal.rest.route import Call, Example, route
from nx_signal.rest.shapes import answer


class Alive(Struct):
    status: Literal["ok"] = "ok"


class Ready(Struct):
    """`down`: part → why it is not up."""

    status: Literal["ready"]
    down: dict[str, str]


class NotReady(Struct):
    """`down`: part → why it is not up."""

    status: Literal["not ready"]
    down: dict[str, str]


class KeySet(Struct):
    """A JWK Set (RFC 7517)."""

    keys: list[dict[str, Any]]


def operations(api: Api) -> Blueprint:
    routes = Blueprint("operations", __name__)

    @routes.get("/healthz")
    @route(api, "Is it alive?", public=True, answers={200: Alive}, example=Example(answer={"status": "ok"}))
    async def healthz(call: Call[None, None]) -> Alive:
        """200 as long as the process answers at all."""
        return Alive()

    @routes.get("/readyz")
    @route(
        api,
        "Is it ready?",
        public=True,
        answers={200: Ready, 503: NotReady},
        example=Example(answer={"status": "ready", "down": {}}),
    )
    async def readyz(call: Call[None, None]) -> Ready | Response:
        """200 once every part works; else 503, which names the parts that do not."""
        down = dict(api.health.down)
        if not down:
            return Ready("ready", {})
        response = answer(NotReady("not ready", down), 503)
        response.headers["Retry-After"] = str(RETRY_AFTER_S)
        return response

    @routes.get("/metrics")
    @route(api, "Metrics", public=True, answers={200: str})
    async def metrics(call: Call[None, None]) -> Response:
        """The text format of Prometheus."""
        return Response(api.metrics.exposition(), content_type="text/plain; version=0.0.4; charset=utf-8")

    @routes.get("/stream")
    @route(api, "The stream", public=True, answers={101: None}, problems=(426,))
    async def stream(call: Call[None, None]) -> Json:
        """A WebSocket; /doc/asyncapi.json describes it. A plain GET gets 426."""
        raise Problem(426, "The stream is a WebSocket.", headers={"Upgrade": "websocket"})

    if api.jwks is not None:
        keys = api.jwks

        @routes.get("/.well-known/jwks.json")
        @route(api, "The embedded issuer's public keys", public=True, answers={200: KeySet})
        async def jwks(call: Call[None, None]) -> Json:
            """Absent where another issuer signs."""
            return dict(keys)

    return routes

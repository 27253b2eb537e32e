"""Outside the base path, and public: health, metrics, the embedded issuer's keys."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal, TypeAlias

import msgspec
import trio
from msgspec import Struct
from quart import Blueprint, Response, request

from nx_signal import __version__
from nx_signal.errors import TokenRejected, Unavailable
from nx_signal.identity.permissions import Forbidden
from nx_signal.model import Json
from nx_signal.rest.access import PUBLIC, Authorizer
from nx_signal.rest.problems import RETRY_AFTER_S, Problem
from nx_signal.rest.route import Call, Example, route
from nx_signal.rest.shapes import answer
from nx_signal.server.scope import PROBES
from nx_signal.telemetry.health import Health
from nx_signal.telemetry.metrics import Metrics

OWN_WORDS = frozenset({"starting", "draining"})
"""Reasons that name nothing but this instance."""
PERMITTED_WITHIN_S = 2.0
"""Below the patience of probes, also with a store that hangs."""


class Service(Struct):
    """What answers here, and where to go on; the addresses are relative to this one."""

    service: Literal["nx-signal"]
    version: str
    doc: str
    openapi: str
    asyncapi: str
    ready: str


_HERE = Service("nx-signal", __version__, "doc", "doc/openapi.json", "doc/asyncapi.json", "readyz")


class Alive(Struct):
    status: Literal["ok"] = "ok"


class Ready(Struct):
    """`degraded`: part → what is wrong with it, although this instance serves; to strangers a word. `down` is
    empty."""

    status: Literal["ready"]
    down: dict[str, str]
    degraded: dict[str, str]


class NotReady(Struct):
    """`down`: part → why this instance cannot serve; to strangers a word."""

    status: Literal["not ready"]
    down: dict[str, str]
    degraded: dict[str, str]


class KeySet(Struct):
    """A JWK Set (RFC 7517)."""

    keys: list[dict[str, Any]]


StreamJwks: TypeAlias = Callable[[], Awaitable[Sequence[Mapping[str, str]]]]
"""The public keys of the stream's version 2, as JWKs. May raise StoreUnavailable."""


async def _may_see_reasons(authorizer: Authorizer) -> bool:
    """Never an error: a probe may send any Authorization, and the store with the grants may be away."""
    if request.scope.get("operations"):  # it came on the port of operations
        return True
    if "Authorization" not in request.headers:
        return False
    with trio.move_on_after(PERMITTED_WITHIN_S), suppress(Problem, TokenRejected, Forbidden, Unavailable):
        await authorizer.authorize("Health.find")
        return True
    return False


def operation_routes(
    authorizer: Authorizer,
    health: Health,
    metrics: Metrics,
    jwks: Mapping[str, object] | None,
    stream_jwks: StreamJwks | None,
    *,
    apart: bool = False,
) -> Blueprint:
    """`jwks`: the embedded issuer's public keys; None with another issuer. `stream_jwks`: None where
    version 2 is off. `apart`: the probes have a port of their own; a scope of it has `operations`."""
    routes = Blueprint("operations", __name__)

    @routes.before_request
    async def only_there() -> None:
        if apart and request.path.encode() in PROBES and not request.scope.get("operations"):
            raise Problem(404)

    @routes.get("/")
    @route(
        PUBLIC,
        "Where to begin",
        answers={200: Service},
        headers={"Link": "The documentation (RFC 8631)."},
        example=Example(answer=msgspec.to_builtins(_HERE)),
    )
    async def root(call: Call[None, None]) -> Response:
        """The documentation's addresses."""
        response = answer(_HERE)
        response.headers["Link"] = '<doc>; rel="service-doc", <doc/openapi.json>; rel="service-desc"'
        return response

    @routes.get("/healthz")
    @route(PUBLIC, "Is it alive?", answers={200: Alive}, example=Example(answer={"status": "ok"}))
    async def healthz(call: Call[None, None]) -> Alive:
        """200 as long as the process answers at all."""
        return Alive()

    @routes.get("/readyz")
    @route(
        PUBLIC,
        "Is it ready?",
        answers={200: Ready, 503: NotReady},
        example=Example(answer={"status": "ready", "down": {}, "degraded": {}}),
    )
    async def readyz(call: Call[None, None]) -> Ready | Response:
        """Whether this instance can serve. 503 at the start until every part worked once (Redis and Kafka:
        for at most 15 s), while the store or the journal is away, and during a stop. What else is wrong is
        named in `degraded`, also in a 200. The reasons, which may name hosts, are for callers with a token
        and the permission Health.find; others get a word for each part."""
        down, degraded = dict(health.down), dict(health.degraded)
        if (down or degraded) and not await _may_see_reasons(authorizer):
            down = {part: why if why in OWN_WORDS else "unavailable" for part, why in down.items()}
            degraded = {part: why if why in OWN_WORDS else "degraded" for part, why in degraded.items()}
        if not down:
            return Ready("ready", {}, degraded)
        response = answer(NotReady("not ready", down, degraded), 503)
        response.headers["Retry-After"] = str(RETRY_AFTER_S)
        return response

    @routes.get("/metrics")
    @route(PUBLIC, "Metrics", answers={200: str})
    async def metrics_(call: Call[None, None]) -> Response:
        """The text format of Prometheus."""
        return Response(metrics.exposition(), content_type="text/plain; version=0.0.4; charset=utf-8")

    @routes.get("/stream")
    @route(PUBLIC, "The stream", answers={101: None}, problems=(426,))
    async def stream(call: Call[None, None]) -> Json:
        """A WebSocket; /doc/asyncapi.json describes it. A plain GET gets 426."""
        raise Problem(426, "The stream is a WebSocket.", headers={"Upgrade": "websocket"})

    if jwks is not None or stream_jwks is not None:

        @routes.get("/.well-known/jwks.json")
        @route(PUBLIC, "Public keys: the embedded issuer's, and the stream's", answers={200: KeySet})
        async def jwks_(call: Call[None, None]) -> Json:
            """Of the embedded issuer, where it signs: what verifies tokens (`use` is `sig`). Of the stream's
            version 2: what the servers prove in the handshake (`kty` OKP, `crv` X25519, `use` is `enc`)."""
            signing: Any = jwks["keys"] if jwks is not None else ()
            return {"keys": [*signing, *(await stream_jwks() if stream_jwks is not None else ())]}

    return routes

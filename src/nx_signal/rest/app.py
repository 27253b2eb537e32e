"""The REST application: one blueprint per resource, and what holds for every request."""

from __future__ import annotations

import re
import uuid
from collections.abc import Collection, Mapping
from typing import Any

import structlog
import trio
from quart import Response, g, request
from quart_trio import QuartTrio
from werkzeug.routing import PathConverter

from nx_signal.activities.cloud_events import NO_TYPES
from nx_signal.activities.content import Renderer
from nx_signal.activities.explain import Explain
from nx_signal.activities.limits import NOTIFICATION_BYTES
from nx_signal.activities.preview import Preview
from nx_signal.activities.replay import Replay
from nx_signal.delivery.operator import Operator
from nx_signal.delivery.polling import Polling
from nx_signal.identity.tickets import Tickets
from nx_signal.inbox.service import Inbox
from nx_signal.ports import Journal
from nx_signal.rest.access import Authorizer
from nx_signal.rest.activities import activity_routes
from nx_signal.rest.changes import change_routes
from nx_signal.rest.clients import client_routes
from nx_signal.rest.dead_letters import dead_letter_routes
from nx_signal.rest.doc import doc_routes
from nx_signal.rest.events import event_routes
from nx_signal.rest.explain import explain_routes
from nx_signal.rest.marks import mark_routes
from nx_signal.rest.members import member_routes
from nx_signal.rest.notifications import notification_routes
from nx_signal.rest.openapi import document
from nx_signal.rest.operations import StreamJwks, operation_routes
from nx_signal.rest.problems import Problem, register_problems
from nx_signal.rest.route import Route
from nx_signal.rest.tickets import ticket_routes
from nx_signal.sse.server import EventServer
from nx_signal.store import DeadLetters, Directory, Members
from nx_signal.telemetry.health import Health
from nx_signal.telemetry.metrics import Metrics

log = structlog.get_logger()

BASE_PATH = "/v1/api/signal"
MAX_BODY_BYTES = 1_048_576
MAX_QUERY_BYTES = 16_384
BODY_TIMEOUT_S = 10
"""For the whole body to arrive."""
HANDLING_TIMEOUT_S = 20.0
"""For a handler, body included: above the adapters' own deadlines, so that their error is the answer."""
RESPONSE_TIMEOUT_S = 60
"""For the whole response to leave: the viewer's largest file, compressed, at sending.MIN_BYTES_PER_S."""
PREFLIGHT_MAX_AGE_S = 600
MAX_REPORTED = 20
"""Origins that are logged as refused."""

_SECURITY = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}
"""An answer loads nothing and is not shown in a frame; the pages below /doc have a policy of their own (OWASP
REST Security Cheat Sheet)."""

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}", re.ASCII)

_ACCEPTED = "Authorization, Content-Type, If-None-Match, Last-Event-ID, X-Client-Id, X-Request-Id"
_EXPOSED = "ETag, RateLimit, RateLimit-Policy, Retry-After, WWW-Authenticate, X-Request-Id"
"""Header fields that scripts of other origins may send, and see, beside the usual ones."""


class _AnyPath(PathConverter):
    """It may begin with a slash, as an id may."""

    part_isolating = False
    regex = ".+?"


class _App(QuartTrio):
    async def dispatch_request(self, *context: Any) -> Any:  # one Quart passes an optional, another a must
        rule = request.url_rule
        each = Route.of(self.view_functions.get(rule.endpoint)) if rule is not None else None
        with trio.fail_after(HANDLING_TIMEOUT_S + (each.wait_s if each is not None else 0)):
            return await super().dispatch_request(*context)


def create_app(
    *,
    authorizer: Authorizer,
    inbox: Inbox,
    renderer: Renderer,
    event_types: frozenset[str] | None,
    journal: Journal,
    preview: Preview,
    explain: Explain,
    dead_letters: DeadLetters,
    replay: Replay,
    directory: Directory,
    members: Members,
    tickets: Tickets,
    operator: Operator,
    polling: Polling,
    events: EventServer,
    health: Health,
    metrics: Metrics,
    jwks: Mapping[str, object] | None,
    stream_jwks: StreamJwks | None = None,
    cors_origins: Collection[str],
    path_prefix: str = "",
    operations_apart: bool = False,
    events_plaintext: bool = False,
    notification_bytes: int = NOTIFICATION_BYTES,
    cloud_event_types: Mapping[str, str] = NO_TYPES,
) -> QuartTrio:
    """The application, without a lifespan; server.http.Http serves it."""
    app = _App("nx_signal", static_folder=None, template_folder=None)
    app.config.update(
        MAX_CONTENT_LENGTH=MAX_BODY_BYTES,
        BODY_TIMEOUT=BODY_TIMEOUT_S,
        RESPONSE_TIMEOUT=RESPONSE_TIMEOUT_S,
        PROPAGATE_EXCEPTIONS=False,
    )
    app.url_map.strict_slashes = False
    app.url_map.merge_slashes = False  # would answer // with a redirect
    app.url_map.converters["path"] = _AnyPath
    register_problems(app)
    app.before_request(_identify)
    _finish(app, frozenset(cors_origins))
    for routes in (
        change_routes(authorizer, polling),  # before /notifications/<id>
        notification_routes(authorizer, inbox, renderer),
        mark_routes(authorizer, inbox),
        activity_routes(authorizer, journal, event_types, preview, notification_bytes, cloud_event_types),
        explain_routes(authorizer, explain),
        dead_letter_routes(authorizer, dead_letters, replay),
        member_routes(authorizer, directory, members),
        ticket_routes(authorizer, tickets),
        client_routes(authorizer, operator),
    ):
        app.register_blueprint(routes, url_prefix=BASE_PATH + (routes.url_prefix or ""))
    app.register_blueprint(
        operation_routes(authorizer, health, metrics, jwks, stream_jwks, apart=operations_apart)
    )
    app.register_blueprint(event_routes(authorizer, events, plaintext=events_plaintext))
    pages = doc_routes(document(app, path_prefix), path_prefix)
    app.register_blueprint(pages, url_prefix="/doc")
    app.register_blueprint(pages, url_prefix=f"{BASE_PATH}/doc", name="doc-under-base")
    return app


async def _identify() -> None:
    """Give the request an id: the caller's where it is valid. Each request is a task of its own, so the
    logger's context that is bound here ends with it."""
    given = request.headers.get("X-Request-Id", "")
    g.request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
    g.began = trio.current_time()
    g.rate_limit = {}
    structlog.contextvars.bind_contextvars(request_id=g.request_id)
    if len(request.query_string) > MAX_QUERY_BYTES:
        raise Problem(414, f"The query has at most {MAX_QUERY_BYTES} bytes.")


def _finish(app: QuartTrio, origins: frozenset[str]) -> None:
    refused: set[str] = set()

    @app.after_request
    async def finish(response: Response) -> Response:
        headers = response.headers
        headers.setdefault("Cache-Control", "no-store")
        for name, value in _SECURITY.items():
            headers.setdefault(name, value)
        headers["X-Request-Id"] = g.request_id
        headers.update(g.rate_limit)
        _share(response, origins)
        _report_refusal(response, refused)
        log.debug(
            "http_request",
            method=request.method,
            path=request.path,
            status=response.status_code,
            ms=round((trio.current_time() - g.began) * 1000, 1),
        )
        return response


def _report_refusal(response: Response, reported: set[str]) -> None:
    """Log each page that a browser will not let read the answer, once; the browser shows the reason to its
    user alone. A page of this server's own address needs no permission."""
    origin = request.headers.get("Origin")
    if origin is None or "Access-Control-Allow-Origin" in response.headers:
        return
    if origin.partition("://")[2] == request.host or origin in reported or len(reported) == MAX_REPORTED:
        return
    reported.add(origin)
    log.warning(
        "cors_refused", origin=origin[:200], advice="list it in APP_ENV_CORS_ORIGINS if it may call REST"
    )


def _share(response: Response, origins: frozenset[str]) -> None:
    """CORS (Fetch standard, HTTP extensions): tokens travel in a header, so no credentials mode."""
    if not origins:
        return
    headers = response.headers
    headers.add("Vary", "Origin")
    origin = request.headers.get("Origin")
    if origin is None or not ("*" in origins or origin in origins):
        return
    headers["Access-Control-Allow-Origin"] = "*" if "*" in origins else origin
    headers["Access-Control-Expose-Headers"] = _EXPOSED
    if request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers:
        headers["Access-Control-Allow-Methods"] = headers.get("Allow", "")
        headers["Access-Control-Allow-Headers"] = _ACCEPTED
        headers["Access-Control-Max-Age"] = str(PREFLIGHT_MAX_AGE_S)

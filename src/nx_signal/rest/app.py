"""The REST application: one blueprint per resource, and what holds for every request."""

from __future__ import annotations

import re
import uuid
from typing import Any

import structlog
import trio
from quart import Response, g, request
from quart_trio import QuartTrio

from nx_signal.rest.access import Api
from nx_signal.rest.activities import activities
from nx_signal.rest.clients import clients
from nx_signal.rest.dead_letters import dead_letters
from nx_signal.rest.doc import doc
from nx_signal.rest.notifications import notifications
from nx_signal.rest.openapi import document
from nx_signal.rest.operations import operations
from nx_signal.rest.problems import Problem, register_problems

__all__ = ["Api", "create_app"]

log = structlog.get_logger()

BASE_PATH = "/v1/api/signal"
MAX_BODY_BYTES = 1_048_576
MAX_QUERY_BYTES = 16_384
BODY_TIMEOUT_S = 10
"""For the whole body to arrive."""
HANDLING_TIMEOUT_S = 20.0
"""For a handler, body included: above the adapters' own deadlines, so that their error is the answer."""
RESPONSE_TIMEOUT_S = 30
"""For the whole response to leave."""
PREFLIGHT_MAX_AGE_S = 600

_SECURITY = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}
"""What is no page of ours loads nothing and is shown in no frame (OWASP REST Security Cheat Sheet)."""

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}", re.ASCII)

_ACCEPTED = "Authorization, Content-Type, If-None-Match, X-Client-Id, X-Request-Id"
_EXPOSED = "ETag, RateLimit, RateLimit-Policy, Retry-After, WWW-Authenticate, X-Request-Id"
"""Header fields that scripts of other origins may send, and see, beside the usual ones."""


class _App(QuartTrio):
    async def dispatch_request(self, *context: Any) -> Any:  # one Quart passes an optional, another a must
        with trio.fail_after(HANDLING_TIMEOUT_S):
            return await super().dispatch_request(*context)


def create_app(api: Api) -> QuartTrio:
    """The application; it needs no lifespan. Serve it by `rest.http.Http`."""
    app = _App("nx_signal", static_folder=None, template_folder=None)
    app.config.update(
        MAX_CONTENT_LENGTH=MAX_BODY_BYTES,
        BODY_TIMEOUT=BODY_TIMEOUT_S,
        RESPONSE_TIMEOUT=RESPONSE_TIMEOUT_S,
        PROPAGATE_EXCEPTIONS=False,
    )
    app.url_map.strict_slashes = False
    app.url_map.merge_slashes = False  # would answer // with a redirect
    register_problems(app)
    app.before_request(_identify)
    _finish(app, frozenset(api.settings.cors_origins))
    for routes in (notifications(api), activities(api), dead_letters(api), clients(api)):
        app.register_blueprint(routes, url_prefix=BASE_PATH + (routes.url_prefix or ""))
    app.register_blueprint(operations(api))
    pages = doc(document(app))
    app.register_blueprint(pages, url_prefix="/doc")
    app.register_blueprint(pages, url_prefix=f"{BASE_PATH}/doc", name="doc-under-base")
    return app


async def _identify() -> None:
    """Give the request an id, the caller's where it is a decent one; each request is a task of its own,
    so what is bound here ends with it."""
    given = request.headers.get("X-Request-Id", "")
    g.request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
    g.began = trio.current_time()
    g.rate_limit = {}
    structlog.contextvars.bind_contextvars(request_id=g.request_id)
    if len(request.query_string) > MAX_QUERY_BYTES:
        raise Problem(414, f"The query has at most {MAX_QUERY_BYTES} bytes.")


def _finish(app: QuartTrio, origins: frozenset[str]) -> None:
    @app.after_request
    async def finish(response: Response) -> Response:
        headers = response.headers
        headers.setdefault("Cache-Control", "no-store")
        for name, value in _SECURITY.items():
            headers.setdefault(name, value)
        headers["X-Request-Id"] = g.request_id
        headers.update(g.rate_limit)
        _share(response, origins)
        log.debug(
            "http_request",
            method=request.method,
            path=request.path,
            status=response.status_code,
            ms=round((trio.current_time() - g.began) * 1000, 1),
        )
        return response


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

"""Every error as `application/problem+json` (RFC 9457) with a stable `code`."""

from __future__ import annotations

from collections.abc import Mapping

import structlog
import trio
from quart import Response
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from nx_signal.errors import (
    HistoryLost,
    MessageRejected,
    RateExceeded,
    SessionsFull,
    StoreRejected,
    TokenRejected,
    Unavailable,
    is_out_of_memory,
)
from nx_signal.identity.permissions import Forbidden
from nx_signal.server.problem import OUT_OF_MEMORY, problem_json, report_out_of_memory

log = structlog.get_logger()

RETRY_AFTER_S = 2
"""A database that restarts is back in about that time."""


class Problem(Exception):
    """An answer that is an error. `detail` is a sentence for the reader of the client's log."""

    def __init__(
        self,
        status: int,
        detail: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.code = code
        self.headers = headers or {}


def problem(error: Problem) -> Response:
    body = problem_json(error.status, error.detail, error.code)
    return Response(body, error.status, headers=dict(error.headers), content_type="application/problem+json")


def unauthorized(detail: str, *, token_given: bool) -> Problem:
    """401 with the challenge of RFC 6750 §3."""
    challenge = 'Bearer realm="signal"' + (', error="invalid_token"' if token_given else "")
    return Problem(401, detail, headers={"WWW-Authenticate": challenge})


def register_problems(app: QuartTrio) -> None:
    """Answer each error that a handler may raise, known and unknown."""

    async def raised(error: Problem) -> Response:
        return problem(error)

    async def rejected_token(error: TokenRejected) -> Response:
        return problem(unauthorized(str(error), token_given=True))

    async def forbidden(error: Forbidden) -> Response:
        challenge = {"WWW-Authenticate": 'Bearer realm="signal", error="insufficient_scope"'}
        return problem(Problem(403, str(error), headers=challenge))

    async def rejected_message(error: MessageRejected) -> Response:
        return problem(Problem(400, str(error), "invalid_message"))

    async def lost_history(error: HistoryLost) -> Response:
        return problem(Problem(409, str(error), "history_lost"))

    async def too_many(error: RateExceeded) -> Response:
        code = "too_many_sessions" if isinstance(error, SessionsFull) else None
        return problem(Problem(429, str(error), code, {"Retry-After": str(RETRY_AFTER_S)}))

    async def unstorable(error: StoreRejected) -> Response:
        log.warning("store_rejected", why=str(error))
        return problem(Problem(422, "The database cannot hold a value of this request.", "unstorable"))

    async def unavailable(error: Unavailable) -> Response:
        log.warning("http_unavailable", why=str(error))
        detail = "A part that this needs cannot be reached now; try again shortly."
        return problem(Problem(503, detail, headers={"Retry-After": str(RETRY_AFTER_S)}))

    async def too_slow(error: trio.TooSlowError) -> Response:
        log.warning("http_too_slow")
        detail = "This took too long; try again shortly."
        return problem(Problem(503, detail, "timeout", {"Retry-After": str(RETRY_AFTER_S)}))

    async def http(error: HTTPException) -> Response:
        if error.code is None or error.code < 400:
            return Response("", error.code or 500, headers=dict(error.get_headers()))
        headers = {}
        detail = None
        if isinstance(error, MethodNotAllowed) and error.valid_methods:
            headers["Allow"] = ", ".join(sorted(error.valid_methods))
            detail = f"This address takes {headers['Allow']}."
        return problem(Problem(error.code, detail, headers=headers))

    async def unknown(error: Exception) -> Response:
        if is_out_of_memory(error):
            report_out_of_memory()
            return problem(Problem(503, OUT_OF_MEMORY, headers={"Retry-After": str(RETRY_AFTER_S)}))
        log.error("http_failed", exc_info=error)
        return problem(Problem(500))

    for kind, handler in (
        (Problem, raised),
        (TokenRejected, rejected_token),
        (Forbidden, forbidden),
        (MessageRejected, rejected_message),
        (HistoryLost, lost_history),
        (RateExceeded, too_many),
        (StoreRejected, unstorable),
        (Unavailable, unavailable),
        (trio.TooSlowError, too_slow),
        (HTTPException, http),
        (Exception, unknown),
    ):
        app.register_error_handler(kind, handler)

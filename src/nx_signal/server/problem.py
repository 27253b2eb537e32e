"""The body of an error, `application/problem+json` (RFC 9457), with a stable `code`."""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus

import msgspec
import structlog

log = structlog.get_logger()

# The code of a status; a Problem raised on purpose may name a finer one.
_CODES = {
    400: "bad_request",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "request_timeout",
    409: "conflict",
    413: "too_large",
    414: "query_too_long",
    415: "unsupported_media_type",
    422: "unprocessable",
    426: "upgrade_required",
    429: "too_many_requests",
    431: "headers_too_large",
    500: "internal_error",
    503: "unavailable",
}
_DETAILS = {
    404: "There is nothing at this address for you.",
    408: "The request's body did not arrive in time; send it again.",
    413: "The request's body is too large; send less at once.",
    500: "Something went wrong here; the logs name this request by its X-Request-Id.",
}

OUT_OF_MEMORY = "This server is out of memory; try again shortly."


class ProblemDetails(msgspec.Struct):
    """An error (RFC 9457). `code` is stable, for programs; `detail` is a sentence for people."""

    type: str
    title: str
    status: int
    code: str
    detail: str


def report_out_of_memory() -> None:
    """Without a traceback: it would not name the cause, and takes memory itself."""
    log.error("http_out_of_memory", advice="raise this process's memory limit, or add instances")


def problem_json(status: int, detail: str | None = None, code: str | None = None) -> bytes:
    """The body. Nothing in it differs between two requests that fail alike."""
    phrase = HTTPStatus(status).phrase
    return msgspec.json.encode(
        ProblemDetails(
            type="about:blank",
            title=phrase,
            status=status,
            code=code or _CODES.get(status) or phrase.lower().replace(" ", "_"),
            detail=detail or _DETAILS.get(status) or HTTPStatus(status).description or phrase,
        )
    )


def problem_headers(body: bytes) -> list[tuple[bytes, bytes]]:
    """Of an answer that the application does not give; the connection ends with it."""
    return [
        (b"content-type", b"application/problem+json"),
        (b"content-length", b"%d" % len(body)),
        (b"cache-control", b"no-store"),
        (b"x-content-type-options", b"nosniff"),
        (b"connection", b"close"),
    ]


def problem_response(status: int, detail: str | None, more: Iterable[tuple[bytes, bytes]]) -> bytes:
    """A whole answer of HTTP/1.1, where no request was parsed."""
    body = problem_json(status, detail)
    lines = [b"HTTP/1.1 %d %b" % (status, HTTPStatus(status).phrase.encode())]
    lines += [b"%b: %b" % header for header in (*problem_headers(body), *more)]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body

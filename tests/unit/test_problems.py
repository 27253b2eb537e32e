"""rest/problems.py: each error as a problem, with a stable code and no secrets."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio
from quart import Response
from quart_trio import QuartTrio

from nx_signal.errors import (
    IssuerUnavailable,
    MessageRejected,
    SourceUnavailable,
    StoreRejected,
    StoreUnavailable,
    TokenRejected,
)
from nx_signal.identity.permissions import Forbidden
from nx_signal.rest.problems import Problem, register_problems


async def answer_to(error: Exception) -> tuple[Response, dict[str, Any]]:
    app = QuartTrio("test", static_folder=None)
    app.config["PROPAGATE_EXCEPTIONS"] = False
    register_problems(app)

    @app.get("/")
    async def fails() -> Response:
        raise error

    response = await app.test_client().get("/")
    assert response.content_type == "application/problem+json"
    body = json.loads(await response.get_data())
    assert body["status"] == response.status_code
    assert set(body) == {"type", "title", "status", "code", "detail"}
    return response, body


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (Problem(404), 404, "not_found"),
        (Problem(400, "No.", "invalid_parameter"), 400, "invalid_parameter"),
        (TokenRejected("No."), 401, "unauthorized"),
        (Forbidden("No."), 403, "forbidden"),
        (MessageRejected("No."), 400, "invalid_message"),
        (StoreRejected("No."), 422, "unstorable"),
        (StoreUnavailable("No."), 503, "unavailable"),
        (IssuerUnavailable("No."), 503, "unavailable"),
        (SourceUnavailable("No."), 503, "unavailable"),
        (trio.TooSlowError(), 503, "timeout"),
        (MemoryError(), 503, "unavailable"),
        (RuntimeError("can't start new thread"), 503, "unavailable"),
        (RuntimeError("No."), 500, "internal_error"),
        (ExceptionGroup("two", [StoreUnavailable("No.")]), 503, "unavailable"),
        (ExceptionGroup("two", [RuntimeError("No.")]), 500, "internal_error"),
    ],
)
async def test_each_error_has_its_status_and_code(error: Exception, status: int, code: str) -> None:
    response, body = await answer_to(error)
    assert (response.status_code, body["code"]) == (status, code)


@pytest.mark.parametrize(
    "error", [RuntimeError("secret"), StoreUnavailable("secret"), StoreRejected("secret")]
)
async def test_details_of_internal_errors_are_not_shown(error: Exception) -> None:
    response, _ = await answer_to(error)
    assert b"secret" not in await response.get_data()


async def test_the_answer_states_when_to_try_again() -> None:
    response, _ = await answer_to(StoreUnavailable("away"))
    assert int(response.headers["Retry-After"]) > 0


async def test_a_refused_token_is_challenged() -> None:
    response, _ = await answer_to(TokenRejected("The token has expired."))
    assert response.headers["WWW-Authenticate"] == 'Bearer realm="signal", error="invalid_token"'
    response, _ = await answer_to(Forbidden("No."))
    assert "insufficient_scope" in response.headers["WWW-Authenticate"]

"""`/doc`: the OpenAPI and AsyncAPI documents, and a viewer that needs no internet."""

from __future__ import annotations

from importlib import resources

import msgspec
import trio
from quart import Blueprint, Response

from nx_signal.model import Json
from nx_signal.rest.problems import Problem
from nx_signal.stream.asyncapi import document as asyncapi

VIEWER = resources.files("nx_signal") / "web" / "doc"
"""Swagger UI as it is published (its README.md says how), and a page of ours around it."""
_FILES = {
    "start.js": "text/javascript; charset=utf-8",
    "swagger-ui-bundle.js": "text/javascript; charset=utf-8",
    "swagger-ui.css": "text/css; charset=utf-8",
}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Its own files alone. The viewer writes styles as it goes; no script is inline."""


def doc(openapi: Json) -> Blueprint:
    routes = Blueprint("doc", __name__)
    documents = {
        "openapi.json": msgspec.json.encode(openapi),
        "asyncapi.json": msgspec.json.encode(asyncapi()),
    }

    @routes.get("", strict_slashes=True)
    async def page() -> Response:
        return await _file("index.html", "text/html; charset=utf-8")

    @routes.get("/", strict_slashes=True)
    async def slashed() -> Response:
        """The page names its files relative to an address without the slash."""
        return Response("", 308, headers={"Location": "../doc"})

    @routes.get("/<name>")
    async def part(name: str) -> Response:
        if (document := documents.get(name)) is not None:
            return _fresh(Response(document, content_type="application/json"))
        if (kind := _FILES.get(name)) is not None:
            return await _file(name, kind)
        raise Problem(404)

    return routes


async def _file(name: str, kind: str) -> Response:
    response = Response(await trio.to_thread.run_sync((VIEWER / name).read_bytes), content_type=kind)
    response.headers["Content-Security-Policy"] = _POLICY
    return _fresh(response)


def _fresh(response: Response) -> Response:
    response.headers["Cache-Control"] = "no-cache"
    return response

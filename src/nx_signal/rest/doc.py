"""`/doc`: the OpenAPI and AsyncAPI documents, and a viewer that needs no internet."""

from __future__ import annotations

from importlib import resources

import msgspec
from quart import Blueprint, Response

from nx_signal.model import Json
from nx_signal.rest.files import SharedFile
from nx_signal.rest.problems import Problem
from nx_signal.websocket.asyncapi import document as asyncapi

VIEWER = resources.files("nx_signal") / "web" / "doc"
"""Swagger UI as it is published (see its README.md), and the page around it."""
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


def doc_routes(openapi: Json, prefix: str) -> Blueprint:
    routes = Blueprint("doc", __name__)
    index = _viewer("index.html", "text/html; charset=utf-8")
    parts = {name: _viewer(name, kind) for name, kind in _FILES.items()} | {
        "openapi.json": SharedFile(lambda: msgspec.json.encode(openapi), "application/json", {}),
        "asyncapi.json": SharedFile(lambda: msgspec.json.encode(asyncapi(prefix)), "application/json", {}),
    }

    @routes.get("", strict_slashes=True)
    async def page() -> Response:
        return await index.response()

    @routes.get("/", strict_slashes=True)
    async def slashed() -> Response:
        """The page names its files relative to an address without the slash."""
        return Response("", 308, headers={"Location": "../doc"})

    @routes.get("/<name>")
    async def part(name: str) -> Response:
        if name not in parts:
            raise Problem(404)
        return await parts[name].response()

    return routes


def _viewer(name: str, kind: str) -> SharedFile:
    return SharedFile((VIEWER / name).read_bytes, kind, {"Content-Security-Policy": _POLICY})

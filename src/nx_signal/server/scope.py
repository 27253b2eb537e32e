"""What the head of a request asks for: its target, its ASGI scope, an upgrade."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast
from urllib.parse import unquote

import h11
from hypercorn.typing import ConnectionState, HTTPScope

PROBES = frozenset({b"/healthz", b"/readyz", b"/metrics"})
"""What operators' machines ask for: reachable when nothing else is."""


def scope_of(
    request: h11.Request,
    target: bytes,
    client: tuple[str, int] | None,
    server: tuple[str, int] | None,
    **own: Any,
) -> HTTPScope:
    """`own`: further keys, of this server's own."""
    path, _, query = target.partition(b"?")
    scope: HTTPScope = {
        "type": "http",
        "asgi": {"spec_version": "2.1", "version": "3.0"},
        "http_version": request.http_version.decode("ascii"),
        "method": request.method.decode("ascii").upper(),
        "scheme": "http",
        "path": unquote(path.decode("ascii")),
        "raw_path": path,
        "query_string": query,
        "root_path": "",
        "headers": list(request.headers),
        "client": client,
        "server": server,
        "state": ConnectionState({}),
        "extensions": {},
    }
    return cast(HTTPScope, {**scope, **own})


def origin_form(target: bytes, prefix: bytes) -> bytes | None:
    """The path and query of a request target (RFC 9112 §3.2), without the prefix; None for what names no
    resource here."""
    if target[:7].lower() == b"http://" or target[:8].lower() == b"https://":
        slash = target.find(b"/", 8)
        target = b"/" if slash < 0 else target[slash:]
    if prefix and (target == prefix or target.startswith((prefix + b"/", prefix + b"?"))):
        target = target[len(prefix) :]
        target = target if target.startswith(b"/") else b"/" + target
    return target if target.startswith(b"/") else None


def is_options_of_all(request: h11.Request) -> bool:
    """Of the server as a whole (RFC 9110 §9.3.7)."""
    return request.method == b"OPTIONS" and request.target == b"*"


def is_upgrade_of(path: bytes, request: h11.Request, target: bytes) -> bool:
    """A request for a WebSocket at `path` (RFC 6455 §4.1). HTTP/1.0 has no upgrades (RFC 9110 §7.8)."""
    return (
        request.method == b"GET"
        and request.http_version == b"1.1"
        and target.partition(b"?")[0] == path
        and any(name == b"upgrade" and b"websocket" in value.lower() for name, value in request.headers)
    )


def is_probe(method: bytes, target: bytes) -> bool:
    """Of a target in origin form."""
    return method in (b"GET", b"HEAD") and target.partition(b"?")[0] in PROBES


def fields_of(head: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The header fields of a whole head, with lower-case names."""
    for line in head.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        yield name.strip().lower(), value.strip()


def raw_head(request: h11.Request) -> bytes:
    """As it may have arrived."""
    lines = [b"%b %b HTTP/%b" % (request.method, request.target, request.http_version)]
    lines += [b"%b: %b" % header for header in request.headers.raw_items()]
    return b"\r\n".join(lines) + b"\r\n\r\n"

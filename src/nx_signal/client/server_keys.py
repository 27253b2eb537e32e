"""The keys that a server of the stream has to prove on version 2: from its JWK Set, or given beforehand."""

from __future__ import annotations

import base64
import ssl
from collections.abc import AsyncGenerator, Collection
from contextlib import aclosing
from typing import cast
from urllib.parse import urlsplit, urlunsplit

import httpx
import msgspec

from nx_signal.client.handshake import HandshakeRefused
from nx_signal.client.http import http_client
from nx_signal.client.websocket import PROTOCOL_ERROR, StreamUnavailable
from nx_signal.model.json import decode_json

KEY_BYTES = 32
TIMEOUT_S = 10.0
MAX_BYTES = 1_048_576
"""Of a JWK Set."""
PATH = "/.well-known/jwks.json"
_HEADERS = {"accept": "application/json", "accept-encoding": "identity"}
"""Uncompressed, so that the bound on the bytes read is the bound on memory."""


class Jwk(msgspec.Struct, frozen=True):
    kty: str = ""
    crv: str = ""
    use: str = ""
    x: str = ""


class KeySet(msgspec.Struct, frozen=True):
    keys: list[Jwk]


def rest_of(stream_url: str) -> str:
    """The address of REST beside that of the stream, below the same path."""
    parts = urlsplit(stream_url)
    scheme = "https" if parts.scheme == "wss" else "http"
    return urlunsplit((scheme, parts.netloc, parts.path.removesuffix("/stream"), "", ""))


def read_server_key(text: str) -> bytes:
    """The `x` of a JWK: base64url of 32 bytes. Raises ValueError."""
    try:
        raw = base64.b64decode(text.rstrip("=") + "=", altchars=b"-_", validate=True)
    except ValueError:
        raw = b""
    if len(raw) != KEY_BYTES:
        raise ValueError("a server's key has 43 characters of base64url: the `x` of its JWK")
    return raw


async def fetch_server_keys(stream_url: str, ssl_context: ssl.SSLContext | None) -> Collection[bytes]:
    """Of the JWK Set of the server at this address: as good as the TLS that it comes over. No redirects.

    Raises StreamUnavailable; HandshakeRefused where there is none for the stream."""
    url = rest_of(stream_url) + PATH
    try:
        async with (
            http_client(rest_of(stream_url), TIMEOUT_S, tls=ssl_context) as http,
            http.stream("GET", PATH, headers=_HEADERS) as answer,
        ):
            body = bytearray()
            async with aclosing(cast(AsyncGenerator[bytes, None], answer.aiter_raw())) as parts:
                async for part in parts:
                    body += part
                    if len(body) > MAX_BYTES:
                        break
    except httpx.RequestError as error:
        raise StreamUnavailable(f"{url} cannot be reached: {str(error) or type(error).__name__}") from None
    if answer.status_code in (429, 502, 503, 504):
        raise StreamUnavailable(f"{url} is not ready ({answer.status_code}).")
    try:
        found = decode_json(bytes(body), KeySet).keys if answer.is_success else []
    except msgspec.DecodeError:
        found = []
    keys = {jwk.x for jwk in found if (jwk.kty, jwk.crv, jwk.use) == ("OKP", "X25519", "enc")}
    try:
        trusted = {read_server_key(key) for key in keys}
    except ValueError:
        trusted = set()
    if not trusted:
        raise HandshakeRefused(
            f"{url} has no key of the stream's version 2 (HTTP status {answer.status_code}); a server of an "
            "earlier release has version 1 alone: ask for that by name",
            PROTOCOL_ERROR,
        )
    return trusted

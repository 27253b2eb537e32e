"""The keys of an issuer elsewhere: its JWK Set over HTTP."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import cast

import httpx
import msgspec
import trio

from nx_signal.errors import IssuerUnavailable

TIMEOUT_S = 5.0
MAX_BYTES = 262_144
"""A hundred RSA keys with certificate chains stay below this."""

_HEADERS = {"accept": "application/json", "accept-encoding": "identity"}
"""Uncompressed, so that the bound on the bytes read is the bound on memory."""


class JwksUrl:
    """A KeySource that fetches `url` at each call: one GET, 5 s and 256 KiB at most."""

    def __init__(self, url: str, timeout_s: float = TIMEOUT_S) -> None:
        self._url = url
        self._timeout_s = timeout_s
        self._tls = httpx.create_ssl_context()  # reads the trusted certificates, some 20 ms: once

    async def jwks(self) -> Mapping[str, object]:
        try:
            with trio.fail_after(self._timeout_s):
                body = await self._get()
        except trio.TooSlowError:
            raise IssuerUnavailable(f"The issuer did not answer within {self._timeout_s:g} s.") from None
        except (httpx.HTTPError, OSError) as error:
            raise IssuerUnavailable(
                f"The issuer cannot be reached: {error or type(error).__name__}"
            ) from error
        try:
            jwks = msgspec.json.decode(body, type=dict[str, object])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise IssuerUnavailable("The issuer's answer is no JWK Set.") from None
        if not isinstance(jwks.get("keys"), list):
            raise IssuerUnavailable("The issuer's answer is no JWK Set.")
        return jwks

    async def _get(self) -> bytes:
        async with (
            httpx.AsyncClient(verify=self._tls, timeout=self._timeout_s, follow_redirects=True) as client,
            client.stream("GET", self._url, headers=_HEADERS) as answer,
            aclosing(cast(AsyncGenerator[bytes, None], answer.aiter_raw(65_536))) as parts,
        ):
            if answer.status_code != 200:
                raise IssuerUnavailable(f"The issuer answered with status {answer.status_code}.")
            body = bytearray()
            async for part in parts:
                body += part
                if len(body) > MAX_BYTES:
                    raise IssuerUnavailable(f"The issuer's answer is longer than {MAX_BYTES} bytes.")
            return bytes(body)

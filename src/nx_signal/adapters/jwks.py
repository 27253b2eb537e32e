"""The keys of an external issuer: its JWK Set over HTTP."""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import cast

import httpx
import msgspec
import trio

from nx_signal.errors import IssuerUnavailable, SettingsError
from nx_signal.model.json import decode_json

TIMEOUT_S = 5.0
MAX_PORT = 65_535
MAX_BYTES = 262_144
"""A hundred RSA keys with certificate chains stay below this."""

_HEADERS = {"accept": "application/json", "accept-encoding": "identity"}
"""Uncompressed, so that the bound on the bytes read is the bound on memory."""


class JwksUrl:
    """A KeySource that fetches `url` at each call: 5 s and 256 KiB at most, no redirect.

    It takes no proxy and no ~/.netrc from the environment. It trusts the public authorities and those of the
    system, to which OpenSSL adds SSL_CERT_FILE and SSL_CERT_DIR; with `ca_file` that file alone. Raises
    SettingsError for values that cannot be used."""

    def __init__(
        self,
        url: str,
        timeout_s: float = TIMEOUT_S,
        *,
        proxy: str | None = None,
        ca_file: Path | None = None,
    ) -> None:
        self._url = _checked(url, "APP_ENV_JWKS_URL")
        self._proxy = None if proxy is None else _checked(proxy, "APP_ENV_JWKS_PROXY")
        self._timeout_s = timeout_s
        self._tls = _trusting(ca_file)  # reads the trusted certificates, some 20 ms: once

    async def jwks(self) -> Mapping[str, object]:
        try:
            with trio.fail_after(self._timeout_s):
                body = await self._get()
        except trio.TooSlowError:
            raise IssuerUnavailable(f"The issuer did not answer within {self._timeout_s:g} s.") from None
        except IssuerUnavailable:
            raise
        except Exception as error:  # of any kind that an answer can cause in the libraries
            raise IssuerUnavailable(f"The issuer cannot be reached: {_reason(error)}") from error
        try:
            jwks: dict[str, object] = decode_json(body.removeprefix(b"\xef\xbb\xbf"), dict[str, object])
        except msgspec.DecodeError:
            jwks = {}
        if not isinstance(jwks.get("keys"), list):
            found = "an OpenID configuration (use its jwks_uri)" if "jwks_uri" in jwks else "not a JWK Set"
            raise IssuerUnavailable(f"The issuer's response is {found}: check APP_ENV_JWKS_URL.")
        return jwks

    async def _get(self) -> bytes:
        async with (
            httpx.AsyncClient(
                verify=self._tls,
                proxy=self._proxy,
                trust_env=False,
                timeout=self._timeout_s,
                event_hooks={"response": [_require_answer]},
            ) as client,
            client.stream("GET", self._url, headers=_HEADERS) as response,
        ):
            body = bytearray()
            async with aclosing(cast(AsyncGenerator[bytes, None], response.aiter_raw(65_536))) as parts:
                async for part in parts:
                    body += part
                    if len(body) > MAX_BYTES:
                        raise IssuerUnavailable(f"The issuer's response is longer than {MAX_BYTES} bytes.")
            return bytes(body)


async def _require_answer(response: httpx.Response) -> None:
    """A hook: before httpx looks at where a redirect leads, which may be no address at all."""
    if response.status_code != 200:
        advice = (
            "it redirects, which is not followed: set APP_ENV_JWKS_URL to the address of the keys themselves"
            if 300 <= response.status_code < 400
            else "check APP_ENV_JWKS_URL"
        )
        raise IssuerUnavailable(f"The issuer answered with status {response.status_code}: {advice}.")


def _checked(url: str, setting: str) -> httpx.URL:
    try:
        parsed = httpx.URL(url)
        usable = parsed.host and (parsed.port or 0) <= MAX_PORT
    except (httpx.InvalidURL, ValueError):  # whose text may quote a password
        usable = False
    if not usable:
        raise SettingsError(
            f"{setting} has no host, or a port that is none; in a user or a password / is written %2F, ? is "
            "%3F and # is %23."
        )
    return parsed


def _trusting(ca_file: Path | None) -> ssl.SSLContext:
    if ca_file is None:
        context = httpx.create_ssl_context(trust_env=False)
        context.load_default_certs()
        return context
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise SettingsError(
            f"APP_ENV_JWKS_CAFILE {ca_file} is not a readable file of PEM certificates: {error}."
        ) from None


def _reason(error: BaseException) -> str:
    """The text of the error, or of what it was raised from: a failed TLS handshake has it there."""
    chain: BaseException | None = error
    while chain is not None:
        if isinstance(chain, ssl.SSLCertVerificationError):
            return f"{chain.verify_message}; name its CA certificates with APP_ENV_JWKS_CAFILE."
        if text := str(chain):
            return text
        chain = chain.__cause__ or chain.__context__
    return type(error).__name__

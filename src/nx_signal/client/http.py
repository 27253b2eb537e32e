"""HTTP of the clients: what they trust, no proxy of the environment, no redirect."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from functools import cache
from ipaddress import ip_address
from urllib.parse import urlsplit

import httpx

from nx_signal.errors import SettingsError
from nx_signal.telemetry.redaction import redacted

MAX_PORT = 65_535
_ENCRYPTED = frozenset({"https", "wss"})


def http_client(
    url: str, timeout_s: float, *, headers: Mapping[str, str] | None = None, tls: ssl.SSLContext | None = None
) -> httpx.AsyncClient:
    """For the paths below `url`, http://host:port. Raises SettingsError for another one."""
    try:
        base = httpx.URL(url)
        usable = base.scheme in ("http", "https") and base.host and (base.port or 0) <= MAX_PORT
    except (httpx.InvalidURL, ValueError):
        usable = False
    if not usable:
        raise SettingsError(f"{redacted(url)!r} is not the URL of a server; use http://host:port.")
    return httpx.AsyncClient(
        base_url=base,
        headers=headers,
        timeout=timeout_s,
        trust_env=False,
        verify=tls or tls_for(url),
        event_hooks={"response": [_forget_redirect]},
    )


def tls_for(url: str) -> ssl.SSLContext:
    """One that trusts nothing where `url` needs none: to read the authorities takes some 50 ms."""
    return _authorities() if _scheme(url) in _ENCRYPTED else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


@cache
def _authorities() -> ssl.SSLContext:
    """The public ones and those of the system, read once."""
    context = httpx.create_ssl_context(trust_env=False)
    context.load_default_certs()
    return context


def is_exposed(url: str) -> bool:
    """Whether what goes there leaves this machine without TLS."""
    if _scheme(url) in _ENCRYPTED:
        return False
    host = urlsplit(url).hostname
    try:
        return host != "localhost" and not ip_address(host or "").is_loopback
    except ValueError:
        return True


def _scheme(url: str) -> str:
    return url.partition(":")[0].lower()


async def _forget_redirect(answer: httpx.Response) -> None:
    """A hook: httpx would look at where it leads, which may be no address at all."""
    answer.headers.pop("location", None)

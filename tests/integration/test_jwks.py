"""adapters/jwks.py against a small HTTP server: whatever it answers, keys or IssuerUnavailable."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from ipaddress import ip_address
from pathlib import Path

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from nx_signal.adapters.jwks import JwksUrl
from nx_signal.errors import IssuerUnavailable, SettingsError
from nx_signal.identity.tokens import TokenVerifier
from nx_signal.model.timestamps import now


@asynccontextmanager
async def answering(
    answer: bytes,
    *,
    hang: bool = False,
    tls: ssl.SSLContext | None = None,
    requests: list[bytes] | None = None,
) -> AsyncIterator[str]:
    async def serve(tcp: trio.SocketStream) -> None:
        stream = trio.SSLStream(tcp, tls, server_side=True, https_compatible=True) if tls else tcp
        async with stream:
            try:
                request = bytes(await stream.receive_some())
            except trio.BrokenResourceError:  # the client does not trust the certificate
                return
            if requests is not None:
                requests.append(request)
            with trio.move_on_after(60):
                try:
                    await stream.send_all(answer)
                except trio.BrokenResourceError:
                    return
                if hang:
                    await trio.sleep_forever()

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(trio.serve_listeners, serve, listeners))
        yield f"http{'s' if tls else ''}://127.0.0.1:{port}/jwks.json"
        nursery.cancel_scope.cancel()


def http(body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(head).encode() + body


async def test_the_keys_are_fetched() -> None:
    async with answering(http(b'{"keys":[{"kid":"a"}]}')) as url:
        assert await JwksUrl(url).jwks() == {"keys": [{"kid": "a"}]}


@pytest.mark.parametrize(
    "answer",
    [
        http(b'{"keys":[]}', "500 Oops"),
        http(b'{"keys":[]}', "404 Not Found"),
        http(b"<html>", "200 OK"),
        http(b"\xff"),
        http(b"[]"),
        http(b'{"keys":{}}'),
        http(b"[" * 100_000),
        http(b'{"keys":[' + b" " * 300_000 + b"]}"),
        b"not http\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{",
        b"",
    ],
)
async def test_any_other_answer_is_an_issuer_unavailable(answer: bytes) -> None:
    async with answering(answer) as url:
        with pytest.raises(IssuerUnavailable):
            await JwksUrl(url).jwks()


async def test_a_request_to_an_issuer_that_hangs_times_out() -> None:
    async with answering(b"HTTP/1.1 200 OK\r\n", hang=True) as url:
        with pytest.raises(IssuerUnavailable, match="did not answer"):
            await JwksUrl(url, timeout_s=0.2).jwks()


async def test_an_answer_that_trickles_times_out() -> None:
    async def trickle(tcp: trio.SocketStream) -> None:
        await tcp.receive_some()
        with trio.move_on_after(10):
            while True:
                try:
                    await tcp.send_all(b"HTTP/1.1 200 OK\r\n" if not sent else b"X: y\r\n")
                except trio.BrokenResourceError:
                    return
                sent.append(1)
                await trio.sleep(0.02)

    sent: list[int] = []
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(trio.serve_listeners, trickle, listeners))
        url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}/"
        with pytest.raises(IssuerUnavailable, match="did not answer within"):
            await JwksUrl(url, timeout_s=0.2).jwks()
        nursery.cancel_scope.cancel()


async def test_a_port_without_a_listener_is_an_issuer_unavailable() -> None:
    async with answering(b"") as url:
        pass
    with pytest.raises(IssuerUnavailable, match="cannot be reached"):
        await JwksUrl(url).jwks()


# --- where it is fetched from ---


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ssl.SSLContext]:
    """A certificate for 127.0.0.1 that no public authority has signed, and a server with it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "issuer")])
    today = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(today - timedelta(days=1))
        .not_valid_after(today + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    folder = tmp_path_factory.mktemp("tls")
    file, key_file = folder / "ca.pem", folder / "key.pem"
    file.write_bytes(made.public_bytes(Encoding.PEM))
    key_file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(file, key_file)
    return file, server


async def test_a_private_authority_is_trusted_where_it_is_named(
    certificate: tuple[Path, ssl.SSLContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    file, server = certificate
    async with answering(http(b'{"keys":[]}'), tls=server) as url:
        with pytest.raises(IssuerUnavailable, match="APP_ENV_JWKS_CAFILE"):
            await JwksUrl(url).jwks()
        assert await JwksUrl(url, ca_file=file).jwks() == {"keys": []}
        monkeypatch.setenv("SSL_CERT_FILE", str(file))
        assert await JwksUrl(url).jwks() == {"keys": []}


@pytest.mark.parametrize("text", [None, b"", b"no certificate"])
def test_a_file_without_certificates_is_refused_at_the_start(tmp_path: Path, text: bytes | None) -> None:
    file = tmp_path / "ca.pem"
    if text is not None:
        file.write_bytes(text)
    with pytest.raises(SettingsError, match="APP_ENV_JWKS_CAFILE"):
        JwksUrl("https://issuer.example/jwks", ca_file=file)


@pytest.mark.parametrize("url", ["https://[::1/jwks", "https:///jwks", "https://x:99999/"])
def test_an_address_that_is_none_is_refused_at_the_start(url: str) -> None:
    with pytest.raises(SettingsError, match="APP_ENV_JWKS_URL"):
        JwksUrl(url)
    with pytest.raises(SettingsError, match="APP_ENV_JWKS_PROXY"):
        JwksUrl("https://issuer.example/jwks", proxy=url)


async def test_the_keys_are_fetched_through_the_proxy_that_is_set_and_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    requests: list[bytes] = []
    async with answering(http(b'{"keys":[]}'), requests=requests) as proxy:
        for variable in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(variable, "http://127.0.0.1:9")
        url = "http://issuer.invalid/jwks"
        assert await JwksUrl(url, proxy=proxy).jwks() == {"keys": []}
        assert requests[0].startswith(b"GET http://issuer.invalid/jwks HTTP/1.1")
        assert await JwksUrl(proxy).jwks() == {"keys": []}


@pytest.mark.parametrize(
    "target",
    [
        *("/again", "//", "http://", "http://[::1", "http://a b/", "http://x:99999/", "ftp://x/y"),
        *('data:application/json,{"keys":[]}', "file:///etc/passwd", "javascript:1", "\x01", ""),
    ],
)
@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "307 Again", "308 Moved", "300 Choose"])
async def test_a_redirect_is_not_followed(target: str, status: str) -> None:
    requests: list[bytes] = []
    async with answering(http(b"", status, f"Location: {target}"), requests=requests) as url:
        with pytest.raises(IssuerUnavailable):
            await JwksUrl(url).jwks()
    assert len(requests) == 1


async def test_a_redirect_to_another_server_reaches_it_not() -> None:
    asked: list[bytes] = []
    async with (
        answering(http(b'{"keys":[]}'), requests=asked) as other,
        answering(http(b"", "302 Found", f"Location: {other}")) as url,
    ):
        with pytest.raises(IssuerUnavailable, match="which is not followed: set APP_ENV_JWKS_URL"):
            await JwksUrl(url).jwks()
    assert asked == []


async def test_a_redirect_pauses_as_an_outage_does_whatever_number_of_tokens_come() -> None:
    requests: list[bytes] = []
    redirect = http(b"", "302 Found", 'Location: data:application/json,{"keys":[]}')
    async with answering(redirect, requests=requests) as url:
        verifier = TokenVerifier(
            JwksUrl(url), now=now, issuer=None, audience=None, user_claim="sub", trusted_grants=False
        )
        for _ in range(20):
            with pytest.raises(IssuerUnavailable):
                await verifier.verify("eyJhbGciOiJFUzI1NiJ9.e30.AAAA")
    assert len(requests) == 1


async def test_an_openid_configuration_in_the_place_of_the_keys_is_named() -> None:
    async with answering(http(b'{"issuer":"x","jwks_uri":"https://x/jwks"}')) as url:
        with pytest.raises(IssuerUnavailable, match="jwks_uri"):
            await JwksUrl(url).jwks()


@pytest.mark.parametrize("url", ["http://u:hunter2/x@h/", "http://u:p@h:999999/", "http://xn--/", "http://"])
def test_an_address_that_cannot_be_used_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(SettingsError, match="APP_ENV_JWKS_URL has no host") as error:
        JwksUrl(url)
    assert "hunter2" not in str(error.value)

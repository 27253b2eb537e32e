"""adapters/jwks.py against a small HTTP server: whatever it answers, keys or IssuerUnavailable."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio

from nx_signal.adapters.jwks import JwksUrl
from nx_signal.errors import IssuerUnavailable


@asynccontextmanager
async def answering(answer: bytes, *, hang: bool = False) -> AsyncIterator[str]:
    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some()
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
        yield f"http://127.0.0.1:{port}/jwks.json"
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


async def test_an_issuer_that_hangs_is_given_up_on() -> None:
    async with answering(b"HTTP/1.1 200 OK\r\n", hang=True) as url:
        with pytest.raises(IssuerUnavailable, match="did not answer"):
            await JwksUrl(url, timeout_s=0.2).jwks()


async def test_nobody_there_is_an_issuer_unavailable() -> None:
    async with answering(b"") as url:
        pass
    with pytest.raises(IssuerUnavailable, match="cannot be reached"):
        await JwksUrl(url).jwks()

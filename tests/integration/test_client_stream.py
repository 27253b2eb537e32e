"""The stream's client against scripted servers over real sockets."""

from __future__ import annotations

import gzip
import json
import os
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import httpx
import msgspec
import pytest
import trio
import trio.testing
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from trio_websocket import ConnectionClosed, WebSocketConnection, WebSocketRequest, serve_websocket

from nx_signal.client import websocket
from nx_signal.client.http import _authorities, tls_for
from nx_signal.client.stream import Frame, HandshakeRefused, StreamClosed, StreamUnavailable, open_stream
from nx_signal.delivery.topics import STATE
from nx_signal.errors import SettingsError
from nx_signal.identity.stream_keys import public_jwk
from nx_signal.model.wire import CREATED
from nx_signal.websocket.sealing import KeyPair, Sealer, agree, b64, read_public_key

open_stream_1 = partial(open_stream, version=1)
Script = Callable[[WebSocketConnection], Awaitable[None]]


@asynccontextmanager
async def server(script: Script) -> AsyncIterator[str]:
    """The URL of a server that runs the script on each connection."""

    async def handle(request: WebSocketRequest) -> None:
        with suppress(ConnectionClosed):
            await script(await request.accept())

    async with trio.open_nursery() as nursery:
        serving = await nursery.start(serve_websocket, handle, "127.0.0.1", 0, None)
        yield f"ws://127.0.0.1:{serving.port}/stream"
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def raw_server(answer: bytes) -> AsyncIterator[str]:
    """The URL of a server that answers the request's head with these bytes and closes."""

    async def handle(stream: trio.SocketStream) -> None:
        async with stream:
            head = b""
            while b"\r\n\r\n" not in head:
                head += await stream.receive_some(65_536)
            if answer:
                await stream.send_all(answer)

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, handle, 0)
        yield f"ws://127.0.0.1:{listeners[0].socket.getsockname()[1]}/stream"
        nursery.cancel_scope.cancel()


class Peer:
    """The server's half of an accepted connection."""

    def __init__(self, ws: WebSocketConnection, request: Any, sealer: Sealer) -> None:
        self.ws, self.request, self.sealer = ws, request, sealer

    async def push(self, event: str, data: Any = None) -> None:
        await self.ws.send_message(
            self.sealer.seal(msgspec.json.encode({"event": event, "data": data})).decode()
        )

    async def read(self) -> Any:
        frame = msgspec.json.decode(await self.ws.get_message())
        if frame["event"] == "encrypted":
            return {"sealed": True, **msgspec.json.decode(self.sealer.open(frame["data"]))}
        return frame


async def accept(ws: WebSocketConnection) -> Peer:
    """The handshake of CONTRACT §1, as the server does it."""
    request = msgspec.json.decode(await ws.get_message())
    assert request["event"] == "authenticate"
    pair, salt = KeyPair.generate(), os.urandom(32)
    data = {"id": "c1", "userId": "u1", "time": "now", "serverPublicKey": pair.public_b64, "salt": b64(salt)}
    await ws.send_message(msgspec.json.encode({"event": "connected", "data": data}).decode())
    key = agree(pair, read_public_key(request["data"]["publicKey"]), salt)
    return Peer(ws, request["data"], Sealer(key))


async def refuse(ws: WebSocketConnection, message: str, code: int, reason: str) -> None:
    await ws.get_message()
    await ws.send_message(msgspec.json.encode({"event": "error", "data": {"message": message}}).decode())
    await ws.aclose(code, reason)


async def test_frames_are_opened_and_what_the_client_sends_is_sealed() -> None:
    async def script(ws: WebSocketConnection) -> None:
        peer = await accept(ws)
        assert (peer.request["type"], peer.request["token"]) == ("Bearer", "T")
        assert "resume" not in peer.request
        await peer.push("echo", await peer.read())

    async with server(script) as url, open_stream_1(url, "T") as stream:
        assert (stream.client_id, stream.user_id) == ("c1", "u1")
        await stream.send("join", {"rooms": ["r"]})
        echoed = {"sealed": True, "event": "join", "data": {"rooms": ["r"]}}
        assert await stream.receive() == Frame("echo", echoed)


async def test_the_revision_to_resume_from_is_sent_with_the_authentication() -> None:
    async def script(ws: WebSocketConnection) -> None:
        peer = await accept(ws)
        await peer.push("request", peer.request["resume"])

    async with server(script) as url, open_stream_1(url, "T", resume=41) as stream:
        assert (await stream.receive()).data == {"rev": 41}
    async with server(script) as url, open_stream_1(url, "T", resume=41, history="9f") as stream:
        assert (await stream.receive()).data == {"rev": 41, "history": "9f"}


async def test_the_revision_follows_the_inbox_and_no_other_event() -> None:
    async def script(ws: WebSocketConnection) -> None:
        peer = await accept(ws)
        for event, data in (
            (CREATED, {"rev": 7, "history": "9f"}),
            ("promotion", {"rev": 99, "history": "00"}),
            (STATE, {"rev": 8}),
            ("x", 1),
        ):
            await peer.push(event, data)

    async with server(script) as url, open_stream_1(url, "T") as stream:
        seen = [(stream.rev, stream.history)]
        for _ in range(4):
            await stream.receive()
            seen.append((stream.rev, stream.history))
        # An older server states no history.
        assert seen == [(None, None), (7, "9f"), (7, "9f"), (8, None), (8, None)]


async def test_a_waiting_client_sends_heartbeats() -> None:
    async def script(ws: WebSocketConnection) -> None:
        peer = await accept(ws)
        beats = [await peer.read() for _ in range(3)]
        await peer.push("beats", beats)

    async with server(script) as url, open_stream_1(url, "T", heartbeat_s=0.01) as stream:
        assert (await stream.receive()).data == [{"event": "heartbeat"}] * 3


async def test_a_busy_client_sends_heartbeats_too() -> None:
    async def script(ws: WebSocketConnection) -> None:
        peer = await accept(ws)
        async with trio.open_nursery() as nursery:

            async def flood() -> None:
                while True:
                    await peer.push("noise")

            nursery.start_soon(flood)
            assert await peer.read() == {"event": "heartbeat"}
            nursery.cancel_scope.cancel()
        await ws.aclose(4000, "received")

    async with server(script) as url, open_stream_1(url, "T", heartbeat_s=0.01) as stream:
        with pytest.raises(StreamClosed, match="received"):  # noqa: PT012 - some receive() raises
            while True:
                await stream.receive()


async def test_a_cancelled_receive_loses_nothing() -> None:
    async def script(ws: WebSocketConnection) -> None:
        peer = await accept(ws)
        for number in range(200):
            await peer.push("n", number)

    async with server(script) as url, open_stream_1(url, "T") as stream:
        seen: list[int] = []
        while len(seen) < 200:
            with trio.move_on_after(0) as scope:
                seen.append((await stream.receive()).data)
            if scope.cancelled_caught:
                seen.append((await stream.receive()).data)
        assert seen == list(range(200))


async def test_a_refusal_has_the_error_text_and_the_close_code() -> None:
    async def script(ws: WebSocketConnection) -> None:
        await refuse(ws, "Authentication failed", 4003, "Authentication failed")

    async with server(script) as url:
        with pytest.raises(HandshakeRefused) as error:
            async with open_stream_1(url, "T"):
                raise AssertionError("must not connect")
    assert (error.value.message, error.value.code) == ("Authentication failed", 4003)


async def test_a_close_during_the_handshake_is_a_refusal_with_its_reason() -> None:
    async def script(ws: WebSocketConnection) -> None:
        await ws.aclose(1013, "Try again later")

    async with server(script) as url:
        with pytest.raises(HandshakeRefused) as error:
            async with open_stream_1(url, "T"):
                raise AssertionError("must not connect")
    assert (error.value.message, error.value.code) == ("Try again later", 1013)


@pytest.mark.parametrize(
    "first",
    [
        '{"event":"connected","data":{"id":"c","userId":"u","serverPublicKey":"AAAA","salt":"AAAA"}}',
        '{"event":"connected","data":{"id":"c"}}',
        '{"event":"connected"}',
        '{"event":"promotion","data":{}}',
    ],
)
async def test_an_invalid_handshake_is_refused_by_the_client(first: str) -> None:
    async def script(ws: WebSocketConnection) -> None:
        await ws.get_message()
        await ws.send_message(first)
        await ws.get_message()

    async with server(script) as url:
        with pytest.raises(HandshakeRefused) as error:
            async with open_stream_1(url, "T"):
                raise AssertionError("must not connect")
    assert error.value.code == 1002


@pytest.mark.parametrize(
    "text",
    ['{"event":"promotion","data":1}', "hello", "[]", '{"event":"encrypted","data":{"iv":"","ct":""}}'],
)
async def test_a_frame_that_is_not_sealed_ends_the_stream(text: str) -> None:
    async def script(ws: WebSocketConnection) -> None:
        await accept(ws)
        await ws.send_message(text)
        await ws.get_message()

    async with server(script) as url, open_stream_1(url, "T") as stream:
        with pytest.raises(StreamClosed) as error:
            await stream.receive()
        assert error.value.code == 1002


@pytest.mark.parametrize(
    "text", [b'{"event":[]}', b'{"event":null,"data":1}', b'{"event":{"a":1}}', b"[]", b"x"]
)
async def test_a_sealed_message_that_is_no_event_ends_the_stream(text: bytes) -> None:
    async def script(ws: WebSocketConnection) -> None:
        peer = await accept(ws)
        await ws.send_message(peer.sealer.seal(text).decode())
        await ws.get_message()

    async with server(script) as url, open_stream_1(url, "T") as stream:
        with pytest.raises(StreamClosed, match="not an event"):
            await stream.receive()


@pytest.mark.parametrize("order", [(0, 0), (1, 0), (0, 1, 0)])
async def test_on_version_1_a_frame_that_is_repeated_or_out_of_order_ends_the_stream(
    order: tuple[int, ...],
) -> None:
    async def script(ws: WebSocketConnection) -> None:
        peer = await accept(ws)
        sealed = [peer.sealer.seal(msgspec.json.encode({"event": "n", "data": n})).decode() for n in range(2)]
        for n in order:
            await ws.send_message(sealed[n])
        await ws.get_message()

    async with server(script) as url, open_stream_1(url, "T") as stream:
        for n in order[:-1]:
            assert await stream.receive() == Frame("n", n)
        for _ in range(2):
            with pytest.raises(StreamClosed, match="repeated, or out of order") as error:
                await stream.receive()
            assert error.value.code == 1002


@pytest.mark.parametrize("first", [True, False])
async def test_on_version_1_a_frame_of_the_client_that_is_sent_back_ends_the_stream(first: bool) -> None:
    async def script(ws: WebSocketConnection) -> None:
        peer = await accept(ws)
        if not first:
            await peer.push("n", 1)
        await ws.send_message(await ws.get_message())
        await ws.get_message()

    async with server(script) as url, open_stream_1(url, "T") as stream:
        await stream.send("resume", {"rev": 1})
        if not first:
            await stream.receive()
        with pytest.raises(StreamClosed, match="sent back"):
            await stream.receive()


async def test_a_server_of_an_earlier_release_is_named_and_gets_no_token() -> None:
    """It answers every event before `authenticate` with this error."""
    sent: list[str | bytes] = []

    async def script(ws: WebSocketConnection) -> None:
        sent.append(await ws.get_message())
        await ws.send_message('{"event":"error","data":{"message":"Not authenticated"}}')
        with suppress(ConnectionClosed):
            sent.append(await ws.get_message())

    async with server(script) as url:
        with pytest.raises(HandshakeRefused, match="version 1 of the stream alone"):
            async with open_stream(url, "T", server_keys=[bytes(32)]):
                raise AssertionError("must not connect")
    assert len(sent) == 1


async def test_a_server_that_publishes_no_key_of_the_stream_is_refused() -> None:
    answer = b'HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n{"keys":[]}'
    async with raw_server(answer) as url:
        with pytest.raises(HandshakeRefused, match="no key of the stream's version 2"):
            async with open_stream(url, "T"):
                raise AssertionError("must not connect")


@pytest.mark.parametrize(
    "answer",
    [b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n", b"", b"SSH-2.0-OpenSSH\r\n\r\n"],
)
async def test_a_server_whose_keys_cannot_be_fetched_is_unavailable(answer: bytes) -> None:
    async with raw_server(answer) as url:
        with pytest.raises(StreamUnavailable, match=r"jwks\.json"):
            async with open_stream(url, "T"):
                raise AssertionError("must not connect")


@pytest.mark.parametrize("to", [b"http://127.0.0.1:1/", b"data:x", b"http://xn--/", b"http://[x", b"\xff"])
async def test_a_redirect_gives_no_keys(to: bytes) -> None:
    async with raw_server(b"HTTP/1.1 302 Found\r\nLocation: %b\r\nContent-Length: 0\r\n\r\n" % to) as url:
        with pytest.raises(HandshakeRefused, match="302"):
            async with open_stream(url, "T"):
                raise AssertionError("must not connect")


async def test_keys_are_not_decompressed_as_a_small_answer_could_be_of_any_size_then() -> None:
    body = gzip.compress(json.dumps({"keys": [public_jwk(X25519PrivateKey.generate())]}).encode())
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(body)
    async with raw_server(head + body) as url:
        with pytest.raises(HandshakeRefused, match="no key of the stream"):
            async with open_stream(url, "T"):
                raise AssertionError("must not connect")


async def test_the_trusted_authorities_are_read_once_and_only_for_tls(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read: list[ssl.SSLContext] = []

    def create(**_: object) -> ssl.SSLContext:
        read.append(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
        return read[-1]

    monkeypatch.setattr(httpx, "create_ssl_context", create)
    _authorities.cache_clear()
    tls_for("ws://127.0.0.1/")
    assert not read
    assert tls_for("wss://a/") is tls_for("https://b/")
    assert len(read) == 1
    _authorities.cache_clear()


async def test_what_came_before_a_close_is_received_first_and_then_its_code_and_reason() -> None:
    async def script(ws: WebSocketConnection) -> None:
        peer = await accept(ws)
        await peer.push("last")
        await ws.aclose(4006, "Disconnected by operator")

    async with server(script) as url, open_stream_1(url, "T") as stream:
        assert (await stream.receive()).event == "last"
        for _ in range(2):
            with pytest.raises(StreamClosed) as error:
                await stream.receive()
            assert (error.value.code, error.value.reason) == (4006, "Disconnected by operator")
        with pytest.raises(StreamClosed):
            await stream.send("join", {"rooms": ["r"]})


async def test_a_broken_connection_is_closed_with_1006() -> None:
    async def script(ws: WebSocketConnection) -> None:
        await accept(ws)
        await trio.aclose_forcefully(ws._stream)

    async with server(script) as url, open_stream_1(url, "T") as stream:
        with pytest.raises(StreamClosed) as error:
            await stream.receive()
        assert error.value.code == 1006


async def test_a_message_beyond_the_bound_ends_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket, "MAX_MESSAGE_BYTES", 1_000)

    async def script(ws: WebSocketConnection) -> None:
        peer = await accept(ws)
        await peer.push("much", "x" * 1_001)

    async with server(script) as url, open_stream_1(url, "T") as stream:
        with pytest.raises(StreamClosed) as error:
            await stream.receive()
        assert error.value.code == 1009


async def test_pings_are_answered_while_the_client_reads() -> None:
    async def script(ws: WebSocketConnection) -> None:
        peer = await accept(ws)
        await ws.ping(b"there?")
        await peer.push("ponged")

    async with server(script) as url, open_stream_1(url, "T") as stream:
        assert (await stream.receive()).event == "ponged"


async def test_leaving_sends_a_close_frame() -> None:
    left: list[int] = []

    async def script(ws: WebSocketConnection) -> None:
        await accept(ws)
        try:
            await ws.get_message()
        except ConnectionClosed as closed:
            assert closed.reason is not None
            left.append(closed.reason.code)

    async with server(script) as url:
        async with open_stream_1(url, "T"):
            pass
        await trio.testing.wait_all_tasks_blocked()
    assert left == [1000]


async def test_leaving_waits_only_briefly_for_a_server_that_does_not_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(websocket, "CLOSE_TIMEOUT_S", 0.05)

    async def script(ws: WebSocketConnection) -> None:
        await accept(ws)
        ws._reader_running = False  # reads nothing from here on
        await trio.sleep_forever()

    async with server(script) as url:
        with trio.fail_after(5):
            async with open_stream_1(url, "T"):
                pass


async def test_errors_raised_inside_the_context_are_not_wrapped() -> None:
    async def script(ws: WebSocketConnection) -> None:
        await accept(ws)
        await ws.get_message()

    async with server(script) as url:
        with pytest.raises(ZeroDivisionError):
            async with open_stream_1(url, "T"):
                raise ZeroDivisionError


async def test_a_port_without_a_listener_is_unavailable(unused_url: str) -> None:
    with pytest.raises(StreamUnavailable, match="cannot be reached"):
        async with open_stream_1(unused_url, "T"):
            raise AssertionError("must not connect")


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n", "503"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", "200"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "protocol"),
        (b"", "broke"),
    ],
)
async def test_a_server_that_does_not_upgrade_is_unavailable(answer: bytes, error: str) -> None:
    async with raw_server(answer) as url:
        with pytest.raises(StreamUnavailable, match=error):
            async with open_stream_1(url, "T"):
                raise AssertionError("must not connect")


async def test_a_connection_that_breaks_during_the_handshake_is_unavailable() -> None:
    async def script(ws: WebSocketConnection) -> None:
        await trio.aclose_forcefully(ws._stream)

    async with server(script) as url:
        with pytest.raises(StreamUnavailable, match="broke"):
            async with open_stream_1(url, "T"):
                raise AssertionError("must not connect")


async def test_a_handshake_with_a_silent_server_times_out() -> None:
    async def script(ws: WebSocketConnection) -> None:
        await trio.sleep_forever()

    async with server(script) as url:
        with pytest.raises(StreamUnavailable, match=r"did not finish the handshake within 0\.05 seconds"):
            async with open_stream_1(url, "T", handshake_timeout_s=0.05):
                raise AssertionError("must not connect")


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "ws://", "ws://host:port/", "stream", "ws://[::1"])
async def test_what_is_not_a_stream_url_is_a_settings_error(url: str) -> None:
    with pytest.raises(SettingsError, match="ws://host:port/stream"):
        async with open_stream_1(url, "T"):
            raise AssertionError("must not connect")


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("ws://h", (False, "h", 80, "/stream")),
        ("wss://h/", (True, "h", 443, "/stream")),
        ("ws://h:1/a?b=c", (False, "h", 1, "/a?b=c")),
        ("ws://[::1]:2", (False, "::1", 2, "/stream")),
    ],
)
def test_a_url_without_a_path_means_the_stream(url: str, target: tuple[bool, str, int, str]) -> None:
    assert websocket.split_url(url) == target


@pytest.fixture
def unused_url() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"ws://127.0.0.1:{probe.getsockname()[1]}"

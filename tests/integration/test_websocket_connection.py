"""The stream on real sockets: what a client receives, and that its faults affect no other client."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
import trio
import trio.testing
from structlog.testing import capture_logs

from gate_kit import a_listener, open_gate
from nx_signal.activities.content import Renderer
from nx_signal.activities.registry import Registry
from nx_signal.adapters.local_relay import LocalRelay
from nx_signal.adapters.sqlite.memory import MemoryDatabase
from nx_signal.client.stream import HandshakeRefused, Stream, StreamClosed, open_stream
from nx_signal.client.websocket import WebSocket, open_websocket
from nx_signal.composition import compose
from nx_signal.delivery import writer
from nx_signal.delivery.admission import MAX_ROOMS
from nx_signal.delivery.topics import REFRESHED
from nx_signal.delivery.transport import CloseReason
from nx_signal.errors import TokenRejected
from nx_signal.model import Draft, Member, Organizer, Principal, RelayMessage, Roster
from nx_signal.ports import RelayEvent
from nx_signal.server.gate import Visit
from nx_signal.server.limits import CLIENT_MESSAGES
from nx_signal.websocket import connection, protocol
from nx_signal.websocket.sealing import KeyPair
from stream_kit import SERVER_KEY, static_key

UPGRADE = b"GET /stream HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
GOOD_UPGRADE = UPGRADE + b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
PING = b"\x89\x80\0\0\0\0"
NEVER = datetime(2100, 1, 1, tzinfo=UTC)


def now() -> datetime:
    return datetime.now(UTC)


async def verify(token: str) -> Principal:
    """In these tests a token is the user's id, and `bad` is refused."""
    await trio.lowlevel.checkpoint()
    if token in ("", "bad"):
        raise TokenRejected("no")
    return Principal(token, None, NEVER)


class Server:
    def __init__(self) -> None:
        self.database = MemoryDatabase(now)
        to_relay, self.outbound = trio.open_memory_channel[tuple[RelayMessage, ...]](100)
        self.from_relay, self.inbound = trio.open_memory_channel[RelayEvent](1)
        self.relay = LocalRelay()
        registry = Registry.shipped()
        parts = compose(
            server_id="me",
            database=self.database,
            relay=self.relay,
            to_relay=to_relay,
            registry=registry,
            renderer=Renderer(registry, "UTC"),
            verify=verify,
            static_key=static_key,
            now=now,
            resume_limit=500,
            sweep_s=3600,
            client_buffer_bytes=262_144,
            rate_factor=1,
            room_patterns=("public/*",),
        )
        self.delivery, self.websocket, self.metrics = parts.delivery, parts.websocket, parts.metrics
        self.tickets = parts.tickets
        self.hub = self.delivery.hub
        self.plain: list[bytes] = []

        async def http(tcp: trio.SocketStream, head: bytes, visit: Visit) -> None:
            self.plain.append(head)
            await tcp.send_all(
                b"HTTP/1.1 426 Upgrade Required\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
            )

        self.listener = a_listener(self.websocket.serve, http, open_gate(50, self.metrics))
        self.port = 0

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/stream"

    async def run_relay(self, task_status: trio.TaskStatus[None]) -> None:
        await self.relay.run(self.outbound, self.from_relay, task_status)

    async def notify(self, user: str, activity: str) -> None:
        draft = Draft(
            recipient_id=user,
            activity_id=activity,
            type="T",
            organizer_id="o",
            merchant_id=None,
            subject=None,
            locale="en",
            content="c",
            content_html="<p>c</p>",
            action_url=None,
            data={"n": activity},
        )
        self.hub.announce(await self.database.inbox.insert([draft]))

    async def raw(self, head: bytes, then: bytes = b"") -> bytes:
        """The answer until the server closes; `then` is sent once it has answered."""
        received = b""
        async with await trio.open_tcp_stream("127.0.0.1", self.port) as tcp:
            await tcp.send_all(head)
            try:
                while data := await tcp.receive_some(65_536):
                    received += bytes(data)
                    await tcp.send_all(then)
                    then = b""
            except trio.BrokenResourceError:
                pass
        return received

    async def flood(self, tcp: trio.SocketStream) -> None:
        """Send pings without reading, until the server has noticed."""
        await tcp.send_all(GOOD_UPGRADE + PING * 1_000)
        while not any(each.wire.breached for each in self.websocket._open):
            await trio.lowlevel.checkpoint()


def masked(text: str) -> bytes:
    assert len(text) < 126
    return b"\x81%c\0\0\0\0%b" % (0x80 | len(text), text.encode())


@asynccontextmanager
async def serving() -> AsyncIterator[Server]:
    server = Server()
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    server.port = listeners[0].socket.getsockname()[1]
    async with trio.open_nursery() as nursery:
        await nursery.start(server.delivery.run, server.inbound)
        await nursery.start(server.run_relay)
        await nursery.start(server.listener.run, listeners)
        with trio.fail_after(30):
            yield server
        nursery.cancel_scope.cancel()


def connect(server: Server, user: str, **more: Any) -> AbstractAsyncContextManager[Stream]:
    """A client of version 2 that has the server's key."""
    return open_stream(server.url, user, server_keys=[SERVER_KEY], **more)


async def send_event(ws: WebSocket, event: str, data: Any = None) -> None:
    await ws.send(json.dumps({"event": event, "data": data}))


async def end_of(ws: WebSocket) -> tuple[list[Any], int, str]:
    """The frames until the close, its code and reason."""
    frames = []
    while True:
        try:
            frames.append(json.loads(await ws.receive()))
        except StreamClosed as closed:
            return frames, closed.code, closed.reason


async def test_after_the_handshake_a_client_gets_its_notifications_sealed_and_in_order() -> None:
    async with serving() as server, connect(server, "u1") as stream:
        for n in range(20):
            await server.notify("u1", f"a{n}")
        frames = [await stream.receive() for _ in range(20)]
        assert [frame.data["rev"] for frame in frames] == list(range(1, 21))
        assert [frame.data["unread"] for frame in frames] == list(range(1, 21))
        assert all(frame.event == "observation/signal/notification/created" for frame in frames)


async def test_resume_replays_what_was_missed_and_goes_on_live() -> None:
    async with serving() as server:
        for n in range(5):
            await server.notify("u1", f"a{n}")
        async with connect(server, "u1", resume=2) as stream:
            replay = [await stream.receive() for _ in range(4)]
            await server.notify("u1", "live")
            last = await stream.receive()
        assert [frame.data["rev"] for frame in (*replay, last)] == [3, 4, 5, 5, 6]
        assert replay[3].event.endswith("/state") and replay[3].data["reset"] is False


@pytest.mark.parametrize(
    ("data", "error", "code", "reason"),
    [
        ({"token": "bad", "publicKey": "x"}, "Authentication failed", 4003, "Authentication failed"),
        ({"token": "u1"}, "Encryption handshake failed", 4004, "Encryption required"),
        ({"token": "u1", "publicKey": "nope"}, "Authentication error", 4003, "Authentication failed"),
    ],
)
async def test_a_refused_handshake_sends_the_reason_and_closes(
    data: Any, error: str, code: int, reason: str
) -> None:
    async with serving() as server, open_websocket(server.url) as ws:
        await send_event(ws, "authenticate", {"type": "Bearer", **data})
        frames, closed_code, closed_reason = await end_of(ws)
        assert frames == [{"event": "error", "data": {"message": error}}]
        assert (closed_code, closed_reason) == (code, reason)
        assert len(server.hub.sessions) == 0


async def test_only_connected_is_plaintext_whatever_is_sent_during_the_handshake() -> None:
    async with serving() as server, open_websocket(server.url) as ws, trio.open_nursery() as nursery:

        async def storm() -> None:
            while True:
                await server.hub.send(RelayMessage("broadcast", None, "storm", b"1"))
                await server.notify("u1", f"a{trio.current_time()}")
                await trio.lowlevel.checkpoint()

        nursery.start_soon(storm)
        await send_event(ws, "authenticate", {"token": "u1", "publicKey": KeyPair.generate().public_b64})
        events = [json.loads(await ws.receive())["event"] for _ in range(50)]
        assert events == ["connected"] + ["encrypted"] * 49
        nursery.cancel_scope.cancel()


async def test_a_session_s_end_reaches_the_client_with_code_and_reason() -> None:
    async with serving() as server, connect(server, "u1") as stream:
        session = server.hub.session(stream.client_id)
        assert session
        session.end(CloseReason.DISCONNECTED)
        with pytest.raises(StreamClosed) as closed:
            await stream.receive()
        assert (closed.value.code, closed.value.reason) == (4006, "Disconnected by operator")
        assert len(server.hub.sessions) == 0


async def test_what_a_client_sent_while_the_process_was_stopped_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(protocol, "AUTHENTICATE_WITHIN_S", 0.2)
    authenticate = {"token": "ann", "publicKey": KeyPair.generate().public_b64}
    text = json.dumps({"event": "authenticate", "data": authenticate}).encode()
    frame = b"\x81\xfe%b\0\0\0\0%b" % (len(text).to_bytes(2, "big"), text)
    async with serving() as server, await trio.open_tcp_stream("127.0.0.1", server.port) as tcp:
        await tcp.send_all(GOOD_UPGRADE)
        assert b"101" in await tcp.receive_some(65_536)
        os.write(tcp.socket.fileno(), frame)
        time.sleep(0.5)  # noqa: ASYNC251 - nothing of the server runs
        assert b"connected" in await tcp.receive_some(65_536)


async def test_rooms_are_joined_by_membership_and_the_refused_are_named() -> None:
    async with serving() as server:
        await server.database.directory.load(
            Roster([Organizer("o1", None, ("m1",))], [Member("u1", "o1", "m1", "staff", None)], [])
        )
        async with connect(server, "u1") as stream:
            rooms = ["signal/merchant/m1", "signal/organizer/o1", "public/x"]
            refused = [
                "signal/merchant/m2",
                "signal/organizer/o2",
                "signal/notification/u2",
                "private/x",
                "ws:x",
            ]
            await stream.send("join", {"rooms": [*rooms, *refused, "signal/notification/u1"]})
            error = await stream.receive()
            assert error.event == "error" and set(error.data["rooms"]) == set(refused)
            session = server.hub.session(stream.client_id)
            assert session and session.rooms >= set(rooms) and not session.rooms & set(refused)
            await stream.send("leave", {"rooms": ["public/x", stream.client_id]})
            await stream.send("resume", {"rev": 0})
            await stream.receive()
            assert "public/x" not in session.rooms and stream.client_id in session.rooms


async def test_a_refreshed_token_must_be_the_same_user_s() -> None:
    async with serving() as server, connect(server, "u1") as stream:
        await stream.refresh("u1")
        await stream.send("resume", {"rev": 0})
        assert (await stream.receive()).event == REFRESHED
        assert (await stream.receive()).event.endswith("/state")
        await stream.refresh("u2")
        assert (await stream.receive()).data == {"message": "Authentication failed"}
        with pytest.raises(StreamClosed) as closed:
            await stream.receive()
        assert closed.value.code == 4003


async def test_the_first_offered_subprotocol_is_echoed_and_no_extension_is_negotiated() -> None:
    async with serving() as server:
        answer = await server.raw(
            UPGRADE + b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            b"Sec-WebSocket-Protocol: one, two\r\n"
            b"Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n",
            then=b"\x88\x80\0\0\0\0",
        )
        head = answer.partition(b"\r\n\r\n")[0].lower()
        assert head.startswith(b"http/1.1 101") and b"sec-websocket-protocol: one" in head
        assert b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=".lower() in head, "RFC 6455 §1.3"
        assert b"extensions" not in head


async def test_more_than_131072_bytes_close_1009() -> None:
    async with serving() as server, open_websocket(server.url) as ws:
        await ws.send("x" * 131_073)
        _, code, _ = await end_of(ws)
        assert code == 1009


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        (b"\x81\x82\0\0\0\0\xff\xfe", 1007),  # text that is not UTF-8
        (b"\x81\x02hi", 1002),  # not masked
        (b"\x83\x80\0\0\0\0", 1002),  # no such opcode
        (b"\x80\x80\0\0\0\0", 1002),  # continues nothing
        (b"\x88\x82\0\0\0\0\x03\xed", 1002),  # a close with a code that must not be sent
        (b"\x83\x80\0\0\0\0" + b"more" * 50_000, 1002),  # and what follows does not destroy the close
    ],
)
async def test_a_breach_of_the_protocol_is_closed_with_its_code(frames: bytes, code: int) -> None:
    async with serving() as server:
        _, _, after = (await server.raw(GOOD_UPGRADE, frames)).partition(b"\r\n\r\n")
        assert after[:1] == b"\x88"
        assert int.from_bytes(after[2:4], "big") == code


async def test_everything_but_an_upgrade_of_the_stream_goes_to_http() -> None:
    async with serving() as server:
        for head in (
            b"GET /stream HTTP/1.1\r\nHost: x\r\n\r\n",
            b"GET /streams HTTP/1.1\r\nUpgrade: websocket\r\n\r\n",
            b"POST /stream HTTP/1.1\r\nUpgrade: websocket\r\n\r\n",
            b"GET / HTTP/1.1\r\n\r\n",
            b"nonsense\r\n",
            b"GET /stream" + b"x" * 20_000,
        ):
            assert b"426" in await server.raw(head), head[:40]
        assert len(server.plain) == 6


@pytest.mark.parametrize(
    ("rest", "then"),
    [
        (b"Connection: Upgrade, \xff\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: x\r\n\r\n", b""),
        (b"\r\n", b""),
        (b": :\r\n\r\n", b""),
        (b"Sec-WebSocket-Version: 99\r\nSec-WebSocket-Key: x\r\n\r\n", b""),
        (b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZQ==\r\n\r\n", b"\xff" * 9),
        (
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZQ==\r\n\r\n",
            b"\x81\x83\0\0\0\0\xff\xff\xff",
        ),
    ],
)
async def test_a_hostile_upgrade_ends_its_own_connection_alone(rest: bytes, then: bytes) -> None:
    async with serving() as server, connect(server, "u1") as stream:
        await server.raw(UPGRADE + rest, then)
        await server.notify("u1", "a")
        assert (await stream.receive()).data["rev"] == 1


async def test_a_client_that_disconnects_without_a_close_is_removed() -> None:
    async with serving() as server:
        tcp = await trio.open_tcp_stream("127.0.0.1", server.port)
        await trio.aclose_forcefully(tcp)
        async with connect(server, "u1"):
            assert len(server.hub.sessions) == 1
        with trio.fail_after(5):
            while server.hub.sessions:
                await trio.lowlevel.checkpoint()
        assert not server.hub.users


async def test_an_unavailable_store_closes_handshakes_with_1013() -> None:
    async with serving() as server:
        server.database.driver.unavailable = True
        with pytest.raises(HandshakeRefused) as refused:
            async with connect(server, "u1"):
                pass
        assert refused.value.code == 1013


async def test_connections_beyond_the_bound_are_refused() -> None:
    async with serving() as server:
        taken = [await trio.open_tcp_stream("127.0.0.1", server.port) for _ in range(50)]
        one_more = await trio.open_tcp_stream("127.0.0.1", server.port)
        await one_more.send_all(UPGRADE + b"\r\n")
        assert (await one_more.receive_some(100)).startswith(b"HTTP/1.1 503")
        for tcp in (*taken, one_more):
            await tcp.aclose()


async def test_a_flood_of_messages_ends_its_own_connection_4007() -> None:
    async with serving() as server, connect(server, "u2") as other:
        async with connect(server, "u1") as stream:
            with contextlib.suppress(StreamClosed):
                for _ in range(int(CLIENT_MESSAGES.burst) * 5):
                    await stream.heartbeat()
            with pytest.raises(StreamClosed) as closed:
                await stream.receive()
            assert (closed.value.code, closed.value.reason) == (4007, "Too many requests")
        await server.notify("u2", "a")
        assert (await other.receive()).data["rev"] == 1


@pytest.mark.parametrize("then", [b"x", PING * 10], ids=["single bytes", "pings"])
async def test_a_client_that_ignores_its_close_is_cut_off(
    then: bytes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(connection, "CLOSE_WITHIN_S", 0.2)
    monkeypatch.setattr(writer, "LINGER_S", 0.2)
    async with serving() as server, await trio.open_tcp_stream("127.0.0.1", server.port) as tcp:
        await tcp.send_all(
            GOOD_UPGRADE + masked(json.dumps({"event": "authenticate", "data": {"token": "bad"}}))
        )
        received = b""
        while b"Authentication failed" not in received.partition(b"\x88")[2]:
            received += await tcp.receive_some()
        with trio.fail_after(5), contextlib.suppress(trio.BrokenResourceError):
            while True:  # until it is cut off
                await tcp.send_all(then)
                await trio.sleep(0.01)
        assert b"\x8a" not in received.partition(b"\r\n\r\n")[2], "no pong follows a close"
    assert "connection_failed" not in capsys.readouterr().out


async def test_a_client_that_was_closed_for_a_flood_is_held_and_cut_off_at_the_deadline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection, "HOLD_S", 0.3)
    async with serving() as server, await trio.open_tcp_stream("127.0.0.1", server.port) as tcp:
        began_s = trio.current_time()
        await server.flood(tcp)
        with trio.fail_after(5):
            while server.websocket._open:
                await trio.lowlevel.checkpoint()
        assert trio.current_time() - began_s >= 0.3


async def test_a_client_that_is_held_may_be_cut_off_as_it_does_not_read(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async with serving() as server, await trio.open_tcp_stream("127.0.0.1", server.port) as tcp:
        await server.flood(tcp)
        await trio.testing.wait_all_tasks_blocked()
        (held,) = server.websocket._open
        held.wire._abort()
        with trio.fail_after(5):
            while server.websocket._open:
                await trio.lowlevel.checkpoint()
    assert "connection_failed" not in capsys.readouterr().out


async def test_connections_that_fail_one_after_the_other_are_one_line_of_the_log() -> None:
    async with serving() as server:
        with capture_logs() as logs:
            for _ in range(10):
                async with await trio.open_tcp_stream("127.0.0.1", server.port) as tcp:
                    await tcp.send_all(b"GET /stream")
                    await trio.testing.wait_all_tasks_blocked()
                    tcp.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                await trio.testing.wait_all_tasks_blocked()
    assert [entry["event"] for entry in logs] == ["connection_failed"]


async def test_a_message_sent_along_with_the_upgrade_is_read() -> None:
    async with serving() as server, await trio.open_tcp_stream("127.0.0.1", server.port) as tcp:
        await tcp.send_all(GOOD_UPGRADE + masked('{"event": "join"}'))
        received = b""
        while b"Not authenticated" not in received:
            received += await tcp.receive_some()


async def test_a_drain_waits_for_no_client_that_is_held() -> None:
    async with serving() as server, await trio.open_tcp_stream("127.0.0.1", server.port) as tcp:
        await server.flood(tcp)
        server.websocket.close_unauthenticated()
        with trio.fail_after(5):
            while server.websocket._open:
                await trio.lowlevel.checkpoint()


async def test_a_drain_closes_unauthenticated_connections_with_1001_too() -> None:
    async with serving() as server, open_websocket(server.url) as ws:
        await send_event(ws, "heartbeat")
        await send_event(ws, "join")
        assert json.loads(await ws.receive())["event"] == "error", "served by now"
        server.websocket.close_unauthenticated()
        assert await end_of(ws) == ([], 1001, "Server shutting down")


async def test_a_connection_whose_head_arrives_during_a_drain_is_closed_with_1001_too() -> None:
    async with serving() as server:
        server.websocket.close_unauthenticated()
        async with open_websocket(server.url) as ws:
            with trio.fail_after(5):
                assert await end_of(ws) == ([], 1001, "Server shutting down")


async def test_a_client_is_in_a_bounded_number_of_rooms() -> None:
    async with serving() as server, connect(server, "u1") as stream:
        session = server.hub.session(stream.client_id)
        assert session
        session.rooms.update(f"r{n}" for n in range(MAX_ROOMS - len(session.rooms)))
        await stream.send("join", {"rooms": ["public/one-more"]})
        assert (await stream.receive()).data["rooms"] == ["public/one-more"]
        assert len(session.rooms) == MAX_ROOMS

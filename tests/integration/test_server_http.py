"""server/http.py on real sockets: how a connection is served, and what ends it."""

from __future__ import annotations

import gc
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, cast

import pytest
import trio
from quart import Response, request
from quart_trio import QuartTrio
from structlog.testing import capture_logs

from gate_kit import a_visit
from nx_signal.server.gate import Visit
from nx_signal.server.http import Http
from nx_signal.server.sending import Held

LARGE_BYTES = 32_000_000
"""More than the kernel buffers of a connection hold."""
SOON_S = 5.0


class App:
    """An application whose slow route waits for the test."""

    def __init__(self) -> None:
        self.entered = trio.Event()
        self.release = trio.Event()
        self.cancelled = trio.Event()
        self.quart = app = QuartTrio("test", static_folder=None)
        app.config.update(MAX_CONTENT_LENGTH=100_000, BODY_TIMEOUT=0.2, PROPAGATE_EXCEPTIONS=False)

        @app.get("/hello")
        async def hello() -> Response:
            return Response(b"hello", content_type="text/plain")

        @app.get("/large")
        async def large() -> Response:
            return Response(b"x" * LARGE_BYTES, content_type="text/plain")

        @app.post("/echo")
        async def echo() -> Response:
            return Response(await request.get_data(as_text=False), content_type="text/plain")

        @app.get("/slow")
        async def slow() -> Response:
            self.entered.set()
            try:
                await self.release.wait()
            finally:
                if not self.release.is_set():
                    self.cancelled.set()
            return Response(b"slow", content_type="text/plain")

        @app.get("/broken")
        async def broken() -> Response:
            raise RuntimeError("a bug")


class Served:
    def __init__(self, http: Http, app: App, port: int, nursery: trio.Nursery) -> None:
        self.http = http
        self.app = app
        self.port = port
        self.nursery = nursery

    async def connect(self) -> trio.SocketStream:
        return await trio.open_tcp_stream("127.0.0.1", self.port)


@asynccontextmanager
async def serving(
    upgrade: Callable[[trio.SocketStream, bytes, Visit], Awaitable[None]] | None = None, **limits: Any
) -> AsyncIterator[Served]:
    app = App()
    http = Http(app.quart, upgrade, **limits)
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    async with trio.open_nursery() as outer, trio.open_nursery() as handlers:

        async def handle(stream: trio.SocketStream) -> None:
            await http.serve(stream, b"", a_visit())

        serve = partial(trio.serve_listeners, handle, listeners, handler_nursery=handlers)
        outer.start_soon(serve)
        try:
            with trio.fail_after(30):
                yield Served(http, app, port, handlers)
        finally:
            outer.cancel_scope.cancel()


def get(path: str, *headers: str, method: str = "GET") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: test", *headers, "", ""]).encode()


async def until(stream: trio.SocketStream, mark: bytes) -> bytes:
    received = b""
    with trio.fail_after(SOON_S):
        while mark not in received:
            part = await stream.receive_some()
            assert part, f"closed after {received!r}"
            received += part
    return received


async def to_end(stream: trio.SocketStream, within_s: float = SOON_S) -> bytes:
    received = bytearray()  # appending to bytes would copy a large answer hundreds of times
    with trio.fail_after(within_s):
        while part := await stream.receive_some():
            received += part
    return bytes(received)


async def all_over(served: Served) -> None:
    with trio.fail_after(SOON_S):
        await served.http._empty.wait()


async def test_connection_close_is_answered_and_then_closed() -> None:
    async with serving() as served, await served.connect() as client:
        await client.send_all(get("/hello", "Connection: close"))
        assert (await to_end(client)).endswith(b"\r\n\r\nhello")
        await all_over(served)


async def test_a_connection_serves_several_requests_and_ends_when_idle_for_long() -> None:
    async with serving(keep_alive_s=0.2) as served, await served.connect() as client:
        for _ in range(3):
            await client.send_all(get("/hello"))
            await until(client, b"hello")
        began = trio.current_time()
        assert await to_end(client) == b""
        assert trio.current_time() - began < 2
        await all_over(served)


async def test_an_answer_that_takes_longer_than_the_keep_alive_is_still_sent() -> None:
    async with serving(keep_alive_s=0.1) as served, await served.connect() as client:
        await client.send_all(get("/slow"))
        await served.app.entered.wait()
        await trio.sleep(0.3)
        served.app.release.set()
        await until(client, b"slow")


async def test_a_request_that_takes_longer_than_the_limit_is_cancelled_and_its_connection_closed() -> None:
    async with serving(busy_s=0.2) as served, await served.connect() as client:
        await client.send_all(get("/slow"))
        await to_end(client)
        await served.app.cancelled.wait()
        await all_over(served)


async def test_a_client_that_resets_its_connection_cancels_its_request() -> None:
    async with serving() as served:
        client = await served.connect()
        await client.send_all(get("/slow"))
        await served.app.entered.wait()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        await client.aclose()
        with trio.fail_after(SOON_S):
            await served.app.cancelled.wait()
        await all_over(served)


async def test_a_client_that_closed_its_sending_side_still_gets_its_answer() -> None:
    async with serving() as served, await served.connect() as client:
        await client.send_all(get("/slow"))
        await served.app.entered.wait()
        await client.send_eof()
        served.app.release.set()
        assert (await to_end(client)).endswith(b"slow")
        await all_over(served)


async def test_a_client_that_disconnects_between_requests_leaves_no_task_behind() -> None:
    async with serving(keep_alive_s=60) as served:
        async with await served.connect() as client:
            await client.send_all(get("/hello"))
            await until(client, b"hello")
        await all_over(served)


async def test_a_client_that_stops_reading_is_reset_after_the_send_timeout() -> None:
    async with serving(send_timeout_s=0.3) as served, await served.connect() as client:
        await client.send_all(get("/large"))
        await until(client, b"200")
        await all_over(served)
        with pytest.raises(trio.BrokenResourceError):
            await to_end(client)


async def test_what_clients_do_not_take_is_bounded_for_all_of_them_together() -> None:
    async with serving() as served, await served.connect() as stalled, await served.connect() as reading:
        served.http.held = Held(most=LARGE_BYTES + 1)
        await stalled.send_all(get("/large"))
        await until(stalled, b"200")
        await reading.send_all(get("/large", "Connection: close"))
        assert len(await to_end(reading, 20)) > LARGE_BYTES
        with pytest.raises(trio.BrokenResourceError):
            await to_end(stalled)
        await all_over(served)
        assert served.http.held._total == 0


async def test_a_large_response_reaches_a_client_that_reads_it() -> None:
    async with serving(send_timeout_s=5) as served, await served.connect() as client:
        await client.send_all(get("/large", "Connection: close"))
        assert len(await to_end(client, 20)) > LARGE_BYTES


async def test_a_head_that_does_not_arrive_in_time_closes_the_connection() -> None:
    async with serving(keep_alive_s=0.2) as served, await served.connect() as client:
        await client.send_all(b"GET /hello HTTP/1.1\r\nHost: te")
        assert await to_end(client) == b""
        await all_over(served)


async def test_a_body_that_does_not_arrive_in_time_is_answered_with_408() -> None:
    async with serving() as served, await served.connect() as client:
        await client.send_all(get("/echo", "Content-Length: 10", method="POST") + b"12345")
        assert (await to_end(client)).startswith(b"HTTP/1.1 408")
        await all_over(served)


async def test_a_head_that_is_too_long_gets_431_as_a_problem() -> None:
    async with serving() as served, await served.connect() as client:
        await client.send_all(get("/hello", "X-Long: " + "x" * 60_000))
        answer = await to_end(client)
        assert answer.startswith(b"HTTP/1.1 431")
        assert b'"code":"headers_too_large"' in answer
        await all_over(served)


async def test_a_request_line_that_is_too_long_gets_414_as_a_problem() -> None:
    async with serving() as served, await served.connect() as client:
        await client.send_all(get("/hello?" + "x" * 60_000))
        answer = await to_end(client)
        assert answer.startswith(b"HTTP/1.1 414")
        assert b'"code":"query_too_long"' in answer
        await all_over(served)


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET /hello HTTP/1.1\r\n\r\n",
        b"GET hello HTTP/1.1\r\nHost: test\r\n\r\n",
        b"GET * HTTP/1.1\r\nHost: test\r\n\r\n",
        b"GET ?x HTTP/1.1\r\nHost: test\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /hello HTTP/1.1\r\nHost: test\r\nHost: other\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: -1\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"\x00" * 2000,
    ],
)
async def test_what_is_not_http_gets_400_as_a_problem(garbage: bytes) -> None:
    async with serving() as served, await served.connect() as client:
        await client.send_all(garbage)
        await client.send_eof()
        answer = await to_end(client)
        assert answer.startswith(b"HTTP/1.1 400"), answer
        assert b'"code":"bad_request"' in answer
        await all_over(served)


@pytest.mark.parametrize("connection", ["keep-alive", "close"])
async def test_garbage_behind_a_request_neither_hurts_its_answer_nor_keeps_the_connection(
    connection: str,
) -> None:
    async with serving() as served, await served.connect() as client:
        await client.send_all(get("/hello", f"Connection: {connection}") + b"\x00garbage\r\n\r\n" * 3)
        await client.send_eof()
        assert b"\r\n\r\nhello" in await to_end(client)
        await all_over(served)


async def test_a_request_behind_connection_close_leaves_no_task_behind() -> None:
    async with serving(linger_s=0.1) as served, await served.connect() as client:
        await client.send_all(get("/hello", "Connection: close") + get("/hello"))
        assert (await to_end(client)).count(b"hello") == 1
        await all_over(served)


async def test_pipelined_requests_are_answered_in_order() -> None:
    async with serving() as served, await served.connect() as client:
        first = get("/echo", "Content-Length: 3", method="POST") + b"one"
        await client.send_all(first + get("/hello", "Connection: close"))
        answer = await to_end(client)
        assert 0 < answer.index(b"one") < answer.index(b"hello")


async def test_a_body_beyond_the_limit_gets_its_413_although_it_goes_on_sending() -> None:
    async with serving() as served, await served.connect() as client:
        await client.send_all(get("/echo", "Content-Length: 200000", method="POST") + b"x" * 150_000)
        answer = await until(client, b"413")
        assert answer.startswith(b"HTTP/1.1 413")
        await client.aclose()
        await all_over(served)


async def test_a_body_that_no_handler_reads_ends_the_connection_and_leaves_no_task_behind() -> None:
    async with serving() as served, await served.connect() as client:
        await client.send_all(get("/nowhere", "Content-Length: 90000", method="POST") + b"x" * 50_000)
        assert (await until(client, b"404")).startswith(b"HTTP/1.1 404")
        await client.aclose()
        await all_over(served)


async def test_an_answer_ahead_of_the_body_announces_that_the_connection_closes() -> None:
    async with serving() as served, await served.connect() as client:
        await client.send_all(get("/missing", "Content-Length: 10", method="POST"))
        head = await until(client, b"\r\n\r\n")
        assert b" 404 " in head
        assert b"connection: close" in head.lower()
        await client.send_all(b"0123456789")
        await to_end(client)
    async with serving() as served, await served.connect() as client:
        await client.send_all(get("/missing", "Content-Length: 10", method="POST") + b"0123456789")
        assert b"connection: close" not in (await until(client, b"\r\n\r\n")).lower()


async def test_http2_is_not_negotiated() -> None:
    async with serving() as served, await served.connect() as client:
        upgrade = get(
            "/hello", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk"
        )
        await client.send_all(upgrade)
        assert (await until(client, b"hello")).startswith(b"HTTP/1.1 200")


async def test_a_websocket_upgrade_of_another_path_is_a_plain_request() -> None:
    async with serving() as served, await served.connect() as client:
        await client.send_all(get("/hello", "Connection: Upgrade", "Upgrade: websocket"))
        assert (await until(client, b"hello")).startswith(b"HTTP/1.1 200")


async def test_an_upgrade_of_the_stream_on_a_reused_connection_is_passed_on_whole() -> None:
    async def upgrade(stream: trio.SocketStream, read_ahead: bytes, visit: Visit) -> None:
        await stream.send_all(b"passed on: " + read_ahead)
        await stream.aclose()

    async with serving(upgrade) as served, await served.connect() as client:
        await client.send_all(get("/hello"))
        await until(client, b"hello")
        head = get("/stream?x=1", "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Key: aa")
        await client.send_all(head + b"\x81\x80early")
        assert await to_end(client) == b"passed on: " + head + b"\x81\x80early"
        await all_over(served)
        assert not served.http._open


async def test_what_the_listener_read_already_is_served_first() -> None:
    ours, theirs = socket.socketpair()
    http = Http(App().quart)
    server = trio.SocketStream(trio.socket.from_stdlib_socket(theirs))
    async with (
        trio.SocketStream(trio.socket.from_stdlib_socket(ours)) as client,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(http.serve, server, get("/hello", "Connection: close")[:20], a_visit())
        await client.send_all(get("/hello", "Connection: close")[20:])
        assert (await to_end(client)).endswith(b"hello")


async def test_draining_with_idle_connections_takes_no_time() -> None:
    async with serving(keep_alive_s=60) as served, await served.connect() as client:
        await client.send_all(get("/hello"))
        await until(client, b"hello")
        began = trio.current_time()
        await served.http.drain()
        assert trio.current_time() - began < 0.5
        assert await to_end(client) == b""


async def test_draining_lets_a_request_finish_and_announces_the_close_to_its_client() -> None:
    async with serving() as served, await served.connect() as client:
        await client.send_all(get("/slow"))
        await served.app.entered.wait()
        drained = trio.Event()

        async def drain() -> None:
            await served.http.drain()
            drained.set()

        served.nursery.start_soon(drain)
        await trio.testing.wait_all_tasks_blocked()
        assert not drained.is_set()
        served.app.release.set()
        answer = await to_end(client)
        assert answer.endswith(b"slow")
        assert b"connection: close" in answer.lower()
        await drained.wait()


async def test_a_drain_that_is_out_of_time_cuts_off_even_a_client_that_does_not_read() -> None:
    async with serving(send_timeout_s=60) as served, await served.connect() as client:
        await client.send_all(get("/large"))
        await until(client, b"200")
        with trio.move_on_after(0.2) as patience:
            await served.http.drain()
        assert patience.cancelled_caught
        await all_over(served)


async def test_cancelling_the_server_does_not_wait_for_a_client_that_does_not_read() -> None:
    began = 0.0
    async with serving(send_timeout_s=60) as served:
        client = await served.connect()
        await client.send_all(get("/large"))
        await until(client, b"200")
        await trio.testing.wait_all_tasks_blocked(0.05)  # the send among them
        began = trio.current_time()
    assert trio.current_time() - began < 2
    await client.aclose()


async def test_a_handler_that_fails_is_answered_with_500_and_affects_nothing_else() -> None:
    async with serving() as served, await served.connect() as client:
        await client.send_all(get("/broken"))
        assert (await until(client, b"500")).startswith(b"HTTP/1.1 500")
        async with await served.connect() as other:
            await other.send_all(get("/hello"))
            await until(other, b"hello")


async def test_a_thousand_requests_leave_nothing_behind() -> None:
    async def living() -> tuple[int, int]:
        await trio.testing.wait_all_tasks_blocked()  # the last request's task ends after its answer
        gc.collect()
        # Trio forgets the deadlines of scopes that are over a thousand at a time: a tuple and a scope each.
        objects = [each for each in gc.get_objects() if not isinstance(each, trio.CancelScope | tuple)]
        return trio.lowlevel.current_statistics().tasks_living, len(objects)

    async with serving() as served:
        async with await served.connect() as client:
            for n in range(1000):
                await client.send_all(get("/hello"))
                await until(client, b"hello")
                if n == 99:
                    tasks, objects = await living()
            tasks_after, objects_after = await living()
            assert tasks_after == tasks
            assert objects_after - objects < 200
        for _ in range(50):
            async with await served.connect() as one:
                await one.send_all(get("/hello", "Connection: close"))
                await to_end(one)
        await all_over(served)
        assert not served.http._open


async def test_a_request_that_does_not_fit_into_memory_is_answered_and_logged_without_a_traceback() -> None:
    async def too_large(*_: object) -> None:
        raise ExceptionGroup("of a nursery", [MemoryError()])

    async with serving() as served, await served.connect() as stream:
        served.http.app = too_large
        with capture_logs() as logs:
            await stream.send_all(get("/hello"))
            answer = await until(stream, b"}")
        assert answer.startswith(b"HTTP/1.1 503 ") and b"out of memory" in answer
        assert [(entry["event"], "exc_info" in entry) for entry in logs] == [("http_out_of_memory", False)]


# --- a connection that is handed over ---


class FakeTaker:
    def __init__(self) -> None:
        self.answer = b""
        self.abandoned = 0

    async def serve(self, stream: trio.SocketStream, answer: bytes, visit: Visit) -> None:
        self.answer = answer
        await stream.send_all(answer + b"taken")
        await stream.aclose()

    def abandon(self) -> None:
        self.abandoned += 1


def taking(app: QuartTrio, status: int = 200) -> FakeTaker:
    """`/taken` hands its connection over, and answers with this status."""
    taker = FakeTaker()

    @app.get("/taken")
    async def taken() -> Response:
        cast("Any", request.scope)["hand_over"](taker)
        return Response(b"own", status, {"X-Own": "1"}, content_type="text/plain")

    return taker


async def test_a_connection_is_handed_over_with_the_head_of_the_answer() -> None:
    async with serving() as served, await served.connect() as stream:
        taker = taking(served.app.quart)
        await stream.send_all(get("/hello") + get("/taken") + get("/hello"))
        received = await until(stream, b"taken")
        assert received.count(b"HTTP/1.1 200") == 2
        assert b"x-own: 1\r\n" in taker.answer and taker.answer.endswith(b"connection: close\r\n\r\n")
        assert b"content-length" not in taker.answer
        assert await stream.receive_some() == b""
        assert taker.abandoned == 0


@pytest.mark.parametrize("status", [204, 404, 500])
async def test_with_another_answer_nobody_takes_the_connection_over(status: int) -> None:
    async with serving() as served, await served.connect() as stream:
        taker = taking(served.app.quart, status)
        await stream.send_all(get("/taken"))
        await until(stream, f"HTTP/1.1 {status}".encode())
        await stream.send_all(get("/hello"))
        await until(stream, b"hello")
        assert (taker.answer, taker.abandoned) == (b"", 1)


async def test_what_fails_after_it_handed_over_is_abandoned() -> None:
    async with serving() as served, await served.connect() as stream:
        taker = FakeTaker()

        @served.app.quart.get("/failing")
        async def failing() -> Response:
            cast("Any", request.scope)["hand_over"](taker)
            raise RuntimeError("a bug")

        await stream.send_all(get("/failing") + get("/hello"))
        await until(stream, b"hello")
        assert (taker.answer, taker.abandoned) == (b"", 1)


async def test_a_client_that_left_meanwhile_is_abandoned() -> None:
    async with serving() as served:
        taker = FakeTaker()

        @served.app.quart.get("/late")
        async def late() -> Response:
            cast("Any", request.scope)["hand_over"](taker)
            served.app.entered.set()
            await served.app.release.wait()
            return Response(b"")

        stream = await served.connect()
        await stream.send_all(get("/late"))
        await served.app.entered.wait()
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        await stream.aclose()
        with trio.fail_after(SOON_S):
            while not taker.abandoned:  # noqa: ASYNC110 - the other end is noticed by the kernel
                await trio.sleep(0.01)
        assert (taker.answer, taker.abandoned) == (b"", 1)


async def test_the_end_of_what_a_client_sends_is_seen_while_it_waits_for_its_answer() -> None:
    async with serving() as served, await served.connect() as stream:

        @served.app.quart.get("/waiting")
        async def waiting() -> Response:
            await cast("Any", request.scope)["half_closed"].wait()
            return Response(b"at last")

        await stream.send_all(get("/waiting"))
        await stream.send_eof()
        await until(stream, b"at last")

"""Requests that two programs could read in two ways, over sockets: refused with 400 and closed, at REST and
at the stream's upgrade alike; and unusual ones that are valid, and served.

A proxy in front passes on what it takes for one request. What follows a refused one on its connection must
never be answered."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest
import trio
import trio.testing
from quart import Response, request
from quart_trio import QuartTrio
from trio_websocket import ConnectionClosed, wrap_server_stream

from gate_kit import open_gate
from nx_signal.server.chunks import MAX_CHUNKS, MAX_EXTRA_BYTES
from nx_signal.server.gate import Visit
from nx_signal.server.head import MAX_FIELDS, MAX_HEAD_BYTES, MAX_HEAD_READS
from nx_signal.server.http import Http
from nx_signal.server.listener import Listener
from nx_signal.server.reserve import Reserve
from nx_signal.websocket.frames import FrameMeter
from nx_signal.websocket.observer import WireObserver
from nx_signal.websocket.wire import Wire

SOON_S = 5.0
HOST = b"Host: signal.example\r\n"
WEBSOCKET = (
    b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: signal.example\r\n\r\n"


class Server:
    """The listener, HTTP and the head of the stream, as the service composes them, and what they served."""

    def __init__(self) -> None:
        self.port = 0
        self.paths: list[str] = []
        app = QuartTrio("test", static_folder=None)

        @app.route("/<path:path>", methods=["GET", "POST", "OPTIONS"])
        async def any_path(path: str) -> Response:
            self.paths.append(path)
            return Response(await request.get_data(as_text=False), content_type="application/octet-stream")

        http = Http(app, self.upgraded)
        gate = open_gate()
        self.listener = Listener(self.upgraded, http.serve, gate, Reserve(http, gate))

    async def upgraded(self, stream: trio.SocketStream, read_ahead: bytes, visit: Visit) -> None:
        async with trio.open_nursery() as nursery:
            wire = Wire(stream, read_ahead, nursery, WireObserver(), FrameMeter(), max_buffer_bytes=100_000)
            try:
                await (await wrap_server_stream(nursery, wire)).accept()
                self.paths.append("stream")
                await wire.wait_send_all_might_not_block()
            except ConnectionClosed:
                pass
            nursery.cancel_scope.cancel()

    async def answers(self, *pieces: bytes) -> bytes:
        """All that the server sends until it closes."""
        received = b""
        with trio.fail_after(SOON_S):
            async with await trio.open_tcp_stream("127.0.0.1", self.port) as client:
                try:
                    for piece in pieces:
                        await client.send_all(piece)
                        await trio.testing.wait_all_tasks_blocked()
                    while part := await client.receive_some():
                        received += part
                except trio.BrokenResourceError:
                    pass
        return received


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    server.port = listeners[0].socket.getsockname()[1]
    async with trio.open_nursery() as nursery:
        await nursery.start(server.listener.run, listeners)
        yield server
        nursery.cancel_scope.cancel()


BAD_FIELDS = {
    "Content-Length beside Transfer-Encoding": b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
    "Transfer-Encoding beside Content-Length": b"Transfer-Encoding: chunked\r\nContent-Length: 0\r\n",
    "two differing Content-Length": b"Content-Length: 4\r\nContent-Length: 5\r\n",
    "two equal Content-Length": b"Content-Length: 0\r\nContent-Length: 0\r\n",
    "a list in Content-Length": b"Content-Length: 0, 0\r\n",
    "a sign in Content-Length": b"Content-Length: +0\r\n",
    "a negative Content-Length": b"Content-Length: -1\r\n",
    "a hexadecimal Content-Length": b"Content-Length: 0x0\r\n",
    "an empty Content-Length": b"Content-Length:\r\n",
    "a Content-Length of 30 digits": b"Content-Length: " + b"9" * 30 + b"\r\n",
    "a Content-Length in other digits": b"Content-Length: \xb2\r\n",
    "two Transfer-Encoding": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
    "an unknown Transfer-Encoding": b"Transfer-Encoding: gzip\r\n",
    "Transfer-Encoding: identity": b"Transfer-Encoding: identity\r\n",
    "a list in Transfer-Encoding": b"Transfer-Encoding: gzip, chunked\r\n",
    "chunked twice": b"Transfer-Encoding: chunked, chunked\r\n",
    "a parameter of chunked": b"Transfer-Encoding: chunked;q=1\r\n",
    "xchunked": b"Transfer-Encoding: xchunked\r\n",
    "a vertical tab before chunked": b"Transfer-Encoding: \x0bchunked\r\n",
    "a folded line": b"X-Long: a\r\n b\r\n",
    "a line folded with a tab": b"X-Long: a\r\n\tb\r\n",
    "a folded Transfer-Encoding": b"Transfer-Encoding:\r\n chunked\r\n",
    "a line of spaces": b"  \r\n",
    "a bare line feed": b"X-A: a\nX-B: b\r\n",
    "a bare line feed in a value": b"X-A: a\n\r\n",
    "a bare carriage return": b"X-A: a\rX-B: b\r\n",
    "two carriage returns": b"X-A: a\r\r\n",
    "a space before the colon": b"Content-Length : 0\r\n",
    "a tab before the colon": b"X-A\t: a\r\n",
    "a space before the name": b" X-A: a\r\n",
    "a space in the name": b"X A: a\r\n",
    "no name": b": a\r\n",
    "no colon": b"X-A\r\n",
    "NUL in a value": b"X-A: a\0b\r\n",
    "a control character in a value": b"X-A: a\x01b\r\n",
    "a vertical tab in a value": b"X-A: a\x0bb\r\n",
    "DEL in a value": b"X-A: a\x7fb\r\n",
    "NUL in a name": b"X\0A: a\r\n",
    "a letter beyond ASCII in a name": b"X-\xc3\xa9: a\r\n",
    "two Hosts": HOST,
    "two Authorizations": b"Authorization: Bearer a\r\nAuthorization: Bearer b\r\n",
}


REST = b"POST /x HTTP/1.1\r\n" + HOST
STREAM = b"GET /stream HTTP/1.1\r\n" + HOST + WEBSOCKET
OLD = b"POST /x HTTP/1.0\r\n" + HOST


@pytest.mark.parametrize("fields", BAD_FIELDS.values(), ids=BAD_FIELDS.keys())
@pytest.mark.parametrize("begin", [REST, STREAM], ids=["rest", "stream"])
async def test_a_head_with_these_fields_is_refused_and_closed(
    server: Server, begin: bytes, fields: bytes
) -> None:
    await refused(server, begin + fields + b"\r\n" + b"0\r\n\r\n" + SMUGGLED)


BAD_HEADS = {
    "Transfer-Encoding in HTTP/1.0": b"POST /x HTTP/1.0\r\n"
    + HOST
    + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "no Host": b"GET /x HTTP/1.1\r\n\r\n",
    "no Host at the stream": b"GET /stream HTTP/1.1\r\n" + WEBSOCKET + b"\r\n",
    "a space in Host": b"GET /x HTTP/1.1\r\nHost: a b\r\n\r\n",
    "two names in Host": b"GET /x HTTP/1.1\r\nHost: a,b\r\n\r\n",
    "a path in Host": b"GET /x HTTP/1.1\r\nHost: a/b\r\n\r\n",
    "a user in Host": b"GET /x HTTP/1.1\r\nHost: a@b\r\n\r\n",
    "a port that is no number": b"GET /x HTTP/1.1\r\nHost: a:b\r\n\r\n",
    "an unfinished address in Host": b"GET /x HTTP/1.1\r\nHost: [::1\r\n\r\n",
    "a letter beyond ASCII in Host": b"GET /x HTTP/1.1\r\nHost: \xc3\xa9\r\n\r\n",
    "no international name in Host": b"GET /stream HTTP/1.1\r\nHost: xn--a\r\n" + WEBSOCKET + b"\r\n",
    "a body of a length behind an upgrade": (STREAM + b"Content-Length: 5\r\n\r\nhello"),
    "a chunked body behind an upgrade": (STREAM + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    "an upgrade with bytes beyond ASCII": (
        b"GET /stream HTTP/1.1\r\n"
        + HOST
        + WEBSOCKET.replace(b"Connection: ", b"Connection: \xff, ")
        + b"\r\n"
    ),
    "two keys": STREAM + b"Sec-WebSocket-Key: x\r\n\r\n",
    "bare line feeds alone": b"GET /x HTTP/1.1\nHost: a\n\n",
    "bare line feeds alone at the stream": (STREAM).replace(b"\r", b"") + b"\n",
    "a bare line feed after the request line": b"GET /x HTTP/1.1\nHost: a\r\n\r\n",
    "a bare line feed at the end": b"GET /x HTTP/1.1\r\nHost: a\r\n\n",
    "an empty line before the request line": b"\r\nGET /x HTTP/1.1\r\n" + HOST + b"\r\n",
    "a space before the method": b" GET /x HTTP/1.1\r\n" + HOST + b"\r\n",
    "two spaces in the request line": b"GET  /x HTTP/1.1\r\n" + HOST + b"\r\n",
    "a tab in the request line": b"GET\t/x HTTP/1.1\r\n" + HOST + b"\r\n",
    "a space in the target": b"GET /x y HTTP/1.1\r\n" + HOST + b"\r\n",
    "a space after the version": b"GET /x HTTP/1.1 \r\n" + HOST + b"\r\n",
    "a control character in the target": b"GET /x\x01 HTTP/1.1\r\n" + HOST + b"\r\n",
    "a target beyond ASCII": b"GET /\xc3\xa9 HTTP/1.1\r\n" + HOST + b"\r\n",
    "no version": b"GET /x\r\n" + HOST + b"\r\n",
    "HTTP/0.9": b"GET /x HTTP/0.9\r\n" + HOST + b"\r\n",
    "HTTP/1.2": b"GET /x HTTP/1.2\r\n" + HOST + b"\r\n",
    "HTTP/2.0": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/01.1": b"GET /x HTTP/01.1\r\n" + HOST + b"\r\n",
    "http/1.1": b"GET /x http/1.1\r\n" + HOST + b"\r\n",
    "no target": b"GET HTTP/1.1\r\n" + HOST + b"\r\n",
    "a target without a slash": b"GET x HTTP/1.1\r\n" + HOST + b"\r\n",
    "CONNECT": b"CONNECT other:443 HTTP/1.1\r\nHost: other:443\r\n\r\n",
    "a method that is none": b"G(T /x HTTP/1.1\r\n" + HOST + b"\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
}


@pytest.mark.parametrize("head", BAD_HEADS.values(), ids=BAD_HEADS.keys())
async def test_this_head_is_refused_and_closed(server: Server, head: bytes) -> None:
    await refused(server, head + SMUGGLED)


BAD_BODIES = {
    "a sign before the size": b"+5\r\nhello\r\n0\r\n\r\n",
    "a negative size": b"-5\r\nhello\r\n0\r\n\r\n",
    "0x before the size": b"0x5\r\nhello\r\n0\r\n\r\n",
    "a space before the size": b" 5\r\nhello\r\n0\r\n\r\n",
    "a space after the size": b"5 \r\nhello\r\n0\r\n\r\n",
    "an underscore in the size": b"1_0\r\nhello\r\n0\r\n\r\n",
    "no size": b"\r\nhello\r\n0\r\n\r\n",
    "an extension without a size": b";a=b\r\nhello\r\n0\r\n\r\n",
    "a size of more than 64 bits": b"10000000000000005\r\nhello\r\n0\r\n\r\n",
    "a size of many zeros": b"0" * 19 + b"5\r\nhello\r\n0\r\n\r\n",
    "a bare line feed after the size": b"5\nhello\r\n0\r\n\r\n",
    "a bare line feed after the data": b"5\r\nhello\n0\r\n\r\n",
    "data longer than its size": b"4\r\nhello\r\n0\r\n\r\n",
    "a bare line feed in an extension": b"5;a\nb\r\nhello\r\n0\r\n\r\n",
    "a bare carriage return in an extension": b"5;a\rb\r\nhello\r\n0\r\n\r\n",
    "NUL in an extension": b"5;\0\r\nhello\r\n0\r\n\r\n",
    "a bare line feed in a trailer": b"0\r\nX-A: a\n\r\n",
    "a folded trailer": b"0\r\nX-A: a\r\n b\r\n\r\n",
    "a long extension": b"5;" + b"x" * 2_000 + b"\r\nhello\r\n0\r\n\r\n",
    "extensions without end": b"1;"
    + b"x" * 1_000
    + b"\r\n"
    + (b"a\r\n1;" + b"x" * 1_000 + b"\r\n") * 20
    + b"a\r\n0\r\n\r\n",
    "a trailer without end": b"0\r\n" + b"X-A: a\r\n" * (MAX_EXTRA_BYTES // 6 + 1) + b"\r\n",
    "the smallest chunks": b"1\r\na\r\n" * (MAX_CHUNKS + 1) + b"0\r\n\r\n",
}


@pytest.mark.parametrize("body", BAD_BODIES.values(), ids=BAD_BODIES.keys())
async def test_this_chunked_body_is_refused_and_closed(server: Server, body: bytes) -> None:
    head = b"POST /x HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"
    for pieces in ((head + body + SMUGGLED,), (head, body, SMUGGLED)):
        server.paths.clear()
        answer = await server.answers(*pieces)
        assert answer.startswith(b"HTTP/1.1 400 ") and answer.count(b"HTTP/1.1 ") == 1, answer
        assert "smuggled" not in server.paths


@pytest.mark.parametrize(
    ("pieces", "status"),
    [
        ([b"GET /x HTTP/1.1\r\n" + HOST + b"X-A: a\r\n" * MAX_FIELDS + b"\r\n"], b"431"),
        ([b"GET /x HTTP/1.1\r\n" + HOST + b"X-A: " + b"a" * MAX_HEAD_BYTES], b"431"),
        ([STREAM + b"X-A: " + b"a" * MAX_HEAD_BYTES], b"431"),
        ([b"GET /" + b"a" * MAX_HEAD_BYTES], b"414"),
    ],
)
async def test_a_head_beyond_its_bounds_is_refused_and_closed(
    server: Server, pieces: list[bytes], status: bytes
) -> None:
    await refused(server, *pieces, status=status)


@pytest.mark.parametrize("path", [b"/x", b"/stream"])
async def test_a_head_of_single_bytes_is_refused_after_a_bounded_number_of_reads(
    server: Server, path: bytes
) -> None:
    head = b"GET %b HTTP/1.1\r\n%bX-A: " % (path, HOST) + b"a" * 2 * MAX_HEAD_READS
    answer = await server.answers(*(head[n : n + 1] for n in range(len(head))))
    assert answer.startswith(b"HTTP/1.1 400 "), "or the end of the head was waited for"


async def refused(server: Server, *pieces: bytes, status: bytes = b"400") -> None:
    answer = await server.answers(*pieces)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 " + status), answer
    assert b"connection: close" in head.lower()
    assert json.loads(body)["status"] == int(status), "one answer, and no other behind it"
    assert server.paths == []


GOOD_HEADS = {
    "as usual": b"GET /x HTTP/1.1\r\n" + HOST + b"\r\n",
    "HTTP/1.0": b"GET /x HTTP/1.0\r\n\r\n",
    "HTTP/1.0 with Host": b"GET /x HTTP/1.0\r\n" + HOST + b"\r\n",
    "lower-case names": b"GET /x HTTP/1.1\r\nhost: a\r\naccept: */*\r\n\r\n",
    "upper-case names": b"GET /x HTTP/1.1\r\nHOST: A.EXAMPLE:80\r\nACCEPT: */*\r\n\r\n",
    "Host last": b"GET /x HTTP/1.1\r\nAccept: */*\r\nX-A: a\r\nHost: a\r\n\r\n",
    "no space after the colon": b"GET /x HTTP/1.1\r\nHost:a\r\n\r\n",
    "spaces and tabs around a value": b"GET /x HTTP/1.1\r\nHost: \t a \t\r\n\r\n",
    "an empty Host": b"GET /x HTTP/1.1\r\nHost:\r\n\r\n",
    "an empty value": b"GET /x HTTP/1.1\r\n" + HOST + b"X-A:\r\n\r\n",
    "Host of IPv6": b"GET /x HTTP/1.1\r\nHost: [2001:db8::1]:31090\r\n\r\n",
    "Host with an underscore": b"GET /x HTTP/1.1\r\nHost: signal_1.local\r\n\r\n",
    "Host in Punycode": b"GET /x HTTP/1.1\r\nHost: xn--bcher-kva.example\r\n\r\n",
    "a long cookie": b"GET /x HTTP/1.1\r\n" + HOST + b"Cookie: " + b"a=b; " * 3_000 + b"\r\n\r\n",
    "several cookies": b"GET /x HTTP/1.1\r\n" + HOST + b"Cookie: a=b\r\nCookie: c=d\r\n\r\n",
    "many fields": b"GET /x HTTP/1.1\r\n" + HOST + b"X-A: a\r\n" * (MAX_FIELDS - 1) + b"\r\n",
    "letters beyond ASCII in a value": b"GET /x HTTP/1.1\r\n" + HOST + b"X-A: \xc3\xa9\xff\r\n\r\n",
    "odd characters in a name": b"GET /x HTTP/1.1\r\n" + HOST + b"x!#$%&'*+.^_`|~1: a\r\n\r\n",
    "absolute form": b"GET http://other.example/x HTTP/1.1\r\n" + HOST + b"\r\n",
    "absolute form of https": b"GET HTTPS://other.example/x HTTP/1.1\r\n" + HOST + b"\r\n",
    "a query with odd characters": b'GET /x?a=%00&b[]={}|\\^`" HTTP/1.1\r\n' + HOST + b"\r\n",
    "a body": b"POST /x HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\n\r\nhello",
    "a length with zeros": b"POST /x HTTP/1.1\r\n" + HOST + b"Content-Length: 0005\r\n\r\nhello",
    "no body": b"POST /x HTTP/1.1\r\n" + HOST + b"Content-Length: 0\r\n\r\n",
    "a body of HTTP/1.0": b"POST /x HTTP/1.0\r\nContent-Length: 5\r\n\r\nhello",
    "Expect": b"POST /x HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\nExpect: 100-continue\r\n\r\nhello",
    "chunks": (
        b"POST /x HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: Chunked\r\n\r\n"
        b'2\r\nhe\r\n0003;a=b;c="d e"\r\nllo\r\n0\r\nX-Trailer: a\r\n\r\n'
    ),
    "bare line feeds in a body": b"POST /x HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\n\r\n\n\n\r\r\n",
    "bare line feeds in a chunk": (
        b"POST /x HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n5\r\n\n\n\r\r\n\r\n0\r\n\r\n"
    ),
    "another upgrade with a body": (
        b"POST /x HTTP/1.1\r\n" + HOST + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
        b"HTTP2-Settings: AAMAAABkAAQ\r\nContent-Length: 5\r\n\r\nhello"
    ),
    "the stream without an upgrade": b"GET /stream HTTP/1.1\r\n" + HOST + b"\r\n",
    "an upgrade in HTTP/1.0 is none": b"GET /stream HTTP/1.0\r\n" + HOST + WEBSOCKET + b"\r\n",
}


@pytest.mark.parametrize("head", GOOD_HEADS.values(), ids=GOOD_HEADS.keys())
async def test_this_request_is_served_and_so_is_the_next_one(server: Server, head: bytes) -> None:
    next_one = b"GET /next HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n"
    sent = head + next_one
    size = 7 if len(sent) < 1_000 else 1_000
    for pieces in ([sent], [sent[n : n + size] for n in range(0, len(sent), size)]):
        server.paths.clear()
        answer = await server.answers(*pieces)
        assert b"HTTP/1.1 4" not in answer, answer
        served = ["next"] if b" HTTP/1.1" in head else []  # HTTP/1.0 closes after each
        assert server.paths[0] in ("x", "stream") and server.paths[1:] == served
        if b"hello" in head or b"llo" in head:
            assert b"\r\n\r\nhello" in answer


async def test_options_of_the_server_as_a_whole_are_answered(server: Server) -> None:
    answer = await server.answers(b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n")
    assert answer.startswith(b"HTTP/1.1 204 ") and b"\r\nallow: GET, " in answer


GOOD_UPGRADES = {
    "as usual": HOST + WEBSOCKET,
    "in another order and case": (
        b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nUPGRADE: WebSocket\r\nsec-websocket-version: 13\r\n"
        b"connection: keep-alive, upgrade\r\nhost: a\r\n"
    ),
    "with a body of no bytes": HOST + WEBSOCKET + b"Content-Length: 0\r\n",
    "with a long cookie": HOST + WEBSOCKET + b"Cookie: " + b"a=b; " * 2_000 + b"\r\n",
    "with what browsers add": (
        HOST + WEBSOCKET + b"Origin: https://a\r\nPragma: no-cache\r\nUser-Agent: M\xc3\xb6zilla\r\n"
        b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"
        b"Sec-WebSocket-Protocol: a, b\r\n"
    ),
}


@pytest.mark.parametrize("before", [b"", b"GET /x HTTP/1.1\r\n" + HOST + b"\r\n"], ids=["first", "later"])
@pytest.mark.parametrize("fields", GOOD_UPGRADES.values(), ids=GOOD_UPGRADES.keys())
async def test_this_upgrade_is_made(server: Server, fields: bytes, before: bytes) -> None:
    answer = await server.answers(before + b"GET /stream?a=b HTTP/1.1\r\n" + fields + b"\r\n")
    assert answer.count(b"HTTP/1.1 ") == (2 if before else 1)
    assert b"HTTP/1.1 101 " in answer and server.paths[-1] == "stream"

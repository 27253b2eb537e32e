"""The Autobahn test cases against the layers below `/stream`: listener, Wire, trio-websocket.

The cases require an echo server, so an echo replaces websocket.connection here, built in the same way as
`WebSocketServer`. Once it answers through trio-websocket, once through `Wire.push` with frames built by
`text_frame`, as all pushes do."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_server_stream

from gate_kit import a_listener, open_gate
from nx_signal.delivery.transport import FrameKind, PushResult
from nx_signal.server.gate import Visit
from nx_signal.server.listener import ConnectionHandler, open_listeners
from nx_signal.websocket.frames import FrameMeter, text_frame
from nx_signal.websocket.observer import WireObserver
from nx_signal.websocket.wire import Wire

MAX_MESSAGE_BYTES = 16 * 1024 * 1024
"""The largest of the cases (9.1.6). `/stream` takes 128 KB."""
MAX_FRAGMENTS = 100_000
"""The most of the cases (9.3.1) are 65,536. `/stream` takes 256."""
CLOSE_WITHIN_S = 3.0

NOT_APPLICABLE = ("12.*", "13.*")
"""Compression: permessage-deflate is never negotiated."""
CASES = 301
"""Of kosoku 0.1.0, as pinned: a missing case fails the test."""
PASSED = {"OK", "NON-STRICT", "INFORMATIONAL"}

Answer = Callable[[WebSocketConnection, Wire, str | bytes], Awaitable[None]]


async def through_trio_websocket(ws: WebSocketConnection, wire: Wire, message: str | bytes) -> None:
    await ws.send_message(message)


async def through_push(ws: WebSocketConnection, wire: Wire, message: str | bytes) -> None:
    """Signal pushes text only."""
    if isinstance(message, bytes):
        await ws.send_message(message)
    else:
        assert wire.push(text_frame(message.encode()), FrameKind.LOG) is not PushResult.REFUSED


def echo(answer: Answer) -> ConnectionHandler:
    async def serve(stream: trio.SocketStream, read_ahead: bytes, visit: Visit) -> None:
        async with trio.open_nursery() as nursery:
            meter = FrameMeter(max_fragments=MAX_FRAGMENTS, max_message_bytes=MAX_MESSAGE_BYTES)
            wire = Wire(
                stream, read_ahead, nursery, WireObserver(), meter, max_buffer_bytes=2 * MAX_MESSAGE_BYTES
            )
            try:
                request = await wrap_server_stream(nursery, wire, max_message_size=MAX_MESSAGE_BYTES)
                ws = await request.accept()
                while True:
                    await answer(ws, wire, await ws.get_message())
            except ConnectionClosed:
                pass
            finally:
                nursery.cancel_scope.cancel()
                with trio.move_on_after(CLOSE_WITHIN_S, shield=True):
                    await wire.aclose()

    return serve


async def no_http(stream: trio.SocketStream, read_ahead: bytes, visit: Visit) -> None:
    raise AssertionError("The cases request only /stream.")


@pytest.mark.parametrize(
    "answer", [pytest.param(through_trio_websocket, marks=pytest.mark.full), through_push]
)
async def test_no_autobahn_case_fails(answer: Answer, capsys: pytest.CaptureFixture[str]) -> None:
    async with trio.open_nursery() as nursery:
        listeners = await open_listeners("127.0.0.1", 0)
        listener = a_listener(echo(answer), no_http, open_gate())
        await nursery.start(listener.run, listeners)
        url = f"ws://127.0.0.1:{listeners[0].socket.getsockname()[1]}/stream"
        command = [sys.executable, str(Path(__file__).with_name("drive.py")), url, *NOT_APPLICABLE]
        done = await trio.run_process(command, capture_stdout=True)
        nursery.cancel_scope.cancel()
    results = [json.loads(line) for line in done.stdout.splitlines()]
    verdicts = Counter(each["behavior"] for each in results)
    with capsys.disabled():
        print(f"\nAutobahn {answer.__name__}: {len(results)} cases, {dict(verdicts)}")
    failed = [each for each in results if each["behavior"] not in PASSED or each["close"] not in PASSED]
    assert failed == []
    assert len(results) == CASES

"""The wire on real sockets: whole frames in order, bounded memory, and a close that arrives."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
import trio.lowlevel

from nx_signal.delivery.transport import FrameKind, PushResult
from nx_signal.websocket.channel import Hello, answer, read_offer
from nx_signal.websocket.frames import FrameMeter, binary_frame, text_frame
from nx_signal.websocket.observer import WireObserver
from nx_signal.websocket.wire import Wire
from stream_kit import SERVER_KEY, STATIC_KEY


class Peer:
    """The client's end of a real TCP connection."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.received = b""

    async def read_all(self) -> bytes:
        try:
            while data := await self.stream.receive_some(65_536):
                self.received += bytes(data)
        except trio.BrokenResourceError:
            pass
        return self.received

    async def read(self, count: int) -> bytes:
        while len(self.received) < count:
            data = await self.stream.receive_some(count - len(self.received))
            assert data, "closed early"
            self.received += bytes(data)
        return self.received


class Observer(WireObserver):
    """Counts the reports of a wire, and closes it when it stalls."""

    def __init__(self) -> None:
        self.wire: Wire
        self.has_drained = trio.Event()
        self.has_stalled = trio.Event()

    def drained(self) -> None:
        self.has_drained.set()

    def stalled(self) -> None:
        self.wire.close_now(4008, "Slow consumer")
        self.has_stalled.set()


@asynccontextmanager
async def connected(
    observer: Observer | None = None,
    *,
    max_buffer_bytes: int = 100_000,
    stall_s: float = 30.0,
    close_flush_s: float = 5.0,
) -> AsyncIterator[tuple[Wire, Peer]]:
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    host, port = listener.socket.getsockname()
    async with trio.open_nursery() as nursery:
        client = await trio.open_tcp_stream(host, port)
        server = await listener.accept()
        await listener.aclose()
        # Small kernel buffers: a client that does not read is noticed after a few frames.
        server.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_096)
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        observer = observer or Observer()
        wire = observer.wire = Wire(
            server,
            b"",
            nursery,
            observer,
            FrameMeter(),
            max_buffer_bytes=max_buffer_bytes,
            stall_s=stall_s,
            close_flush_s=close_flush_s,
        )
        try:
            yield wire, Peer(client)
        finally:
            nursery.cancel_scope.cancel()
            server.socket.close()
            client.socket.close()


def numbered(n: int, size: int = 1_000) -> bytes:
    return text_frame(b"%06d" % n + b"." * size)


async def fill(wire: Wire, kind: FrameKind, first: int = 0) -> int:
    """Push until refused; how many were taken."""
    n = first
    while wire.push(numbered(n), kind) is PushResult.TAKEN:
        n += 1
        assert n < 100_000
    return n - first


async def test_what_the_kernel_does_not_take_is_written_later_whole_and_in_order() -> None:
    async with connected() as (wire, peer):
        taken = await fill(wire, FrameKind.LOG)
        assert wire.queued_bytes > 0
        expected = b"".join(numbered(n) for n in range(taken))
        assert await peer.read(len(expected)) == expected


async def test_a_client_that_does_not_read_holds_no_more_than_its_bound() -> None:
    async with connected(max_buffer_bytes=50_000) as (wire, _):
        await fill(wire, FrameKind.LOG)
        assert 48_000 < wire.queued_bytes <= 50_000


async def test_once_a_refused_backlog_is_written_the_observer_is_notified() -> None:
    observer = Observer()
    async with connected(observer) as (wire, peer):
        taken = await fill(wire, FrameKind.LOG)
        await peer.read(taken * len(numbered(0)))
        await observer.has_drained.wait()
        assert wire.queued_bytes == 0
        assert wire.push(numbered(1), FrameKind.LOG) is PushResult.TAKEN


async def test_ephemeral_frames_leave_half_of_the_bound_to_the_log() -> None:
    async with connected(max_buffer_bytes=50_000) as (wire, peer):
        ephemeral = await fill(wire, FrameKind.EPHEMERAL)
        assert 23_000 < wire.queued_bytes <= 25_000
        log = await fill(wire, FrameKind.LOG, ephemeral)
        assert log >= 24
        expected = b"".join(numbered(n) for n in range(ephemeral + log))
        assert await peer.read(len(expected)) == expected


async def test_there_is_room_again_before_everything_is_written() -> None:
    class Refilled(Observer):
        queued_bytes = 0

        def drained(self) -> None:
            self.queued_bytes = self.wire.queued_bytes
            super().drained()

    observer = Refilled()
    async with connected(observer, max_buffer_bytes=200_000) as (wire, peer):
        taken = await fill(wire, FrameKind.LOG)
        await peer.read(taken * len(numbered(0)))
        assert 0 < observer.queued_bytes <= 50_000


async def test_a_slow_client_that_takes_something_is_not_a_stalled_one() -> None:
    observer = Observer()
    async with connected(observer, max_buffer_bytes=10_000_000, stall_s=0.5) as (wire, peer):
        # Far more than the client takes within the bound: all the while the kernel reports no room.
        wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_000_000)
        peer.stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
        taken = await fill(wire, FrameKind.LOG)
        for n in range(1, 21):
            await peer.read(n * 10_000)
            await trio.sleep(0.1)
        assert not observer.has_stalled.is_set()
        assert len(peer.received) < taken * len(numbered(0)) // 4


async def test_what_is_pushed_afterwards_does_not_hold_up_a_pong() -> None:
    class Flooding(Observer):
        def drained(self) -> None:
            while self.wire.push(numbered(1), FrameKind.EPHEMERAL) is PushResult.TAKEN:
                pass

    async with connected(Flooding()) as (wire, peer), trio.open_nursery() as nursery:
        await fill(wire, FrameKind.EPHEMERAL)
        nursery.start_soon(peer.read_all)
        with trio.fail_after(5):
            await wire.send_all(b"\x8a\x04pong")
        nursery.cancel_scope.cancel()


async def test_a_frame_that_is_refused_is_not_sealed_and_leaves_no_gap_in_the_count() -> None:
    """A client of version 2 counts what it opens."""
    hello = Hello()
    data, channel = answer(read_offer(hello.data), STATIC_KEY)
    client = hello.finish(data, [SERVER_KEY])

    def sealed(payload: bytes) -> bytes:
        return binary_frame(channel.seal(payload))

    size = 4 + 1_006 + 16
    async with connected(max_buffer_bytes=20_000) as (wire, peer):
        pushed = [
            wire.push(b"%06d" % n + bytes(1_000), FrameKind.EPHEMERAL if n % 2 else FrameKind.LOG, sealed)
            for n in range(2_000)
        ]
        taken = [n for n, result in enumerate(pushed) if result is PushResult.TAKEN]
        received = await peer.read(len(taken) * size)
    opened = [int(client.open(received[at + 4 : at + size])[:6]) for at in range(0, len(received), size)]
    assert opened == taken and PushResult.REFUSED in pushed


async def test_a_cancelled_send_all_leaves_no_half_frame() -> None:
    async with connected() as (wire, peer):
        taken = await fill(wire, FrameKind.LOG)
        pong = b"\x8a\x04pong"
        with trio.move_on_after(0.01) as scope:
            await wire.send_all(pong)
        assert scope.cancelled_caught
        size = len(numbered(0))
        received = await peer.read(taken * size + len(pong))
        assert received[taken * size :] == pong


async def test_nothing_follows_a_close_frame() -> None:
    async with connected() as (wire, peer):
        await wire.send_all(b"\x88\x02\x03\xe8")
        assert wire.push(numbered(1), FrameKind.LOG) is PushResult.CLOSED
        assert not wire.open
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wire.aclose)
            assert await peer.read_all() == b"\x88\x02\x03\xe8"
            await peer.stream.aclose()


async def test_after_a_reset_by_the_peer_pushes_return_closed() -> None:
    async with connected() as (wire, peer):
        peer.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        await peer.stream.aclose()
        with trio.fail_after(5):
            while wire.push(numbered(1), FrameKind.LOG) is not PushResult.CLOSED:
                await trio.lowlevel.checkpoint()
        assert wire.queued_bytes == 0


async def test_a_client_that_does_not_read_is_closed_and_gets_the_close_frame_when_it_reads() -> None:
    observer = Observer()
    async with connected(observer, stall_s=0.2) as (wire, peer):
        await fill(wire, FrameKind.LOG)
        await observer.has_stalled.wait()
        assert wire.queued_bytes < 2 * len(numbered(0)), "the backlog is released"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wire.aclose)
            received = await peer.read_all()
            await peer.stream.aclose()
        body = (4008).to_bytes(2, "big") + b"Slow consumer"
        assert received.endswith(b"\x88%c%b" % (len(body), body))
        assert (len(received) - len(body) - 2) % len(numbered(0)) == 0, "no half frame before it"


async def test_a_client_that_never_reads_again_is_cut_off() -> None:
    async with connected(stall_s=0.1, close_flush_s=0.1) as (wire, _):
        await fill(wire, FrameKind.LOG)
        with trio.fail_after(5):
            await wire.wait_send_all_might_not_block()
        assert wire.queued_bytes == 0 and not wire.open

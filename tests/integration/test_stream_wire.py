"""The wire on real sockets: whole frames in order, bounded memory, and a close that arrives."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from nx_signal.stream.wire import Kind, Push, Wire, text_frame


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


@asynccontextmanager
async def connected(
    *, max_buffer_bytes: int = 100_000, stall_s: float = 30.0, last_word_s: float = 5.0
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
        wire = Wire(
            server, b"", nursery, max_buffer_bytes=max_buffer_bytes, stall_s=stall_s, last_word_s=last_word_s
        )
        try:
            yield wire, Peer(client)
        finally:
            nursery.cancel_scope.cancel()
            server.socket.close()
            client.socket.close()


def numbered(n: int, size: int = 1_000) -> bytes:
    return text_frame(b"%06d" % n + b"." * size)


async def fill(wire: Wire, kind: Kind, first: int = 0) -> int:
    """Push until refused; how many were taken."""
    n = first
    while wire.push(numbered(n), kind) is Push.TAKEN:
        n += 1
        assert n < 100_000
    return n - first


async def test_what_the_kernel_does_not_take_is_written_later_whole_and_in_order() -> None:
    async with connected() as (wire, peer):
        taken = await fill(wire, Kind.INBOX)
        assert wire.queued_bytes > 0
        expected = b"".join(numbered(n) for n in range(taken))
        assert await peer.read(len(expected)) == expected


async def test_a_client_that_does_not_read_holds_no_more_than_its_bound() -> None:
    async with connected(max_buffer_bytes=50_000) as (wire, _):
        await fill(wire, Kind.INBOX)
        assert 48_000 < wire.queued_bytes <= 50_000


async def test_once_a_refused_backlog_is_written_the_owner_is_told_once() -> None:
    async with connected() as (wire, peer):
        drained = trio.Event()
        wire.on_drained = drained.set
        taken = await fill(wire, Kind.INBOX)
        await peer.read(taken * len(numbered(0)))
        await drained.wait()
        assert wire.queued_bytes == 0
        assert wire.push(numbered(1), Kind.INBOX) is Push.TAKEN


async def test_ephemeral_frames_give_way_oldest_first_and_log_frames_never() -> None:
    async with connected(max_buffer_bytes=20_000) as (wire, peer):
        dropped = 0

        def count() -> None:
            nonlocal dropped
            dropped += 1

        wire.on_dropped = count
        log = await fill(wire, Kind.INBOX) - 8
        assert log > 0
    async with connected(max_buffer_bytes=20_000) as (wire, peer):
        wire.on_dropped = count
        for n in range(log):
            assert wire.push(numbered(n), Kind.INBOX) is Push.TAKEN
        for n in range(log, log + 50):
            wire.push(numbered(n), Kind.EPHEMERAL)
        assert dropped > 0 and dropped == wire.dropped
        expected = log + 50 - dropped
        received = await peer.read(expected * len(numbered(0)))
        numbers = [
            int(received[start + 4 : start + 10]) for start in range(0, len(received), len(numbered(0)))
        ]
        assert numbers[:log] == list(range(log))
        assert numbers[log:] == list(range(log + dropped, log + 50)), "the newest are kept"


async def test_a_cancelled_send_all_leaves_no_half_frame() -> None:
    async with connected() as (wire, peer):
        taken = await fill(wire, Kind.INBOX)
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
        assert wire.push(numbered(1), Kind.INBOX) is Push.CLOSED
        assert not wire.open
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wire.aclose)
            assert await peer.read_all() == b"\x88\x02\x03\xe8"
            await peer.stream.aclose()


async def test_a_peer_that_resets_makes_pushes_say_closed() -> None:
    async with connected() as (wire, peer):
        peer.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        await peer.stream.aclose()
        with trio.fail_after(5):
            while wire.push(numbered(1), Kind.INBOX) is not Push.CLOSED:
                await trio.lowlevel.checkpoint()
        assert wire.queued_bytes == 0


async def test_a_client_that_takes_nothing_is_given_up_and_still_gets_its_close_when_it_reads() -> None:
    async with connected(stall_s=0.2) as (wire, peer):
        stalled = trio.Event()

        def stall() -> None:
            wire.give_up(4008, "Slow consumer")
            stalled.set()

        wire.on_stalled = stall
        await fill(wire, Kind.INBOX)
        await stalled.wait()
        assert wire.queued_bytes < 2 * len(numbered(0)), "the backlog is let go"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wire.aclose)
            received = await peer.read_all()
            await peer.stream.aclose()
        body = (4008).to_bytes(2, "big") + b"Slow consumer"
        assert received.endswith(b"\x88%c%b" % (len(body), body))
        assert (len(received) - len(body) - 2) % len(numbered(0)) == 0, "no half frame before it"


async def test_a_client_that_never_reads_again_is_cut_off() -> None:
    async with connected(stall_s=0.1, last_word_s=0.1) as (wire, _):
        wire.on_stalled = lambda: wire.give_up(4008, "Slow consumer")
        await fill(wire, Kind.INBOX)
        with trio.fail_after(5):
            await wire.wait_send_all_might_not_block()
        assert wire.queued_bytes == 0 and not wire.open

"""The socket of one WebSocket client.

trio-websocket runs on top of `Wire` (handshake, pongs, closes, all reading); pushes bypass it, through the
writer that `Wire` is (delivery/writer.py): so there is one writer, and never half a frame."""

from __future__ import annotations

import trio

from nx_signal.delivery.writer import CLOSE_FLUSH_S, LINGER_BYTES, STALL_S, Writer
from nx_signal.websocket.frames import CLOSE_OPCODE, Breach, FrameMeter, close_frame
from nx_signal.websocket.observer import WireObserver

HELD_BYTES = 32_768
"""What is read after a breach, and not looked at: what is not read stops the flood."""

RECEIVE_BYTES = 16_384

END_OF_HEAD = b"\r\n\r\n"


class Wire(Writer, trio.abc.HalfCloseableStream):
    """The stream below one WebSocket connection.

    `read_ahead` is what was already read from the socket: the head of the upgrade, and what follows it.
    `meter` counts what is read after the head, before it is parsed."""

    __slots__ = ("_closed", "_head", "_meter", "_read_ahead", "_upgraded", "breached")

    _observer: WireObserver

    def __init__(
        self,
        stream: trio.SocketStream,
        read_ahead: bytes,
        nursery: trio.Nursery,
        observer: WireObserver,
        meter: FrameMeter,
        *,
        max_buffer_bytes: int,
        stall_s: float = STALL_S,
        close_flush_s: float = CLOSE_FLUSH_S,
    ) -> None:
        super().__init__(
            stream,
            nursery,
            observer,
            max_buffer_bytes=max_buffer_bytes,
            stall_s=stall_s,
            close_flush_s=close_flush_s,
        )
        head, end, self._read_ahead = read_ahead.partition(END_OF_HEAD)
        self._head = head + end
        self._upgraded: trio.Event | None = None
        """from the head on, until its answer is sent"""
        self._meter = meter
        self._closed: trio.Event | None = None
        """from `aclose` on: set when it is through"""
        self.breached = False
        """closed for what the client sent"""

    def close_now(self, code: int, reason: str) -> None:
        """Replace the backlog by a close frame (after what is partly on the wire) and take no more."""
        self.end_with(close_frame(code, reason))

    @property
    def _may_linger(self) -> bool:
        return self._unread_bytes <= (HELD_BYTES if self.breached else LINGER_BYTES)

    # --- what trio-websocket uses ---

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Whole frames only. Waits until they left for the kernel; a cancelled wait leaves no half
        frame, as the flusher goes on. Raises BrokenResourceError when the connection is closed."""
        await trio.lowlevel.checkpoint()
        if self._gone:
            raise trio.BrokenResourceError("the connection is closed")
        if not data or self._close_sent:
            return
        if data[0] == CLOSE_OPCODE:
            self._close_sent = True  # nothing may follow a close frame (RFC 6455 §5.5.1)
        if self._waiting:
            # Control frames do not count against the bound: trio-websocket has at most one in flight.
            self._queue(bytes(data))
        else:
            self._write(bytes(data))
        if self._upgraded is not None:
            self._upgraded.set()
            self._upgraded = None
        if self._waiting:
            # What is pushed afterwards goes on waiting.
            event = trio.Event()
            self._written = [*(self._written or ()), (self._waiting_bytes, event)]
            await event.wait()
        if self._gone:
            raise trio.BrokenResourceError("the connection is closed")

    async def wait_send_all_might_not_block(self) -> None:
        if self._flushed is not None:
            await self._flushed.wait()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """First the head; then, once that is answered, what the meter lets through, and nothing that follows
        our close. Empty at the end, which for the reader is also a breach, or what is not to be parsed."""
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._head:
            head, self._head = self._head, b""
            self._upgraded = trio.Event()
            return head
        if self._upgraded is not None:
            await self._upgraded.wait()
        while not self._meter.over and self._may_linger:
            data, self._read_ahead = self._read_ahead, b""
            data = data or await self.receive(max_bytes or RECEIVE_BYTES)
            if not data:
                break
            try:
                data = self._meter.feed(data)
            except Breach as breach:
                self._end_for(breach)
                break
            if not self._close_sent:
                return data
            self._count_unread(data)
        return b""

    def _end_for(self, breach: Breach) -> None:
        if self.open:
            self.breached = True
            self.close_now(breach.code, breach.reason)
            self._observer.breached(breach.code)

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def aclose(self) -> None:
        """A close that trio-websocket owes, then `linger_and_close`.

        A second caller waits for the first: trio-websocket's reader and the connection's task both close."""
        if self._closed is not None:
            await self._closed.wait()
            return
        self._closed = trio.Event()
        try:
            if not self._gone:
                broken = None if self._close_sent else self._observer.close_owed()
                if broken:
                    self.close_now(*broken)
                # trio-websocket's reader, here after a breach, is cancelled once the connection's task ends.
                await self.linger_and_close(shield=broken is not None)
        finally:
            self._closed.set()

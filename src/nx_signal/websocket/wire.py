"""The socket of one stream client: a single writer, a synchronous push, bounded memory.

trio-websocket runs on top of `Wire` (handshake, pongs, closes, all reading); pushes bypass it. A frame
is written to the kernel at once; only what the kernel does not take waits here, and only then a flusher
task exists. A task and a channel per client cost more than three times as much (docs/benchmarks.md)."""

from __future__ import annotations

import os

import trio

from nx_signal.delivery.transport import FrameKind, PushResult
from nx_signal.websocket.frames import CLOSE_OPCODE, Breach, Finish, FrameMeter, close_frame
from nx_signal.websocket.kernel import reset, untaken_bytes
from nx_signal.websocket.observer import WireObserver

STALL_S = 30.0
"""A client that takes nothing for this long is a slow consumer."""

WRITTEN_AT_ONCE = 64
"""Frames in one write, where many wait."""

CLOSE_FLUSH_S = 5.0
"""What a slow consumer then has to take the close frame, before it is cut off."""

LINGER_S = 2.0
"""After our close: how long the peer may take to read the rest and close its side."""
LINGER_BYTES = 262_144
"""What is read of it meanwhile, and not looked at."""
HELD_BYTES = 32_768  # the same after a breach: what is not read stops the flood
LINGER_READ_BYTES = 256
"""What each such read counts as at least: bytes that arrive one by one cost a turn of the loop each."""

RECEIVE_BYTES = 16_384

END_OF_HEAD = b"\r\n\r\n"


class Wire(trio.abc.HalfCloseableStream):
    """The stream below one WebSocket connection. Everything written passes through it, in order.

    `read_ahead` is what was already read from the socket: the head of the upgrade, and what follows it.
    `meter` counts what is read after the head, before it is parsed.

    There is one for every idle client: it holds nothing that only a busy or a closing one needs."""

    __slots__ = (
        "_close_flush_s",
        "_close_sent",
        "_closed",
        "_fd",
        "_flushed",
        "_gone",
        "_head",
        "_head_is_partial",
        "_max_buffer_bytes",
        "_meter",
        "_nursery",
        "_observer",
        "_read_ahead",
        "_refused",
        "_stall_s",
        "_stream",
        "_unread_bytes",
        "_upgraded",
        "_waiting",
        "_waiting_bytes",
        "_written",
        "breached",
        "socket",
    )

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
        self.socket = stream.socket
        self._stream = stream
        self._fd = stream.socket.fileno()
        head, end, self._read_ahead = read_ahead.partition(END_OF_HEAD)
        self._head = head + end
        self._upgraded: trio.Event | None = None
        """from the head on, until its answer is sent"""
        self._nursery = nursery
        self._observer = observer
        self._meter = meter
        self._unread_bytes = 0
        """received after our close"""
        self._max_buffer_bytes = max_buffer_bytes
        self._stall_s = stall_s
        self._close_flush_s = close_flush_s
        self._waiting: list[bytes | memoryview] = []
        self._waiting_bytes = 0
        self._written: list[tuple[int, trio.Event]] | None = None
        """set once so many more of the waiting bytes are written; None where no task waits for that"""
        self._head_is_partial = False
        self._flushed: trio.Event | None = None
        """while there is a flusher: set when it is through"""
        self._closed: trio.Event | None = None
        """from `aclose` on: set when it is through"""
        self._refused = False
        self.breached = False
        """closed for what the client sent"""
        self._close_sent = False
        self._gone = False

    @property
    def queued_bytes(self) -> int:
        return self._waiting_bytes

    @property
    def open(self) -> bool:
        """Whether a push could still reach the peer."""
        return not (self._gone or self._close_sent)

    def push(self, payload: bytes, kind: FrameKind, finish: Finish = bytes) -> PushResult:
        """Write a whole frame, or queue what the kernel does not take, or refuse. Never awaits."""
        if self._gone or self._close_sent:
            return PushResult.CLOSED
        if not self._waiting:
            return self._write(finish(payload))
        most = self._max_buffer_bytes if kind is FrameKind.LOG else self._max_buffer_bytes // 2
        if self._waiting_bytes + len(payload) > most:
            self._refused = True
            return PushResult.REFUSED
        self._queue(finish(payload))
        return PushResult.TAKEN

    def _write(self, frame: bytes) -> PushResult:
        try:
            # The descriptor is non-blocking, and ours until `_gone` is set.
            written = os.write(self._fd, frame)
        except BlockingIOError:
            written = 0
        except OSError:
            self._abort()
            return PushResult.CLOSED
        if written < len(frame):
            self._queue(memoryview(frame)[written:] if written else frame)
            self._head_is_partial = written > 0
            self._start_flusher()
        return PushResult.TAKEN

    def _queue(self, frame: bytes | memoryview) -> None:
        self._waiting.append(frame)
        self._waiting_bytes += len(frame)

    # --- the flusher: exists only while the kernel is full ---

    def _start_flusher(self) -> None:
        if self._flushed is None:
            self._flushed = trio.Event()
            self._nursery.start_soon(self._flush, self._flushed)

    async def _flush(self, flushed: trio.Event) -> None:
        try:
            while self._waiting and not self._gone:
                if not await self._wait_writable():
                    if self._close_sent:  # the close itself does not get through either
                        self._abort()
                    else:
                        self._observer.stalled()
                    continue
                self._write_waiting()
                self._report_room()
        except (OSError, trio.ClosedResourceError, trio.BusyResourceError):
            self._abort()
        finally:
            self._flushed = None
            flushed.set()

    async def _wait_writable(self) -> bool:
        """False where the client takes nothing for as long as may be. The kernel reports room only once a
        third of its buffer is free, which takes a slow client longer than that."""
        untaken = untaken_bytes(self._fd)
        while True:
            with trio.move_on_after(self._close_flush_s if self._close_sent else self._stall_s) as patience:
                await trio.lowlevel.wait_writable(self._fd)
            if not patience.cancelled_caught:
                return True
            before, untaken = untaken, untaken_bytes(self._fd)
            if self._close_sent or untaken >= before:
                return False

    def _report_room(self) -> None:
        """At a quarter of the bound: what comes next arrives before the client has read the rest."""
        if self._refused and self.open and self._waiting_bytes <= self._max_buffer_bytes // 4:
            self._refused = False
            self._observer.drained()

    def _write_waiting(self) -> None:
        while self._waiting:
            frames = self._waiting[:WRITTEN_AT_ONCE]
            try:
                written = os.writev(self._fd, frames)
            except BlockingIOError:
                return
            self._take(frames, written)
            self._report_written(written)
            if self._head_is_partial:
                return

    def _take(self, frames: list[bytes | memoryview], written: int) -> None:
        """So many bytes of the first frames are written."""
        self._waiting_bytes -= written
        whole = 0
        for frame in frames:
            if written < len(frame):
                break
            written -= len(frame)
            whole += 1
        del self._waiting[:whole]
        if written:
            self._waiting[0] = memoryview(frames[whole])[written:]
        self._head_is_partial = written > 0 or (whole == 0 and self._head_is_partial)

    def _report_written(self, written: int) -> None:
        if self._written is not None:
            self._written = [(left - written, event) for left, event in self._written]
            for left, event in self._written:
                if left <= 0:
                    event.set()
            self._written = [(left, event) for left, event in self._written if left > 0] or None

    def _abort(self) -> None:
        """The connection is unusable: release everything; the reader gets the socket's error."""
        if not self._gone:
            self._forget_waiting()
            reset(self.socket)

    def _forget_waiting(self) -> None:
        self._gone = True
        self._waiting.clear()
        self._report_written(self._waiting_bytes)
        self._waiting_bytes = 0
        if self._flushed is not None:
            self._flushed.set()

    def close_now(self, code: int, reason: str) -> None:
        """Replace the backlog by a close frame (after what is partly on the wire) and take no more."""
        if self._gone or self._close_sent:
            return
        partial = [self._waiting[0]] if self._head_is_partial else []
        self._waiting.clear()
        self._waiting.extend(partial)
        self._report_written(self._waiting_bytes)
        self._waiting_bytes = sum(map(len, partial))
        frame = close_frame(code, reason)
        if self._waiting:
            self._queue(frame)
        else:
            self._write(frame)
        self._close_sent = True

    async def discard(self) -> bool:
        """Read what still arrives, within bounds. Whether the peer has closed its side."""
        while self._may_linger:
            data = await self._stream.receive_some(LINGER_BYTES)
            self._count_unread(data)
            if not data:
                return True
        return False

    @property
    def _may_linger(self) -> bool:
        return self._unread_bytes <= (HELD_BYTES if self.breached else LINGER_BYTES)

    def _count_unread(self, data: bytes | bytearray) -> None:
        self._unread_bytes += max(len(data), LINGER_READ_BYTES)

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
            data = data or await self._receive(max_bytes or RECEIVE_BYTES)
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

    async def _receive(self, max_bytes: int) -> bytes:
        """Reads the descriptor itself: the five calls of SocketStream.receive_some would be held by every
        idle client."""
        while not self._gone:
            try:
                data = os.read(self._fd, max_bytes)
            except BlockingIOError:
                pass  # and out of here: a wait inside would keep the exception and its traceback
            except OSError as error:
                raise trio.BrokenResourceError(f"the connection is closed: {error}") from error
            else:
                await trio.lowlevel.cancel_shielded_checkpoint()
                return data
            await trio.lowlevel.wait_readable(self._fd)
        raise trio.BrokenResourceError("the connection is closed")

    def _end_for(self, breach: Breach) -> None:
        if self.open:
            self.breached = True
            self.close_now(breach.code, breach.reason)
            self._observer.breached(breach.code)

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def aclose(self) -> None:
        """Half-close, let the peer read what is under way for at most LINGER_S, then close.

        Closing with unread input would send an RST, which can destroy a close frame on its way.
        A second caller waits for the first: trio-websocket's reader and the connection's task both close."""
        if self._closed is not None:
            await self._closed.wait()
            return
        self._closed = trio.Event()
        try:
            if not self._gone:
                await self._linger_and_close()
        finally:
            self._closed.set()

    async def _linger_and_close(self) -> None:
        broken = None if self._close_sent else self._observer.close_owed()
        if broken:
            self.close_now(*broken)
        try:
            # trio-websocket's reader, here after a breach, is cancelled once the connection's task ends.
            with trio.move_on_after(LINGER_S, shield=broken is not None):
                if self._flushed is not None:
                    await self._flushed.wait()
                await self._stream.send_eof()
                await self.discard()
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError):
            pass
        finally:
            self._forget_waiting()
            self.socket.close()

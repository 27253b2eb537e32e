"""The bytes on their way to one client: a single writer, a synchronous push, bounded memory.

A frame is written to the kernel at once; only what the kernel does not take waits here, and only then a
flusher task exists. A task and a channel per client cost over three times as much (docs/benchmarks.md)."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeAlias

import trio

from nx_signal.delivery.kernel import reset, untaken_bytes
from nx_signal.delivery.transport import FrameKind, PushResult

STALL_S = 30.0
"""A client that takes nothing for this long is a slow consumer."""

WRITTEN_AT_ONCE = 64
"""Frames in one write, where many wait."""

CLOSE_FLUSH_S = 5.0
"""What a slow consumer then has to take the last frame, before it is cut off."""

LINGER_S = 2.0
"""After our end: how long the peer may take to read the rest and close its side."""
LINGER_BYTES = 262_144
"""What is read of it meanwhile, and not looked at."""
LINGER_READ_BYTES = 256
"""What each such read counts as at least: bytes that arrive one by one cost a turn of the loop each."""

Finish: TypeAlias = Callable[[bytes], bytes]
"""Makes the frame of a payload that is taken for writing, in the order of writing: a sealed one counts."""


class WriterObserver:
    """What a writer reports, synchronously. Here each report is ignored."""

    __slots__ = ()

    def drained(self) -> None:
        """A frame was refused before, and there is room again."""

    def stalled(self) -> None:
        """The client took nothing for STALL_S. Called again as long as that goes on."""


class Writer:
    """Everything written to one socket passes through it, in order.

    There is one for every idle client: it holds nothing that only a busy or a closing one needs."""

    __slots__ = (
        "_close_flush_s",
        "_close_sent",
        "_fd",
        "_flushed",
        "_gone",
        "_head_is_partial",
        "_max_buffer_bytes",
        "_nursery",
        "_observer",
        "_refused",
        "_stall_s",
        "_stream",
        "_unread_bytes",
        "_waiting",
        "_waiting_bytes",
        "_written",
        "socket",
    )

    def __init__(
        self,
        stream: trio.SocketStream,
        nursery: trio.Nursery,
        observer: WriterObserver,
        *,
        max_buffer_bytes: int,
        stall_s: float = STALL_S,
        close_flush_s: float = CLOSE_FLUSH_S,
    ) -> None:
        self.socket = stream.socket
        self._stream = stream
        self._fd = stream.socket.fileno()
        self._nursery = nursery
        self._observer = observer
        self._unread_bytes = 0
        """received after our last frame"""
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
        self._refused = False
        self._close_sent = False
        """the last frame is written, or waits"""
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

    def push_last(self, frame: bytes) -> None:
        """Write this frame after what waits, and take no more."""
        if not self.open:
            return
        if self._waiting:
            self._queue(frame)
        else:
            self._write(frame)
        self._close_sent = True

    def end_with(self, frame: bytes) -> None:
        """Replace the backlog by this frame (after what is partly on the wire) and take no more."""
        if not self.open:
            return
        partial = [self._waiting[0]] if self._head_is_partial else []
        self._waiting.clear()
        self._waiting.extend(partial)
        self._report_written(self._waiting_bytes)
        self._waiting_bytes = sum(map(len, partial))
        self.push_last(frame)

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

    # --- the end ---

    async def receive(self, max_bytes: int) -> bytes:
        """What arrives; empty at the end. Raises BrokenResourceError when the connection is closed. Reads the
        descriptor itself: the five calls of SocketStream.receive_some would be held by every idle client."""
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
        return self._unread_bytes <= LINGER_BYTES

    def _count_unread(self, data: bytes | bytearray) -> None:
        self._unread_bytes += max(len(data), LINGER_READ_BYTES)

    async def linger_and_close(self, *, shield: bool = False) -> None:
        """Half-close, let the peer read what is under way for at most LINGER_S, then close.

        Closing with unread input would send an RST, which can destroy a last frame on its way."""
        try:
            with trio.move_on_after(LINGER_S, shield=shield):
                if self._flushed is not None:
                    await self._flushed.wait()
                await self._stream.send_eof()
                await self.discard()
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError):
            pass
        finally:
            self._forget_waiting()
            self.socket.close()

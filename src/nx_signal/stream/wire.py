"""The socket of one stream client: a single writer, a synchronous push, bounded memory.

trio-websocket runs on top of `Wire` (handshake, pongs, closes, all reading); pushes bypass it. A frame
is written to the kernel at once; only what the kernel does not take waits here, and only then a flusher
task exists. A task and a channel per client cost more than three times as much (docs/benchmarks.md)."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from enum import Enum

import trio

STALL_S = 30.0
"""A client whose kernel buffer takes nothing for this long is a slow consumer."""

LAST_WORD_S = 5.0
"""What a slow consumer then has to take the close frame, before it is cut off."""

LINGER_S = 2.0
"""After our close: how long the peer may take to read the rest and close its side."""

RECEIVE_BYTES = 16_384

CLOSE_OPCODE = 0x88
"""FIN and opcode 8 (RFC 6455 §5.2)."""


class Kind(Enum):
    """What a waiting frame is, which decides its fate when room runs out."""

    CONTROL = "control"
    """handshake, pong, close: never dropped; trio-websocket sends them one at a time"""
    INBOX = "inbox"
    """in revision order, never dropped once taken; refused when there is no room: the store has it"""
    EPHEMERAL = "ephemeral"
    """exists nowhere else; dropped oldest first"""


class Push(Enum):
    TAKEN = "taken"
    REFUSED = "refused"
    """no room: nothing was queued"""
    CLOSED = "closed"


def text_frame(payload: bytes) -> bytes:
    """One unmasked, final text frame (RFC 6455 §5.2): 2, 4 or 10 bytes of header."""
    size = len(payload)
    if size < 126:
        return b"\x81%c%b" % (size, payload)
    if size < 65_536:
        return b"\x81\x7e%b%b" % (size.to_bytes(2, "big"), payload)
    return b"\x81\x7f%b%b" % (size.to_bytes(8, "big"), payload)


def close_frame(code: int, reason: str) -> bytes:
    body = code.to_bytes(2, "big") + reason.encode()
    return b"%c%c%b" % (CLOSE_OPCODE, len(body), body)


class Wire(trio.abc.HalfCloseableStream):
    """The stream below one WebSocket connection. Everything written passes through it, in order.

    `read_ahead` is what was already read from the socket. `on_drained` is called when a frame was refused
    before and the backlog has been written out; `on_stalled` when the client took nothing for
    STALL_S; `on_dropped` for each ephemeral frame given up. `why_closed` gives the code and the reason of
    a close that trio-websocket begins without a close frame. All synchronous.

    There is one for every idle client: it holds nothing that only a busy or a closing one needs."""

    __slots__ = (
        "_close_sent",
        "_closed",
        "_fd",
        "_flushed",
        "_gone",
        "_head_is_partial",
        "_last_word_s",
        "_max_buffer_bytes",
        "_nursery",
        "_read_ahead",
        "_refused",
        "_stall_s",
        "_stream",
        "_waiting",
        "_waiting_bytes",
        "dropped",
        "on_drained",
        "on_dropped",
        "on_stalled",
        "socket",
        "why_closed",
    )

    def __init__(
        self,
        stream: trio.SocketStream,
        read_ahead: bytes,
        nursery: trio.Nursery,
        *,
        max_buffer_bytes: int,
        stall_s: float = STALL_S,
        last_word_s: float = LAST_WORD_S,
    ) -> None:
        self.socket = stream.socket
        self._stream = stream
        self._fd = stream.socket.fileno()
        self._read_ahead = read_ahead
        self._nursery = nursery
        self._max_buffer_bytes = max_buffer_bytes
        self._stall_s = stall_s
        self._last_word_s = last_word_s
        self._waiting: list[tuple[Kind, bytes | memoryview]] = []
        self._waiting_bytes = 0
        self._head_is_partial = False
        self._flushed: trio.Event | None = None
        """while there is a flusher: set when it is through"""
        self._closed: trio.Event | None = None
        """from `aclose` on: set when it is through"""
        self._refused = False
        self._close_sent = False
        self._gone = False
        self.dropped = 0
        self.on_drained: Callable[[], None] = _ignore
        self.on_stalled: Callable[[], None] = _ignore
        self.on_dropped: Callable[[], None] = _ignore
        self.why_closed: Callable[[], tuple[int, str] | None] = _ignore

    @property
    def queued_bytes(self) -> int:
        return self._waiting_bytes

    @property
    def open(self) -> bool:
        """Whether a push could still reach the peer."""
        return not (self._gone or self._close_sent)

    def push(self, frame: bytes, kind: Kind) -> Push:
        """Write a whole frame, or queue what the kernel does not take, or refuse. Never awaits."""
        if self._gone or self._close_sent:
            return Push.CLOSED
        if not self._waiting:
            return self._write(frame, kind)
        room = self._max_buffer_bytes - self._waiting_bytes
        if len(frame) > room and (kind is not Kind.EPHEMERAL or not self._give_up_oldest(len(frame) - room)):
            if kind is Kind.EPHEMERAL:
                self._count_drop()
            else:
                self._refused = True
            return Push.REFUSED
        self._waiting.append((kind, frame))
        self._waiting_bytes += len(frame)
        return Push.TAKEN

    def _write(self, frame: bytes, kind: Kind) -> Push:
        try:
            # The descriptor is non-blocking, and ours until `_gone` is set.
            written = os.write(self._fd, frame)
        except BlockingIOError:
            written = 0
        except OSError:
            self._abort()
            return Push.CLOSED
        if written < len(frame):
            rest = memoryview(frame)[written:] if written else frame
            self._waiting.append((kind, rest))
            self._waiting_bytes += len(rest)
            self._head_is_partial = written > 0
            self._start_flusher()
        return Push.TAKEN

    def _give_up_oldest(self, needed_bytes: int) -> bool:
        """Drop ephemeral frames, oldest first, until `needed_bytes` are free; False when they would
        not suffice. A frame that is partly on the wire stays."""
        first = 1 if self._head_is_partial else 0
        victims: list[int] = []
        freed = 0
        for index in range(first, len(self._waiting)):
            if freed >= needed_bytes:
                break
            kind, frame = self._waiting[index]
            if kind is Kind.EPHEMERAL:
                victims.append(index)
                freed += len(frame)
        if freed < needed_bytes:
            return False
        for index in reversed(victims):
            del self._waiting[index]
            self._count_drop()
        self._waiting_bytes -= freed
        return True

    def _count_drop(self) -> None:
        self.dropped += 1
        self.on_dropped()

    # --- the flusher: exists only while the kernel is full ---

    def _start_flusher(self) -> None:
        if self._flushed is None:
            self._flushed = trio.Event()
            self._nursery.start_soon(self._flush, self._flushed)

    async def _flush(self, flushed: trio.Event) -> None:
        try:
            while self._waiting and not self._gone:
                patience_s = self._last_word_s if self._close_sent else self._stall_s
                with trio.move_on_after(patience_s) as patience:
                    await trio.lowlevel.wait_writable(self._fd)
                if patience.cancelled_caught:
                    if self._close_sent:  # the close itself does not get through either
                        self._abort()
                    else:
                        self.on_stalled()
                    continue
                self._write_waiting()
        except (OSError, trio.ClosedResourceError, trio.BusyResourceError):
            self._abort()
        finally:
            self._flushed = None
            flushed.set()
        if self._refused and self.open:
            self._refused = False
            self.on_drained()

    def _write_waiting(self) -> None:
        while self._waiting:
            kind, frame = self._waiting[0]
            try:
                written = os.write(self._fd, frame)
            except BlockingIOError:
                return
            self._waiting_bytes -= written
            if written < len(frame):
                self._waiting[0] = (kind, memoryview(frame)[written:])
                self._head_is_partial = True
                return
            del self._waiting[0]
            self._head_is_partial = False

    def _abort(self) -> None:
        """The connection is beyond use: let go of everything; the reader learns it from the socket."""
        if not self._gone:
            self._gone = True
            self._waiting.clear()
            self._waiting_bytes = 0
            if self._flushed is not None:
                self._flushed.set()
            # An RST instead of a half frame, and no lingering of unsent data.
            with suppress(OSError):
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.socket.close()

    def give_up(self, code: int, reason: str) -> None:
        """Replace the backlog by a close frame (after what is partly on the wire) and take no more."""
        if self._gone or self._close_sent:
            return
        partial = [self._waiting[0]] if self._head_is_partial else []
        self._waiting.clear()
        self._waiting.extend(partial)
        self._waiting_bytes = sum(len(frame) for _, frame in partial)
        frame = close_frame(code, reason)
        if self._waiting:
            self._waiting.append((Kind.CONTROL, frame))
            self._waiting_bytes += len(frame)
        else:
            self._write(frame, Kind.CONTROL)
        self._close_sent = True

    # --- what trio-websocket uses ---

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Whole frames only. Waits until they left for the kernel; a cancelled wait leaves no half
        frame, as the flusher goes on. Raises BrokenResourceError when the connection is gone."""
        await trio.lowlevel.checkpoint()
        if self._gone:
            raise trio.BrokenResourceError("the connection is gone")
        if not data or self._close_sent:
            return
        if data[0] == CLOSE_OPCODE:
            self._close_sent = True  # nothing may follow a close frame (RFC 6455 §5.5.1)
        if self._waiting:
            # Control frames do not count against the bound: trio-websocket has at most one in flight.
            self._waiting.append((Kind.CONTROL, bytes(data)))
            self._waiting_bytes += len(data)
        else:
            self._write(bytes(data), Kind.CONTROL)
        if self._flushed is not None:
            await self._flushed.wait()
        if self._gone:
            raise trio.BrokenResourceError("the connection is gone")

    async def wait_send_all_might_not_block(self) -> None:
        if self._flushed is not None:
            await self._flushed.wait()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Reads the descriptor itself: the five calls of SocketStream.receive_some would be held by
        every idle client."""
        await trio.lowlevel.checkpoint_if_cancelled()
        data, self._read_ahead = self._read_ahead, b""
        if data:
            return data
        while not self._gone:
            try:
                data = os.read(self._fd, max_bytes or RECEIVE_BYTES)
            except BlockingIOError:
                pass  # and out of here: a wait inside would keep the exception and its traceback
            except OSError as error:
                raise trio.BrokenResourceError(f"the connection is gone: {error}") from error
            else:
                await trio.lowlevel.cancel_shielded_checkpoint()
                return data
            await trio.lowlevel.wait_readable(self._fd)
        raise trio.BrokenResourceError("the connection is gone")

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def aclose(self) -> None:
        """Half-close, let the peer read what is under way for at most LINGER_S, then close.

        Closing with unread input would send an RST, which can destroy a close frame on its way.
        A second caller waits for the first: trio-websocket's reader and the conversation both close."""
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
        broken = None if self._close_sent else self.why_closed()
        if broken:
            self.give_up(*broken)
        try:
            # trio-websocket's reader, which is here after a breach, is cancelled once the conversation ends.
            with trio.move_on_after(LINGER_S, shield=broken is not None):
                if self._flushed is not None:
                    await self._flushed.wait()
                await self._stream.send_eof()
                while await self._stream.receive_some(65_536):
                    pass
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError):
            pass
        finally:
            self._gone = True
            self._waiting.clear()
            self._waiting_bytes = 0
            if self._flushed is not None:
                self._flushed.set()
            self.socket.close()


def _ignore() -> None:
    pass

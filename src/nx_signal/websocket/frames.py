"""Frames as RFC 6455 §5.2 lays them out: made for a client, and counted in what it sends. No I/O.

trio-websocket parses what is received, after it was counted. A rate of messages alone is no bound: control
frames and fragments, empty ones too, cost as much to parse."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from nx_signal.websocket.protocol import (
    MAX_MESSAGE_BYTES,
    MESSAGE_TOO_BIG,
    TOO_MANY_FRAGMENTS,
    TOO_MANY_FRAMES,
)

MAX_FRAGMENTS = 256
"""Of one message: 512 bytes each of the largest. Clients that fragment at all do so at 4 KiB or more."""
SMALL_READ_BYTES = 512
"""A read in which no frame begins counts as one where it brings fewer: each costs a turn of the loop."""

Allow: TypeAlias = Callable[[int, int], bool]
"""Whether the client may send so many frames, of so many bytes, now."""

TEXT_OPCODE, BINARY_OPCODE, CLOSE_OPCODE = 0x81, 0x82, 0x88
"""FIN and the opcodes 1, 2 and 8."""
_FIN, _RESERVED, _OPCODE, _MASKED, _LENGTH = 0x80, 0x70, 0x0F, 0x80, 0x7F
_CONTINUATION, _CLOSE, _CONTROL = 0x0, 0x8, 0x8
_OPCODES = frozenset({_CONTINUATION, 0x1, 0x2, _CLOSE, 0x9, 0xA})
_MAX_CONTROL_BYTES = 125
_MASK_BYTES = 4


def text_frame(payload: bytes) -> bytes:
    """One unmasked, final text frame: 2, 4 or 10 bytes of header."""
    return _frame(TEXT_OPCODE, payload)


def binary_frame(payload: bytes) -> bytes:
    return _frame(BINARY_OPCODE, payload)


def _frame(opcode: int, payload: bytes) -> bytes:
    size = len(payload)
    if size < 126:
        return b"%c%c%b" % (opcode, size, payload)
    if size < 65_536:
        return b"%c\x7e%b%b" % (opcode, size.to_bytes(2, "big"), payload)
    return b"%c\x7f%b%b" % (opcode, size.to_bytes(8, "big"), payload)


def close_frame(code: int, reason: str) -> bytes:
    body = code.to_bytes(2, "big") + reason.encode()
    return b"%c%c%b" % (CLOSE_OPCODE, len(body), body)


class Breach(Exception):
    """The connection is to be closed with this code and reason."""

    def __init__(self, why: tuple[int, str]) -> None:
        super().__init__(why[1])
        self.code, self.reason = why


class FrameMeter:
    """Of one connection, from the first byte after its upgrade. `allow` None: no rate.

    `over`: what follows is not to be parsed. The last frame was a close, or one that the parser refuses."""

    __slots__ = (
        "_allow",
        "_fragments",
        "_header",
        "_left",
        "_max_fragments",
        "_max_message_bytes",
        "_message_bytes",
        "_opcode",
        "over",
    )

    def __init__(
        self,
        allow: Allow | None = None,
        *,
        max_fragments: int = MAX_FRAGMENTS,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
    ) -> None:
        self._allow = allow
        self._max_fragments = max_fragments
        self._max_message_bytes = max_message_bytes
        self._header = b""
        """of a frame, as far as it has arrived"""
        self._left = 0
        """of the present frame's payload"""
        self._opcode = _CONTINUATION
        """of the present frame"""
        self._fragments = 0
        """of the present message; 0 between two"""
        self._message_bytes = 0
        self.over = False

    def feed(self, data: bytes) -> bytes:
        """What of `data` may be parsed. Raises Breach."""
        before = len(self._header)
        scanned = self._header + data if before else data
        self._header = b""
        at, frames = 0, 0
        while not self.over:
            step = min(self._left, len(scanned) - at)
            self._left -= step
            at += step
            if self._left:
                break
            if self._opcode == _CLOSE:
                self.over = True
                break
            begun = self._begin(scanned, at)
            if begun == at:
                self._header = scanned[at:]
                break
            at = begun
            frames += 1
        if not frames and len(data) < SMALL_READ_BYTES:
            frames = 1
        if self._allow is not None and not self._allow(frames, len(data)):
            raise Breach(TOO_MANY_FRAMES)
        return scanned[before:at] if self.over else data

    def _begin(self, data: bytes, at: int) -> int:
        """Take the header at `at`: where it ends, or `at` where it is not whole. Raises Breach."""
        if len(data) - at < 2:
            return at
        first, second = data[at], data[at + 1]
        opcode, length = first & _OPCODE, second & _LENGTH
        extended = {126: 2, 127: 8}.get(length, 0)
        end = at + 2 + extended + _MASK_BYTES
        if not self._is_valid(first, second):
            self.over = True
            return min(end, len(data))  # all that the parser may need to refuse it
        if len(data) < end:
            return at
        if extended:
            least = 126 if extended == 2 else 65_536
            length = int.from_bytes(data[at + 2 : at + 2 + extended], "big")
            if not least <= length < 1 << 63:
                self.over = True
                return end
        self._left, self._opcode = length, opcode
        if not opcode & _CONTROL:
            self._count(first, length)
        return end

    def _is_valid(self, first: int, second: int) -> bool:
        """Of the parser's own rules those that decide where the next frame begins, and what it is."""
        opcode = first & _OPCODE
        if opcode & _CONTROL and not (first & _FIN and second & _LENGTH <= _MAX_CONTROL_BYTES):
            return False
        if not opcode & _CONTROL and (opcode == _CONTINUATION) != bool(self._fragments):
            return False
        return bool(second & _MASKED) and not first & _RESERVED and opcode in _OPCODES

    def _count(self, first: int, length: int) -> None:
        self._fragments += 1
        self._message_bytes += length
        if self._message_bytes > self._max_message_bytes:
            raise Breach(MESSAGE_TOO_BIG)
        if self._fragments > self._max_fragments:
            raise Breach(TOO_MANY_FRAGMENTS)
        if first & _FIN:
            self._fragments = self._message_bytes = 0

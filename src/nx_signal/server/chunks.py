"""The framing of a chunked body (RFC 9112 §7.1), checked and bounded before h11 parses it.

h11 takes extensions and chunks without end, sizes of 80 bits, and bare line feeds in trailers."""

from __future__ import annotations

import re

from nx_signal.server.head import BadRequest, check_fields

MAX_CHUNKS = 4_096
"""Of one body: of the largest, 1 MiB, each then has 256 bytes. Each costs some 10 µs, however small."""
MAX_LINE_BYTES = 1_024
"""The size of a chunk with its extensions, or one field of a trailer."""
MAX_EXTRA_BYTES = 16_384
"""Extensions and trailers of one body."""

_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})((?:;[\t\x20-\x7e\x80-\xff]*)?)")


class ChunkedBody:
    """One body, from its first byte on; what follows its end is not looked at."""

    __slots__ = ("_chunks", "_extra_bytes", "_in_trailer", "_left", "_line", "_over")

    def __init__(self) -> None:
        self._line = b""
        self._left = 0
        """of the present chunk, with its CR LF, which h11 checks"""
        self._chunks = 0
        self._extra_bytes = 0
        self._in_trailer = False
        self._over = False

    def feed(self, data: bytes) -> None:
        """Raises BadRequest."""
        at = 0
        while at < len(data) and not self._over:
            if self._left:
                step = min(self._left, len(data) - at)
                self._left -= step
                at += step
                continue
            end = data.find(b"\n", at) + 1
            self._line += data[at : end or len(data)]
            at = end or len(data)
            if len(self._line) > MAX_LINE_BYTES:
                raise BadRequest(f"A line between chunks has at most {MAX_LINE_BYTES} bytes.")
            if end:
                line, self._line = self._line, b""
                self._take(line)

    def _take(self, line: bytes) -> None:
        if not line.endswith(b"\r\n"):
            raise BadRequest("Each line between chunks ends with CR LF.")
        line = line[:-2]
        if self._in_trailer:
            self._extra_bytes += len(line)
            self._over = not line
            if line:
                list(check_fields([line]))
        else:
            self._begin_chunk(line)
        if self._extra_bytes > MAX_EXTRA_BYTES:
            raise BadRequest(f"Extensions and trailers of a body have at most {MAX_EXTRA_BYTES} bytes.")

    def _begin_chunk(self, line: bytes) -> None:
        parts = _SIZE.fullmatch(line)
        if parts is None:
            raise BadRequest("The size of a chunk is up to 15 hexadecimal digits.")
        size = int(parts[1], 16)
        self._extra_bytes += len(parts[2])
        self._chunks += 1
        if self._chunks > MAX_CHUNKS:
            raise BadRequest(f"A body has at most {MAX_CHUNKS} chunks; send larger ones.")
        self._in_trailer = not size
        self._left = size + 2 if size else 0

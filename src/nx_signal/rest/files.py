"""Files that anybody may download: one copy in memory for all, compressed once, 304 where unchanged."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import trio
from quart import Response, request

from nx_signal.server.sending import SharedBytes

COMPRESSION = 9
"""Once for each file and process, in a thread: 100 ms for the largest."""


@dataclass(frozen=True, slots=True)
class _Content:
    plain: SharedBytes
    compressed: SharedBytes
    digest: str


class SharedFile:
    """`read` is called at the first request, in a thread."""

    def __init__(self, read: Callable[[], bytes], content_type: str, headers: Mapping[str, str]) -> None:
        self._read = read
        self._content_type = content_type
        self._headers = headers
        self._content: _Content | None = None
        self._loading = trio.Lock()

    async def response(self) -> Response:
        """The answer to the request in hand."""
        content = await self._loaded()
        packed = request.accept_encodings.quality("gzip") > 0
        tag = content.digest + "-gzip" * packed  # each encoding is a representation of its own
        if request.if_none_match.contains_weak(tag):
            response = Response(b"", 304)
        else:
            body = content.compressed if packed else content.plain
            response = Response(body, content_type=self._content_type)
            if packed:
                response.headers["Content-Encoding"] = "gzip"
        response.set_etag(tag)
        response.headers["Cache-Control"] = "no-cache"  # asked for again each time, and 304 until an upgrade
        response.headers.add("Vary", "Accept-Encoding")
        response.headers.update(self._headers)
        return response

    async def _loaded(self) -> _Content:
        async with self._loading:
            if self._content is None:
                self._content = await trio.to_thread.run_sync(self._load)
            return self._content

    def _load(self) -> _Content:
        plain = self._read()
        # Without a time: every instance gives the same bytes the same tag.
        compressed = gzip.compress(plain, COMPRESSION, mtime=0)
        return _Content(SharedBytes(plain), SharedBytes(compressed), hashlib.sha256(plain).hexdigest()[:16])

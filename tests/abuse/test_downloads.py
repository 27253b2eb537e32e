"""Readers that take nothing of what they ask for cost next to no memory, and end."""

from __future__ import annotations

import time
from pathlib import Path

import httpx
import pytest

from abuse.alone import alone, connect, get, metric, resident_bytes
from serving import PATIENCE_S

LARGEST = "/doc/swagger-ui-bundle.js"
READERS = 300
MAX_GROWTH_BYTES = 40_000_000
"""A copy for each of them would be 520 MB."""


def test_stalled_downloads_share_the_bytes_and_the_memory_is_given_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with alone(tmp_path) as instance:
        plain = httpx.get(instance.url + LARGEST, headers={"Accept-Encoding": "identity"})
        packed = httpx.get(instance.url + LARGEST)
        assert plain.content == packed.content
        assert int(packed.headers["content-length"]) < len(plain.content) / 3
        before, most = resident_bytes(instance), 0
        stalled = [connect(instance, get(LARGEST)) for _ in range(READERS)]
        deadline = time.monotonic() + PATIENCE_S
        while metric(instance.url, "signal_connections") < READERS:
            assert time.monotonic() < deadline, "they were cut off"
        for _ in range(10):
            assert httpx.get(instance.url + LARGEST, timeout=20).content == plain.content
            most = max(most, resident_bytes(instance))
        for tcp in stalled:
            tcp.close()
        while metric(instance.url, "signal_connections") > 1:
            assert time.monotonic() < deadline
        after = resident_bytes(instance)
    grown, kept = (most - before) / 1e6, (after - before) / 1e6
    with capsys.disabled():
        print(f"\n{READERS} stalled downloads: {grown:.1f} MB more; afterwards {kept:.1f} MB more", end=" ")
    assert most - before < MAX_GROWTH_BYTES
    assert after - before < MAX_GROWTH_BYTES


def test_a_reader_that_has_a_file_gets_304(tmp_path: Path) -> None:
    with alone(tmp_path) as instance, httpx.Client(base_url=instance.url) as client:
        for path in (LARGEST, "/doc/openapi.json", "/doc/asyncapi.json"):
            first = client.get(path)
            again = client.get(path, headers={"If-None-Match": first.headers["etag"]})
            head = client.head(path)
            assert (first.status_code, first.headers["content-encoding"]) == (200, "gzip")
            assert (again.status_code, again.content) == (304, b"")
            assert (head.status_code, head.content) == (200, b"")
            assert head.headers["content-length"] == first.headers["content-length"]
            for answer in (first, again, head):
                assert answer.headers["etag"] == first.headers["etag"]
                assert "Accept-Encoding" in answer.headers["vary"]
                assert answer.headers["cache-control"] == "no-cache"
            other = client.get(path, headers={"Accept-Encoding": "gzip;q=0"})
            assert "content-encoding" not in other.headers and other.content == first.content
            assert other.headers["etag"] != first.headers["etag"]

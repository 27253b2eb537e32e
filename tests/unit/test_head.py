"""server/head.py: a head is judged alike however it arrives, and its bytes are looked at once."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nx_signal.server import head
from nx_signal.server.head import MAX_HEAD_READS, BadRequest, head_length

TEXTS = st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b"\r\n\r\n", b"a: b", b"x"]), max_size=12)


def outcome(data: bytes, seen: int = 0) -> int | str | None:
    try:
        return head_length(data, seen)
    except BadRequest as error:
        return str(error)


@given(TEXTS, st.integers(1, 5))
def test_a_head_in_pieces_is_judged_as_a_whole_one(parts: list[bytes], size: int) -> None:
    data = b"GET / HTTP/1.1\r\n" + b"".join(parts)
    seen = 0
    for end in range(size, len(data) + size, size):
        arrived = data[:end]
        judged = outcome(arrived, seen)
        assert judged == outcome(arrived)
        if judged is not None:
            return
        seen = len(arrived)


def test_the_bytes_of_a_head_in_many_pieces_are_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at = 0

    class Counting:
        def search(self, data: bytes, start: int = 0, end: int | None = None) -> re.Match[bytes] | None:
            nonlocal looked_at
            looked_at += len(data[start:end])
            return None

    monkeypatch.setattr(head, "_BARE", Counting())
    data, seen = b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 5_000, 0
    for number in range(1, MAX_HEAD_READS):
        arrived = data[: number * 58]
        assert head_length(arrived, seen) is None
        seen = len(arrived)
    assert looked_at < 2 * len(data)

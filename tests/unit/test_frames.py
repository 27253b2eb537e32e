"""websocket/frames.py: what is counted in a client's bytes, wherever the reads cut them."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nx_signal.websocket.frames import (
    MAX_FRAGMENTS,
    SMALL_READ_BYTES,
    Breach,
    FrameMeter,
    close_frame,
    text_frame,
)
from nx_signal.websocket.protocol import MAX_MESSAGE_BYTES

MAX_HEADER_BYTES = 14
TEXT, BINARY, CONTINUATION, CLOSE, PING, PONG = 0x1, 0x2, 0x0, 0x8, 0x9, 0xA


def frame(opcode: int, size: int = 0, *, final: bool = True, announced_only: bool = False) -> bytes:
    """Of a client: masked with zeros. `announced_only`: its header alone."""
    first = (0x80 if final else 0) | opcode
    if size < 126:
        header = bytes([first, 0x80 | size])
    elif size < 65_536:
        header = bytes([first, 0x80 | 126]) + size.to_bytes(2, "big")
    else:
        header = bytes([first, 0x80 | 127]) + size.to_bytes(8, "big")
    return header + bytes(4) + (b"" if announced_only else b"x" * size)


class Counter:
    """Takes all, or refuses beyond `most` frames."""

    def __init__(self, most: int | None = None) -> None:
        self.frames = self.bytes = 0
        self.most = most

    def __call__(self, frames: int, size: int) -> bool:
        self.frames += frames
        self.bytes += size
        return self.most is None or self.frames <= self.most


FRAMES = st.one_of(
    st.builds(frame, st.sampled_from([TEXT, BINARY]), st.integers(0, 1_000)),
    st.just(frame(TEXT, 70_000)),
    st.builds(frame, st.sampled_from([PING, PONG]), st.integers(0, 125)),
    st.builds(
        lambda sizes: (
            frame(TEXT, sizes[0], final=False)
            + frame(PING)
            + b"".join(frame(CONTINUATION, size, final=False) for size in sizes[1:])
            + frame(CONTINUATION)
        ),
        st.lists(st.integers(0, 300), min_size=1, max_size=5),
    ),
)


@given(st.lists(FRAMES, max_size=8), st.lists(st.integers(0, 80_000), max_size=20))
def test_however_reads_cut_the_bytes_all_are_let_through(frames: list[bytes], cuts: list[int]) -> None:
    sent = b"".join(frames)
    edges = [0, *sorted(min(cut, len(sent)) for cut in cuts), len(sent)]
    counter = Counter()
    meter = FrameMeter(counter)
    passed = b"".join(meter.feed(sent[a:b]) for a, b in pairwise(edges) if b > a)
    assert passed == sent and not meter.over
    assert counter.bytes == len(sent)
    assert counter.frames >= len(frames)


@pytest.mark.parametrize("opcode", [PING, PONG, TEXT])
def test_each_frame_counts_whatever_it_carries(opcode: int) -> None:
    counter = Counter()
    FrameMeter(counter).feed(frame(opcode) * 100)
    assert counter.frames == 100


def test_a_fragment_counts_as_a_frame_also_an_empty_one() -> None:
    counter = Counter()
    FrameMeter(counter).feed(frame(TEXT, final=False) + frame(CONTINUATION, final=False) * 99)
    assert counter.frames == 100


def test_bytes_sent_one_by_one_count_as_a_frame_each() -> None:
    counter = Counter()
    meter = FrameMeter(counter)
    for byte in frame(TEXT, 1_000):
        meter.feed(bytes([byte]))
    assert counter.frames >= 1_000


def test_a_large_message_in_full_segments_counts_as_one() -> None:
    counter = Counter()
    meter = FrameMeter(counter)
    message = frame(TEXT, MAX_MESSAGE_BYTES)
    for start in range(0, len(message) - SMALL_READ_BYTES, 1_400):
        meter.feed(message[start : start + 1_400])
    assert counter.frames == 1


def test_a_rate_that_is_exceeded_is_a_breach_before_anything_is_parsed() -> None:
    with pytest.raises(Breach) as breach:
        FrameMeter(Counter(most=10)).feed(frame(PING) * 11)
    assert (breach.value.code, breach.value.reason) == (1008, "Too many frames or bytes")


def test_a_message_has_a_bounded_number_of_fragments_without_a_rate_too() -> None:
    meter = FrameMeter()
    meter.feed(frame(TEXT, final=False) + frame(CONTINUATION, final=False) * (MAX_FRAGMENTS - 2))
    meter.feed(frame(CONTINUATION) + frame(TEXT, final=False))  # the next message counts anew
    with pytest.raises(Breach) as breach:
        meter.feed(frame(CONTINUATION, final=False) * MAX_FRAGMENTS)
    assert (breach.value.code, breach.value.reason) == (1008, "Too many fragments in a message")


@pytest.mark.parametrize("size", [MAX_MESSAGE_BYTES + 1, 1 << 40, (1 << 63) - 1])
def test_a_message_that_is_too_large_is_a_breach_when_it_is_announced(size: int) -> None:
    with pytest.raises(Breach) as breach:
        FrameMeter().feed(frame(BINARY, size, announced_only=True))
    assert (breach.value.code, breach.value.reason) == (1009, "Message too big")


def test_the_bytes_of_a_message_are_those_of_its_fragments() -> None:
    half = MAX_MESSAGE_BYTES // 2
    meter = FrameMeter()
    meter.feed(frame(TEXT, half, final=False) + frame(CONTINUATION, half))
    meter.feed(frame(TEXT, half, final=False) + frame(CONTINUATION, half, final=False))
    with pytest.raises(Breach) as breach:
        meter.feed(frame(CONTINUATION, 1, announced_only=True))
    assert breach.value.code == 1009


@pytest.mark.parametrize("reason", [0, 2, 125])
def test_nothing_behind_a_close_is_let_through(reason: int) -> None:
    close = frame(CLOSE, reason)
    meter = FrameMeter()
    assert meter.feed(frame(PING) + close + frame(PING) * 50) == frame(PING) + close
    assert meter.over
    for cut in range(1, len(close)):
        meter = FrameMeter()
        assert meter.feed(close[:cut]) + meter.feed(close[cut:] + frame(PING)) == close
        assert meter.over


@pytest.mark.parametrize(
    "broken",
    [
        b"\x81\x00",  # not masked
        b"\xc1\x80\0\0\0\0",  # a reserved bit
        b"\x83\x80\0\0\0\0",  # no such opcode
        b"\x8b\x80\0\0\0\0",  # no such control opcode
        b"\x09\x80\0\0\0\0",  # a fragment of a ping
        b"\x89\xfe\0\x80\0\0\0\0",  # a ping of 128 bytes
        b"\x80\x80\0\0\0\0",  # continues nothing
        b"\x81\xfe\0\x01\0\0\0\0",  # a length in more bytes than it needs
        b"\x81\xff" + bytes(8) + bytes(4),
        b"\x81\xff\xff" + bytes(7) + bytes(4),  # a negative length
        frame(TEXT, final=False) + frame(TEXT),  # a message within a message
    ],
)
def test_nothing_behind_a_frame_that_the_parser_refuses_is_let_through(broken: bytes) -> None:
    meter = FrameMeter()
    passed = meter.feed(frame(PING) + broken + frame(PING) * 50)
    assert (
        passed.startswith(frame(PING) + broken) and len(passed) < len(frame(PING) + broken) + MAX_HEADER_BYTES
    )
    assert meter.over


def test_a_frame_s_header_has_the_length_that_fits() -> None:
    assert text_frame(b"x" * 125)[:2] == b"\x81\x7d"
    assert text_frame(b"x" * 126)[:4] == b"\x81\x7e\0\x7e"
    assert text_frame(b"x" * 65_536)[:10] == b"\x81\x7f\0\0\0\0\0\1\0\0"
    assert close_frame(1008, "why") == b"\x88\x05\x03\xf0why"

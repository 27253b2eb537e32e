"""What clients do not take is sent in pieces, cut off in time, and held within a bound."""

from __future__ import annotations

import h11
import pytest
import trio
from trio.testing import MockClock

from nx_signal.server.sending import (
    MIN_BYTES_PER_S,
    PIECE_BYTES,
    Held,
    Pace,
    SharedBytes,
    in_pieces,
    own_bytes,
)


def started(length: int) -> tuple[h11.Connection, h11.Response]:
    protocol = h11.Connection(h11.SERVER)
    protocol.receive_data(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    protocol.next_event()
    return protocol, h11.Response(status_code=200, headers=[(b"content-length", b"%d" % length)])


@pytest.mark.parametrize("shared", [bytes, SharedBytes])
def test_a_large_body_is_sent_in_pieces(shared: type[bytes]) -> None:
    body = bytes(range(256)) * 1_000
    protocol, response = started(len(body))
    events = (response, h11.Data(data=shared(body)), h11.EndOfMessage())
    pieces = list(in_pieces(protocol, events))
    assert b"".join(pieces).partition(b"\r\n\r\n")[2] == body
    assert max(map(len, pieces)) < 2 * PIECE_BYTES
    assert len(pieces) > 10


def test_a_small_answer_is_one_piece() -> None:
    protocol, response = started(5)
    (piece,) = in_pieces(protocol, (response, h11.Data(data=b"hello"), h11.EndOfMessage()))
    assert piece.endswith(b"\r\n\r\nhello")


def test_bytes_that_many_share_are_not_held_for_one() -> None:
    body = SharedBytes(b"x" * 100)
    assert body[0:100] is body and body[1:3] == b"xx"
    shared = h11.Data(data=body)
    assert own_bytes([shared, h11.Data(data=b"abc"), h11.EndOfMessage()]) == 3


async def test_each_piece_has_a_deadline_and_so_has_the_whole(autojump_clock: MockClock) -> None:
    pace = Pace(piece_s=10)
    began = trio.current_time()
    sent = 0
    while pace.next_deadline_s() > trio.current_time():
        await trio.sleep(9.9)  # just in time for each piece
        pace.sent(PIECE_BYTES)
        sent += PIECE_BYTES
        assert trio.current_time() - began < 1_000
    assert trio.current_time() - began < 10 + sent / MIN_BYTES_PER_S + 10


async def test_a_reader_at_the_least_rate_is_never_cut_off(autojump_clock: MockClock) -> None:
    pace = Pace(piece_s=10)
    for _ in range(1_000):
        await trio.sleep(PIECE_BYTES / MIN_BYTES_PER_S)
        assert pace.next_deadline_s() > trio.current_time()
        pace.sent(PIECE_BYTES)


class Reader:
    def __init__(self) -> None:
        self.cut_off = False

    def abort(self) -> None:
        self.cut_off = True


def test_above_the_bound_the_one_that_has_not_moved_for_the_longest_time_is_cut_off() -> None:
    held: Held[Reader] = Held(most=100)
    stalled, moving, new = Reader(), Reader(), Reader()
    held.hold(moving, 40)
    held.hold(stalled, 40)
    held.moved(moving)
    held.hold(new, 40)
    assert (stalled.cut_off, moving.cut_off, new.cut_off) == (True, False, False)
    held.release(moving)
    held.release(new)
    held.release(stalled)
    assert (held._total, len(held._bytes)) == (0, 0)


def test_one_alone_may_hold_more_than_the_bound() -> None:
    held: Held[Reader] = Held(most=100)
    large = Reader()
    held.hold(large, 1_000)
    assert not large.cut_off
    second = Reader()
    held.hold(second, 1)
    assert large.cut_off and not second.cut_off

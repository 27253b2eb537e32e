"""Events as they travel (WHATWG HTML §9.2.5), and the id from which a client resumes. No I/O."""

from __future__ import annotations

import re
from typing import NamedTuple

import msgspec

from nx_signal.delivery.topics import NOTIFICATIONS
from nx_signal.model.json import JsonDecoder
from nx_signal.model.wire import MAX_REV

HEARTBEAT = b":\n\n"
"""A comment: no event."""

_PLACE = re.compile(r"(0|[1-9][0-9]{0,18})(?:\.([!-~]{1,64}))?", re.ASCII)
_LINE_ENDS = bytes.maketrans(b"\r\n", b"  ")


class Place(NamedTuple):
    """Where a client is in its inbox's log. `history` None: the client states none."""

    rev: int
    history: str | None


class _Frame(msgspec.Struct):
    event: str
    data: msgspec.Raw


class _Stated(msgspec.Struct):
    rev: int | None = None
    history: str = ""


_decode_frame = JsonDecoder[_Frame](_Frame).decode
_decode_stated = JsonDecoder[_Stated](_Stated).decode


def event_of(payload: bytes) -> bytes:
    """The event of the JSON `{"event","data"}`, its data on one line. What is of the inbox's log, or states
    its place, has an id; with any other event a client keeps the last one.

    The name of an operator's event may hold line ends, which would begin another field, and so may the space
    between the values of JSON that another program wrote: these become spaces."""
    frame = _decode_frame(payload)
    name, data = frame.event.encode(), bytes(frame.data)
    place = _id_line(data) if frame.event.startswith(NOTIFICATIONS) else b""
    return place + b"event: %b\ndata: %b\n\n" % (name.translate(_LINE_ENDS), data.translate(_LINE_ENDS))


def _id_line(data: bytes) -> bytes:
    """Empty for a topic of a newer release that states no place."""
    place = _decode_stated(data)
    if place.rev is None:
        return b""
    return f"id: {place.rev}.{place.history}\n".encode() if place.history else b"id: %d\n" % place.rev


def read_place(text: str) -> Place:
    """Of an id that `event_of` made, or of a revision alone. Raises ValueError."""
    match = _PLACE.fullmatch(text)
    if match is None or int(match[1]) > MAX_REV:
        raise ValueError("it is not the id of an event of this stream")
    return Place(int(match[1]), match[2])


class EventEncoder:
    """`event_of`, once for all clients that get the same payload one after the other."""

    __slots__ = ("_event", "_payload")

    def __init__(self) -> None:
        self._payload = self._event = b""

    def __call__(self, payload: bytes) -> bytes:
        if payload is not self._payload:
            self._event = event_of(payload)
            self._payload = payload
        return self._event

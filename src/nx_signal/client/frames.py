"""The events of the stream as a client reads and writes them."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from nx_signal.client.websocket import PROTOCOL_ERROR, StreamClosed
from nx_signal.model import Json
from nx_signal.model.json import decode_json


@dataclass(frozen=True, slots=True)
class Frame:
    """One event, unsealed."""

    event: str
    data: Json = None


def encode(event: str, data: Json) -> bytes:
    return msgspec.json.encode({"event": event} if data is None else {"event": event, "data": data})


def decode(message: str | bytes) -> Frame:
    """Raises StreamClosed when the server did not send `{"event","data"?}`."""
    try:
        return decode_json(message, Frame)  # type: ignore[no-any-return]
    except msgspec.DecodeError:
        raise StreamClosed(PROTOCOL_ERROR, "the server sent a message that is not an event") from None

"""Rooms of the stream (CONTRACT §1, Rooms) and channels of the relay (CONTRACT §2)."""

from __future__ import annotations

import re

from nx_signal.model.live import RelayMessage, TargetKind

DEFAULT_ROOMS = ("ws-default", "ws-notification")

INBOX_ROOM = "signal/notification"
"""As a client may name the inbox room of its own user."""
INBOX_ROOM_PREFIX = f"{INBOX_ROOM}/"
ORGANIZER_ROOM_PREFIX = "signal/organizer/"
MERCHANT_ROOM_PREFIX = "signal/merchant/"

_RESERVED = (INBOX_ROOM_PREFIX, ORGANIZER_ROOM_PREFIX, MERCHANT_ROOM_PREFIX)
_CLIENT_ROOM = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
"""Each client is in the room that is its id, a UUID."""

KINDS_WITHOUT_TARGET = ("broadcast", "instances", "neighbours")

SHARED = "ws:"
"""Channels of sister services too."""
OWN = "own:"
"""Channels of the instances of one deployment alone; on a server that others use, too, its relay gives them
names of their own."""
NEIGHBOURS = "signal:instances"
"""On which the instances of every deployment, and of the release before, state that they are there."""


def inbox_room(user_id: str) -> str:
    return INBOX_ROOM_PREFIX + user_id


def is_reserved_room(room: str) -> bool:
    """A user's, a client's or members' own: only its rule opens it."""
    folded = room.casefold()
    return folded.startswith(_RESERVED) or folded == INBOX_ROOM or _CLIENT_ROOM.fullmatch(folded) is not None


def is_member_room(room: str) -> bool:
    return room.startswith((ORGANIZER_ROOM_PREFIX, MERCHANT_ROOM_PREFIX))


def channel(kind: TargetKind, target: str | None = None) -> str:
    match kind:
        case "neighbours":
            return NEIGHBOURS
        case "client" | "user" | "room" | "broadcast":
            family = SHARED
        case _:
            family = OWN
    return f"{family}{kind}" if kind in KINDS_WITHOUT_TARGET else f"{family}{kind}:{target}"


def room_channels(room: str) -> tuple[str, ...]:
    """On which something may come for a room."""
    return (
        (channel("room", room), channel("members", room))
        if is_member_room(room)
        else (channel("room", room),)
    )


def channel_of(message: RelayMessage) -> str:
    return channel(message.kind, message.target)

"""Who may join which room (CONTRACT §1, Rooms)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatchcase

from nx_signal.model import Memberships
from nx_signal.model.channels import (
    DEFAULT_ROOMS,
    INBOX_ROOM,
    MERCHANT_ROOM_PREFIX,
    ORGANIZER_ROOM_PREFIX,
    inbox_room,
    is_member_room,
    is_reserved_room,
)
from nx_signal.model.wire import encode_json
from nx_signal.store import Directory

MAX_ROOM_CHARS = 256
MAX_ROOMS_PER_REQUEST = 100
"""Of a `join`, or of a request; further ones are not read."""
RESERVED_ROOM_PREFIX = "ws:"
REFUSED_ROOMS_NAMED = 20
"""An error names at most this many refused rooms, so that it stays small."""


def is_room_name(room: str) -> bool:
    return 0 < len(room) <= MAX_ROOM_CHARS and not room.startswith(RESERVED_ROOM_PREFIX)


def canonical(room: str, user_id: str) -> str:
    """The room that a client of this user means: an earlier page of the platform names its inbox room without
    the user."""
    return inbox_room(user_id) if room == INBOX_ROOM else room


def is_member(room: str, memberships: Memberships) -> bool:
    if room.startswith(ORGANIZER_ROOM_PREFIX):
        return room.removeprefix(ORGANIZER_ROOM_PREFIX) in memberships.organizers
    return room.removeprefix(MERCHANT_ROOM_PREFIX) in memberships.merchants


def refused_rooms_data(rooms: Sequence[str]) -> bytes:
    """The JSON of the `error` that names rooms that the client may not join, or not any more."""
    shown = rooms[:REFUSED_ROOMS_NAMED]
    names = ", ".join(encode_json(room[:MAX_ROOM_CHARS]).decode() for room in shown)
    more = f" and {len(rooms) - REFUSED_ROOMS_NAMED} more" if len(rooms) > REFUSED_ROOMS_NAMED else ""
    return encode_json({"message": f"Not allowed to join: {names}{more}", "rooms": shown})


class RoomRules:
    """`patterns` are shell patterns of further rooms that every client may join; they never open an inbox
    room, a member room or another client's own room."""

    def __init__(self, directory: Directory, patterns: Sequence[str]) -> None:
        self._directory = directory
        self._patterns = tuple(patterns)

    async def lost(self, rooms: Mapping[str, Collection[str]]) -> Mapping[str, frozenset[str]]:
        """Of each user's member rooms those that the user may no longer be in; one query. Raises
        StoreUnavailable."""
        memberships = await self._directory.memberships(tuple(rooms))
        return {
            user_id: frozenset(room for room in joined if not is_member(room, memberships[user_id]))
            for user_id, joined in rooms.items()
        }

    async def allowed(self, user_id: str, client_id: str, rooms: Sequence[str]) -> frozenset[str]:
        """Those of `rooms` that this client may join; at most one query. Raises StoreUnavailable."""
        memberships: Memberships | None = None
        allowed: set[str] = set()
        for room in rooms:
            if room in (client_id, *DEFAULT_ROOMS, inbox_room(user_id)):
                allowed.add(room)
            elif is_member_room(room):
                if memberships is None:
                    memberships = (await self._directory.memberships([user_id]))[user_id]
                if is_member(room, memberships):
                    allowed.add(room)
            elif not is_reserved_room(room) and any(fnmatchcase(room, pattern) for pattern in self._patterns):
                allowed.add(room)
        return frozenset(allowed)

"""When a membership ends, the sessions that joined its room are removed from the room."""

from __future__ import annotations

import trio

from nx_signal.delivery.hub import Hub
from nx_signal.delivery.rooms import RoomRules, refused_rooms_data
from nx_signal.delivery.topics import ERROR, frame
from nx_signal.model.channels import is_member_room
from nx_signal.supervise import retry_until_available

RECHECK_ROOMS_S = 30.0
RECHECKED_USERS = 1_000
"""In one query."""


class MembershipRecheck:
    def __init__(self, hub: Hub, rules: RoomRules) -> None:
        self._hub = hub
        self._rules = rules

    async def run(self) -> None:
        """A client leaves the room, with an `error`, within a minute of its membership's end."""
        while True:
            await trio.sleep(RECHECK_ROOMS_S)
            joined = self._member_rooms()
            users = list(joined)
            for start in range(0, len(users), RECHECKED_USERS):
                part = {user: joined[user] for user in users[start : start + RECHECKED_USERS]}
                lost = await retry_until_available(self._rules.lost, part)
                for user, rooms in lost.items():
                    self._take_away(user, rooms)

    def _member_rooms(self) -> dict[str, set[str]]:
        """Those joined here, by user."""
        joined: dict[str, set[str]] = {}
        for room in self._hub.rooms:
            if is_member_room(room):
                for session in self._hub.sessions_in(room):
                    joined.setdefault(session.user_id, set()).add(room)
        return joined

    def _take_away(self, user_id: str, rooms: frozenset[str]) -> None:
        for session in list(self._hub.sessions_of(user_id)):
            lost = rooms & session.rooms
            if lost:
                self._hub.leave(session, lost)
                session.offer(frame(ERROR, refused_rooms_data(sorted(lost))))

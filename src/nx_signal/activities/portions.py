"""The members of a large audience, a portion at a time."""

from __future__ import annotations

from collections import deque
from heapq import merge

from nx_signal.activities.recipients import audiences_of
from nx_signal.model import Activity
from nx_signal.store import Directory


class Portions:
    """Of one activity whose members are looked up: each once, ascending by code points, above `after`, and
    without the actor where that is excluded. At most `most` members are held at once, of all scopes together,
    and the users that the activity names."""

    def __init__(self, directory: Directory, activity: Activity, after: str, most: int) -> None:
        self._directory = directory
        self._audiences = audiences_of(activity)
        self._excluded = activity.actor_id if activity.exclude_actor else None
        named = activity.recipient_ids if activity.scope == "audience" else ()
        self._named = deque(sorted(user for user in named if user > after))
        self._most = max(1, most // len(self._audiences))
        """of one scope"""
        self._after = after
        self._read_all = False
        self._members: deque[str] = deque()

    async def take(self, many: int) -> list[str]:
        """The next ones, at most so many; none at the end. Raises StoreUnavailable."""
        while not self._members and not self._read_all:
            await self._read()
        return [self._members.popleft() for _ in range(min(len(self._members), many))]

    async def _read(self) -> None:
        """Up to where the members of every scope are known: a scope with more is known up to its last one."""
        found = await self._directory.audiences(self._audiences, self._most, self._after)
        lasts = [members[-1] for members in found.values() if len(members) == self._most]
        self._read_all = not lasts
        self._after = min(lasts, default="")
        named = []
        while self._named and (self._read_all or self._named[0] <= self._after):
            named.append(self._named.popleft())
        last = None
        for user in merge(named, *found.values()):
            if not self._read_all and user > self._after:
                break
            if user not in (last, self._excluded):
                self._members.append(user)
            last = user

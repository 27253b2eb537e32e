"""The inbox of one user: every operation takes the user's id first and reaches only that user's rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from nx_signal.model import Change, InboxFilter, InboxPage, InboxSummary, Mark, Notification
from nx_signal.store import InboxStore
from nx_signal.store.marks import MarkAll, MarkedIds


class Inbox:
    """Reads and changes of one user's inbox; each change is announced once the store has it.

    `announce` is synchronous: between the store's return and the announcement nothing is cancelled.
    A change whose call was cancelled before that is durable yet unannounced; sessions find it by its
    revision."""

    def __init__(self, store: InboxStore, announce: Callable[[Sequence[Change]], None]) -> None:
        self._store = store
        self._announce = announce

    async def head(self, user_id: str) -> InboxSummary:
        return (await self._store.summaries([user_id]))[user_id]

    async def page(
        self, user_id: str, where: InboxFilter, limit: int, before_rev: int | None = None, skip: int = 0
    ) -> InboxPage:
        return await self._store.page(user_id, where, limit, before_rev, skip)

    async def count(self, user_id: str, where: InboxFilter) -> tuple[int, InboxSummary]:
        """(how many match, the head of the same snapshot)"""
        return await self._store.count(user_id, where)

    async def get(self, user_id: str, id: int) -> Notification | None:
        """None for an id that is unknown, deleted or another user's: no difference."""
        return await self._store.get(user_id, id)

    async def rendered_from(self, user_id: str, ids: Sequence[int]) -> Mapping[int, str]:
        """What these notifications of the user were rendered from, for activities/again.py."""
        return await self._store.rendered_from(user_id, ids)

    async def mark(self, user_id: str, id: int, mark: Mark, origin: str | None = None) -> Notification | None:
        """The notification after it; None as for `get`. Idempotent: the first read_at stays. `origin`: the
        client that made the call."""
        result = await self._store.mark(user_id, id, mark, origin)
        if result is None:
            return None
        notification, change = result
        if change is not None:
            self._announce((change,))
        return notification

    async def mark_ids(
        self, user_id: str, ids: Sequence[int], mark: Mark, origin: str | None = None
    ) -> MarkedIds:
        """At most marks.MAX_IDS different ones."""
        marked = await self._store.mark_ids(user_id, ids, mark, origin)
        if marked.change is not None:
            self._announce((marked.change,))
        return marked

    async def mark_all(self, covers: MarkAll) -> tuple[int, InboxSummary]:
        """(how many changed, the head after): one change for each 1,000 of them, announced in turn. Raises
        HistoryLost as `mark_all_read` does."""
        updated, rest = 0, covers
        while True:
            portion = await self._store.mark_portion(rest)
            if portion.change is not None:
                self._announce((portion.change,))
            updated += portion.updated
            if portion.rest is None:
                return updated, portion.head
            rest = portion.rest

    async def mark_all_seen(
        self,
        user_id: str,
        up_to_rev: int | None = None,
        origin: str | None = None,
        history: str | None = None,
    ) -> tuple[int, InboxSummary]:
        """(how many became seen, the head after). Raises HistoryLost as `mark_all_read` does."""
        updated, head, change = await self._store.mark_all_seen(user_id, up_to_rev, origin, history)
        if change is not None:
            self._announce((change,))
        return updated, head

    async def mark_all_read(
        self,
        user_id: str,
        up_to_rev: int | None = None,
        type: str | None = None,
        subject: str | None = None,
        origin: str | None = None,
        history: str | None = None,
    ) -> tuple[int, InboxSummary, datetime]:
        """(how many became read, the head after, the time). Raises HistoryLost where `history` is given and
        not that of `up_to_rev`."""
        updated, head, read_at, change = await self._store.mark_all_read(
            user_id, up_to_rev, type, subject, origin, history
        )
        if change is not None:
            self._announce((change,))
        return updated, head, read_at

    async def delete(self, user_id: str, id: int) -> bool:
        """False as `get` gives None."""
        change = await self._store.delete(user_id, id)
        if change is None:
            return False
        self._announce((change,))
        return True

"""The inboxes: one log per recipient. Each change takes the recipient's next `rev` in the transaction that
makes the change; revisions of a recipient have no gap and never go back.

Concurrent callers (also of other processes) are serialized per recipient by locking its head first, always in
ascending recipient order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from operator import attrgetter, itemgetter
from typing import Any

from nx_signal.model import (
    ActivityRow,
    Change,
    ChangesSince,
    Created,
    Deleted,
    Draft,
    InboxFilter,
    InboxPage,
    InboxSummary,
    Notification,
    Read,
)
from nx_signal.model.changes import new_history
from nx_signal.model.notifications import DRAFT_FIELDS, DRAFT_TIMES, created
from nx_signal.model.text import json_text, json_value, require_storable, storable
from nx_signal.store import collapse, listing, read_all
from nx_signal.store.driver import Driver, Row, Tx
from nx_signal.store.rows import advance, change, lock, notification, summary

MAX_DRAFTS = 1_000
"""Of one call."""

_TEXTS = tuple(name for name in DRAFT_FIELDS if name not in ("data", *DRAFT_TIMES))
_texts_of = attrgetter(*_TEXTS)


class InboxStore:
    """Under a text that no store can hold nothing is found."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    async def insert(self, drafts: Sequence[Draft]) -> Sequence[Created]:
        """Write the drafts in one transaction, a constant number of statements whatever their number.

        A draft whose (activity_id, recipient_id) exists already, in the store or earlier in `drafts`,
        is skipped silently, and so is one with a collapse key of which its recipient ever had a newer row
        of the same organizer. Any other one with a key takes the place of those that the inbox has.
        Returns one `Created` for each row really inserted, in the order of
        `drafts`; a recipient's revisions ascend in that order. At most MAX_DRAFTS a call.
        Raises StoreRejected when a value cannot be stored: then nothing was written."""
        if len(drafts) > MAX_DRAFTS:
            raise ValueError(f"At most {MAX_DRAFTS} drafts a call, not {len(drafts)}.")
        once: dict[tuple[str, str], Draft] = {}
        for draft in drafts:
            once.setdefault((draft.activity_id, draft.recipient_id), draft)
        unique = list(once.values())
        if not unique:
            return ()
        for draft in unique:
            _require_storable(draft)
            if draft.collapse_key is not None and draft.occurred_at is None:
                raise ValueError("A draft with a collapse_key needs its occurred_at.")
        # The recipients of one activity share its data: encode it once.
        shared = {id(draft.data): draft.data for draft in unique}
        texts = {key: json_text("data", data) for key, data in shared.items()}
        return await self._driver.write(_insert, unique, texts, takes_ids=True)

    async def mark_read(
        self, recipient_id: str, id: int, origin: str | None
    ) -> tuple[Notification, Change | None] | None:
        """None as for `get`. The change is None when it was read already: the first read_at stays."""
        if not storable(recipient_id):
            return None
        return await self._driver.write(_mark_read, recipient_id, id, origin)

    async def mark_all_read(
        self,
        recipient_id: str,
        up_to_rev: int | None,
        type: str | None,
        subject: str | None,
        origin: str | None,
        history: str | None = None,
    ) -> read_all.Marked:
        """Mark the unread rows with rev ≤ up_to_rev (the head's rev where None or larger) and of the
        given type and subject: (how many, the head after, the time, the change). One revision for
        all of them; no change and no revision where nothing was unread. Raises HistoryLost where the inbox
        does not have `history` at `up_to_rev`.

        On return all of them are read, for every reader. Of many, the rows themselves may be written
        later (Maintenance.apply_read_all): no statement touches more than a bounded number of rows, and no
        writer waits for more than one such statement."""
        if not storable(recipient_id):
            return 0, InboxSummary(recipient_id, 0, 0, 0), self._driver.now(), None
        if not (storable(type or "") and storable(subject or "")):
            up_to_rev, type, subject = 0, None, None  # no row is of these
        covers = read_all.ReadAll(recipient_id, up_to_rev, type, subject, origin, history)
        while (marked := await self._driver.write(read_all.mark_all, covers)) is None:
            await self._driver.write(read_all.apply_portion, read_all.PORTION, recipient_id)
        return marked

    async def delete(self, recipient_id: str, id: int) -> Change | None:
        """Soft. None as for `get`."""
        return await self._driver.write(_delete, recipient_id, id) if storable(recipient_id) else None

    async def summaries(self, recipient_ids: Sequence[str]) -> Mapping[str, InboxSummary]:
        """One query. An entry for every id, InboxSummary(id, 0, 0, 0) for an inbox never written."""
        found = {id: InboxSummary(id, 0, 0, 0) for id in recipient_ids}
        if wanted := [id for id in found if storable(id)]:
            found.update(await self._driver.read_one(_summaries, wanted))
        return found

    async def changes_since(self, cursors: Mapping[str, int], limit: int) -> Mapping[str, ChangesSince]:
        """For each recipient → rev: the head and up to `limit` changes with a revision above `rev`.

        One snapshot, a constant number of queries for all recipients together. A `rev` at or above
        the head's gives an empty `changes`. Where what follows `rev` is no longer kept, `changes` starts
        where the kept log does, so above `rev` + 1: a client that stands at `rev` has to start anew. A `rev`
        below the head's never gives an empty `changes` (with a limit above 0). The first one's `after` is
        None where the change before it is not kept."""
        found = {id: ChangesSince(InboxSummary(id, 0, 0, 0), ()) for id in cursors}
        if wanted := {id: rev for id, rev in cursors.items() if storable(id)}:
            found.update(await self._driver.read(changes_since, wanted, limit))
        return found

    async def page(
        self, recipient_id: str, where: InboxFilter, limit: int, before_rev: int | None, skip: int
    ) -> InboxPage:
        """Rows not deleted that match, newest first, below `before_rev` where given."""
        if not storable(recipient_id):
            return InboxPage((), 0, InboxSummary(recipient_id, 0, 0, 0), None)
        return await self._driver.read_one(listing.page, recipient_id, where, limit, before_rev, skip)

    async def count(self, recipient_id: str, where: InboxFilter) -> tuple[int, InboxSummary]:
        """How many match, and the head of the same snapshot."""
        if not storable(recipient_id):
            return 0, InboxSummary(recipient_id, 0, 0, 0)
        return await self._driver.read_one(listing.count, recipient_id, where)

    async def get(self, recipient_id: str, id: int) -> Notification | None:
        """None for an id that is unknown, deleted or another recipient's: no difference."""
        return await self._driver.read_one(_get, recipient_id, id) if storable(recipient_id) else None

    async def rendered_from(self, recipient_id: str, ids: Sequence[int]) -> Mapping[int, str]:
        """What the recipient's rows were rendered from; no entry for one of a release before."""
        if not (ids and storable(recipient_id)):
            return {}
        return await self._driver.read_one(_rendered_from, recipient_id, list(ids))

    async def written(self, activity_ids: Sequence[str]) -> frozenset[str]:
        """Those of them that any recipient has a row of, a deleted one too."""
        return await self._driver.read_one(_written, list(filter(storable, activity_ids)))

    async def newest_of_key(
        self, recipient_id: str, organizer_id: str | None, collapse_key: str
    ) -> tuple[datetime, datetime] | None:
        """(when it was written, when it happened) of the newest row with this key that the recipient ever
        had."""
        if not all(map(storable, (recipient_id, organizer_id or "", collapse_key))):
            return None
        return await self._driver.read_one(_newest_of_key, recipient_id, organizer_id or "", collapse_key)

    async def rows_of(
        self, activity_id: str, recipient_id: str | None, limit: int
    ) -> tuple[Sequence[ActivityRow], int]:
        """For operators: the rows of an activity, of this recipient or the first `limit` of all by
        recipient, and how many there are of all. Deleted rows count."""
        if not storable(activity_id):
            return (), 0
        if not storable(recipient_id or ""):
            recipient_id, limit = None, 0
        return await self._driver.read(_rows_of, activity_id, recipient_id, limit)


def _require_storable(draft: Draft) -> None:
    if not storable("".join(filter(None, _texts_of(draft)))):
        for name, text in zip(_TEXTS, _texts_of(draft), strict=True):
            require_storable(name, text)


# --- the scripts ---


async def _insert(tx: Tx, drafts: Sequence[Draft], texts: Mapping[int, str]) -> list[Created]:
    keyed = any(draft.collapse_key is not None for draft in drafts)
    insert = partial(collapse.insert, tx) if keyed else tx.insert
    created_at, rows = await insert(drafts, [texts[id(draft.data)] for draft in drafts])
    parsed = {key: json_value(text) for key, text in texts.items()}
    changes = []
    histories: dict[str, str] = {}
    for row in rows:
        draft, history = drafts[row.index], str(row.id)
        made = created(draft, id=row.id, rev=row.rev, data=parsed[id(draft.data)], created_at=created_at)
        after = histories.get(draft.recipient_id, row.before)
        step = (draft.recipient_id, row.rev, row.unread, row.total, history, after)
        changes.append(Created(*step, made, row.replaces))
        histories[draft.recipient_id] = history
    return changes


async def _mark_read(
    tx: Tx, recipient_id: str, id: int, origin: str | None
) -> tuple[Notification, Change | None] | None:
    before = await lock(tx, recipient_id)
    rev, read_at = before.rev + 1, tx.now()
    marked = await tx.one("mark_read", id=id, recipient_id=recipient_id, read_at=read_at, rev=rev)
    if marked is None:
        row = await _get(tx, recipient_id, id)
        return None if row is None else (row, None)
    change = Read(
        recipient_id,
        rev,
        before.unread - 1,
        before.total,
        new_history(),
        before.history,
        ids=(id,),
        up_to_rev=None,
        type=None,
        subject=None,
        read_at=read_at,
        origin=origin,
    )
    await advance(tx, change, {marked["type"]: (0, 1)})
    return notification(marked), change


async def _delete(tx: Tx, recipient_id: str, id: int) -> Change | None:
    before = await lock(tx, recipient_id)
    rev = before.rev + 1
    deleted = await tx.one("delete", id=id, recipient_id=recipient_id, deleted_at=tx.now(), rev=rev)
    if deleted is None:
        return None
    unread = 0 if deleted["is_read"] else 1
    counts = (before.unread - unread, before.total - 1)
    change = Deleted(recipient_id, rev, *counts, new_history(), before.history, (id,))
    await advance(tx, change, {deleted["type"]: (1, unread)})
    return change


async def _get(tx: Tx, recipient_id: str, id: int) -> Notification | None:
    row = await tx.one("get", id=id, recipient_id=recipient_id)
    return None if row is None else notification(row)


async def _rendered_from(tx: Tx, recipient_id: str, ids: list[int]) -> dict[int, str]:
    rows = await tx.all("rendered_from", recipient_id=recipient_id, ids=ids)
    return {row["id"]: row["rendered_from"] for row in rows}


async def _summaries(tx: Tx, recipient_ids: list[str]) -> dict[str, InboxSummary]:
    heads = await tx.all("heads", recipient_ids=recipient_ids)
    return {row["recipient_id"]: summary(row) for row in heads}


async def changes_since(tx: Tx, cursors: Mapping[str, int], limit: int) -> dict[str, ChangesSince]:
    heads = {row["recipient_id"]: row for row in await tx.all("heads", recipient_ids=list(cursors))}
    # What is truncated is skipped: the changes then start above the next revision.
    after = {
        id: max(cursors[id], head["truncated_through"])
        for id, head in heads.items()
        if cursors[id] < head["rev"]
    }
    log: dict[str, list[Row]] = {id: [] for id in heads}
    if after and limit > 0:
        wanted = {
            "recipient_ids": list(after),
            # One more, for the history that the first of them follows.
            "revs": [rev - 1 for rev in after.values()],
            "limit": min(limit, read_all.MAX_SPAN) + 1,
        }
        for query in ("created_since", "changed_since"):
            for row in await tx.all(query, **wanted):
                log[row["recipient_id"]].append(row)
    return {
        id: ChangesSince(summary(head), tuple(_chained(head, log[id], after.get(id, 0))))
        for id, head in heads.items()
    }


def _chained(head: Row, rows: list[Row], start: int) -> Iterator[Change]:
    """The changes above `start`, ascending, each with the history that it follows."""
    histories: dict[int, str | None] = {head["truncated_through"]: head["truncated_history"], 0: ""}
    for row in sorted(rows, key=itemgetter("rev")):
        made = change(row, histories.get(row["rev"] - 1))
        histories[made.rev] = made.history
        if made.rev > start:
            yield made


async def _written(tx: Tx, activity_ids: list[str]) -> frozenset[str]:
    rows = await tx.all("activities_written", activity_ids=activity_ids)
    return frozenset(row["activity_id"] for row in rows)


async def _newest_of_key(
    tx: Tx, recipient_id: str, organizer_id: str, collapse_key: str
) -> tuple[datetime, datetime] | None:
    key = {"recipient_id": recipient_id, "organizer_id": organizer_id, "collapse_key": collapse_key}
    row = await tx.one("newest_of_key", **key)
    return None if row is None else (row["created_at"], row["occurred_at"])


async def _rows_of(
    tx: Tx, activity_id: str, recipient_id: str | None, limit: int
) -> tuple[Sequence[ActivityRow], int]:
    rows = await tx.all("rows_of", activity_id=activity_id, recipient_id=recipient_id, limit=limit)
    counted = await tx.one("count_rows_of", activity_id=activity_id)
    assert counted is not None  # noqa: S101 - a count has a row
    return [_activity_row(**row) for row in rows], counted["total"]


def _activity_row(is_read: bool, deleted: bool, **values: Any) -> ActivityRow:
    return ActivityRow(is_read=bool(is_read), deleted=bool(deleted), **values)

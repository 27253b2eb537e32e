"""The inboxes: one log per recipient. Each change takes the recipient's next `rev` in the transaction that
makes the change; revisions of a recipient have no gap and never go back.

Concurrent callers (also of other processes) are serialized per recipient by locking its head first, always in
ascending recipient order."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from operator import attrgetter, itemgetter
from typing import Any, TypeVar, TypeVarTuple

from nx_signal.model import (
    ActivityRow,
    Change,
    ChangesSince,
    Created,
    Draft,
    InboxFilter,
    InboxPage,
    InboxSummary,
    Mark,
    Notification,
)
from nx_signal.model.notifications import DRAFT_FIELDS, DRAFT_TIMES, created
from nx_signal.model.text import json_text, json_value, require_storable, storable
from nx_signal.store import collapse, listing, marks, read_all
from nx_signal.store.driver import Driver, Row, Tx
from nx_signal.store.rows import change, notification, summary

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

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

    async def mark(
        self, recipient_id: str, id: int, mark: Mark, origin: str | None
    ) -> tuple[Notification, Change | None] | None:
        """The row after it; None as for `get`. The change is None where it was so already: what is read keeps
        its first read_at."""
        if not storable(recipient_id):
            return None
        row, change = await self._applied(recipient_id, marks.mark_one, recipient_id, id, mark, origin)
        return None if row is None else (row, change)

    async def mark_ids(
        self, recipient_id: str, ids: Sequence[int], mark: Mark, origin: str | None
    ) -> marks.MarkedIds:
        """One change for all of them, each once; none where nothing changed. At most MAX_IDS."""
        wanted = tuple(dict.fromkeys(ids))
        if len(wanted) > marks.MAX_IDS:
            raise ValueError(f"At most {marks.MAX_IDS} ids a call, not {len(wanted)}.")
        if not storable(recipient_id):
            return marks.MarkedIds(0, wanted, InboxSummary(recipient_id, 0, 0, 0), None)
        return await self._applied(recipient_id, marks.mark_ids, recipient_id, wanted, mark, origin)

    async def mark_portion(self, covers: marks.MarkAll) -> marks.MarkedPortion:
        """One change for up to 1,000 rows, the lowest; no change where there is none. Raises HistoryLost as
        `mark_all_read` does."""
        if not storable(covers.recipient_id):
            return marks.MarkedPortion(0, InboxSummary(covers.recipient_id, 0, 0, 0), None, None)
        return await self._applied(covers.recipient_id, marks.mark_portion, covers)

    async def mark_all_seen(
        self, recipient_id: str, up_to_rev: int | None, origin: str | None, history: str | None = None
    ) -> tuple[int, InboxSummary, Change | None]:
        """Count the rows up to a revision (the head's where None or larger) as seen, archived ones too: (how
        many unread ones of the inbox became so, the head after, the change). Touches no row, whatever their
        number. No change where none became seen. Raises HistoryLost as `mark_all_read` does."""
        if not storable(recipient_id):
            return 0, InboxSummary(recipient_id, 0, 0, 0), None
        before, head, change = await self._driver.write(
            marks.mark_all_seen, recipient_id, up_to_rev, history, origin
        )
        return before.unseen - head.unseen, head, change

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
        return await self._applied(recipient_id, read_all.mark_all, covers)

    async def _applied(
        self, recipient_id: str, script: Callable[[Tx, *Ts], Awaitable[T | None]], *arguments: *Ts
    ) -> T:
        """Play the script; where it gives None, apply the read-all that is recorded, and play it again."""
        while (result := await self._driver.write(script, *arguments)) is None:
            await self._driver.write(read_all.apply_portion, read_all.PORTION, recipient_id)
        return result

    async def delete(self, recipient_id: str, id: int) -> Change | None:
        """Soft. None as for `get`."""
        deleted = await self.mark(recipient_id, id, "delete", None)
        return None if deleted is None else deleted[1]

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
        """Rows that match, newest first, below `before_rev` where given."""
        if not storable(recipient_id):
            return InboxPage((), 0, InboxSummary(recipient_id, 0, 0, 0), None)
        return await self._driver.read_one(listing.page, recipient_id, where, limit, before_rev, skip)

    async def count(self, recipient_id: str, where: InboxFilter) -> tuple[int, InboxSummary]:
        """How many match, and the head of the same snapshot."""
        if not storable(recipient_id):
            return 0, InboxSummary(recipient_id, 0, 0, 0)
        return await self._driver.read_one(listing.count, recipient_id, where)

    async def get(self, recipient_id: str, id: int) -> Notification | None:
        """None for an id that is unknown, deleted or another recipient's: no difference. Finds archived rows,
        too."""
        return await self._driver.read_one(_get, recipient_id, id) if storable(recipient_id) else None

    async def rendered_from(self, recipient_id: str, ids: Sequence[int]) -> Mapping[int, str]:
        """What the recipient's rows were rendered from; no entry for one of a release before."""
        if not (ids and storable(recipient_id)):
            return {}
        return await self._driver.read_one(_rendered_from, recipient_id, list(ids))

    async def written(self, activity_ids: Sequence[str]) -> frozenset[str]:
        """Those of them that any recipient has a row of, a deleted one too."""
        return await self._driver.read_one(_written, list(filter(storable, activity_ids)))

    async def had_newer(
        self,
        recipient_id: str,
        organizer_id: str | None,
        collapse_key: str,
        occurred_at: datetime,
        at: datetime,
    ) -> bool:
        """Whether the recipient had a row with this key by then (`at`) that happened after `occurred_at`."""
        if not all(map(storable, (recipient_id, organizer_id or "", collapse_key))):
            return False
        key = {
            "recipient_id": recipient_id,
            "organizer_id": organizer_id or "",
            "collapse_key": collapse_key,
        }
        return await self._driver.read_one(_had_newer, key, occurred_at, at)

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
        step = (draft.recipient_id, row.rev, row.unread, row.total, row.unseen, history, after)
        changes.append(Created(*step, made, row.replaces))
        histories[draft.recipient_id] = history
    return changes


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


async def _had_newer(tx: Tx, key: Mapping[str, str], occurred_at: datetime, at: datetime) -> bool:
    return await tx.one("had_newer", **key, occurred_at=occurred_at, at=at) is not None


async def _rows_of(
    tx: Tx, activity_id: str, recipient_id: str | None, limit: int
) -> tuple[Sequence[ActivityRow], int]:
    rows = await tx.all("rows_of", activity_id=activity_id, recipient_id=recipient_id, limit=limit)
    counted = await tx.one("count_rows_of", activity_id=activity_id)
    assert counted is not None  # noqa: S101 - a count has a row
    return [_activity_row(**row) for row in rows], counted["total"]


def _activity_row(is_read: bool, deleted: bool, **values: Any) -> ActivityRow:
    return ActivityRow(is_read=bool(is_read), deleted=bool(deleted), **values)

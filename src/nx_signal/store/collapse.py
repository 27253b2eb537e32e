"""Drafts with a collapse key: the newer one takes the place of the older ones in its recipient's inbox."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import TypeAlias

from nx_signal.model import Draft, Json
from nx_signal.store.driver import Inserted, Row, Tx
from nx_signal.store.rows import gone, less, lock_all, loss, take_out

MAX_REPLACED = 500
"""By one row: there are several only where archived ones came back. The next one takes the others' place."""
MAX_HELD = 10_000
"""Rows that are looked at in one call."""

Key: TypeAlias = tuple[str, str, str]
"""Recipient, organizer and collapse key: two organizations never replace each other's."""


@dataclass(slots=True)
class _Held:
    """Of one key: the rows that the inbox has, the oldest first, and when the newest happened that it ever
    had."""

    rows: list[Row] = field(default_factory=list)
    newest: datetime | None = None

    def replaced_by(self, row: Row, occurred_at: datetime) -> list[Row] | None:
        """What makes room for this row; None where there was a newer one."""
        if self.newest is not None and occurred_at < self.newest:
            return None
        replaced, self.rows = self.rows[:MAX_REPLACED], [*self.rows[MAX_REPLACED:], row]
        self.newest = occurred_at
        return replaced


async def insert(tx: Tx, drafts: Sequence[Draft], data: Sequence[str]) -> tuple[datetime, Sequence[Inserted]]:
    """As Tx.insert, for drafts of which some have a collapse key. One with an older `occurred_at` than that
    of any row with its key, also of one that was deleted, is left out."""
    heads = await lock_all(tx, dict.fromkeys(draft.recipient_id for draft in drafts))
    before = {id: head.history for id, head in heads.items()}
    new = await _new(tx, drafts)
    if not new:
        return tx.now(), ()
    held = await _held(tx, [drafts[index] for index in new])
    # Under the lock, so that in one inbox times and ids ascend like the revisions.
    created_at, inserted = tx.now(), []
    left: list[Json] = []
    grown: dict[tuple[str, str], list[int]] = {}
    for index, id in zip(new, tx.ids(len(new)), strict=True):
        draft, recipient_id = drafts[index], drafts[index].recipient_id
        row = {"id": id, "type": draft.type, "is_read": False, "is_seen": False, "deleted_at": None}
        replaced: list[Row] | None = []
        if draft.collapse_key is not None and draft.occurred_at is not None:
            replaced = held[_key(draft)].replaced_by(row, draft.occurred_at)
        if replaced is None:
            continue
        lost, head = loss(replaced, (row,)), heads[recipient_id]
        for type, (less_total, less_unread, _) in lost.items():
            of_type = grown.setdefault((recipient_id, type), [0, 0])
            of_type[0] -= less_total
            of_type[1] -= less_unread
        unread, total, unseen = less(head, lost)
        heads[recipient_id] = head = replace(
            head, rev=head.rev + 1, total=total, unread=unread, unseen=unseen, history=str(id)
        )
        left += [gone(old, recipient_id, head.rev) for old in replaced]
        numbers = (head.rev, unread, total, unseen, before[recipient_id])
        inserted.append(Inserted(index, id, *numbers, tuple(old["id"] for old in replaced)))
    if inserted:
        written = [drafts[each.index] for each in inserted]
        await tx.write_rows(written, [data[each.index] for each in inserted], created_at, inserted)
        await take_out(tx, left)
        changed = dict.fromkeys(draft.recipient_id for draft in written)
        await tx.run("set_heads", heads=json.dumps([asdict(heads[id]) for id in changed]))
        types = [
            {"recipient_id": id, "type": type, "total": total, "unread": unread}
            for (id, type), (total, unread) in grown.items()
        ]
        await tx.run("add_to_types", types=json.dumps(types))
    return created_at, inserted


async def _new(tx: Tx, drafts: Sequence[Draft]) -> list[int]:
    """The indexes of those whose (activity_id, recipient_id) no row has."""
    keys = [(draft.activity_id, draft.recipient_id) for draft in drafts]
    found = await tx.all("existing_activities", keys=json.dumps(keys))
    existing = {(row["activity_id"], row["recipient_id"]) for row in found}
    return [index for index, key in enumerate(keys) if key not in existing]


async def _held(tx: Tx, drafts: Sequence[Draft]) -> Mapping[Key, _Held]:
    keys = list(dict.fromkeys(_key(draft) for draft in drafts if draft.collapse_key is not None))
    names = ("recipient_id", "organizer_id", "collapse_key")
    asked = json.dumps([{"key": n, **dict(zip(names, key, strict=True))} for n, key in enumerate(keys)])
    held = [_Held() for _ in keys]
    for row in await tx.all("newest_of_keys", keys=asked):
        held[row["key"]].newest = row["occurred_at"]
    for row in await tx.all("rows_of_keys", keys=asked, limit=MAX_HELD):
        held[row["key"]].rows.append(row)
    return dict(zip(keys, held, strict=True))


def _key(draft: Draft) -> Key:
    return draft.recipient_id, draft.organizer_id or "", draft.collapse_key or ""

"""Rows of the inbox tables as the model has them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import fields, replace
from datetime import datetime
from operator import itemgetter
from typing import TypeAlias

from nx_signal.errors import HistoryLost
from nx_signal.model import Change, Created, InboxSummary, Json, Notification
from nx_signal.model.changes import Logged, from_log, to_log
from nx_signal.model.notifications import ROW_FIELDS, ROW_FLAGS
from nx_signal.model.text import encode_json, json_value
from nx_signal.store.driver import Row, Tx

HEAD_FIELDS = tuple(field.name for field in fields(InboxSummary))
MAX_INTEGER = 2**63 - 1
"""No id, revision or offset is as large as this."""

_row_values = itemgetter(*ROW_FIELDS)

Counts: TypeAlias = tuple[int, int, int]
"""(total, unread, unseen)"""
Loss: TypeAlias = Mapping[str, Counts]
"""type → what an inbox has no longer; negative where it has more"""


def notification(row: Row) -> Notification:
    values = dict(zip(ROW_FIELDS, _row_values(row), strict=True))
    values["data"] = json_value(values["data"])
    for flag in ROW_FLAGS:
        values[flag] = bool(values[flag])
    return Notification(**values)


def change(row: Row, after: str | None) -> Change:
    """Of a row of inbox_creation or of inbox_change."""
    step = (row["recipient_id"], row["rev"], row["unread"], row["total"], row["unseen"])
    if "kind" in row:
        return from_log(*step, row["history"], after, row["kind"], json_value(row["detail"]))
    replaces = tuple(json_value(row["replaces"])) if row["replaces"] else ()
    return Created(*step, str(row["id"]), after, notification(row), replaces)


def summary(row: Row) -> InboxSummary:
    return InboxSummary(**{name: row[name] for name in HEAD_FIELDS})


async def lock(tx: Tx, recipient_id: str) -> InboxSummary:
    """Concurrent writers of an inbox are serialized by this."""
    row = await tx.one("lock", recipient_id=recipient_id)
    if row is None:
        return InboxSummary(recipient_id, 0, 0, 0)
    if row["is_moved"]:  # what was looked up is of before the wait for the lock
        row = await tx.one("lock", recipient_id=recipient_id)
        assert row is not None  # noqa: S101 - it is locked
    return summary(row)


async def lock_all(tx: Tx, recipient_ids: Collection[str]) -> dict[str, InboxSummary]:
    """Of several inboxes, as `lock`, in ascending order everywhere; the heads that are missing are made."""
    ids = list(recipient_ids)
    await tx.run("lock_or_create", recipient_ids=ids)
    return {row["recipient_id"]: summary(row) for row in await tx.all("heads", recipient_ids=ids)}


def gone(row: Row, recipient_id: str, rev: int) -> Json:
    """A row that leaves its inbox with the change at `rev`."""
    return {"id": row["id"], "recipient_id": recipient_id, "is_read": bool(row["is_read"]), "rev": rev}


async def take_out(tx: Tx, rows: Sequence[Json]) -> None:
    """Soft, for good: rows as `gone` gives them, of any inboxes that are locked."""
    if rows:
        await tx.run("take_out", rows=encode_json(rows).decode(), deleted_at=tx.now())


async def require_held(tx: Tx, head: InboxSummary, rev: int | None, history: str | None) -> None:
    """Raises HistoryLost where the inbox has another change at the revision, or none."""
    if not rev or history is None:
        return
    held = head.history
    if rev != head.rev:
        found = await tx.one("history_at", recipient_id=head.recipient_id, rev=rev)
        held = "" if found is None else found["history"]
    if held != history:
        raise HistoryLost(f"The inbox no longer has revision {rev} of this history: fetch the list again.")


def weight(row: Row) -> Counts:
    """What a row adds to the counts of its inbox."""
    if row["deleted_at"] is not None:  # archived ones have it too
        return 0, 0, 0
    return 1, int(not row["is_read"]), int(not row["is_seen"])


def loss(before: Iterable[Row], after: Iterable[Row] = ()) -> Loss:
    """Of rows that become others."""
    lost: dict[str, Counts] = {}
    for rows, sign in ((before, 1), (after, -1)):
        for row in rows:
            held = lost.get(row["type"], (0, 0, 0))
            total, unread, unseen = (kept + sign * more for kept, more in zip(held, weight(row), strict=True))
            lost[row["type"]] = total, unread, unseen
    return lost


def less(head: InboxSummary, lost: Loss) -> Counts:
    """The counts of the inbox after a loss, in the order of a change: (unread, total, unseen)."""
    total, unread, unseen = (sum(each) for each in zip((0, 0, 0), *lost.values(), strict=True))
    return head.unread - unread, head.total - total, head.unseen - unseen


def after(head: InboxSummary, change: Change) -> InboxSummary:
    return replace(
        head,
        rev=change.rev,
        total=change.total,
        unread=change.unread,
        history=change.history,
        unseen=change.unseen,
    )


async def advance(tx: Tx, change: Logged, lost: Loss) -> None:
    """Set the locked head and the counts of its types, and log the change that led there."""
    await advance_all(tx, [(change, lost)])


async def advance_all(tx: Tx, steps: Sequence[tuple[Logged, Loss]]) -> None:
    """As `advance`, of several inboxes, a step each."""
    changes, losses = [], []
    for change, lost in steps:
        kind, detail = to_log(change)
        for name, value in detail.items():
            if isinstance(value, datetime):
                detail[name] = tx.dialect.moment(value)
        changes.append(
            {
                "recipient_id": change.recipient_id,
                "rev": change.rev,
                "total": change.total,
                "unread": change.unread,
                "unseen": change.unseen,
                "history": change.history,
                "kind": kind,
                "detail": encode_json(detail).decode(),
            }
        )
        for type, (total, unread, _) in lost.items():
            losses.append(
                {"recipient_id": change.recipient_id, "type": type, "total": total, "unread": unread}
            )
    await tx.run(
        "advance",
        changes=encode_json(changes).decode(),
        losses=encode_json(losses).decode(),
        many_changes=len(changes),
        many_losses=len(losses),
    )

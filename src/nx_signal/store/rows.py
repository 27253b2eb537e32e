"""Rows of the inbox tables as the model has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TypeAlias

from nx_signal.model import Change, Created, InboxSummary, Notification
from nx_signal.model.changes import Logged, from_log, to_log
from nx_signal.model.notifications import ROW_FIELDS, ROW_FLAGS
from nx_signal.model.text import encode_json, json_value
from nx_signal.store.driver import Row, Tx

MAX_INTEGER = 2**63 - 1
"""No id, revision or offset is as large as this."""

Loss: TypeAlias = Mapping[str, tuple[int, int]]
"""type → (rows, unread rows) that an inbox has no longer"""


def notification(row: Row) -> Notification:
    values = {name: row[name] for name in ROW_FIELDS}
    values["data"] = json_value(values["data"])
    for flag in ROW_FLAGS:
        values[flag] = bool(values[flag])
    return Notification(**values)


def change(row: Row, after: str | None) -> Change:
    """Of a row of inbox_creation or of inbox_change."""
    step = (row["recipient_id"], row["rev"], row["unread"], row["total"])
    if "kind" in row:
        return from_log(*step, row["history"], after, row["kind"], json_value(row["detail"]))
    return Created(*step, str(row["id"]), after, notification(row))


def summary(row: Row) -> InboxSummary:
    return InboxSummary(row["recipient_id"], row["rev"], row["total"], row["unread"], row["history"])


async def lock(tx: Tx, recipient_id: str) -> InboxSummary:
    """Concurrent writers of an inbox are serialized by this."""
    row = await tx.one("lock", recipient_id=recipient_id)
    return InboxSummary(recipient_id, 0, 0, 0) if row is None else summary(row)


async def advance(tx: Tx, change: Logged, loss: Loss) -> None:
    """Set the locked head and the counts of its types, and log the change that led there."""
    await advance_all(tx, [(change, loss)])


async def advance_all(tx: Tx, steps: Sequence[tuple[Logged, Loss]]) -> None:
    """As `advance`, of several inboxes, a step each."""
    changes, losses = [], []
    for change, loss in steps:
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
                "history": change.history,
                "kind": kind,
                "detail": encode_json(detail).decode(),
            }
        )
        for type, (rows, unread) in loss.items():
            losses.append(
                {"recipient_id": change.recipient_id, "type": type, "total": rows, "unread": unread}
            )
    await tx.run("advance", changes=encode_json(changes).decode(), losses=encode_json(losses).decode())

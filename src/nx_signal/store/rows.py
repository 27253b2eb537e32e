"""Rows of the inbox tables as the model has them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TypeAlias

from nx_signal.model import Change, Created, InboxSummary, Notification
from nx_signal.model.changes import Logged, from_log, to_log
from nx_signal.model.notifications import ROW_FIELDS, ROW_FLAGS
from nx_signal.model.text import json_value
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
        return from_log(*step, row["history"], after, row["kind"], json.loads(row["detail"]))
    replaces = tuple(json.loads(row["replaces"])) if row["replaces"] else ()
    return Created(*step, str(row["id"]), after, notification(row), replaces)


def summary(row: Row) -> InboxSummary:
    return InboxSummary(row["recipient_id"], row["rev"], row["total"], row["unread"], row["history"])


async def lock(tx: Tx, recipient_id: str) -> InboxSummary:
    """Concurrent writers of an inbox are serialized by this."""
    row = await tx.one("lock", recipient_id=recipient_id)
    return InboxSummary(recipient_id, 0, 0, 0) if row is None else summary(row)


async def advance(tx: Tx, change: Logged, loss: Loss) -> None:
    """Set the locked head and the counts of its types, and log the change that led there."""
    kind, detail = to_log(change)
    await tx.run(
        "advance",
        recipient_id=change.recipient_id,
        rev=change.rev,
        total=change.total,
        unread=change.unread,
        history=change.history,
        kind=kind,
        detail=detail,
        types=list(loss),
        totals=[rows for rows, _ in loss.values()],
        unreads=[unread for _, unread in loss.values()],
    )

"""Changes of several inboxes in one transaction, with a constant number of statements."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from nx_signal.model import InboxSummary
from nx_signal.model.changes import Logged, to_log
from nx_signal.store.driver import Row, Tx
from nx_signal.store.rows import Loss, summary


@dataclass(frozen=True, slots=True)
class Gone:
    """A row that leaves its inbox with the change at `rev`."""

    id: int
    recipient_id: str
    is_read: bool
    rev: int


def gone_row(row: Row, recipient_id: str, rev: int) -> Gone:
    return Gone(row["id"], recipient_id, bool(row["is_read"]), rev)


class TypeCounts:
    """By how much the counts of (recipient, type) change."""

    def __init__(self) -> None:
        self._total: Counter[tuple[str, str]] = Counter()
        self._unread: Counter[tuple[str, str]] = Counter()

    def take_off(self, recipient_id: str, lost: Loss) -> None:
        for type, (total, unread, _) in lost.items():
            self._total[recipient_id, type] -= total
            self._unread[recipient_id, type] -= unread

    async def write(self, tx: Tx) -> None:
        # In one order, although the heads' locks alone keep writers apart.
        rows = [
            {"recipient_id": id, "type": type, "total": total, "unread": self._unread[id, type]}
            for (id, type), total in sorted(self._total.items())
        ]
        await tx.run("add_to_types", types=json.dumps(rows))


async def lock_all(tx: Tx, recipient_ids: Collection[str]) -> dict[str, InboxSummary]:
    """Lock or create the heads, always in ascending order."""
    await tx.run("lock_or_create", recipient_ids=list(recipient_ids))
    found = await tx.all("heads", recipient_ids=list(recipient_ids))
    return {row["recipient_id"]: summary(row) for row in found}


async def set_heads(tx: Tx, heads: Iterable[InboxSummary]) -> None:
    """Of inboxes that are locked."""
    await tx.run("set_heads", heads=json.dumps([asdict(head) for head in heads]))


async def take_out(tx: Tx, gone: Sequence[Gone]) -> None:
    """Soft, as `delete`."""
    if gone:
        await tx.run("take_out", rows=json.dumps([asdict(row) for row in gone]), deleted_at=tx.now())


_LOGGED = ("recipient_id", "rev", "total", "unread", "unseen", "history")


async def log_changes(tx: Tx, changes: Sequence[Logged]) -> None:
    rows: list[dict[str, Any]] = []
    for change in changes:
        kind, detail = to_log(change)
        columns = {name: getattr(change, name) for name in _LOGGED}
        rows.append(columns | {"kind": kind, "detail": detail})
    await tx.run("log_changes", changes=json.dumps(rows))

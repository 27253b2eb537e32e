"""What the inboxes need beside their calls, in short transactions: no writer waits for more than one portion.
Several instances may do it at once; one that ends midway leaves all answers right."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from nx_signal.model import Audit, Deleted, InboxSummary, Json
from nx_signal.model.changes import new_history
from nx_signal.store.audit import CountedLog, CountedRows, HeldInbox, HeldType, compare, portion
from nx_signal.store.driver import Driver, Row, Tx
from nx_signal.store.read_all import apply_portion
from nx_signal.store.rows import Loss, advance, advance_all, gone, less, lock, lock_all, loss, take_out
from nx_signal.store.snowflake import first_id_at

LOCK_NAMESPACE = 0x5349474E
"""First key of the advisory locks of PostgreSQL, "SIGN"; the second is a worker id, -1 for migrations, -2
here."""


class Maintenance:
    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    async def apply_read_all(self, limit: int) -> bool:
        """Mark up to `limit` rows of a read-all that is recorded and not yet in all its rows. Changes
        no answer. False when there is none."""
        return await self._driver.write(apply_portion, limit)

    async def expire(self, before: datetime, limit: int) -> tuple[int, Deleted | None]:
        """Remove up to `limit` rows made before this, for good, and the part of the log up to the first
        kept row: of the one inbox that has the oldest. (how many, the change)

        To its reader that is a deletion: those not deleted yet, archived ones too, become one `Deleted` with
        the next revision, so that counts equal the rows. A row's age is that of its id. 0 when nothing is
        that old, or another instance is at it. A removed row's activity would make a new one if delivered
        once more."""
        done = await self._driver.write(_expire, first_id_at(before), limit)
        if done is None:
            return 0, None
        # This part of the log is read no longer: what a crash leaves of it goes the next time.
        while (
            await self._driver.write(_remove_changes, done.recipient_id, done.truncated_through, limit)
            == limit
        ):
            pass
        return done.rows, done.change

    async def remove_expired(self, limit: int) -> tuple[int, Sequence[Deleted]]:
        """Take up to `limit` rows out of their inboxes whose `expires_at` has passed, archived ones too:
        those that expired first, of any inboxes. (how many, a change for each inbox)

        0 when there are none, or another instance is at it."""
        return await self._driver.write(_remove_expired, limit)

    async def audit(self, after: str, max_inboxes: int, max_rows: int, largest: int | None = None) -> Audit:
        """Compare the inboxes with a recipient above `after`, ascending, with their rows and log: counts
        equal COUNT, revisions have no gap and no double. So many that they have about `max_rows` rows
        and changes, at least one, at most `max_inboxes`. One with more than `largest` is passed over
        (then perhaps none is compared). One snapshot."""
        return await self._driver.read(_audit, after, max_inboxes, max_rows, largest)


@dataclass(frozen=True, slots=True)
class _Expiry:
    """What to do to one inbox: remove the rows up to `up_to_rev`, keep the log above `truncated_through`."""

    recipient_id: str
    rows: int
    up_to_rev: int
    truncated_through: int
    truncated_history: str | None
    """of the change at that revision, where it is removed; another one than a creation stays"""
    change: Deleted | None
    lost: Loss


async def _expire(tx: Tx, before_id: int, limit: int) -> _Expiry | None:
    owner = await tx.one("owner_of_oldest", before_id=before_id)
    if owner is None or not await _alone(tx):
        return None
    head = await lock(tx, owner["recipient_id"])
    await tx.all("lock_unapplied", recipient_ids=[head.recipient_id])
    oldest = await tx.all("oldest", recipient_id=head.recipient_id, limit=limit + 1, seen_rev=head.seen_rev)
    done = _expiry(head, oldest, before_id, limit)
    if done is not None:
        await tx.run("remove_rows", recipient_id=head.recipient_id, up_to_rev=done.up_to_rev)
        await tx.run(
            "truncate_log",
            recipient_id=head.recipient_id,
            truncated_through=done.truncated_through,
            history=done.truncated_history,
        )
        if done.change is not None:
            await advance(tx, done.change, done.lost)
    return done


def _expiry(head: InboxSummary, oldest: Sequence[Row], before_id: int, limit: int) -> _Expiry | None:
    """None where the lowest row is not old. `oldest` ascends by revision and holds one more than `limit`, to
    know where what is kept begins.

    The last revision is always kept: a client below the kept log finds a change there, and sees that it does
    not follow."""
    gone: list[Row] = []
    for row in oldest[:limit]:
        if row["id"] >= before_id:
            break
        gone.append(row)
    if not gone:
        return None
    reached = [row for row in gone if row["deleted_at"] is None or row["archived_at"] is not None]
    lost = loss(reached)
    rev, change = head.rev, None
    if reached:
        rev = head.rev + 1
        ids = tuple(row["id"] for row in reached)
        change = Deleted(head.recipient_id, rev, *less(head, lost), new_history(), head.history, ids)
    first_kept = oldest[len(gone)]["rev"] if len(oldest) > len(gone) else rev
    last = gone[-1]
    history = str(last["id"]) if last["rev"] == first_kept - 1 else None
    return _Expiry(head.recipient_id, len(gone), last["rev"], first_kept - 1, history, change, lost)


async def _remove_expired(tx: Tx, limit: int) -> tuple[int, Sequence[Deleted]]:
    expired = await tx.all("expired", now=tx.now(), limit=limit)
    if not expired or not await _alone(tx):
        return 0, ()
    heads = await lock_all(tx, {row["recipient_id"] for row in expired})
    by_inbox: dict[str, list[Row]] = {}
    for row in await tx.all("rows_among", rows=json.dumps([dict(row) for row in expired])):
        by_inbox.setdefault(row["recipient_id"], []).append(row)
    steps: list[tuple[Deleted, Loss]] = []
    left: list[Json] = []
    for recipient_id, rows in by_inbox.items():
        head, lost = heads[recipient_id], loss(rows)
        step = (recipient_id, head.rev + 1, *less(head, lost), new_history(), head.history)
        steps.append((Deleted(*step, tuple(row["id"] for row in rows)), lost))
        left += [gone(row, recipient_id, head.rev + 1) for row in rows]
    if steps:
        await take_out(tx, left)
        await advance_all(tx, steps)
    return len(left), [change for change, _ in steps]


async def _alone(tx: Tx) -> bool:
    found = await tx.one("expire_alone", namespace=LOCK_NAMESPACE)
    return found is not None and bool(found["alone"])


async def _remove_changes(tx: Tx, recipient_id: str, truncated_through: int, limit: int) -> int:
    return await tx.run(
        "remove_changes", recipient_id=recipient_id, truncated_through=truncated_through, limit=limit
    )


async def _audit(tx: Tx, after: str, max_inboxes: int, max_rows: int, largest: int | None) -> Audit:
    found = [HeldInbox(**row) for row in await tx.all("audit_heads", after=after, limit=max_inboxes + 1)]
    heads, last = portion(found, max_inboxes, max_rows, largest)
    if not heads and last is not None:
        return Audit(0, 0, (), last)
    types = [HeldType(**row) for row in await tx.all("audit_types", after=after, last=last)]
    rows = [CountedRows(**row) for row in await tx.all("audit_rows", after=after, last=last)]
    log = [CountedLog(**row) for row in await tx.all("audit_log", after=after, last=last)]
    return compare(heads, types, rows, log, last)

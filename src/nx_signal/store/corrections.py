"""Corrections and retractions of activities. Each is kept before any row is changed, so that an activity that
comes later finds it.

Of one activity the retraction stands, else the newest update. A portion of rows is changed under the lock of
their heads, after it was seen there that the correction still stands. A writer that commits a newer one later
finds the same rows after that commit: so the last change of a row is of the newest one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from operator import itemgetter

from nx_signal.model import (
    CorrectableRow,
    Correction,
    Deleted,
    InboxSummary,
    Json,
    KeptCorrection,
    Updated,
)
from nx_signal.model.changes import new_history
from nx_signal.model.text import encode_json, json_text, json_value, require_storable, storable
from nx_signal.store.driver import Driver, Row, Tx
from nx_signal.store.maintenance import LOCK_NAMESPACE
from nx_signal.store.rows import Loss, advance_all, gone, less, lock_all, loss, take_out

MAX_ROWS = 100
"""Of one portion."""
MAX_KEPT = 50
"""Corrections of one activity; beyond that those go that are the furthest from standing."""


@dataclass(frozen=True, slots=True)
class Content:
    """Of a row, after a correction."""

    content: str
    content_html: str
    action_url: str | None


class Corrections:
    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    async def add(self, correction: Correction) -> tuple[KeptCorrection, KeptCorrection]:
        """(the correction as it is kept, the one that stands then). One that is delivered again stays as it
        was first handled. Raises StoreRejected."""
        for name, text in (("activityId", correction.activity_id), ("position", correction.position)):
            require_storable(name, text)
        data = json_text("data", correction.data)
        return await self._driver.write(_add, correction, data, takes_ids=True)

    async def withdraw(self, correction: KeptCorrection) -> None:
        """It is kept no longer: its content cannot be made."""
        await self._driver.write(_withdraw, correction)

    async def standing(self, activity_ids: Sequence[str]) -> Mapping[str, KeptCorrection]:
        """The correction that stands, of those of these activities that have any. One query."""
        asked = sorted({id for id in activity_ids if storable(id)})
        return await self._driver.read_one(_standing, asked) if asked else {}

    async def of(self, activity_id: str) -> Sequence[KeptCorrection]:
        """All of an activity, the one that stands first."""
        return await self._driver.read_one(_of, activity_id) if storable(activity_id) else ()

    async def rows(self, activity_id: str, after: str, limit: int) -> Sequence[CorrectableRow]:
        """Those of recipients above `after`, ascending, up to `limit`; archived ones too, no deleted ones."""
        return await self._driver.read_one(_rows, activity_id, after, limit)

    async def apply(
        self, standing: KeptCorrection, rows: Sequence[CorrectableRow], contents: Sequence[Content]
    ) -> Sequence[Updated | Deleted] | None:
        """Give these rows, at most MAX_ROWS of its activity, their contents, or remove them where it is a
        retraction: in one transaction, a constant number of statements. A row that has its content, or is
        deleted, stays as it is.

        A change for each other one, one a recipient; None where another correction stands by now: then
        nothing was changed. Raises StoreRejected."""
        if len(rows) > MAX_ROWS:
            raise ValueError(f"At most {MAX_ROWS} rows a call, not {len(rows)}.")
        for each in contents:
            require_storable("content", each.content)
            require_storable("contentHtml", each.content_html)
            require_storable("actionUrl", each.action_url)
        if standing.action == "retract":
            return await self._driver.write(_retract, standing, rows)
        return await self._driver.write(_update, standing, rows, contents, json_text("data", standing.data))

    async def excess(self, before: datetime | None, most: int) -> datetime | None:
        """As Traces.excess."""
        return await self._driver.read(_excess, before, most)

    async def remove_up_to(self, moment: datetime, limit: int) -> int:
        """As Traces.remove_up_to."""
        return await self._driver.write(_remove_up_to, moment, limit)


def _kept(row: Row) -> KeptCorrection:
    return KeptCorrection(**{**row, "data": json_value(row["data"])})


async def _add(tx: Tx, correction: Correction, data: str) -> tuple[KeptCorrection, KeptCorrection]:
    now, (id,) = tx.now(), tx.ids(1)
    key = {
        "activity_id": correction.activity_id,
        "position": correction.position,
        "digest": correction.digest,
    }
    occurred_at = correction.occurred_at or now
    await tx.run(
        "add_correction",
        **key,
        id=id,
        action=correction.action,
        data=data,
        occurred_at=occurred_at,
        handled_at=now,
    )
    own = await tx.one("added_correction", **key)
    standing = await tx.one("corrections_of", activity_id=correction.activity_id, limit=1)
    assert own is not None and standing is not None  # noqa: S101 - it was added
    await tx.run("remove_old_corrections", activity_id=correction.activity_id, kept=MAX_KEPT)
    return _kept(own), _kept(standing)


async def _withdraw(tx: Tx, correction: KeptCorrection) -> None:
    await tx.run("withdraw_correction", activity_id=correction.activity_id, id=correction.id)


async def _standing(tx: Tx, activity_ids: list[str]) -> dict[str, KeptCorrection]:
    rows = await tx.all("standing_corrections", activity_ids=activity_ids)
    return {row["activity_id"]: _kept(row) for row in rows}


async def _of(tx: Tx, activity_id: str) -> list[KeptCorrection]:
    rows = await tx.all("corrections_of", activity_id=activity_id, limit=MAX_KEPT)
    return [_kept(row) for row in rows]


async def _rows(tx: Tx, activity_id: str, after: str, limit: int) -> list[CorrectableRow]:
    rows = await tx.all("correctable_rows", activity_id=activity_id, after=after, limit=limit)
    return [CorrectableRow(**row) for row in rows]


async def _heads(
    tx: Tx, standing: KeptCorrection, rows: Sequence[CorrectableRow]
) -> Mapping[str, InboxSummary] | None:
    """The locked heads; None where another correction stands."""
    heads = await lock_all(tx, [row.recipient_id for row in rows])
    first = await tx.one("corrections_of", activity_id=standing.activity_id, limit=1)
    return None if first is None or first["id"] != standing.id else heads


async def _update(
    tx: Tx,
    standing: KeptCorrection,
    rows: Sequence[CorrectableRow],
    contents: Sequence[Content],
    data: str,
) -> Sequence[Updated] | None:
    heads = await _heads(tx, standing, rows)
    if heads is None:
        return None
    now = tx.now()
    texts = {content: number for number, content in enumerate(dict.fromkeys(contents))}
    given = [
        _place(row, heads) | {"text": texts[content]} for row, content in zip(rows, contents, strict=True)
    ]
    changed = await tx.all(
        "correct_rows",
        rows=_json(given),
        texts=_json(
            [
                {
                    "text": number,
                    "content": text.content,
                    "content_html": text.content_html,
                    "action_url": text.action_url,
                }
                for text, number in texts.items()
            ]
        ),
        data=data,
        modified_at=now,
    )
    content_of = {row.id: content for row, content in zip(rows, contents, strict=True)}
    changes = []
    for row in sorted(changed, key=itemgetter("recipient_id")):
        head, text = heads[row["recipient_id"]], content_of[row["id"]]
        changes.append(
            Updated(
                head.recipient_id,
                head.rev + 1,
                head.unread,
                head.total,
                head.unseen,
                new_history(),
                head.history,
                ids=(row["id"],),
                up_to_rev=None,
                at=now,
                origin=None,
                content=text.content,
                content_html=text.content_html,
                action_url=text.action_url,
                data=standing.data,
            )
        )
    await _log(tx, standing, [(change, {}) for change in changes])
    return changes


async def _retract(
    tx: Tx, standing: KeptCorrection, rows: Sequence[CorrectableRow]
) -> Sequence[Deleted] | None:
    heads = await _heads(tx, standing, rows)
    if heads is None:
        return None
    found = await tx.all("rows_among", rows=_json([_place(row, heads) for row in rows]))
    await take_out(tx, [gone(row, row["recipient_id"], heads[row["recipient_id"]].rev + 1) for row in found])
    steps: list[tuple[Deleted, Loss]] = []
    for row in sorted(found, key=itemgetter("recipient_id")):
        head, lost = heads[row["recipient_id"]], loss([row])
        step = (head.recipient_id, head.rev + 1, *less(head, lost), new_history(), head.history)
        steps.append((Deleted(*step, (row["id"],)), lost))
    await _log(tx, standing, steps)
    return [change for change, _ in steps]


def _place(row: CorrectableRow, heads: Mapping[str, InboxSummary]) -> dict[str, Json]:
    return {"id": row.id, "recipient_id": row.recipient_id, "rev": heads[row.recipient_id].rev + 1}


async def _log(tx: Tx, standing: KeptCorrection, steps: Sequence[tuple[Updated | Deleted, Loss]]) -> None:
    if steps:
        await advance_all(tx, steps)
        await tx.run("count_corrected", activity_id=standing.activity_id, id=standing.id, many=len(steps))


def _json(value: Json) -> str:
    return encode_json(value).decode()


async def _excess(tx: Tx, before: datetime | None, most: int) -> datetime | None:
    beyond, oldest = await tx.one("correction_beyond", most=most), await tx.one("oldest_correction")
    found = [] if beyond is None else [beyond["handled_at"]]
    if before is not None and oldest is not None and oldest["handled_at"] < before:
        found.append(before - timedelta(milliseconds=1))
    return max(found, default=None)


async def _remove_up_to(tx: Tx, moment: datetime, limit: int) -> int:
    alone = await tx.one("expire_alone", namespace=LOCK_NAMESPACE)
    if alone is None or not alone["alone"]:
        return 0
    return await tx.run("remove_corrections", moment=moment, limit=limit)

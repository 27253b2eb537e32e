"""The outcome of each activity, for operators; and what distinguishes an activity without an id from
another at its position (activities/identity.py)."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import datetime, timedelta

from nx_signal.model import RETRYABLE_OUTCOMES, ActivityContext, Handled, Reach, Trace
from nx_signal.model.text import escaped, json_value, storable
from nx_signal.store.driver import Driver, Row, Tx
from nx_signal.store.maintenance import LOCK_NAMESPACE


class Traces:
    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    async def add(self, traces: Sequence[Trace]) -> Sequence[Trace]:
        """In one transaction. The first trace of an activity stays, unless its outcome is one of
        RETRYABLE_OUTCOMES: then the next one takes its place. Takes every text in `reason`.

        Where the digest is another one than that of the activity that has this identity, the trace becomes
        one of a conflict, under its position, and the first one's reason mentions it. The traces as they
        are then, in the same order, `corrected` where the activity has a correction by now."""
        return await self._driver.write(_add, traces) if traces else ()

    async def handled(self, activity_ids: Collection[str]) -> Mapping[str, Handled]:
        """Those of these identities that have a trace."""
        return await self._driver.read_one(_handled, sorted(filter(storable, activity_ids)))

    async def with_id(self, first: str, end: str, limit: int) -> Sequence[str]:
        """Identities from `first` up to, but without, `end`, in the order of code points."""
        if not storable(first):
            return ()
        return await self._driver.read_one(_with_id, first, end, limit)

    async def get(self, activity_id: str) -> Trace | None:
        return await self._driver.read_one(_get, activity_id) if storable(activity_id) else None

    async def received(
        self, recipient_id: str, since: datetime, until: datetime, limit: int
    ) -> Sequence[str]:
        """Identities of which the recipient has a notification that was written in this time, newest
        first."""
        return await self._around("activities_received", recipient_id, since, until, limit)

    async def missed(self, recipient_id: str, since: datetime, until: datetime, limit: int) -> Sequence[str]:
        """Identities that were handled in this time and gave the recipient no notification, newest first."""
        return await self._around("activities_missed", recipient_id, since, until, limit)

    async def _around(
        self, query: str, recipient_id: str, since: datetime, until: datetime, limit: int
    ) -> Sequence[str]:
        if not storable(recipient_id):
            return ()
        return await self._driver.read_one(_ids, query, recipient_id, since, until, limit)

    async def excess(self, before: datetime | None, most: int) -> datetime | None:
        """The moment up to which traces are to go, so that those that stay were handled since `before`, and
        are at most `most`; None where all may stay."""
        return await self._driver.read(_excess, before, most)

    async def remove_up_to(self, moment: datetime, limit: int) -> int:
        """Remove up to `limit` of the traces that were handled up to this moment, the oldest first; how many.
        0 as well while another instance is at it. What distinguishes an activity from another one with
        its identity stays, as long as its notifications do."""
        return await self._driver.write(_remove_up_to, moment, limit)

    async def prune(self, before: datetime, limit: int = 10_000) -> int:
        """Remove up to `limit` traces of activities handled before this, whose notifications are gone; how
        many."""
        return await self._driver.write(_prune, before, limit)


def _one_for_each(traces: Iterable[Trace]) -> list[Trace]:
    """One trace for each activity, by the rule of `add`, and in one order everywhere, so that two writers of
    the same traces cannot wait for each other in a circle."""
    found: dict[str, Trace] = {}
    for trace in traces:
        before = found.get(trace.activity_id)
        if before is None or before.outcome in RETRYABLE_OUTCOMES:
            found[trace.activity_id] = trace
    return [found[id] for id in sorted(found)]


async def _add(tx: Tx, traces: Sequence[Trace]) -> Sequence[Trace]:
    known = await _known(tx, sorted({trace.activity_id for trace in traces if trace.digest}))
    corrected = {row["activity_id"] for row in known if row["corrected"]}
    handled = _of_rows(known)
    added, noted = [], {}
    for trace in traces:
        first = handled.setdefault(trace.activity_id, Handled(trace.position, trace.digest))
        if trace.digest and first.digest and trace.digest != first.digest:
            noted[trace.activity_id] = f"{_NOTE} at {trace.position}, which made no second notification."
            trace = _conflict(trace, first.position)  # noqa: PLW2901
        elif trace.activity_id in corrected:
            trace = replace(trace, corrected=True)  # noqa: PLW2901
        added.append(trace)
    first_ones = _one_for_each(added)
    rows = [_given(trace) for trace in first_ones]
    for row in rows:
        row["reason"] = None if row["reason"] is None else escaped(str(row["reason"]))
    contexts = [_context_row(trace.activity_id, trace.context) for trace in first_ones if trace.context]
    if contexts:  # before the traces, which tell the first one of an activity
        await tx.run(
            "add_contexts",
            contexts=json.dumps(contexts),
            handled_at=tx.now(),
            retryable=sorted(RETRYABLE_OUTCOMES),
        )
    await tx.run(
        "add_traces", traces=json.dumps(rows), handled_at=tx.now(), retryable=sorted(RETRYABLE_OUTCOMES)
    )
    notes = [{"activity_id": id, "note": noted[id], "noted": f"%{_NOTE}%"} for id in sorted(noted)]
    await tx.many("note_trace", notes)
    return added


_NOTE = "Another activity with this identity and other content came"


def _conflict(trace: Trace, first_position: str) -> Trace:
    return replace(
        trace,
        activity_id=trace.position,
        outcome="conflict",
        reason=f"Its identity {trace.activity_id} is that of another activity with other content, handled at "
        f"{first_position}: for the recipients of that one it made no notification.",
        digest=None,
    )


def _given(trace: Trace) -> dict[str, object]:
    given = asdict(replace(trace, context=None))
    del given["handled_at"], given["corrected"], given["context"]
    return given


async def _handled(tx: Tx, activity_ids: list[str]) -> dict[str, Handled]:
    return _of_rows(await _known(tx, activity_ids))


async def _known(tx: Tx, activity_ids: list[str]) -> Sequence[Row]:
    return await tx.all("handled", activity_ids=activity_ids) if activity_ids else ()


def _of_rows(rows: Sequence[Row]) -> dict[str, Handled]:
    return {row["activity_id"]: Handled(row["position"], row["digest"]) for row in rows if row["handled"]}


async def _with_id(tx: Tx, first: str, end: str, limit: int) -> list[str]:
    return [row["activity_id"] for row in await tx.all("contents_between", first=first, end=end, limit=limit)]


async def _ids(
    tx: Tx, query: str, recipient_id: str, since: datetime, until: datetime, limit: int
) -> list[str]:
    rows = await tx.all(query, recipient_id=recipient_id, since=since, until=until, limit=limit)
    return [row["activity_id"] for row in rows]


async def _get(tx: Tx, activity_id: str) -> Trace | None:
    row = await tx.one("trace", activity_id=activity_id)
    return None if row is None else _trace(row)


def _context_row(activity_id: str, context: ActivityContext) -> dict[str, object]:
    audience = [asdict(reach) for reach in context.audience]
    return asdict(context) | {
        "activity_id": activity_id,
        "audience": json.dumps(audience, ensure_ascii=False) if audience else None,
    }


def _trace(row: Row) -> Trace:
    """Of a row of `trace`, which has the columns of both."""
    values = dict(row)
    audience = json_value(values.pop("audience") or "[]")
    kept = {name: values.pop(name) for name in ("traceparent", "tracestate", "dataschema", "excluded_actor")}
    context = ActivityContext(audience=tuple(Reach(**reach) for reach in audience), **kept)
    return Trace(**values, context=None if context == ActivityContext() else context)


async def _excess(tx: Tx, before: datetime | None, most: int) -> datetime | None:
    beyond, oldest = await tx.one("trace_beyond", most=most), await tx.one("oldest_trace")
    found = [] if beyond is None else [beyond["handled_at"]]
    if before is not None and oldest is not None and oldest["handled_at"] < before:
        found.append(before - timedelta(milliseconds=1))
    return max(found, default=None)


async def _remove_up_to(tx: Tx, moment: datetime, limit: int) -> int:
    alone = await tx.one("expire_alone", namespace=LOCK_NAMESPACE)
    if alone is None or not alone["alone"]:
        return 0
    await tx.run("remove_contexts", moment=moment, limit=limit)
    return await tx.run("remove_traces", moment=moment, limit=limit)


async def _prune(tx: Tx, before: datetime, limit: int) -> int:
    await tx.run("remove_contexts", moment=before - timedelta(milliseconds=1), limit=limit)
    return await tx.run("prune_contents", before=before, limit=limit) + await tx.run(
        "prune_traces", before=before, limit=limit
    )

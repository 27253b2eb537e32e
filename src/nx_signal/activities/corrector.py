"""Corrects and retracts activities: each recipient's row is rendered anew, or removed, in portions.

A correction may overtake its activity, and neither waits for the other. The correction is committed before it
looks for rows; the activity looks for corrections once its rows are committed, in the transaction that writes
its trace, before the ack. One of these two looks comes after both commits, so it finds what the other side
wrote, whatever their order; after a crash the record that was not acked looks again. The look before
rendering only spares a notification that would be changed at once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace

import structlog
import trio

from nx_signal.activities.again import render_corrected
from nx_signal.activities.content import Renderer
from nx_signal.activities.drafts import Announce, announce_some
from nx_signal.activities.limits import json_bytes, stored_bytes
from nx_signal.activities.outcome import ProcessedRecord, failure_reason, handled, repair
from nx_signal.activities.progress import Progress, pause_s
from nx_signal.errors import StoreUnavailable
from nx_signal.model import LOCALES, Activity, CorrectableRow, Correction, KeptCorrection, Record, Trace
from nx_signal.model.text import encode_json
from nx_signal.store import Content, Corrections, Traces
from nx_signal.telemetry.metrics import Metrics

log = structlog.get_logger()


def as_corrected(
    record: Record, activity: Activity, standing: KeptCorrection | None
) -> Activity | ProcessedRecord:
    """The activity with the data of the correction that came before it; an outcome where it was retracted."""
    if standing is None:
        return activity
    if standing.action == "retract":
        reason = f"It was retracted at {standing.position}, before it was handled."
        return handled(record, activity, None, 0, "retracted", reason)
    return replace(
        activity,
        data=standing.data,
        data_bytes=len(encode_json(standing.data)),
        corrected_at=standing.position,
    )


class Corrector:
    def __init__(
        self,
        corrections: Corrections,
        traces: Traces,
        renderer: Renderer,
        announce: Announce,
        metrics: Metrics,
        notification_bytes: int,
    ) -> None:
        self._corrections = corrections
        self._traces = traces
        self._renderer = renderer
        self._announce = announce
        self._metrics = metrics
        self._notification_bytes = notification_bytes

    async def standing(self, activities: Sequence[Activity]) -> Mapping[str, KeptCorrection]:
        """By identity; one query. An activity without an id of its own cannot be named by a correction."""
        return await self._corrections.standing([each.id for each in activities if each.given_id is not None])

    async def conclude(self, traces: Sequence[Trace]) -> Sequence[Trace]:
        """See ActivityProcessor.conclude."""
        added = await self._traces.add(traces)
        overtaken = [trace.activity_id for trace in added if trace.corrected]
        for standing in (await self._corrections.standing(overtaken)).values():
            try:
                await self._apply(standing, Progress(), trio.lowlevel.checkpoint)
            except StoreUnavailable:
                raise
            except Exception as error:
                why = failure_reason(error)
                log.warning("not_corrected", activity_id=standing.activity_id, at=standing.position, why=why)
        return added

    async def correct(
        self,
        record: Record,
        correction: Correction,
        progress: Progress,
        begun: Callable[[], Awaitable[None]],
    ) -> ProcessedRecord:
        """In portions, each announced before the next. May be repeated: rows that are right stay as they are.
        `begun` as for ActivityProcessor.process_alone. Raises StoreUnavailable."""
        trace, is_new = await self._trace(record, correction)
        if not is_new:
            await begun()
            return ProcessedRecord(record, trace)
        try:
            await self._check(correction)
            own, standing = await self._corrections.add(correction)
        except StoreUnavailable:
            raise
        except Exception as error:
            return _failed(record, trace, error)
        if own.id == standing.id:
            try:
                await self._apply(own, progress, begun)
            except StoreUnavailable:
                raise
            except Exception as error:  # rows that came after they were checked
                await self._corrections.withdraw(own)
                return _failed(record, trace, error)
        else:
            await begun()
            kind = "It was retracted" if standing.action == "retract" else "A newer correction came"
            trace = replace(trace, reason=f"{kind} at {standing.position}: this one changes nothing.")
        return ProcessedRecord(record, replace(trace, recipients=progress.done))

    async def _trace(self, record: Record, correction: Correction) -> tuple[Trace, bool]:
        """Under the record's position, beside the activity's own; and whether it was not handled before. One
        that was and is kept no longer, as newer ones came, would count as the newest."""
        position, digest = correction.position, correction.digest
        ids = position, f"{position}@{digest}"
        before = await self._traces.handled(ids)
        free = position not in before or before[position].digest in (None, digest)
        trace = Trace(
            activity_id=ids[0] if free else ids[1],
            position=position,
            type=None,
            scope=None,
            rule=None,
            recipients=0,
            outcome="corrected",
            reason=repair(correction.replaced),
            digest=digest,
        )
        return trace, all(each.digest != digest for each in before.values())

    async def _check(self, correction: Correction) -> None:
        """Before anything is kept. Raises MessageRejected where the content cannot be made, as far as there
        are rows yet, and any error of an event type of another package."""
        if correction.action == "update":
            for row in await self._corrections.rows(correction.activity_id, "", 1):
                for locale in LOCALES:
                    self._content(row, correction, locale)

    async def _apply(
        self, standing: KeptCorrection, progress: Progress, begun: Callable[[], Awaitable[None]]
    ) -> None:
        """Until all rows are right, or a newer correction stands, whose own record sees to the rows."""
        contents: dict[tuple[str, str | None], Content] = {}
        while True:
            began_s = trio.current_time()
            rows = await self._corrections.rows(standing.activity_id, progress.after, progress.max_rows)
            changes = None
            if rows:
                changes = await self._corrections.apply(
                    standing, rows, [self._shared(row, standing, contents) for row in rows]
                )
            is_first = progress.done == 0
            if changes is not None:
                progress.done += len(rows)
                progress.after = rows[-1].recipient_id
                await announce_some(self._announce, changes)
            if is_first:
                await begun()
            if changes is None or len(rows) < progress.max_rows:
                return
            await trio.sleep(pause_s(began_s))

    def _shared(
        self,
        row: CorrectableRow,
        standing: KeptCorrection,
        contents: dict[tuple[str, str | None], Content],
    ) -> Content:
        """Rendered once for the recipients who read one language."""
        key = row.locale, row.rendered_from
        if key not in contents:
            contents[key] = self._content(row, standing, row.locale)
        return contents[key]

    def _content(self, row: CorrectableRow, correction: Correction | KeptCorrection, locale: str) -> Content:
        if correction.action == "retract":
            return _NOTHING
        text = render_corrected(self._renderer, row, correction.data, locale)
        data_bytes = json_bytes("data", correction.data, self._notification_bytes)
        stored_bytes(row.subject, data_bytes, {locale: text}, self._notification_bytes)
        return Content(text.content, text.content_html, text.action_url)


_NOTHING = Content("", "", None)


def _failed(record: Record, trace: Trace, error: Exception) -> ProcessedRecord:
    reason = failure_reason(error)
    log.warning("dead_letter", position=trace.position, why=reason)
    return ProcessedRecord(record, replace(trace, outcome="dead_letter", reason=reason, digest=None))

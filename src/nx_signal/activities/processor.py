"""Processes records: decode, resolve recipients, render, persist, announce. The pipeline does this for the
records of the sources, a replay for dead letters; a preview takes the same steps up to the drafts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import trio

from nx_signal.activities.cloud_events import NO_TYPES
from nx_signal.activities.content import Rendered, Renderer, negotiate
from nx_signal.activities.corrector import Corrector, as_corrected
from nx_signal.activities.drafts import (
    MAX_CHUNK_BYTES,
    MAX_DRAFTS,
    Addressed,
    Announce,
    DraftWriter,
    drafts_of,
    render,
)
from nx_signal.activities.identity import depends_on, settled
from nx_signal.activities.limits import stored_bytes
from nx_signal.activities.outcome import ProcessedRecord, expired, failed, opened, without_recipients, written
from nx_signal.activities.portions import Portions
from nx_signal.activities.progress import ALONE_ROWS, Progress, pause_s
from nx_signal.activities.recipients import (
    Recipients,
    ResolvedRecipients,
    audiences_of,
    find_recipients,
    given,
    recipients_of,
    resolve,
)
from nx_signal.activities.registry import Registry
from nx_signal.errors import StoreRejected
from nx_signal.model import LOCALES, Activity, Correction, Position, Record, Rule, Trace
from nx_signal.ports import Now
from nx_signal.store import Directory, InboxStore, Traces
from nx_signal.telemetry.metrics import Metrics
from nx_signal.telemetry.tally import Tally

AUDIENCE_PORTION = 10_000
"""Members of a large audience that are held at once."""
MAX_UNKNOWN_TYPES = 100
"""Logged each by itself."""

PushToMembers: TypeAlias = Callable[[Activity, Rule], Awaitable[None]]
"""Pushes an activity to the members' room of its scope."""


@dataclass(frozen=True, slots=True)
class _Rendered:
    record: Record
    resolved: ResolvedRecipients
    texts: Mapping[str, Rendered]
    sizes: Mapping[str, int]
    """of a row, both by locale"""

    @property
    def position(self) -> Position:
        return self.record.position


class ActivityProcessor:
    """Any number of batches may be processed at once."""

    def __init__(
        self,
        *,
        registry: Registry,
        renderer: Renderer,
        directory: Directory,
        inbox: InboxStore,
        traces: Traces,
        corrector: Corrector,
        announce: Announce,
        metrics: Metrics,
        notification_bytes: int,
        now: Now,
        push_to_members: PushToMembers | None = None,
        types: Mapping[str, str] = NO_TYPES,
    ) -> None:
        """`types`: the type of a CloudEvent → eventType."""
        self._registry = registry
        self._renderer = renderer
        self._directory = directory
        self._inbox = inbox
        self._writer = DraftWriter(inbox, announce, metrics)
        self._traces = traces
        self._corrector = corrector
        self._push_to_members = push_to_members
        self._notification_bytes = notification_bytes
        self._types = types
        self._metrics = metrics
        self._now = now
        for name in registry.names:
            for locale in LOCALES[1:]:  # begun at 0, so that the first one shows in a rate
                metrics.untranslated.labels(name, locale)
        self._unknown_types: dict[str, Tally] = {}

    async def process(
        self, records: Sequence[Record], progress: dict[Position, Progress]
    ) -> Sequence[ProcessedRecord]:
        """Write and announce the notifications of the records: one look-up of recipients, one of languages
        and one write for every MAX_DRAFTS rows or MAX_CHUNK_BYTES. Returns the outcomes in the order of the
        records; one that fails does not affect the others.

        Of each partition as much is processed as fits one write. What follows is left out, and may begin with
        a record for `process_alone`, as every correction is. May be repeated, with the same `progress`:
        existing rows stay as they are. Raises StoreUnavailable."""
        outcomes: dict[int, ProcessedRecord] = {}
        decoded: dict[int, Activity] = {}
        for index, record in enumerate(records):
            opened = self._opened(record)
            if isinstance(opened, ProcessedRecord):
                outcomes[index] = opened
            elif isinstance(opened, Activity):
                decoded[index] = opened
        settled = await self._settled([(records[index], activity) for index, activity in decoded.items()])
        activities = {}
        for index, one in zip(decoded, settled, strict=True):
            if isinstance(one, ProcessedRecord):
                outcomes[index] = one
            elif self._has_expired(one):
                outcomes[index] = expired(records[index], one)
            else:
                activities[index] = one
        most = MAX_DRAFTS + 1
        asked = await find_recipients(self._directory, list(activities.values()), most)
        found = dict(zip(activities, asked, strict=True))
        for index in [index for index, each in found.items() if not each.users]:
            outcomes[index] = without_recipients(records[index], found.pop(index).activity)
        few = {index: each for index, each in found.items() if len(each.users) < most}
        resolved = dict(zip(few, await resolve(self._directory, list(few.values())), strict=True))
        fitting = self._fitting(records, outcomes, resolved)
        refused = await self._persist(list(fitting.values()), progress)
        superseded = await self._superseded(
            each.resolved.activity for each in fitting.values() if not progress[each.position].rows
        )
        for index, each in fitting.items():
            activity, rule, many = each.resolved.activity, each.resolved.rule, len(each.resolved.recipients)
            if each.position in refused:
                outcomes[index] = failed(each.record, refused[each.position], activity, rule, many)
            else:
                done = progress[each.position]
                await self._push(activity, rule, done)
                outcomes[index] = written(
                    each.record, activity, rule, many, rows=done.rows, superseded=activity.id in superseded
                )
        return [outcomes[index] for index in sorted(outcomes)]

    async def process_alone(
        self, record: Record, progress: Progress, begun: Callable[[], Awaitable[None]]
    ) -> ProcessedRecord:
        """As `process`, for one record with any number of recipients: in portions, each written and announced
        before the next. `begun` is called once the first rows are durable. Repeated with the same progress it
        goes on where it stopped; after a crash it finds what was written. Raises StoreUnavailable."""
        opened = self._opened(record)
        if isinstance(opened, ProcessedRecord):
            return opened
        if isinstance(opened, Correction):
            return await self._corrector.correct(record, opened, progress, begun)
        (activity,) = await self._settled([(record, opened)])
        if isinstance(activity, ProcessedRecord):
            return activity
        texts: Mapping[str, Rendered] = {}
        sizes: Mapping[str, int] = {}
        portions = None
        if audiences_of(activity):
            portions = Portions(self._directory, activity, progress.after, AUDIENCE_PORTION)
        while not self._has_expired(activity) and (
            portion := await self._portion(activity, progress, portions)
        ):
            progress.rule = portion.rule
            (resolved,) = await resolve(self._directory, [portion])
            if not texts:
                try:
                    texts = {
                        each: self._renderer.render(activity, each, resolved.time_zone) for each in LOCALES
                    }
                    sizes = self._sizes(activity, texts)
                except Exception as error:
                    return failed(record, error, activity, portion.rule, progress.done)
                self._count_untranslated(activity, texts)
            each = _in_shipped_languages(record, resolved, texts, sizes)
            try:
                await self._write_portion(each, progress, begun)
            except StoreRejected as error:
                return failed(record, error, activity, portion.rule, progress.done)
        rule, many = progress.rule, progress.done
        if not many:
            return (expired if self._has_expired(activity) else without_recipients)(record, activity)
        superseded = await self._superseded([] if progress.rows else [activity])
        return written(record, activity, rule, many, rows=progress.rows, superseded=bool(superseded))

    async def conclude(self, traces: Sequence[Trace]) -> Sequence[Trace]:
        """Write the traces of what was processed, before it is acked: see Traces.add. What was corrected
        meanwhile is corrected here. May be repeated. Raises StoreUnavailable."""
        return await self._corrector.conclude(traces)

    def _opened(self, record: Record) -> Activity | Correction | ProcessedRecord:
        found = opened(record, self._registry.names, self._notification_bytes, self._types)
        if isinstance(found, ProcessedRecord) and found.trace.outcome == "unknown_type":
            self._report_unknown(found.trace)
        return found

    def _has_expired(self, activity: Activity) -> bool:
        return activity.expires_at is not None and activity.expires_at <= self._now()

    async def _superseded(self, activities: Iterable[Activity]) -> frozenset[str]:
        """Of activities that wrote no row: those that have none, as each recipient had a newer one."""
        keyed = frozenset(activity.id for activity in activities if activity.collapse_key is not None)
        return keyed - await self._inbox.written(sorted(keyed)) if keyed else keyed

    def _report_unknown(self, trace: Trace) -> None:
        """Once a minute at most for each of the first MAX_UNKNOWN_TYPES types, and for all others."""
        type = trace.type or ""
        if type not in self._unknown_types and len(self._unknown_types) >= MAX_UNKNOWN_TYPES:
            type = ""
        tally = self._unknown_types.setdefault(type, Tally("unknown_event_type"))
        tally.count(type=trace.type, position=trace.position, why=trace.reason)

    async def _settled(self, decoded: Sequence[tuple[Record, Activity]]) -> list[Activity | ProcessedRecord]:
        """With the identities that depend on what was handled before, and as they were corrected before they
        came: what was retracted is an outcome."""
        ids = [id for _, activity in decoded if (id := depends_on(activity)) is not None]
        before = await self._traces.handled(ids) if ids else {}
        activities = [settled(activity, str(record.position), before) for record, activity in decoded]
        standing = await self._corrector.standing(activities)
        return [
            as_corrected(record, activity, standing.get(activity.id))
            for (record, _), activity in zip(decoded, activities, strict=True)
        ]

    def _sizes(self, activity: Activity, texts: Mapping[str, Rendered]) -> Mapping[str, int]:
        return stored_bytes(activity.subject, activity.data_bytes, texts, self._notification_bytes)

    def _fitting(
        self,
        records: Sequence[Record],
        outcomes: dict[int, ProcessedRecord],
        resolved: Mapping[int, ResolvedRecipients],
    ) -> dict[int, _Rendered]:
        """Of each partition the first records whose rows fit one write. What cannot be rendered becomes an
        outcome; the outcomes of what does not fit any more are removed."""
        room: dict[tuple[str, int], tuple[int, int]] = {}
        full: set[tuple[str, int]] = set()
        fitting = {}
        for index, record in enumerate(records):
            partition = record.position.topic, record.position.partition
            if partition in full:
                outcomes.pop(index, None)
                continue
            if index in outcomes:
                continue
            each = resolved.get(index)
            if each is None:
                full.add(partition)
                continue
            try:
                texts = render(self._renderer, each)
                sizes = self._sizes(each.activity, texts)
            except Exception as error:
                outcomes[index] = failed(record, error, each.activity, each.rule, len(each.recipients))
                continue
            rows, size = room.get(partition, (0, 0))
            room[partition] = rows, size = (
                rows + len(each.recipients),
                size + sum(sizes[locale] for locale in each.locales),
            )
            if rows > MAX_DRAFTS or size > MAX_CHUNK_BYTES:
                full.add(partition)
                continue
            self._count_untranslated(each.activity, texts)
            fitting[index] = _Rendered(record, each, texts, sizes)
        return fitting

    async def _persist(
        self, fitting: Sequence[_Rendered], progress: dict[Position, Progress]
    ) -> Mapping[Position, StoreRejected]:
        """Write and announce; what the store refuses of which records."""
        refused: dict[Position, StoreRejected] = {}
        chunk: list[Addressed] = []
        size = 0
        for each in fitting:
            progress.setdefault(each.position, Progress()).head = each.resolved.recipients[0]
            drafts = drafts_of(each.resolved, each.texts)
            for locale, draft in zip(each.resolved.locales, drafts, strict=True):
                if len(chunk) == MAX_DRAFTS or (chunk and size + each.sizes[locale] > MAX_CHUNK_BYTES):
                    await self._write(chunk, progress, refused)
                    chunk, size = [], 0
                chunk.append((each.position, draft))
                size += each.sizes[locale]
        await self._write(chunk, progress, refused)
        return refused

    async def _write(
        self,
        chunk: Sequence[Addressed],
        progress: Mapping[Position, Progress],
        refused: dict[Position, StoreRejected],
    ) -> None:
        """A draft that the store refuses fails only its own activity."""
        if not chunk:
            return
        try:
            written = await self._writer.write(chunk)
        except StoreRejected as error:
            by_record: dict[Position, list[Addressed]] = {}
            for position, draft in chunk:
                by_record.setdefault(position, []).append((position, draft))
            if len(by_record) == 1:
                refused[chunk[0][0]] = error
                return
            for part in by_record.values():
                await self._write(part, progress, refused)
            return
        for position, draft in written:
            done = progress[position]
            done.rows = True
            done.first = done.first or draft.recipient_id == done.head

    async def _portion(
        self, activity: Activity, progress: Progress, portions: Portions | None
    ) -> Recipients | None:
        """The recipients that come next, at most MAX_DRAFTS; None at the end. `portions`: of those that are
        looked up."""
        if portions is None:
            rule, users = recipients_of(activity, {})
            users = users[progress.done : progress.done + MAX_DRAFTS]
        elif progress.rule == "actor" and progress.done:
            return None
        else:
            taken = await portions.take(MAX_DRAFTS)
            if not taken and progress.done:
                return None
            rule, users = given(activity, taken)
        return Recipients(activity, rule, users) if users else None

    async def _write_portion(
        self, each: _Rendered, progress: Progress, begun: Callable[[], Awaitable[None]]
    ) -> None:
        drafts = list(drafts_of(each.resolved, each.texts))
        fitting = max(1, MAX_CHUNK_BYTES // max(each.sizes.values()))
        while drafts:
            chunk = [(each.position, draft) for draft in drafts[: min(progress.max_rows, fitting)]]
            progress.head = progress.head or chunk[0][1].recipient_id
            refused: dict[Position, StoreRejected] = {}
            began_s = trio.current_time()
            await self._write(chunk, {each.position: progress}, refused)
            if refused:
                raise refused[each.position]
            is_first = progress.done == 0
            progress.done += len(chunk)
            progress.after = chunk[-1][1].recipient_id
            # What slowed the store may have passed.
            progress.max_rows = min(progress.max_rows + 1, ALONE_ROWS)
            del drafts[: len(chunk)]
            if is_first:
                await self._push(each.resolved.activity, each.resolved.rule, progress)
                await begun()
            await trio.sleep(pause_s(began_s))

    async def _push(self, activity: Activity, rule: Rule, progress: Progress) -> None:
        """Only where the members of the scope, and all of them, are the recipients. Two deliveries of one
        activity may each write a part of its rows; only one writes the first. A record that was sent again
        after a rebalance may be there twice."""
        event_type = self._registry.get(activity.type)
        if not (self._push_to_members and event_type and event_type.pushed_to_members):
            return
        if activity.exclude_actor:  # the actor may be in the room
            return
        if rule in ("org", "merchant") and progress.first and not progress.pushed:
            progress.pushed = True
            await self._push_to_members(activity, rule)

    def _count_untranslated(self, activity: Activity, rendered: Mapping[str, Rendered]) -> None:
        for locale, text in rendered.items():
            if text.locale != negotiate(locale):
                self._metrics.untranslated.labels(activity.type, negotiate(locale)).inc()


def _in_shipped_languages(
    record: Record,
    resolved: ResolvedRecipients,
    texts: Mapping[str, Rendered],
    sizes: Mapping[str, int],
) -> _Rendered:
    """With the texts of LOCALES for the locales of these recipients, any tags at all."""
    shipped = {locale: negotiate(locale) for locale in set(resolved.locales)}
    return _Rendered(
        record,
        resolved,
        {locale: texts[name] for locale, name in shipped.items()},
        {locale: sizes[name] for locale, name in shipped.items()},
    )

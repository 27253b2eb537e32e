"""From records to rows to announcements: decode, resolve, render, persist, announce, ack.

Per batch there is one look-up of recipients, one of languages, and one write for every MAX_DRAFTS rows,
whatever the number of activities and recipients. A record that cannot be handled is set aside in the
dead letters and never stops its partition; a store that is away is waited for, in place."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import structlog
import trio

from nx_signal.activities.content import Rendered, Renderer
from nx_signal.activities.message import UnknownType, decode
from nx_signal.activities.recipients import audience_of, recipients_of
from nx_signal.activities.registry import Registry
from nx_signal.errors import MessageRejected, StoreRejected, StoreUnavailable
from nx_signal.model import LOCALES, Activity, Change, DeadLetter, Draft, Position, Record
from nx_signal.ports import Batch, Database
from nx_signal.supervise import Backoff
from nx_signal.telemetry.health import Health
from nx_signal.telemetry.metrics import Metrics

log = structlog.get_logger()

MAX_DRAFTS = 1_000
"""Rows in one statement: the limit of InboxStore.insert."""

MAX_READERS = 10_000
"""(user, organizer) pairs in one look-up of languages."""

ANNOUNCED_AT_ONCE = 64
"""At 15 µs a push this holds the event loop for about a millisecond."""

WAITING_BATCHES = 1
"""Per partition, beside the one that is worked on."""


class Pipeline:
    """Takes batches from a channel; one child task per partition, so that one waits for no other."""

    def __init__(
        self,
        *,
        registry: Registry,
        renderer: Renderer,
        database: Database,
        announce: Callable[[Sequence[Change]], None],
        health: Health,
        metrics: Metrics,
    ) -> None:
        self._registry = registry
        self._renderer = renderer
        self._database = database
        self._announce = announce
        self._health = health
        self._metrics = metrics
        self._taking = trio.CancelScope()
        self._finished = trio.Event()

    async def run(
        self,
        batches: trio.MemoryReceiveChannel[Batch],
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Until `finish`; then work off the batches in hand, ack them and return."""
        async with trio.open_nursery() as partitions:
            queues: dict[tuple[str, int], trio.MemorySendChannel[Batch]] = {}
            task_status.started()
            with self._taking:
                async for batch in batches:
                    if batch.partition not in queues:
                        queue, work = trio.open_memory_channel[Batch](WAITING_BATCHES)
                        queues[batch.partition] = queue
                        partitions.start_soon(self._work, work)
                    await queues[batch.partition].send(batch)
            for queue in queues.values():
                queue.close()
        self._finished.set()

    async def finish(self) -> None:
        """Take no further batch and wait for those in hand. What is not acked by then comes again at
        the next start."""
        self._taking.cancel()
        await self._finished.wait()

    async def _work(self, batches: trio.MemoryReceiveChannel[Batch]) -> None:
        async for batch in batches:
            arrived_s = trio.current_time()
            backoff = Backoff()
            while True:
                try:
                    await self._handle(batch.records)
                    break
                except StoreUnavailable as error:
                    self._health.fail("store", str(error))
                    self._metrics.store_retries.inc()
                    await backoff.pause()
            batch.ack()
            self._health.up("store")
            self._metrics.batch_seconds.observe(trio.current_time() - arrived_s)

    async def _handle(self, records: Sequence[Record]) -> None:
        """All of it may be repeated: rows and dead letters that exist already are left as they are."""
        decoded: list[tuple[Record, Activity]] = []
        letters: list[DeadLetter] = []
        for record in records:
            try:
                activity = decode(record, self._registry.names)
            except Exception as error:
                letters.append(_dead_letter(record, error))
                continue
            if isinstance(activity, UnknownType):
                self._metrics.activities.labels("unknown_type").inc()
                log.debug("unknown_event_type", type=activity.type, position=str(record.position))
            else:
                decoded.append((record, activity))

        directory = self._database.directory
        wanted = {audience for _, a in decoded if (audience := audience_of(a)) is not None}
        audiences = await directory.audiences(tuple(wanted)) if wanted else {}
        addressed = [(record, a, recipients_of(a, audiences)) for record, a in decoded]
        locales = await self._locales(addressed)

        chunk: list[tuple[Record, Draft]] = []
        for record, activity, recipients in addressed:
            spoken = [locales.get((user, activity.organizer_id), LOCALES[0]) for user in recipients]
            try:
                rendered = {locale: self._renderer.render(activity, locale) for locale in set(spoken)}
            except Exception as error:
                letters.append(_dead_letter(record, error))
                continue
            for user, locale in zip(recipients, spoken, strict=True):
                chunk.append((record, _draft(activity, user, rendered[locale])))
                if len(chunk) == MAX_DRAFTS:
                    await self._persist(chunk, letters)
                    chunk = []
        await self._persist(chunk, letters)
        if letters:
            await self._database.dead_letters.add(letters)
            self._metrics.activities.labels("dead_letter").inc(len(letters))

    async def _locales(
        self, addressed: Sequence[tuple[Record, Activity, Sequence[str]]]
    ) -> Mapping[tuple[str, str], str]:
        readers = list({(user, a.organizer_id) for _, a, users in addressed for user in users})
        locales: dict[tuple[str, str], str] = {}
        for start in range(0, len(readers), MAX_READERS):
            found = await self._database.directory.locales(readers[start : start + MAX_READERS])
            locales.update(found)
        return locales

    async def _persist(self, chunk: Sequence[tuple[Record, Draft]], letters: list[DeadLetter]) -> None:
        """Write and announce; a draft that the store refuses takes only its own activity with it."""
        if not chunk:
            return
        try:
            changes = await self._database.inbox.insert([draft for _, draft in chunk])
        except StoreRejected as error:
            by_record: dict[Position, list[tuple[Record, Draft]]] = {}
            for record, draft in chunk:
                by_record.setdefault(record.position, []).append((record, draft))
            if len(by_record) == 1:
                letters.append(_dead_letter(chunk[0][0], error))
                return
            for part in by_record.values():
                await self._persist(part, letters)
            return
        stored = {change.notification.activity_id for change in changes}
        self._metrics.activities.labels("stored").inc(len(stored))
        duplicates = {draft.activity_id for _, draft in chunk} - stored
        self._metrics.activities.labels("duplicate").inc(len(duplicates))
        self._metrics.rows.inc(len(changes))
        # A hint: whoever is cancelled between two of these leaves the rest to the sweep.
        for start in range(0, len(changes), ANNOUNCED_AT_ONCE):
            self._announce(changes[start : start + ANNOUNCED_AT_ONCE])
            await trio.lowlevel.checkpoint()


def _draft(activity: Activity, recipient_id: str, text: Rendered) -> Draft:
    return Draft(
        recipient_id=recipient_id,
        activity_id=activity.id,
        type=activity.type,
        organizer_id=activity.organizer_id,
        merchant_id=activity.merchant_id,
        subject=activity.subject,
        locale=text.locale,
        content=text.content,
        content_html=text.content_html,
        action_url=text.action_url,
        data=activity.data,
    )


def _dead_letter(record: Record, error: Exception) -> DeadLetter:
    if isinstance(error, MessageRejected | StoreRejected):
        why = str(error)
    else:
        # A fault of ours must not stop the partition either; the letter can be replayed once mended.
        why = f"Internal error {type(error).__name__} while handling this message."
        log.error("activity_failed", position=str(record.position), exc_info=error)
    log.warning("dead_letter", position=str(record.position), why=why)
    return DeadLetter(0, record.position, record.key, record.value, record.headers, why)

"""From records to rows to announcements, and an ack once the rows are durable.

A record that cannot be processed becomes a dead letter and never stops its partition. While the store is
unavailable the batch is repeated in place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import structlog
import trio

from nx_signal.activities.batches import unbatched
from nx_signal.activities.handling import Handling
from nx_signal.activities.in_hand import InHand, Key, key_of
from nx_signal.activities.lanes import AT_WORK, Lanes
from nx_signal.activities.processor import ActivityProcessor
from nx_signal.activities.progress import Progress
from nx_signal.errors import StatementFailed
from nx_signal.model import Position, Record
from nx_signal.ports import Batch, Gap
from nx_signal.store import Database
from nx_signal.telemetry.health import Health
from nx_signal.telemetry.metrics import Metrics

WAITING_BATCHES = 8
"""Per source, beside the ones in work; beyond that the source waits."""

MERGED_RECORDS = 500
"""Waiting batches are processed as one up to about this many records. What a batch costs is mostly its
round trips to the store, so a busy source's partitions share them: at 500 activities a second that halved
the time from a message to its rows, against a task for each partition."""
MERGED_BYTES = 4_194_304
"""Or up to about this many bytes."""

log = structlog.get_logger()


class Pipeline:
    """Takes the batches of each source from a channel of its own, so that no source waits for another, with a
    task for each partition that would hold up the others of its source (lanes.py). Within a partition records
    are processed in their order. `owner` names this process in the store, and no other."""

    def __init__(
        self, processor: ActivityProcessor, database: Database, owner: str, health: Health, metrics: Metrics
    ) -> None:
        self._in_hand = InHand(database.in_hand, owner)
        self._handling = Handling(processor, database.dead_letters, self._in_hand, health, metrics)
        self._health = health
        self._metrics = metrics
        self._at_work = trio.CapacityLimiter(AT_WORK)
        self._lost = 0
        self._taking: dict[trio.CancelScope, trio.Event] = {}
        """for each source; the event once it is finished"""

    async def run(
        self,
        batches: trio.MemoryReceiveChannel[Batch],
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Of one source: until `finish`; then process the batches already taken, ack them and return."""
        taking, finished = trio.CancelScope(), trio.Event()
        self._taking[taking] = finished
        async with trio.open_nursery() as nursery:
            queue, work = trio.open_memory_channel[Batch](WAITING_BATCHES)
            nursery.start_soon(self._process_batches, work)
            task_status.started()
            with taking:
                async for batch in batches:
                    for part in unbatched(batch):
                        await queue.send(part)
            queue.close()
        finished.set()

    def report_gap(self, gap: Gap) -> None:
        """Count it and show it in /readyz for a while."""
        self._metrics.source_gaps.labels(gap.reason).inc()
        self._metrics.lost_records.inc(gap.lost)
        self._lost += gap.lost
        in_all = f" This instance found {self._lost} lost records in all." if self._lost > gap.lost else ""
        self._health.report(gap.source, gap.why + in_all)

    async def finish(self) -> None:
        """Take no further batch and wait for those already taken. What is not acked by then comes again at
        the next start."""
        for taking in self._taking:
            taking.cancel()
        for finished in self._taking.values():
            await finished.wait()

    async def let_go(self) -> None:
        """For an end in good order: what is in hand then did not cause it. Raises StoreUnavailable."""
        await self._in_hand.release()

    async def _process_batches(self, batches: trio.MemoryReceiveChannel[Batch]) -> None:
        async with trio.open_nursery() as nursery:
            lanes = Lanes(self._handling, nursery, self._at_work)
            async for first in batches:
                together = [first, *_waiting(batches, first)]
                await self._process_together([batch for batch in together if not lanes.take(batch)], lanes)
                await lanes.room()

    async def _process_together(self, batches: Sequence[Batch], lanes: Lanes) -> None:
        """Those of partitions without a lane."""
        if not batches:
            return
        arrived_s = trio.current_time()
        found = await self._handling.until_available(self._in_hand.mark, _by_partition(batches))
        lanes.suspect(found)
        left = [batch for batch in batches if not lanes.take(batch)]
        records = [record for batch in left for record in batch.records]
        progress: dict[Position, Progress] = {}
        try:
            handled = {each.position for each in await self._handling.some(records, progress)}
        except StatementFailed:
            handled = set()
        for batch in left:
            rest = tuple(record for record in batch.records if record.position not in handled)
            if rest:
                lanes.open(replace(batch, records=rest))
            else:
                batch.ack()
        self._metrics.batch_seconds.observe(trio.current_time() - arrived_s)


def _by_partition(batches: Sequence[Batch]) -> dict[Key, list[Record]]:
    records: dict[Key, list[Record]] = {}
    for batch in batches:
        records.setdefault(key_of(batch), []).extend(batch.records)
    return records


def _waiting(batches: trio.MemoryReceiveChannel[Batch], first: Batch) -> Iterator[Batch]:
    """The batches that wait already, until they fill the room that the first one leaves."""
    records, size = MERGED_RECORDS, MERGED_BYTES
    batch = first
    while True:
        records -= len(batch.records)
        size -= sum(len(record.value) for record in batch.records)
        if records <= 0 or size <= 0:
            return
        try:
            batch = batches.receive_nowait()
        except (trio.WouldBlock, trio.EndOfChannel):
            return
        yield batch

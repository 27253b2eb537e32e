"""From records to rows to announcements, and an ack once the rows are durable.

A record that cannot be handled is set aside in the dead letters and never stops its partition; a store
that is away is waited for, in place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import trio

from nx_signal.activities.content import Renderer
from nx_signal.activities.handling import Announce, Handled, Handling, Show
from nx_signal.activities.registry import Registry
from nx_signal.errors import StoreUnavailable
from nx_signal.model import Position, Record
from nx_signal.ports import Batch, Database
from nx_signal.supervise import Backoff
from nx_signal.telemetry.health import Health
from nx_signal.telemetry.metrics import Metrics

WAITING_BATCHES = 8
"""Per source, beside what is worked on; when they wait, the source does."""

MERGED_RECORDS = 500
"""Batches that wait are handled as one up to about this many records. What a batch costs is mostly its
round trips to the store, so a busy source's partitions share them: at 500 activities a second that halved
the time from a message to its rows, against a task for each partition."""


class Pipeline:
    """Takes batches from a channel; one child task per source, so that one waits for no other. Within a
    partition records are handled in their order."""

    def __init__(
        self,
        *,
        registry: Registry,
        renderer: Renderer,
        database: Database,
        announce: Announce,
        health: Health,
        metrics: Metrics,
        show: Show | None = None,
    ) -> None:
        self.handling = Handling(
            registry=registry,
            renderer=renderer,
            database=database,
            announce=announce,
            metrics=metrics,
            show=show,
        )
        self._database = database
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
        async with trio.open_nursery() as sources:
            queues: dict[str, trio.MemorySendChannel[Batch]] = {}
            task_status.started()
            with self._taking:
                async for batch in batches:
                    topic, _ = batch.partition
                    if topic not in queues:
                        queues[topic], work = trio.open_memory_channel[Batch](WAITING_BATCHES)
                        sources.start_soon(self._work, work)
                    await queues[topic].send(batch)
            for queue in queues.values():
                queue.close()
        self._finished.set()

    async def finish(self) -> None:
        """Take no further batch and wait for those in hand. What is not acked by then comes again at
        the next start."""
        self._taking.cancel()
        await self._finished.wait()

    async def _work(self, batches: trio.MemoryReceiveChannel[Batch]) -> None:
        async for first in batches:
            arrived_s = trio.current_time()
            together = [first, *_waiting(batches, MERGED_RECORDS - len(first.records))]
            records = [record for batch in together for record in batch.records]
            backoff = Backoff()
            stored: set[Position] = set()
            while True:
                try:
                    handled = await self._handle(records, stored)
                    break
                except StoreUnavailable as error:
                    self._health.fail("store", str(error))
                    self._metrics.store_retries.inc()
                    await backoff.pause()
            for batch in together:
                batch.ack()
            for each in handled:
                self._metrics.activities.labels(each.trace.outcome).inc()
            self._health.up("store")
            self._metrics.batch_seconds.observe(trio.current_time() - arrived_s)

    async def _handle(self, records: Sequence[Record], stored: set[Position]) -> Sequence[Handled]:
        """All of it may be repeated: rows, dead letters and traces that exist already stay as they are."""
        handled = await self.handling.handle(records, stored)
        letters = [letter for each in handled if (letter := each.letter) is not None]
        if letters:
            await self._database.dead_letters.add(letters)
        await self._database.traces.add([each.trace for each in handled])
        return handled


def _waiting(batches: trio.MemoryReceiveChannel[Batch], room: int) -> Iterator[Batch]:
    """What waits already, until the records taken fill the room."""
    while room > 0:
        try:
            batch = batches.receive_nowait()
        except (trio.WouldBlock, trio.EndOfChannel):
            return
        room -= len(batch.records)
        yield batch

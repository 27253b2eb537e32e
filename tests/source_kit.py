"""A source in this process, and what it delivers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from nx_signal.model import Record
from nx_signal.ports import Batch, Source

PATIENCE_S = 60.0  # a loaded machine; nothing below waits for it when all is well


@asynccontextmanager
async def running(source: Source, room: float = 100) -> AsyncIterator[trio.MemoryReceiveChannel[Batch]]:
    send, receive = trio.open_memory_channel[Batch](room)
    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            await nursery.start(source.run, send)
            yield receive
            nursery.cancel_scope.cancel()


async def take(batches: trio.MemoryReceiveChannel[Batch], count: int) -> list[Record]:
    """At least so many records, acked."""
    records: list[Record] = []
    while len(records) < count:
        batch = await batches.receive()
        records.extend(batch.records)
        batch.ack()
    return records

"""The contract of every source of activities (ports.Source), whatever carries them."""

from __future__ import annotations

import gc
import os
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trio
import trio.testing

from memory_source import MemoryPositions, MemoryTopic
from nx_signal.adapters.kafka.producer import open_producer
from nx_signal.adapters.kafka.source import KafkaSource
from nx_signal.adapters.sqlite.journal import SqliteJournal
from nx_signal.model import Record
from nx_signal.ports import Batch, Source

SESSION_MS = 2_000  # a machine that stalls for longer would expire the member
PATIENCE_S = 30.0  # a loaded machine; nothing below waits for it when all is well


@dataclass(frozen=True)
class Place:
    """Something to read from: sources of one group, and a way to publish (key, value) to it."""

    name: str
    partitions: int
    source: Callable[[], Source]
    publish: Callable[[Sequence[tuple[str, bytes]]], Awaitable[None]]
    session_s: float = 0.0
    """how long the group waits for a silent member"""
    slow_start: bool = False


@asynccontextmanager
async def memory_place() -> AsyncIterator[Place]:
    topic = MemoryTopic(partitions=2)

    async def publish(messages: Sequence[tuple[str, bytes]]) -> None:
        topic.publish(messages)

    yield Place("memory", 2, topic.source, publish)


@asynccontextmanager
async def journal_place(path: Path) -> AsyncIterator[Place]:
    def journal() -> SqliteJournal:
        return SqliteJournal(path, lambda: datetime.now(UTC))

    yield Place("journal", 1, journal, journal().append)


@asynccontextmanager
async def kafka_place(servers: str, topic: str, slow_start: bool) -> AsyncIterator[Place]:
    group = f"group-{uuid.uuid4().hex[:12]}"
    positions = MemoryPositions()

    def source() -> KafkaSource:
        return KafkaSource(servers, topic, group, "tests", "latest", SESSION_MS, positions)

    async with open_producer(servers, topic) as produce:
        yield Place("kafka", 2, source, produce, SESSION_MS / 1000, slow_start)


@pytest.fixture(params=["memory", "journal", "tansu", pytest.param("apache", marks=pytest.mark.full)])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[AbstractAsyncContextManager[Place]]:
    match request.param:
        case "memory":
            yield memory_place()
        case "journal":
            yield journal_place(tmp_path / "journal.db")
        case broker:
            kafka = request.getfixturevalue(f"{broker}_kafka")
            # Tansu takes a second or two to form a group
            yield kafka_place(kafka.servers, kafka.create_topic(2), slow_start=broker == "tansu")


@asynccontextmanager
async def running(source: Source, room: float = 100) -> AsyncIterator[trio.MemoryReceiveChannel[Batch]]:
    """The running source, into a channel with this much room; stopped by a cancellation."""
    send, receive = trio.open_memory_channel[Batch](room)
    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            await nursery.start(source.run, send)
            yield receive
            nursery.cancel_scope.cancel()


async def take(batches: trio.MemoryReceiveChannel[Batch], count: int, ack: bool = True) -> list[Record]:
    """At least this many records."""
    records: list[Record] = []
    while len(records) < count:
        batch = await batches.receive()
        records.extend(batch.records)
        if ack:
            batch.ack()
    return records


def numbered(start: int, end: int, key: str = "k") -> list[tuple[str, bytes]]:
    return [(key, b"%d" % number) for number in range(start, end)]


def values(records: Sequence[Record]) -> list[int]:
    return [int(record.value) for record in records]


async def test_records_of_a_partition_arrive_in_order(opened: AbstractAsyncContextManager[Place]) -> None:
    async with opened as place, running(place.source()) as batches:
        await place.publish(numbered(0, 700))
        await place.publish(numbered(700, 1_200))
        records = await take(batches, 1_200)
    assert values(records) == list(range(1_200))
    offsets = [record.position.offset for record in records]
    assert offsets == sorted(offsets)
    assert {record.key for record in records} == {"k"}
    assert len({record.position.partition for record in records}) == 1


async def test_a_batch_holds_one_partition(opened: AbstractAsyncContextManager[Place]) -> None:
    async with opened as place, running(place.source()) as batches:
        await place.publish([(f"key {number}", b"1") for number in range(100)])
        got: dict[tuple[str, int], int] = {}
        while sum(got.values()) < 100:
            batch = await batches.receive()
            assert {(r.position.topic, r.position.partition) for r in batch.records} == {batch.partition}
            got[batch.partition] = got.get(batch.partition, 0) + len(batch.records)
    assert len(got) == place.partitions


async def test_what_is_published_after_the_start_is_delivered(
    opened: AbstractAsyncContextManager[Place],
) -> None:
    async with opened as place, running(place.source()) as batches:
        await place.publish([(f"key {number}", b"1") for number in range(10)])
        assert len(await take(batches, 10)) == 10


async def test_acked_records_are_not_delivered_again(opened: AbstractAsyncContextManager[Place]) -> None:
    async with opened as place:
        async with running(place.source()) as batches:
            await place.publish(numbered(0, 5))
            await take(batches, 5)
        await place.publish(numbered(5, 6))
        async with running(place.source()) as batches:
            assert values(await take(batches, 1)) == [5]


async def test_records_that_were_not_acked_are_delivered_again(
    opened: AbstractAsyncContextManager[Place],
) -> None:
    async with opened as place:
        async with running(place.source()) as batches:
            await place.publish(numbered(0, 3))
            await take(batches, 3)
            await place.publish(numbered(3, 5))
            await take(batches, 2, ack=False)
        async with running(place.source()) as batches:
            assert values(await take(batches, 2)) == [3, 4]


async def test_what_arrives_before_the_first_ack_is_not_lost_by_a_stop(
    opened: AbstractAsyncContextManager[Place],
) -> None:
    async with opened as place:
        async with running(place.source()):
            pass
        await place.publish(numbered(0, 2))
        async with running(place.source()) as batches:
            assert values(await take(batches, 2)) == [0, 1]


async def test_an_ack_does_not_cover_an_earlier_batch_that_has_none(
    opened: AbstractAsyncContextManager[Place],
) -> None:
    async with opened as place:
        async with running(place.source()) as batches:
            await place.publish(numbered(0, 1))
            earlier = await batches.receive()
            await place.publish(numbered(1, 2))
            later = await batches.receive()
            later.ack()
        assert values(earlier.records) == [0]
        async with running(place.source()) as batches:
            assert values(await take(batches, 2)) == [0, 1]


async def test_an_ack_after_the_source_stopped_is_harmless(
    opened: AbstractAsyncContextManager[Place],
) -> None:
    async with opened as place:
        source = place.source()
        async with running(source) as batches:
            await place.publish(numbered(0, 1))
            late = await batches.receive()
        late.ack()
        late.ack()
        async with running(source) as batches:
            again = await batches.receive()
            late.ack()
            assert values(again.records) == [0]
        async with running(source) as batches:
            assert values(await take(batches, 1)) == [0]


async def test_while_the_channel_is_full_the_source_waits_and_remains_a_member(
    opened: AbstractAsyncContextManager[Place],
) -> None:
    async with opened as place, running(place.source(), room=0) as batches:
        await place.publish(numbered(0, 1))
        first = await batches.receive()
        await place.publish(numbered(1, 2_000))
        await trio.sleep(1.5 * place.session_s)
        first.ack()
        # Nothing twice: a member that had been expelled would start at its last commit again.
        assert values(await take(batches, 1_999)) == list(range(1, 2_000))


async def test_two_instances_share_the_work_and_one_takes_over_for_the_other(
    opened: AbstractAsyncContextManager[Place],
) -> None:
    async with opened as place, running(place.source()) as left:
        async with running(place.source()) as right:
            await place.publish([(f"key {number}", b"%d" % number) for number in range(50)])
            await collect([left, right], set(range(50)))
        await place.publish([(f"key {number}", b"%d" % number) for number in range(50, 100)])
        await collect([left], set(range(50, 100)))


async def collect(channels: Sequence[trio.MemoryReceiveChannel[Batch]], expected: set[int]) -> None:
    """Take and ack on all channels until every expected value came on one of them."""
    missing = set(expected)

    async def receive(batches: trio.MemoryReceiveChannel[Batch], done: trio.CancelScope) -> None:
        async for batch in batches:
            missing.difference_update(values(batch.records))
            batch.ack()
            if not missing:
                done.cancel()

    async with trio.open_nursery() as nursery:
        for channel in channels:
            nursery.start_soon(receive, channel, nursery.cancel_scope)


async def test_an_ack_after_the_partition_was_revoked_is_harmless(
    opened: AbstractAsyncContextManager[Place],
) -> None:
    async with opened as place, running(place.source()) as left:
        await place.publish([("key 0", b"0")])
        held = await left.receive()
        async with running(place.source()) as right:
            held.ack()
            await place.publish([(f"key {number}", b"%d" % number) for number in range(1, 50)])
            await collect([left, right], set(range(1, 50)))


async def test_cancellations_leave_nothing_behind(
    opened: AbstractAsyncContextManager[Place],
) -> None:
    async with opened as place:
        source = place.source()
        async with running(source) as batches:
            await place.publish(numbered(0, 1))  # the publisher opens a connection of its own
            await take(batches, 1)
        tasks, files = open_now()
        for round_ in range(4 if place.slow_start else 20):
            began = trio.current_time()
            async with running(source, room=0) as batches:
                await place.publish(numbered(round_, round_ + 1))
                if round_ % 3:
                    await batches.receive()  # unacked: it comes again
                if round_ % 2:
                    await trio.testing.wait_all_tasks_blocked()
            assert trio.current_time() - began < 10
        gc.collect()
        assert open_now() == (tasks, files)


def open_now() -> tuple[int, int]:
    """(tasks of this run, open files of this process)"""
    return trio.lowlevel.current_statistics().tasks_living, len(os.listdir("/proc/self/fd"))


async def test_a_source_can_be_cancelled_while_it_starts(opened: AbstractAsyncContextManager[Place]) -> None:
    async with opened as place:
        send, _receive = trio.open_memory_channel[Batch](0)
        for pause_s in (0, 0.001, 0.005, 0.02, 0.05, 0.1):
            with trio.fail_after(PATIENCE_S), trio.move_on_after(pause_s):
                await place.source().run(send, trio.TASK_STATUS_IGNORED)

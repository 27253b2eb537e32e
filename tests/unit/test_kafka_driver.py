"""The consumer's decisions, over a client that raises and rebalances at the awkward moments."""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import Callable, Coroutine, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import (
    CorruptRecordException,
    IllegalStateError,
    KafkaError,
    NodeNotReadyError,
    OffsetOutOfRangeError,
)
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from nx_signal.adapters.kafka import driver
from nx_signal.adapters.kafka.driver import KafkaConsumer
from nx_signal.errors import SourceUnavailable
from nx_signal.ports import Batch, SourcePosition

TOPIC_ID = "id"
P0, P1 = TopicPartition("t", 0), TopicPartition("t", 1)

Raise = Callable[[], Any]


class Log:
    """A partition of the broker. `faults`: at an offset, called in place of reading it."""

    def __init__(self, records: int, *, beginning: int = 0) -> None:
        self.beginning, self.end = beginning, records
        self.faults: dict[int, Raise] = {}


class Client:
    """As much of AIOKafkaConsumer as the driver uses, with its way of reading: partitions are drained in
    turn, their positions move, and an error of one loses what the call drained before."""

    def __init__(self, logs: dict[TopicPartition, Log]) -> None:
        self.logs = logs
        self.offsets: dict[TopicPartition, int] = {}
        self.positions = dict.fromkeys(logs, 0)
        self.after_commit: Callable[[], Coroutine[Any, Any, None]] | None = None
        self.fetched: tuple[int, bytes | None] = (0, None)
        self.answered_ms: dict[TopicPartition, int] = {}
        self._fetcher: Any = None
        self._client = SimpleNamespace(
            cluster=SimpleNamespace(leader_for_partition=lambda _: 1), send=self._send
        )

    def assignment(self) -> set[TopicPartition]:
        return {*self.logs}

    async def beginning_offsets(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        return {each: self.logs[each].beginning for each in partitions}

    async def end_offsets(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        return {each: self.logs[each].end for each in partitions}

    async def committed(self, partition: TopicPartition) -> int | None:
        return self.offsets.get(partition)

    async def commit(self, offsets: dict[TopicPartition, int]) -> None:
        if not offsets.keys() <= self.assignment():
            raise IllegalStateError("not assigned")
        self.offsets |= offsets
        if self.after_commit is not None:
            after, self.after_commit = self.after_commit, None
            await after()

    async def position(self, partition: TopicPartition) -> int:
        return self.positions[partition]

    def last_poll_timestamp(self, partition: TopicPartition) -> int | None:
        return self.answered_ms.get(partition)

    def seek(self, partition: TopicPartition, offset: int) -> None:
        self.positions[partition] = offset

    async def getmany(
        self, *only: TopicPartition, timeout_ms: int, max_records: int = 500
    ) -> dict[TopicPartition, list[Any]]:
        found = {}
        for partition in only or self.logs:
            log, first = self.logs[partition], self.positions[partition]
            offsets = range(first, min(log.end, first + max_records))
            for offset in offsets:
                if offset in log.faults:
                    awaited = log.faults[offset]()
                    if awaited is not None:
                        await awaited
            if offsets:
                self.positions[partition] = offsets.stop
                found[partition] = [message(partition, offset) for offset in offsets]
        return found

    async def _send(self, node: int, request: Any) -> Any:
        code, raw = self.fetched
        return SimpleNamespace(topics=[("t", [(0, code, 100, 0, None, raw)])])


def message(partition: TopicPartition, offset: int) -> Any:
    return SimpleNamespace(
        topic=partition.topic,
        partition=partition.partition,
        offset=offset,
        key=None,
        value=b"%d" % offset,
        headers=(),
    )


def corrupt() -> None:
    raise CorruptRecordException("damaged")


def refuse(partition: TopicPartition, offset: int) -> None:
    raise OffsetOutOfRangeError({partition: offset})


def once(*faults: Raise) -> Raise:
    """Each in turn, then none."""
    left = iter(faults)
    return lambda: next(left, lambda: None)()


class Group:
    """A consumer that joined, with its client."""

    def __init__(self, logs: dict[TopicPartition, Log], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(driver, "UNREADABLE_PAUSE_S", 0)
        monkeypatch.setattr(driver, "REBALANCE_PAUSE_S", 0)
        self.client = Client(logs)
        self.consumer = KafkaConsumer("k:1", "t", "earliest", {"group_id": "g"}, lambda: None)
        self.consumer._consumer = self.client

        self.topic_id = TOPIC_ID

        async def topic_id() -> str:
            return self.topic_id

        monkeypatch.setattr(self.consumer, "_aio_topic_id", topic_id)

    async def aio_starts(self) -> Any:
        kept = {each.partition: SourcePosition(TOPIC_ID, 0, 0) for each in self.client.logs}
        return await self.consumer.aio_find_starts(kept)

    async def aio_rebalance(self) -> None:
        """The same partitions again, from what is committed."""
        await self.consumer.on_partitions_revoked(self.client.assignment())
        for partition in self.client.logs:
            self.client.positions[partition] = self.client.offsets.get(partition, 0)
        self.consumer.on_partitions_assigned(self.client.assignment())

    async def aio_read(self, polls: int = 8) -> list[Batch]:
        """Unacked."""
        batches: list[Batch] = []
        for _ in range(polls):
            polled = await self.consumer.aio_poll()
            if polled is None:
                await self.aio_starts()
            batches += polled or ()
        return batches


def offsets_of(batches: Sequence[Batch], partition: TopicPartition = P0) -> list[int]:
    return [
        record.position.offset
        for batch in batches
        for record in batch.records
        if record.position.partition == partition.partition
    ]


@pytest.fixture
def group(monkeypatch: pytest.MonkeyPatch) -> Group:
    return Group({P0: Log(5), P1: Log(5)}, monkeypatch)


def test_an_unreadable_batch_of_one_partition_costs_no_record_of_another(group: Group) -> None:
    group.client.logs[P1].faults[2] = corrupt
    batches = asyncio.run(group.aio_read())
    assert offsets_of(batches, P0) == [0, 1, 2, 3, 4]
    assert offsets_of(batches, P1)[:2] == [0, 1]


def test_an_offset_out_of_range_of_one_partition_costs_no_record_of_another(group: Group) -> None:
    group.client.logs[P0].faults[0] = once(corrupt)  # so that they are read one by one
    group.client.logs[P1].faults[0] = once(lambda: refuse(P1, 0))
    assert offsets_of(asyncio.run(group.aio_read())) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("singly", [False, True])
def test_what_was_read_before_a_rebalance_is_not_tracked_after_it(group: Group, singly: bool) -> None:
    if singly:
        group.client.logs[P0].faults[0] = once(corrupt)
    group.client.logs[P1].faults[0] = once(group.aio_rebalance)
    batches = asyncio.run(group.aio_read())
    assert offsets_of(batches) == [0, 1, 2, 3, 4], "once, in the new assignment"
    assert offsets_of(batches, P1) == [0, 1, 2, 3, 4]


def test_commits_go_on_after_a_rebalance_takes_a_partition_while_records_are_read_singly(
    group: Group,
) -> None:
    async def aio_take_first_away() -> None:
        await group.consumer.on_partitions_revoked(group.client.assignment())
        del group.client.logs[P0]
        group.consumer.on_partitions_assigned(group.client.assignment())

    group.client.logs[P0].faults[0] = once(corrupt)
    group.client.logs[P1].faults[0] = once(aio_take_first_away)

    async def scenario() -> None:
        for batch in await group.aio_read():
            batch.ack()
        await group.consumer.aio_commit(1)

    asyncio.run(scenario())
    assert group.client.offsets[P1] == 5


@pytest.mark.parametrize(("code", "raw"), [(6, None), (6, b""), (0, None), (0, b"")])
def test_an_error_in_place_of_a_batch_passes_nothing_over(group: Group, code: int, raw: bytes | None) -> None:
    """As while its leader changes."""
    del group.client.logs[P1]
    group.client.logs[P0].faults[0] = once(*[corrupt] * (1 + driver.UNREADABLE_TRIES))
    group.client.fetched = code, raw
    assert offsets_of(asyncio.run(group.aio_read())) == [0, 1, 2, 3, 4]
    assert group.consumer.gaps == []


def batch_of(first: int, records: int, *, damaged: bool = False, transactional: bool = False) -> bytes:
    builder = DefaultRecordBatchBuilder(2, 0, transactional, 1, 0, 0, 10_000)
    for n in range(records):
        builder.append(n, 1, None, b"v", [])
    raw = bytearray(struct.pack(">q", first) + bytes(builder.build())[8:])
    raw[-2] ^= damaged
    return bytes(raw)


def test_the_batch_that_is_passed_over_is_the_one_that_cannot_be_read(group: Group) -> None:
    """Before it stand aborted records, which are read and not delivered."""
    del group.client.logs[P1]
    group.client.logs[P0].end = 6
    group.client.logs[P0].faults[0] = corrupt
    group.client.fetched = 0, batch_of(0, 2, transactional=True) + batch_of(2, 3, damaged=True)
    assert offsets_of(asyncio.run(group.aio_read())) == [5]
    (gap,) = group.consumer.gaps
    assert gap.lost == 3 and "3 records from offset 2 on cannot be read" in gap.why


def test_a_batch_that_is_passed_over_leads_no_further_than_the_end_of_the_log(group: Group) -> None:
    del group.client.logs[P1]
    group.client.logs[P0].faults[0] = corrupt
    damaged = bytearray(batch_of(0, 3))
    damaged[23:27] = struct.pack(">i", 2_000_000_000)  # its last offset
    group.client.fetched = 0, bytes(damaged)
    asyncio.run(group.aio_read(polls=3))
    assert group.client.positions[P0] == 100


def test_a_loss_by_retention_is_reported_though_a_rebalance_interrupts_the_start(group: Group) -> None:
    group.client.logs[P0].beginning = 3
    group.client.offsets = {P0: 1, P1: 0}
    group.client.after_commit = group.aio_rebalance
    asyncio.run(group.aio_starts())
    assert [(gap.reason, gap.lost) for gap in group.consumer.gaps] == [("retention", 2)]


def test_a_refused_offset_that_the_broker_has_by_now_commits_nothing_past_the_batches_in_work(
    group: Group,
) -> None:
    del group.client.logs[P1]
    log = group.client.logs[P0]
    log.end = 3

    async def scenario() -> list[Batch]:
        first = await group.aio_read()
        log.end = 6
        log.faults[3] = once(lambda: refuse(P0, 3))
        second = await group.aio_read()
        assert offsets_of([*first, *second]) == [0, 1, 2, 3, 4, 5]
        assert group.client.offsets[P0] == 0, "the first batch is in work"
        first[0].ack()
        await group.consumer.aio_commit(1)
        return second

    asyncio.run(scenario())
    assert group.client.offsets[P0] == 3


def test_acks_of_a_topic_that_was_made_anew_commit_nothing_in_the_new_one(group: Group) -> None:
    del group.client.logs[P1]
    log = group.client.logs[P0]
    group.client.offsets = {P0: 0}

    async def scenario() -> None:
        (batch,) = await group.aio_read(polls=2)
        group.topic_id = "another"
        log.end = 6
        log.faults[5] = once(lambda: refuse(P0, 5))
        assert offsets_of(await group.aio_read()) == [0, 1, 2, 3, 4, 5]
        batch.ack()
        await group.consumer.aio_commit(1)

    asyncio.run(scenario())
    assert group.client.offsets == {P0: 0}


def test_offsets_without_records_are_committed_once_all_before_them_is_acked(group: Group) -> None:
    """The marks of transactions, and what compaction removed."""
    del group.client.logs[P1]

    async def scenario() -> None:
        (batch,) = await group.aio_read()
        group.client.positions[P0] = 7
        assert await group.aio_read(polls=1) == []
        await group.consumer.aio_commit(1)
        assert group.client.offsets[P0] == 0
        batch.ack()
        await group.consumer.aio_commit(1)
        assert group.client.offsets[P0] == 7

    asyncio.run(scenario())


def test_what_a_member_committed_is_forgotten_with_its_partitions(group: Group) -> None:
    async def scenario() -> None:
        for batch in await group.aio_read():
            batch.ack()
        await group.consumer.aio_commit(1)
        assert group.consumer.committed == {0: 5, 1: 5}
        await group.consumer.on_partitions_revoked(group.client.assignment())
        assert group.consumer.committed == {}

    asyncio.run(scenario())


def test_reading_that_ended_by_a_fault_of_the_client_is_begun_again(group: Group) -> None:
    async def scenario() -> None:
        reading = asyncio.get_running_loop().create_future()
        group.client._fetcher = SimpleNamespace(error_future=reading, _records={})
        await group.consumer.aio_probe()
        reading.set_exception(KafkaError("unexpected"))
        with pytest.raises(SourceUnavailable, match="unexpected"):
            await group.consumer.aio_probe()

    asyncio.run(scenario())


@pytest.mark.parametrize(("code", "shown"), [(0, False), (2, True), (6, False), (56, True)])
def test_a_partition_that_the_broker_refuses_to_give_is_reported(
    group: Group, code: int, shown: bool
) -> None:
    async def scenario() -> None:
        await group.aio_read()
        reading = asyncio.get_running_loop().create_future()
        group.client._fetcher = SimpleNamespace(error_future=reading, _records={})
        group.client.answered_ms[P0] = int(time.time() * 1000)
        group.client.fetched = (code, None)
        await group.consumer.aio_probe()

    asyncio.run(scenario())
    assert [gap.reason for gap in group.consumer.gaps] == ["standing"] * shown
    assert all("partition 1 (" in gap.why and gap.lost == 0 for gap in group.consumer.gaps)


def test_a_broker_that_is_needed_and_does_not_answer_is_one_sentence(group: Group) -> None:
    async def scenario() -> None:
        reading = asyncio.get_running_loop().create_future()
        reading.set_exception(NodeNotReadyError("Attempt to send a request to node (node id 3)."))
        group.client._fetcher = SimpleNamespace(error_future=reading, _records={})
        await group.consumer.aio_probe()

    with pytest.raises(SourceUnavailable, match="cannot be reached: the broker that has to answer does not"):
        asyncio.run(scenario())

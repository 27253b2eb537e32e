"""Transactional producers, on Apache Kafka: what they abort is never delivered, and the offsets that hold no
record for a reader are neither lost records nor a log that went back."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator

import pytest
import trio
from aiokafka import AIOKafkaProducer

from kafka_admin import KafkaAdmin, produce
from kafka_kit import source_of
from memory_source import MemoryPositions
from nx_signal.adapters.asyncio_bridge import AsyncioBridge, open_asyncio_bridge
from nx_signal.ports import Gap
from services import ApacheKafka
from source_kit import PATIENCE_S, running, take


class Transactions:
    """Of one producer, each of one record. `end` is `commit` or `abort`."""

    def __init__(self, bridge: AsyncioBridge, producer: AIOKafkaProducer) -> None:
        self._bridge = bridge
        self._producer = producer

    async def send(self, topic: str, value: bytes, end: str) -> None:
        await self.begin(topic, value)
        await self.end(end)

    async def begin(self, topic: str, value: bytes) -> None:
        async def _aio_begin() -> None:
            await self._producer.begin_transaction()
            await self._producer.send_and_wait(topic, value)

        await self._bridge.call(_aio_begin)

    async def end(self, end: str) -> None:
        await self._bridge.call(getattr(self._producer, f"{end}_transaction"))


@pytest.fixture
async def transactions(apache_kafka: ApacheKafka) -> AsyncIterator[Transactions]:
    async def _aio_open() -> AIOKafkaProducer:
        servers, name = apache_kafka.servers, uuid.uuid4().hex
        producer = AIOKafkaProducer(bootstrap_servers=servers, transactional_id=name)
        await producer.start()
        return producer

    async with open_asyncio_bridge() as bridge:
        producer = await bridge.call(_aio_open)
        yield Transactions(bridge, producer)
        await bridge.call(producer.stop)


class Group:
    def __init__(self, broker: ApacheKafka) -> None:
        self.topic = broker.create_topic(1)
        self.gaps: list[Gap] = []
        self.name = f"group-{uuid.uuid4().hex[:12]}"
        self.source = source_of(
            broker, self.topic, start_at="earliest", group_id=self.name, positions=MemoryPositions()
        )
        self.source.on_gap = self.gaps.append
        self.admin = KafkaAdmin(broker)

    async def values(self, count: int) -> list[bytes]:
        async with running(self.source) as batches:
            return [record.value for record in await take(batches, count)]

    async def wait_committed(self, offset: int) -> None:
        with trio.fail_after(PATIENCE_S):
            while True:
                if await self.admin.committed(self.name, self.topic) == offset:
                    return
                await trio.sleep(0.1)


@pytest.fixture
def group(apache_kafka: ApacheKafka) -> Group:
    return Group(apache_kafka)


async def test_what_a_transaction_aborted_is_not_delivered_and_what_it_committed_is(
    group: Group, apache_kafka: ApacheKafka, transactions: Transactions
) -> None:
    for value, end in ((b"1", "commit"), (b"no", "abort"), (b"2", "commit"), (b"nor this", "abort")):
        await transactions.send(group.topic, value, end)
    await produce(apache_kafka, group.topic, [{"value": b"3"}])
    assert await group.values(3) == [b"1", b"2", b"3"]


async def test_a_record_of_an_open_transaction_is_delivered_once_that_is_committed(
    group: Group, apache_kafka: ApacheKafka, transactions: Transactions
) -> None:
    async with running(group.source) as batches:
        await transactions.send(group.topic, b"1", "commit")
        assert [record.value for record in await take(batches, 1)] == [b"1"]
        await transactions.begin(group.topic, b"2")
        await produce(apache_kafka, group.topic, [{"value": b"3"}])
        with trio.move_on_after(0.5) as waited:
            await batches.receive()
        assert waited.cancelled_caught
        await transactions.end("commit")
        assert [record.value for record in await take(batches, 2)] == [b"2", b"3"]


async def test_marks_and_aborted_records_that_retention_removes_are_no_lost_records(
    group: Group, transactions: Transactions
) -> None:
    async with running(group.source) as batches:
        await transactions.send(group.topic, b"1", "commit")
        await take(batches, 1)
        await transactions.send(group.topic, b"no", "abort")
        await group.wait_committed(4)  # each with its mark
    await group.admin.delete_records(group.topic, before=4)
    await transactions.send(group.topic, b"2", "commit")
    assert await group.values(1) == [b"2"]
    assert group.gaps == []


async def test_an_offset_behind_an_open_transaction_is_no_log_that_went_back(
    group: Group, apache_kafka: ApacheKafka, transactions: Transactions
) -> None:
    """As a reader of uncommitted records leaves it."""
    await produce(apache_kafka, group.topic, [{"value": b"old"}])
    await transactions.begin(group.topic, b"no")
    await produce(apache_kafka, group.topic, [{"value": b"read by another"}])
    await group.admin.commit(group.name, group.topic, 3)
    async with running(group.source):
        pass
    await transactions.end("abort")
    await produce(apache_kafka, group.topic, [{"value": b"new"}])
    assert await group.values(1) == [b"new"]
    assert group.gaps == []

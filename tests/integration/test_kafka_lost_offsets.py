"""A committed offset that is gone: retention, a topic made anew, offsets that an operator reset."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from kafka_admin import KafkaAdmin, produce
from kafka_kit import source_of
from memory_source import MemoryPositions
from nx_signal.adapters.kafka import driver
from nx_signal.adapters.kafka import source as source_module
from nx_signal.errors import SourceUnavailable
from nx_signal.model import Record
from nx_signal.ports import Batch, Gap
from nx_signal.supervise import sentence
from services import ApacheKafka, Tansu
from source_kit import PATIENCE_S, take

Broker = ApacheKafka | Tansu


class Group:
    """A consumer group of one member, and an operator of its topic."""

    def __init__(self, broker: Broker, topic: str) -> None:
        self.broker, self.topic = broker, topic
        self.name = f"group-{uuid.uuid4().hex[:12]}"
        self.admin = KafkaAdmin(broker)
        self.positions = MemoryPositions()
        self.gaps: list[Gap] = []

    @asynccontextmanager
    async def running(self) -> AsyncIterator[trio.MemoryReceiveChannel[Batch]]:
        """A new process each time; run again when its source is unavailable, as supervise does."""
        source = source_of(self.broker, self.topic, group_id=self.name, positions=self.positions)
        source.on_gap = self.gaps.append
        send, receive = trio.open_memory_channel[Batch](100)

        async def run(*, task_status: trio.TaskStatus[None]) -> None:
            while True:
                try:
                    await source.run(send, task_status)
                except* SourceUnavailable as error:
                    assert "made anew" in sentence(error) or "has no topic" in sentence(error)
                    task_status = trio.TASK_STATUS_IGNORED

        with trio.fail_after(PATIENCE_S):
            async with trio.open_nursery() as nursery:
                await nursery.start(run)
                yield receive
                nursery.cancel_scope.cancel()

    async def send(self, *numbers: int) -> None:
        await produce(self.broker, self.topic, [{"value": b"%d" % number} for number in numbers])

    async def read(self, count: int) -> list[int]:
        async with self.running() as batches:
            return numbers(await take(batches, count))


def numbers(records: list[Record]) -> list[int]:
    return [int(record.value) for record in records]


@pytest.fixture
async def apache(apache_kafka: ApacheKafka) -> Group:
    return Group(apache_kafka, await KafkaAdmin(apache_kafka).create_topic())


@pytest.fixture
async def light(tansu_kafka: Tansu) -> Group:
    """Apache Kafka as it starts by default would make the topic anew as soon as a client asks for it."""
    return Group(tansu_kafka, await KafkaAdmin(tansu_kafka).create_topic())


@pytest.fixture
async def any_broker(kafka_broker: Broker) -> Group:
    return Group(kafka_broker, await KafkaAdmin(kafka_broker).create_topic())


async def begin(group: Group) -> None:
    """Five records, two of them read."""
    async with group.running() as batches:
        await group.send(0, 1)
        assert numbers(await take(batches, 2)) == [0, 1]
    await group.send(2, 3, 4)


async def test_what_retention_removed_is_counted_and_what_is_kept_is_read(apache: Group) -> None:
    await begin(apache)
    await apache.admin.delete_records(apache.topic, before=4)
    await apache.send(5)
    assert await apache.read(2) == [4, 5]
    (gap,) = apache.gaps
    assert (gap.reason, gap.lost) == ("retention", 2)
    assert "2 records were removed by its retention unread; reading went on at offset 4" in gap.why
    await apache.send(6)
    assert await apache.read(1) == [6]
    assert len(apache.gaps) == 1


async def test_a_topic_made_anew_while_the_service_is_down_is_read_from_its_beginning(
    any_broker: Group,
) -> None:
    await begin(any_broker)
    await any_broker.admin.delete_topic(any_broker.topic)
    await any_broker.admin.create_topic(any_broker.topic)
    await any_broker.send(10, 11, 12, 13, 14, 15)  # more than there were
    assert await any_broker.read(6) == [10, 11, 12, 13, 14, 15]
    assert [gap.reason for gap in any_broker.gaps] == ["topic_made_anew"]
    await any_broker.send(16)
    assert await any_broker.read(1) == [16]
    assert len(any_broker.gaps) == 1


async def test_a_topic_made_anew_under_a_running_reader_is_read_from_its_beginning(
    any_broker: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_module, "PROBE_INTERVAL_S", 0.3)
    async with any_broker.running() as batches:
        await any_broker.send(0, 1)
        await take(batches, 2)
        await any_broker.admin.delete_topic(any_broker.topic)
        await any_broker.admin.create_topic(any_broker.topic)
        await any_broker.send(10, 11, 12, 13)
        got: list[int] = []
        while {10, 11, 12, 13} - {*got}:
            got += numbers(await take(batches, 1))
    assert [gap.reason for gap in any_broker.gaps] == ["topic_made_anew"]


async def test_a_commit_beyond_the_end_is_read_again_from_where_the_group_began(any_broker: Group) -> None:
    """As after a cluster that was restored with fewer records."""
    await any_broker.send(-1)
    await begin(any_broker)
    await any_broker.admin.commit(any_broker.name, any_broker.topic, 500)
    assert await any_broker.read(5) == [0, 1, 2, 3, 4]
    assert [gap.reason for gap in any_broker.gaps] == ["end_moved_back"]


@pytest.mark.parametrize("to", [1, 4])
async def test_offsets_that_an_operator_reset_are_obeyed(any_broker: Group, to: int) -> None:
    await begin(any_broker)
    await any_broker.admin.commit(any_broker.name, any_broker.topic, to)
    assert await any_broker.read(5 - to) == list(range(to, 5))
    assert any_broker.gaps == []


async def test_a_commit_that_the_broker_forgot_is_known_to_the_store(apache: Group) -> None:
    """As after offsets.retention.minutes: `latest` is for a group that never read."""
    await begin(apache)
    await apache.admin.delete_group(apache.name)
    assert await apache.read(3) == [2, 3, 4]
    assert apache.gaps == []


async def test_a_partition_added_while_no_process_runs_is_read_from_its_beginning(apache: Group) -> None:
    await begin(apache)
    await apache.read(3)
    await apache.admin.add_partitions(apache.topic, 2)
    await produce(apache.broker, apache.topic, [{"value": b"9", "partition": 1}])
    assert await apache.read(1) == [9]


async def test_a_topic_that_is_deleted_is_said_and_waited_for(
    light: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_module, "PROBE_INTERVAL_S", 0.3)
    monkeypatch.setattr(driver, "PROBE_TIMEOUT_S", 5.0)
    source = source_of(light.broker, light.topic)
    send, _receive = trio.open_memory_channel[Batch](100)
    with trio.fail_after(PATIENCE_S):
        with pytest.RaisesGroup(
            pytest.RaisesExc(SourceUnavailable, match=f"has no topic {light.topic}"),
            flatten_subgroups=True,
        ):
            async with trio.open_nursery() as nursery:
                await nursery.start(source.run, send)
                await light.admin.delete_topic(light.topic)
                await trio.sleep_forever()

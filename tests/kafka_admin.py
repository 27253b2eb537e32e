"""What an operator does to a Kafka cluster, for the tests: aiokafka's administration client."""

from __future__ import annotations

import struct
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import trio
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.records_to_delete import RecordsToDelete

from nx_signal.adapters.asyncio_bridge import open_asyncio_bridge
from services import ApacheKafka, Tansu, kafka_leaders, kafka_request, kafka_string

READY_S = 30.0
ALREADY_EXISTS = 36


async def produce(
    broker: Tansu | ApacheKafka, topic: str, messages: Sequence[dict[str, Any]], **options: Any
) -> None:
    """One at a time; a message is the arguments of aiokafka's `send`, `options` are those of its producer."""

    async def _aio_produce() -> None:
        producer = AIOKafkaProducer(bootstrap_servers=broker.servers, **options)
        await producer.start()
        try:
            for message in messages:
                await producer.send_and_wait(topic, **message)
        finally:
            await producer.stop()

    async with open_asyncio_bridge() as bridge:
        await bridge.call(_aio_produce)


def produce_batch(servers: str, topic: str, batch: bytes) -> None:
    """A batch as it stands, to partition 0. Produce, version 7."""
    body = struct.pack(">hhi", -1, -1, 30_000)  # no transaction, all replicas, the broker's timeout
    body += struct.pack(">i", 1) + kafka_string(topic) + struct.pack(">iii", 1, 0, len(batch)) + batch
    answer = kafka_request(servers, (0, 7), body)
    answer.take("i"), answer.string(), answer.take("i"), answer.take("i")  # one topic, one partition
    assert answer.take("h") == 0


class KafkaAdmin:
    def __init__(self, broker: ApacheKafka | Tansu) -> None:
        self._servers = broker.servers

    async def create_topic(
        self, name: str | None = None, partitions: int = 1, configs: Mapping[str, str] | None = None
    ) -> str:
        """The name of a new topic, once every partition has a leader."""
        topic = name or f"test-{uuid.uuid4().hex[:12]}"

        async def _aio(admin: AIOKafkaAdminClient) -> None:
            made = await admin.create_topics(
                [NewTopic(topic, partitions, 1, topic_configs=dict(configs or {}))]
            )
            (outcome,) = made.topic_errors
            assert outcome[1] in (0, ALREADY_EXISTS), made  # a consumer may have been quicker

        await self._call(_aio)
        await self._until(topic, lambda leaders: leaders >= partitions)
        return topic

    async def delete_topic(self, topic: str) -> None:
        async def _aio(admin: AIOKafkaAdminClient) -> None:
            gone = await admin.delete_topics([topic])
            assert [error for _, error in gone.topic_error_codes] == [0], gone

        await self._call(_aio)
        await self._until(topic, lambda leaders: leaders == 0)

    async def delete_records(self, topic: str, before: int, partition: int = 0) -> None:
        """As retention does: the partition then begins at `before`."""

        async def _aio(admin: AIOKafkaAdminClient) -> None:
            await admin.delete_records({TopicPartition(topic, partition): RecordsToDelete(before)})

        await self._call(_aio)

    async def commit(self, group: str, topic: str, offset: int, partition: int = 0) -> None:
        """As `kafka-consumer-groups --reset-offsets` does, for a group without members."""

        async def _aio_commit() -> None:
            # As a member: Tansu takes no commit of another.
            consumer = AIOKafkaConsumer(
                topic, bootstrap_servers=self._servers, group_id=group, enable_auto_commit=False
            )
            await consumer.start()
            try:
                await consumer.commit({TopicPartition(topic, partition): offset})
            finally:
                await consumer.stop()

        async with open_asyncio_bridge() as bridge:
            await bridge.call(_aio_commit)

    async def committed(self, group: str, topic: str, partition: int = 0) -> int | None:
        found: list[int] = []

        async def _aio(admin: AIOKafkaAdminClient) -> None:
            at = TopicPartition(topic, partition)
            offsets = await admin.list_consumer_group_offsets(group, partitions=[at])
            found.append(offsets[at].offset)

        await self._call(_aio)
        return None if found[0] < 0 else found[0]

    async def delete_group(self, group: str) -> None:
        """A group without members, with its offsets. DeleteGroups, version 0."""
        body = struct.pack(">i", 1) + kafka_string(group)
        answer = await trio.to_thread.run_sync(kafka_request, self._servers, (42, 0), body)
        answer.take("i"), answer.take("i"), answer.string()  # throttle time, one group, its name
        assert answer.take("h") == 0

    async def add_partitions(self, topic: str, total: int) -> None:
        """CreatePartitions, version 0; Tansu does not implement it."""
        body = struct.pack(">i", 1) + kafka_string(topic) + struct.pack(">ii", total, -1)
        body += struct.pack(">i?", 10_000, False)
        answer = await trio.to_thread.run_sync(kafka_request, self._servers, (37, 0), body)
        answer.take("i"), answer.take("i"), answer.string()  # throttle time, one topic, its name
        assert answer.take("h") == 0, answer.string()
        await self._until(topic, lambda leaders: leaders >= total)

    async def _call(self, fn: object) -> None:
        async def _aio_call() -> None:
            admin = AIOKafkaAdminClient(bootstrap_servers=self._servers)
            await admin.start()
            try:
                await fn(admin)  # type: ignore[operator]
            finally:
                await admin.close()

        async with open_asyncio_bridge() as bridge:
            await bridge.call(_aio_call)

    async def _until(self, topic: str, ready: Callable[[int], bool]) -> None:
        with trio.fail_after(READY_S):
            while True:
                leaders = await trio.to_thread.run_sync(kafka_leaders, self._servers, topic)
                if ready(len(leaders)):
                    return
                await trio.sleep(0.02)

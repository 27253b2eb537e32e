"""`nx-signal publish` to Kafka: what arrives on the topic."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
import trio
from aiokafka import AIOKafkaConsumer

from nx_signal.adapters.asyncio_bridge import open_asyncio_bridge
from nx_signal.adapters.kafka.producer import open_producer
from nx_signal.cli import main as cli
from nx_signal.errors import SourceUnavailable
from services import free_port


async def everything_on(servers: str, topic: str, count: int) -> Sequence[Any]:
    """`count` records, ordered by partition and offset."""

    async def _aio_read() -> list[Any]:
        consumer = AIOKafkaConsumer(topic, bootstrap_servers=servers, auto_offset_reset="earliest")
        await consumer.start()
        try:
            records: list[Any] = []
            while len(records) < count:
                for some in (await consumer.getmany(timeout_ms=1_000)).values():
                    records += some
            return records
        finally:
            await consumer.stop()

    async with open_asyncio_bridge() as bridge:
        with trio.fail_after(30):
            records = await bridge.call(_aio_read)
    return sorted(records, key=lambda record: (record.partition, record.offset))


async def test_messages_arrive_as_they_were_keyed_by_their_organizer(
    kafka_servers: str, kafka_topic: str, tmp_path: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    messages = [
        {"eventId": f"e{n}", "organizerId": f"o{n % 3}", "data": {"text": "phở"}} for n in range(1_500)
    ]
    (tmp_path / "day.ndjson").write_text("\n".join(json.dumps(message) for message in messages))
    arguments = ["publish", str(tmp_path / "day.ndjson"), "--kafka-topic", kafka_topic]
    status = await trio.to_thread.run_sync(
        cli.main, [*arguments, "--kafka-bootstrap-servers", kafka_servers], abandon_on_cancel=False
    )
    assert status == 0 and capfd.readouterr().out.startswith("accepted 1500\n")

    records = await everything_on(kafka_servers, kafka_topic, 1_500)
    assert len(records) == 1_500
    for organizer in ("o0", "o1", "o2"):
        mine = [record for record in records if record.key == organizer.encode()]
        assert len({record.partition for record in mine}) == 1
        assert [json.loads(record.value) for record in mine] == [
            message for message in messages if message["organizerId"] == organizer
        ]


async def test_brokers_that_cannot_be_reached_are_reported_as_unavailable() -> None:
    with pytest.raises(ExceptionGroup) as group:
        async with open_producer(f"127.0.0.1:{free_port()}", "t"):
            raise AssertionError("must not connect")
    assert group.group_contains(SourceUnavailable, match="cannot be reached: Connection refused.")


async def test_a_producer_that_is_cancelled_ends_in_time(kafka_servers: str, kafka_topic: str) -> None:
    with trio.fail_after(10):
        for _ in range(5):
            with trio.CancelScope() as scope:
                async with open_producer(kafka_servers, kafka_topic) as produce:
                    scope.cancel()
                    await produce([("k", b"{}")] * 100)
            assert scope.cancelled_caught

"""The Kafka source with unavailable and frozen brokers, and the fields of Kafka's records."""

from __future__ import annotations

import asyncio
import gc
import os
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import trio
from aiokafka.consumer.fetcher import Fetcher, OffsetResetStrategy

from kafka_admin import KafkaAdmin, produce
from kafka_kit import SESSION_MS, raises_within, source_of
from memory_source import MemoryPositions
from nx_signal.adapters.kafka import driver
from nx_signal.adapters.kafka import source as source_module
from nx_signal.adapters.kafka.source import KafkaSource
from nx_signal.errors import SettingsError, SourceUnavailable
from nx_signal.model import Record
from nx_signal.ports import Batch
from services import ApacheKafka, Tansu
from source_kit import running, take


@pytest.fixture
def quick_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_module, "PROBE_INTERVAL_S", 0.2)
    monkeypatch.setattr(driver, "PROBE_TIMEOUT_S", 1.0)
    monkeypatch.setattr(source_module, "REQUEST_TIMEOUT_S", 1.0)


WAY_OUT_S = source_module.FINAL_COMMIT_TIMEOUT_S + driver.STOP_TIMEOUT_S + source_module.STOP_GRACE_S + 2.0


# --- records -------------------------------------------------------------------------------------


async def test_a_record_has_the_key_the_value_and_the_headers_of_kafka(
    kafka_broker: Tansu | ApacheKafka,
) -> None:
    topic = kafka_broker.create_topic(1)
    async with running(source_of(kafka_broker, topic)) as batches:
        await produce(
            kafka_broker,
            topic,
            [
                {"key": b"k\xff", "value": b"1", "headers": [("ce_id", b"e1"), ("ce_id", b"e2"), ("n", b"")]},
                {"key": None, "value": b"\x00\xff"},
                {"key": b"tombstone", "value": None},
            ],
        )
        first, second, third = await take(batches, 3)
    assert (first.key, first.value) == ("k\ufffd", b"1")
    assert first.headers == {"ce_id": b"e1", "n": b""}
    assert (second.key, second.value, second.headers) == (None, b"\x00\xff", {})
    assert (third.key, third.value) == ("tombstone", b"")
    assert [str(record.position) for record in (first, second, third)] == [f"{topic}/0/{n}" for n in range(3)]


@pytest.mark.parametrize(("start_at", "expected"), [("latest", [b"new"]), ("earliest", [b"old", b"new"])])
async def test_a_new_group_starts_at_the_configured_position(
    kafka_broker: Tansu | ApacheKafka, start_at: str, expected: list[bytes]
) -> None:
    topic = kafka_broker.create_topic(1)
    await produce(kafka_broker, topic, [{"value": b"old"}])
    async with running(source_of(kafka_broker, topic, start_at=start_at)) as batches:
        await produce(kafka_broker, topic, [{"value": b"new"}])
        assert [record.value for record in await take(batches, len(expected))] == expected


async def test_a_partition_added_while_the_source_runs_is_read_from_its_beginning(
    apache_kafka: ApacheKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_module, "METADATA_AGE_MS", 2_000)
    topic = apache_kafka.create_topic(1)
    await produce(apache_kafka, topic, [{"value": b"old"}])
    async with running(source_of(apache_kafka, topic)) as batches:
        await KafkaAdmin(apache_kafka).add_partitions(topic, 2)
        await produce(apache_kafka, topic, [{"value": b"unread yet", "partition": 1}])
        assert [record.value for record in await take(batches, 1)] == [b"unread yet"]


async def test_a_partition_added_while_the_source_is_stopped_is_read_from_its_beginning(
    apache_kafka: ApacheKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_module, "METADATA_AGE_MS", 2_000)
    topic = apache_kafka.create_topic(1)
    await produce(apache_kafka, topic, [{"value": b"old"}])
    source = source_of(apache_kafka, topic)
    async with running(source):
        pass
    await KafkaAdmin(apache_kafka).add_partitions(topic, 2)
    await produce(apache_kafka, topic, [{"value": b"unread", "partition": 1}])
    async with running(source) as batches:
        assert [record.value for record in await take(batches, 1)] == [b"unread"]
    async with running(source) as batches:  # and once only
        await produce(apache_kafka, topic, [{"value": b"new", "partition": 1}])
        assert [record.value for record in await take(batches, 1)] == [b"new"]


async def test_what_an_added_partition_holds_is_read_however_late_a_reset_answers(
    apache_kafka: ApacheKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = apache_kafka.create_topic(1)
    source = source_of(apache_kafka, topic)
    async with running(source):
        pass
    await KafkaAdmin(apache_kafka).add_partitions(topic, 2)
    await produce(apache_kafka, topic, [{"value": b"unread", "partition": 1}])
    asked_for_beginning = asyncio.Event()
    request_offsets = Fetcher._proc_offset_request

    async def ask_and_hold_the_latest(fetcher: Any, node: int, of: Any) -> Any:
        answer = await request_offsets(fetcher, node, of)
        strategies = {strategy for partitions in of.values() for _, strategy in partitions}
        if OffsetResetStrategy.EARLIEST in strategies:
            asked_for_beginning.set()
        else:
            await asked_for_beginning.wait()
        return answer

    monkeypatch.setattr(Fetcher, "_proc_offset_request", ask_and_hold_the_latest)
    async with running(source) as batches:
        assert [record.value for record in await take(batches, 1)] == [b"unread"]


# --- the group -----------------------------------------------------------------------------------


async def test_an_instance_without_a_partition_starts_and_waits(kafka_broker: Tansu | ApacheKafka) -> None:
    topic = kafka_broker.create_topic(1)
    group = f"group-{uuid.uuid4().hex[:12]}"
    received: list[Record] = []

    async def receive(batches: trio.MemoryReceiveChannel[Batch], done: trio.CancelScope) -> None:
        received.extend(await take(batches, 1))
        done.cancel()

    async with (
        running(source_of(kafka_broker, topic, group_id=group)) as first,
        running(source_of(kafka_broker, topic, group_id=group)) as second,
    ):
        await produce(kafka_broker, topic, [{"value": b"1"}])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive, first, nursery.cancel_scope)
            nursery.start_soon(receive, second, nursery.cancel_scope)
    assert [record.value for record in received] == [b"1"]


# --- unavailable brokers -------------------------------------------------------------------------


async def test_a_broker_that_is_unavailable_at_the_start_is_waited_for(own_kafka: Tansu) -> None:
    await trio.to_thread.run_sync(own_kafka.stop)
    with raises_within(SourceUnavailable, f"{own_kafka.servers} cannot be reached: Connection refused."):
        async with running(source_of(own_kafka, "any")):
            pass
    await trio.to_thread.run_sync(own_kafka.start)
    topic = await trio.to_thread.run_sync(own_kafka.create_topic, 1)
    async with running(source_of(own_kafka, topic)) as batches:
        await produce(own_kafka, topic, [{"value": b"1"}])
        assert len(await take(batches, 1)) == 1


@pytest.mark.usefixtures("quick_probe")
@pytest.mark.parametrize("fault", ["kill", "pause"])
async def test_a_broker_that_becomes_unavailable_is_noticed_and_leaves_nothing_open(
    own_kafka: Tansu, fault: str
) -> None:
    topic = await trio.to_thread.run_sync(own_kafka.create_topic, 2)
    files = len(os.listdir("/proc/self/fd"))
    with raises_within(SourceUnavailable, f"Kafka at {own_kafka.servers}"):
        async with running(source_of(own_kafka, topic)) as batches:
            await produce(own_kafka, topic, [{"value": b"1"}])
            batch = await batches.receive()
            await trio.to_thread.run_sync(getattr(own_kafka, fault))
            batch.ack()
            began = trio.current_time()
            await trio.sleep_forever()
    assert trio.current_time() - began < 0.2 + 1.0 + WAY_OUT_S
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == files


@pytest.mark.parametrize("fault", ["kill", "pause"])
async def test_a_stop_is_bounded_with_the_broker_down(own_kafka: Tansu, fault: str) -> None:
    topic = await trio.to_thread.run_sync(own_kafka.create_topic, 2)
    files = len(os.listdir("/proc/self/fd"))
    async with running(source_of(own_kafka, topic)) as batches:
        await produce(own_kafka, topic, [{"value": b"1"}])
        batch = await batches.receive()
        await trio.to_thread.run_sync(getattr(own_kafka, fault))
        batch.ack()
        began = trio.current_time()
    assert trio.current_time() - began < WAY_OUT_S
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == files


@pytest.mark.usefixtures("quick_probe")
async def test_a_start_with_a_frozen_broker_fails_within_the_timeout(own_kafka: Tansu) -> None:
    own_kafka.pause()
    with raises_within(SourceUnavailable, "Kafka at"):
        async with running(source_of(own_kafka, "any")):
            pass
    own_kafka.resume()


# --- what the broker refuses ---------------------------------------------------------------------


async def test_a_missing_topic_is_created_by_a_broker_that_creates_topics(
    kafka_broker: Tansu | ApacheKafka,
) -> None:
    topic = f"new-{uuid.uuid4().hex[:12]}"
    async with running(source_of(kafka_broker, topic)) as batches:
        await produce(kafka_broker, topic, [{"value": b"1"}])
        assert len(await take(batches, 1)) == 1


class StrictKafka(ApacheKafka):
    """Does not create topics automatically."""

    def prepare(self) -> None:
        super().prepare()
        with (self.directory / "server.properties").open("a") as properties:
            properties.write("auto.create.topics.enable=false\n")


@pytest.fixture(scope="module")
def strict_kafka(apache_kafka: ApacheKafka) -> Iterator[StrictKafka]:  # skipped where that is
    with StrictKafka() as broker:
        yield broker


@pytest.mark.usefixtures("quick_probe")
async def test_a_missing_topic_is_named_when_the_broker_does_not_create_topics(
    strict_kafka: StrictKafka,
) -> None:
    with raises_within(SourceUnavailable, "has no topic no-such-topic .* create it"):
        async with running(source_of(strict_kafka, "no-such-topic")):
            pass


@pytest.mark.usefixtures("quick_probe")
async def test_what_is_sent_to_a_topic_made_after_the_start_is_read_from_its_beginning(
    strict_kafka: StrictKafka,
) -> None:
    """The source is run again meanwhile, as supervise does."""
    topic = f"late-{uuid.uuid4().hex[:12]}"
    source = source_of(strict_kafka, topic)
    with raises_within(SourceUnavailable, f"has no topic {topic}"):
        async with running(source):
            pass
    await KafkaAdmin(strict_kafka).create_topic(topic, partitions=2)
    messages = [{"value": b"%d" % partition, "partition": partition} for partition in range(2)]
    await produce(strict_kafka, topic, messages)
    async with running(source) as batches:
        assert sorted(record.value for record in await take(batches, 2)) == [b"0", b"1"]
    await produce(strict_kafka, topic, [{"value": b"2", "partition": 0}])
    async with running(source) as batches:  # and once only
        assert [record.value for record in await take(batches, 1)] == [b"2"]


async def test_a_session_timeout_that_the_broker_does_not_allow_is_a_settings_error(
    apache_kafka: ApacheKafka,
) -> None:
    topic = apache_kafka.create_topic(1)
    with raises_within(SettingsError, "APP_ENV_KAFKA_SESSION_TIMEOUT_MS"):
        async with running(source_of(apache_kafka, topic, session_timeout_ms=50)):
            pass


async def test_a_peer_that_is_not_a_broker_is_a_settings_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_module, "REQUEST_TIMEOUT_S", 1.0)

    async def babble(stream: trio.SocketStream) -> None:
        await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n" + bytes(1_000))

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, babble, 0)
        port = listeners[0].socket.getsockname()[1]
        source = KafkaSource(f"127.0.0.1:{port}", "any", "g", "c", "latest", SESSION_MS, MemoryPositions())
        with raises_within(SettingsError, f"127.0.0.1:{port} is no Kafka broker"):
            async with running(source):
                pass
        nursery.cancel_scope.cancel()

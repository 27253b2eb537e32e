"""The Kafka source against brokers that are away, gone or frozen, and what only Kafka's records have."""

from __future__ import annotations

import asyncio
import gc
import os
import struct
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from aiokafka import AIOKafkaProducer
from aiokafka.consumer.fetcher import Fetcher, OffsetResetStrategy

from nx_signal.adapters import kafka as kafka_module
from nx_signal.adapters._aio import open_border
from nx_signal.adapters.kafka import KafkaSource
from nx_signal.errors import SettingsError, SourceUnavailable
from nx_signal.model import Record
from nx_signal.ports import Batch
from services import ApacheKafka, Tansu, kafka_leaders, kafka_request, kafka_string

PATIENCE_S = 60.0  # a loaded machine; nothing below waits for it when all is well
SESSION_MS = 1_000


def source_of(broker: Tansu | ApacheKafka, topic: str, **changes: Any) -> KafkaSource:
    options = {
        "servers": broker.servers,
        "topic": topic,
        "group_id": f"group-{uuid.uuid4().hex[:12]}",
        "client_id": "tests",
        "start_at": "latest",
        "session_timeout_ms": SESSION_MS,
    }
    return KafkaSource(**{**options, **changes})  # type: ignore[arg-type]


@asynccontextmanager
async def running(source: KafkaSource, room: float = 100) -> AsyncIterator[trio.MemoryReceiveChannel[Batch]]:
    send, receive = trio.open_memory_channel[Batch](room)
    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            await nursery.start(source.run, send)
            yield receive
            nursery.cancel_scope.cancel()


async def produce(broker: Tansu | ApacheKafka, topic: str, messages: Sequence[dict[str, Any]]) -> None:
    async def _aio_produce() -> None:
        producer = AIOKafkaProducer(bootstrap_servers=broker.servers)
        await producer.start()
        try:
            for message in messages:
                await producer.send_and_wait(topic, **message)
        finally:
            await producer.stop()

    async with open_border() as border:
        await border.call(_aio_produce)


async def take(batches: trio.MemoryReceiveChannel[Batch], count: int) -> list[Record]:
    records: list[Record] = []
    while len(records) < count:
        batch = await batches.receive()
        records.extend(batch.records)
        batch.ack()
    return records


def raises_within(error: type[Exception], match: str) -> pytest.RaisesGroup[Exception]:
    """In a group: nurseries raise groups."""
    return pytest.RaisesGroup(pytest.RaisesExc(error, match=match), flatten_subgroups=True)


@pytest.fixture
def quick_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_module, "PROBE_EVERY_S", 0.2)
    monkeypatch.setattr(kafka_module, "PROBE_TIMEOUT_S", 1.0)
    monkeypatch.setattr(kafka_module, "ANSWER_S", 1.0)


WAY_OUT_S = kafka_module.LAST_COMMIT_S + kafka_module.STOP_S + kafka_module.ABANDON_S + 2.0


# --- records -------------------------------------------------------------------------------------


async def test_a_record_keeps_what_it_has(kafka_broker: Tansu | ApacheKafka) -> None:
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
async def test_a_new_group_starts_where_it_is_told_to(
    kafka_broker: Tansu | ApacheKafka, start_at: str, expected: list[bytes]
) -> None:
    topic = kafka_broker.create_topic(1)
    await produce(kafka_broker, topic, [{"value": b"old"}])
    async with running(source_of(kafka_broker, topic, start_at=start_at)) as batches:
        await produce(kafka_broker, topic, [{"value": b"new"}])
        assert [record.value for record in await take(batches, len(expected))] == expected


async def add_partitions(servers: str, topic: str, total: int) -> None:
    """Kafka's CreatePartitions, version 0; of Tansu it is not known."""
    body = struct.pack(">i", 1) + kafka_string(topic) + struct.pack(">ii", total, -1)
    answer = kafka_request(servers, (37, 0), body + struct.pack(">i?", 10_000, False))
    answer.take("i"), answer.take("i"), answer.string()  # throttle time, one topic, its name
    assert answer.take("h") == 0, answer.string()
    with trio.fail_after(PATIENCE_S):
        while len(kafka_leaders(servers, topic)) < total:  # noqa: ASYNC110 - a broker is polled
            await trio.sleep(0.02)


async def test_a_partition_added_while_it_runs_is_read_from_its_beginning(
    apache_kafka: ApacheKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_module, "METADATA_AGE_MS", 2_000)
    topic = apache_kafka.create_topic(1)
    await produce(apache_kafka, topic, [{"value": b"old"}])
    async with running(source_of(apache_kafka, topic)) as batches:
        await add_partitions(apache_kafka.servers, topic, 2)
        await produce(apache_kafka, topic, [{"value": b"unheard yet", "partition": 1}])
        assert [record.value for record in await take(batches, 1)] == [b"unheard yet"]


async def test_a_partition_added_while_it_is_away_is_read_from_its_beginning(
    apache_kafka: ApacheKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_module, "METADATA_AGE_MS", 2_000)
    topic = apache_kafka.create_topic(1)
    await produce(apache_kafka, topic, [{"value": b"old"}])
    source = source_of(apache_kafka, topic)
    async with running(source):
        pass
    await add_partitions(apache_kafka.servers, topic, 2)
    await produce(apache_kafka, topic, [{"value": b"unheard", "partition": 1}])
    async with running(source) as batches:
        assert [record.value for record in await take(batches, 1)] == [b"unheard"]
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
    await add_partitions(apache_kafka.servers, topic, 2)
    await produce(apache_kafka, topic, [{"value": b"unheard", "partition": 1}])
    asked_for_beginning = asyncio.Event()
    ask = Fetcher._proc_offset_request

    async def ask_and_hold_the_latest(fetcher: Any, node: int, of: Any) -> Any:
        answer = await ask(fetcher, node, of)
        wanted = {strategy for partitions in of.values() for _, strategy in partitions}
        if OffsetResetStrategy.EARLIEST in wanted:
            asked_for_beginning.set()
        else:
            await asked_for_beginning.wait()
        return answer

    monkeypatch.setattr(Fetcher, "_proc_offset_request", ask_and_hold_the_latest)
    async with running(source) as batches:
        assert [record.value for record in await take(batches, 1)] == [b"unheard"]


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


# --- brokers that are away -----------------------------------------------------------------------


async def test_a_broker_that_is_away_at_the_start_is_waited_for(own_kafka: Tansu) -> None:
    await trio.to_thread.run_sync(own_kafka.stop)
    with raises_within(SourceUnavailable, f"Kafka at {own_kafka.servers} cannot be reached"):
        async with running(source_of(own_kafka, "any")):
            pass
    await trio.to_thread.run_sync(own_kafka.start)
    topic = await trio.to_thread.run_sync(own_kafka.create_topic, 1)
    async with running(source_of(own_kafka, topic)) as batches:
        await produce(own_kafka, topic, [{"value": b"1"}])
        assert len(await take(batches, 1)) == 1


@pytest.mark.usefixtures("quick_probe")
@pytest.mark.parametrize("fault", ["kill", "pause"])
async def test_a_broker_that_goes_away_is_noticed_and_leaves_nothing_open(
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
async def test_a_stop_is_bounded_with_the_broker_gone(own_kafka: Tansu, fault: str) -> None:
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
async def test_a_broker_that_is_frozen_at_the_start_is_given_up_in_time(own_kafka: Tansu) -> None:
    own_kafka.pause()
    with raises_within(SourceUnavailable, "Kafka at"):
        async with running(source_of(own_kafka, "any")):
            pass
    own_kafka.resume()


# --- what the broker refuses ---------------------------------------------------------------------


async def test_a_missing_topic_is_created_by_a_broker_that_does_so(
    kafka_broker: Tansu | ApacheKafka,
) -> None:
    topic = f"new-{uuid.uuid4().hex[:12]}"
    async with running(source_of(kafka_broker, topic)) as batches:
        await produce(kafka_broker, topic, [{"value": b"1"}])
        assert len(await take(batches, 1)) == 1


class StrictKafka(ApacheKafka):
    """Creates no topic by itself."""

    def prepare(self) -> None:
        super().prepare()
        with (self.directory / "server.properties").open("a") as properties:
            properties.write("auto.create.topics.enable=false\n")


@pytest.fixture
def strict_kafka(apache_kafka: ApacheKafka) -> Iterator[StrictKafka]:  # skipped where that is
    with StrictKafka() as broker:
        yield broker


@pytest.mark.usefixtures("quick_probe")
async def test_a_missing_topic_is_named_by_a_broker_that_does_not(strict_kafka: StrictKafka) -> None:
    with raises_within(SourceUnavailable, "has no topic no-such-topic .* create it"):
        async with running(source_of(strict_kafka, "no-such-topic")):
            pass


async def test_a_session_that_the_broker_does_not_allow_is_a_wrong_setting(apache_kafka: ApacheKafka) -> None:
    topic = apache_kafka.create_topic(1)
    with raises_within(SettingsError, "APP_ENV_KAFKA_SESSION_TIMEOUT_MS"):
        async with running(source_of(apache_kafka, topic, session_timeout_ms=50)):
            pass


async def test_a_peer_that_is_no_broker_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_module, "ANSWER_S", 1.0)

    async def babble(stream: trio.SocketStream) -> None:
        await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n" + bytes(1_000))

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, babble, 0)
        port = listeners[0].socket.getsockname()[1]
        source = KafkaSource(f"127.0.0.1:{port}", "any", "g", "c", "latest", SESSION_MS)
        with raises_within(SourceUnavailable, f"127.0.0.1:{port}"):
            async with running(source):
                pass
        nursery.cancel_scope.cancel()

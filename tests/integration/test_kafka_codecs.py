"""Compressed topics, on Apache Kafka: every codec that its producers have."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import trio
from aiokafka import codec as codec_module
from aiokafka.consumer import fetcher
from aiokafka.record.util import calc_crc32c

from kafka_admin import KafkaAdmin, produce
from kafka_kit import source_of
from nx_signal.errors import Unsupported
from nx_signal.ports import Gap
from services import ApacheKafka
from source_kit import running, take

CODECS = ("gzip", "snappy", "lz4", "zstd")


@pytest.mark.parametrize("codec", CODECS)
async def test_a_topic_that_its_producers_compress_is_read(apache_kafka: ApacheKafka, codec: str) -> None:
    topic = apache_kafka.create_topic(1)
    values = [b'{"n": %d, "text": "%s"}' % (n, b"ph\xe1\xbb\x9f " * 50) for n in range(20)]
    async with running(source_of(apache_kafka, topic)) as batches:
        await produce(apache_kafka, topic, [{"value": value} for value in values], compression_type=codec)
        assert [record.value for record in await take(batches, 20)] == values


async def test_a_topic_may_hold_batches_of_every_codec(apache_kafka: ApacheKafka) -> None:
    topic = apache_kafka.create_topic(1)
    async with running(source_of(apache_kafka, topic)) as batches:
        for codec in (None, *CODECS):
            await produce(apache_kafka, topic, [{"value": str(codec).encode()}], compression_type=codec)
        assert [record.value for record in await take(batches, 5)] == [b"None", *map(str.encode, CODECS)]


@pytest.mark.parametrize("codec", CODECS)
async def test_a_topic_that_the_broker_compresses_is_read(apache_kafka: ApacheKafka, codec: str) -> None:
    """Kafka's own codecs: the Java clients write the same bytes."""
    topic = await KafkaAdmin(apache_kafka).create_topic(configs={"compression.type": codec})
    values = [b"%d " % n + b"ph\xe1\xbb\x9f " * 20_000 for n in range(3)]
    async with running(source_of(apache_kafka, topic)) as batches:
        await produce(apache_kafka, topic, [{"value": value} for value in values])
        assert [record.value for record in await take(batches, 3)] == values


async def test_a_codec_that_is_not_installed_ends_the_start_with_one_sentence(
    apache_kafka: ApacheKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = apache_kafka.create_topic(1)
    source = source_of(apache_kafka, topic, start_at="earliest")
    await produce(apache_kafka, topic, [{"value": b"1"}], compression_type="zstd")
    monkeypatch.setattr(codec_module, "cramjam", None)
    with pytest.RaisesGroup(
        pytest.RaisesExc(Unsupported, match=f"topic {topic} is compressed .* zstd .* cramjam"),
        flatten_subgroups=True,
    ):
        async with running(source):
            await trio.sleep_forever()


class DiskFault(ApacheKafka):
    """One whose files are changed while it is down."""

    def damage_second_batch(self, topic: str, *, checksum: bool) -> None:
        """A byte of its records; with `checksum` as a faulty producer would send it."""
        (file,) = (self.directory / "data" / f"{topic}-0").glob("*.log")
        log = bytearray(file.read_bytes())
        first = 12 + int.from_bytes(log[8:12], "big")
        end = first + 12 + int.from_bytes(log[first + 8 : first + 12], "big")
        log[first + 61] ^= 0xFF
        if checksum:
            log[first + 17 : first + 21] = calc_crc32c(bytes(log[first + 21 : end])).to_bytes(4, "big")
        file.write_bytes(log)


@pytest.fixture
def own_apache(apache_kafka: ApacheKafka) -> Iterator[DiskFault]:  # skipped where that is
    with DiskFault() as broker:
        yield broker


@pytest.mark.parametrize("codec", [None, *(pytest.param(each, marks=pytest.mark.full) for each in CODECS)])
async def test_a_batch_that_cannot_be_read_is_passed_over_and_reported(
    own_apache: DiskFault, codec: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other partition is drained by the call that meets it."""
    monkeypatch.setattr(fetcher.random, "shuffle", lambda partitions: partitions.sort(reverse=True))
    topic = await trio.to_thread.run_sync(own_apache.create_topic, 2)
    for value in (b"before", b"damaged", b"after"):
        message = {"value": value, "partition": 0}
        await produce(own_apache, topic, [message], compression_type=codec)
    await produce(own_apache, topic, [{"value": b"other", "partition": 1}])
    await trio.to_thread.run_sync(own_apache.stop)
    own_apache.damage_second_batch(topic, checksum=codec is not None)
    await trio.to_thread.run_sync(own_apache.start)
    source = source_of(own_apache, topic, start_at="earliest")
    gaps: list[Gap] = []
    source.on_gap = gaps.append
    async with running(source) as batches:
        values = [record.value for record in await take(batches, 3)]
    assert sorted(values) == [b"after", b"before", b"other"]
    assert values.index(b"before") < values.index(b"after")
    (gap,) = gaps
    assert (gap.reason, gap.lost) == ("unreadable", 1)
    assert "1 record from offset 1 on cannot be read" in gap.why and "reading went on at 2" in gap.why

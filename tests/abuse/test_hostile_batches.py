"""What a producer can put into a Kafka batch: the records beside it arrive, and memory is bounded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import trio
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.util import calc_crc32c

from kafka_admin import produce, produce_batch
from kafka_kit import source_of
from nx_signal.adapters.kafka.records import MAX_RECORD_BYTES
from nx_signal.ports import Gap
from services import ApacheKafka
from source_kit import running, take

MIB = 1 << 20
CODECS = {"none": 0, "gzip": 1, "lz4": 3, "zstd": 4}
"""Without snappy, which makes no more than 21 bytes of one."""
HEAD = 61
"""Of a batch, before its records."""


def batch_of(codec: str, *values: bytes, headers: Sequence[tuple[str, bytes]] = ()) -> bytes:
    builder = DefaultRecordBatchBuilder(2, CODECS[codec], 0, -1, -1, -1, 1)
    for n, value in enumerate(values):
        builder.append(n, 1, None, value, [*headers])
    return bytes(builder.build())


class Memory:
    """Of this process, from now on."""

    def __init__(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")  # the peak is now what is in use (man 5 proc)
        self._begun = self._kib("VmHWM")

    def peak_mib(self) -> float:
        """Beyond what it was."""
        return (self._kib("VmHWM") - self._begun) / 1_024

    def _kib(self, name: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(name))


@pytest.mark.parametrize("codec", ["gzip", "lz4", "zstd"])
async def test_a_batch_that_grows_without_a_bound_is_passed_over_and_reported(
    apache_kafka: ApacheKafka, codec: str
) -> None:
    topic = apache_kafka.create_topic(1)
    bomb = batch_of(codec, bytes(200 * MIB))
    await produce(apache_kafka, topic, [{"value": b"before"}])
    await trio.to_thread.run_sync(produce_batch, apache_kafka.servers, topic, bomb)
    await produce(apache_kafka, topic, [{"value": b"after"}])
    source = source_of(apache_kafka, topic, start_at="earliest")
    gaps: list[Gap] = []
    source.on_gap = gaps.append
    memory = Memory()
    async with running(source) as batches:
        assert [record.value for record in await take(batches, 2)] == [b"before", b"after"]
    assert memory.peak_mib() < 150
    (gap,) = gaps
    assert (gap.reason, gap.lost) == ("unreadable", 1)
    assert "more than 64 MiB when decompressed" in gap.why and "in smaller batches" in gap.why


async def test_many_batches_that_each_keep_the_bound_are_not_held_at_once(apache_kafka: ApacheKafka) -> None:
    topic = apache_kafka.create_topic(1)
    large = batch_of("zstd", bytes(40 * MIB))
    for _ in range(10):
        await trio.to_thread.run_sync(produce_batch, apache_kafka.servers, topic, large)
    await produce(apache_kafka, topic, [{"value": b"after"}])
    memory = Memory()
    async with running(source_of(apache_kafka, topic, start_at="earliest")) as batches:
        records = await take(batches, 11)
    assert memory.peak_mib() < 200
    assert [len(record.value) for record in records] == [*[MAX_RECORD_BYTES] * 10, 5]


async def test_a_header_whose_name_is_no_text_does_not_end_the_source(apache_kafka: ApacheKafka) -> None:
    topic = apache_kafka.create_topic(1)
    odd = bytearray(batch_of("none", b"odd", headers=[("name", b"v")]).replace(b"name", b"n\xff\xfee"))
    odd[17:21] = calc_crc32c(bytes(odd[21:])).to_bytes(4, "big")
    await produce(apache_kafka, topic, [{"value": b"before"}])
    await trio.to_thread.run_sync(produce_batch, apache_kafka.servers, topic, bytes(odd))
    await produce(apache_kafka, topic, [{"value": b"after"}])
    source = source_of(apache_kafka, topic, start_at="earliest")
    gaps: list[Gap] = []
    source.on_gap = gaps.append
    async with running(source) as batches:
        assert [record.value for record in await take(batches, 2)] == [b"before", b"after"]
    assert [(gap.reason, gap.lost) for gap in gaps] == [("unreadable", 1)]

"""Batches as aiokafka decodes them, with the bound on what they become, and the one that cannot be read."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from contextvars import copy_context

import pytest
from aiokafka.codec import snappy_encode
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.legacy_records import LegacyRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.record.util import calc_crc32c

from nx_signal.adapters.kafka import codecs
from nx_signal.adapters.kafka.codecs import AllowanceSpent, BatchTooLarge, begin_poll, bound_decompression
from nx_signal.adapters.kafka.errors import UNREADABLE
from nx_signal.adapters.kafka.unreadable import first_unreadable

CODECS = {"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
COMPRESSED = [name for name in CODECS if name != "none"]
BOUND = 100_000
HEAD = 61
"""Of a batch, before its records."""


@pytest.fixture(autouse=True)
def small_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    bound_decompression()
    monkeypatch.setattr(codecs, "MAX_DECODED_BYTES", BOUND)


def batch_of(values: Sequence[bytes], codec: str = "none", first: int = 0) -> bytes:
    builder = DefaultRecordBatchBuilder(2, CODECS[codec], 0, -1, -1, 0, 10_000_000)
    for n, value in enumerate(values):
        builder.append(n, 1, None, value, [])
    return struct.pack(">q", first) + bytes(builder.build())[8:]


def with_records(batch: bytes, records: bytes) -> bytes:
    """As a faulty producer would send it."""
    raw = bytearray(batch[:HEAD] + records)
    raw[8:12] = struct.pack(">i", len(raw) - 12)
    raw[17:21] = calc_crc32c(bytes(raw[21:])).to_bytes(4, "big")
    return bytes(raw)


def values_of(raw: bytes) -> list[bytes]:
    batch = MemoryRecords(raw).next_batch()
    assert batch is not None and batch.validate_crc()
    return [record.value or b"" for record in batch]


@pytest.mark.parametrize("codec", CODECS)
def test_a_batch_up_to_the_bound_is_read(codec: str) -> None:
    values = [b"a" * (BOUND - 1_000), b"b" * 900]
    assert values_of(batch_of(values, codec)) == values


@pytest.mark.parametrize("codec", COMPRESSED)
def test_a_batch_beyond_the_bound_is_not_decompressed_further(codec: str) -> None:
    with pytest.raises(BatchTooLarge):
        values_of(batch_of([bytes(BOUND)], codec))


def test_snappy_in_one_block_is_bounded_by_the_size_that_it_states() -> None:
    huge = with_records(batch_of([b"1"], "snappy"), b"\xff\xff\xff\xff\x0f" + b"rest")
    with pytest.raises(BatchTooLarge):
        values_of(huge)


@pytest.mark.parametrize(
    "end", [b"\0", b"\xff\xff\xff\xff", b"\0\0\1\0ab"], ids=["cut", "negative", "beyond"]
)
def test_a_block_of_snappy_without_a_valid_size_is_unreadable(end: bytes) -> None:
    records = snappy_encode(b"1") + end
    with pytest.raises(UNREADABLE):
        values_of(with_records(batch_of([b"1"], "snappy"), records))


@pytest.mark.parametrize("codec", COMPRESSED)
def test_the_batches_of_one_poll_have_the_bound_together(codec: str) -> None:
    def poll() -> None:
        begin_poll()
        half = batch_of([bytes(BOUND * 6 // 10)], codec)
        values_of(half)
        with pytest.raises(AllowanceSpent):
            values_of(half)
        begin_poll()
        values_of(half)

    copy_context().run(poll)


def test_a_header_whose_name_is_no_text_is_unreadable() -> None:
    builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, 0, 10_000)
    builder.append(0, 1, None, b"1", [("name", b"v")])
    raw = bytes(builder.build())
    with pytest.raises(UNREADABLE):
        values_of(with_records(raw, raw[HEAD:].replace(b"name", b"n\xff\xfee")))


# --- which one ------------------------------------------------------------------------------------


def legacy_of(offset: int, magic: int = 1) -> bytes:
    builder = LegacyRecordBatchBuilder(magic, 0, 10_000)
    builder.append(0, timestamp=1, key=None, value=b"1")
    return struct.pack(">q", offset) + bytes(builder.build())[8:]


def damaged(batch: bytes) -> bytes:
    return batch[:-1] + bytes([batch[-1] ^ 0xFF])


TWO, THREE = batch_of([b"1", b"2"], first=10), batch_of([b"3", b"4", b"5"], first=12)
FOUND = {
    "all are readable": (TWO + THREE, 10, None),
    "the first": (damaged(TWO) + THREE, 10, (10, 12)),
    "a later one": (TWO + damaged(THREE), 10, (12, 15)),
    "one that was read": (damaged(TWO) + THREE, 12, None),
    "one read in part": (damaged(THREE), 13, (13, 15)),
    "the last one is cut off": (TWO + THREE[:-1], 10, None),
    "a head that is damaged": (bytes(8) + b"\xff" * 80, 7, (7, 8)),
    "a magic number to come": (TWO[:16] + b"\x03" + TWO[17:], 10, (10, 11)),
    "nothing": (b"", 10, None),
    "an old format": (legacy_of(10) + legacy_of(11), 10, None),
    "an old format, damaged": (legacy_of(10) + damaged(legacy_of(11)), 10, (11, 12)),
}


@pytest.mark.parametrize(("raw", "position", "found"), FOUND.values(), ids=FOUND.keys())
def test_the_first_batch_that_cannot_be_read_is_found(
    raw: bytes, position: int, found: tuple[int, int] | None
) -> None:
    assert first_unreadable(raw, position) == found

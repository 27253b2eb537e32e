"""Which batch of a fetched portion cannot be read: aiokafka does not name it. Of asyncio's side."""

from __future__ import annotations

import struct

from aiokafka.record.memory_records import MemoryRecords

from nx_signal.adapters.kafka.codecs import begin_poll
from nx_signal.adapters.kafka.errors import UNREADABLE

_HEAD = struct.Struct(">qiibIhi")
"""Base offset, length of what follows it, leader epoch, magic, CRC, attributes, last offset delta
(https://kafka.apache.org/documentation/#recordbatch)."""
_LENGTH_END = 12


def first_unreadable(raw: bytes, position: int) -> tuple[int, int] | None:
    """(its first offset, the offset after it); None where all from `position` on can be read. Of one whose
    head is damaged too, only its first record is known."""
    while len(raw) >= _HEAD.size:
        base, length, _, magic, _, _, last_delta = _HEAD.unpack_from(raw)
        end = _LENGTH_END + length
        last = base + last_delta if magic == 2 else base  # before Kafka 0.11 the head has the last offset
        damaged = magic not in (0, 1, 2) or last < base or base < 0 or end < _HEAD.size
        behind = max(position, base) + 1 if damaged else last + 1
        if len(raw) < end:
            return None
        if behind > position and (damaged or not _is_readable(raw[:end])):
            return max(base, position), behind
        raw = raw[end:]
    return None


def _is_readable(raw: bytes) -> bool:
    begin_poll()  # aiokafka dropped what it had decompressed
    try:
        batch = MemoryRecords(raw).next_batch()
        if batch is None or not batch.validate_crc():
            return False
        for _ in batch:
            pass
    except UNREADABLE:
        return False
    return True

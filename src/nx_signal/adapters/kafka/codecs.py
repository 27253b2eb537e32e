"""aiokafka's decompression, with a bound: by itself it makes of a batch what the batch asks for, and 1 MB may
ask for 1 GB. Of asyncio's side."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from importlib import import_module
from io import BytesIO
from mmap import mmap
from struct import Struct
from typing import Any, TypeAlias

from aiokafka.codec import _detect_xerial_stream, cramjam  # cramjam: None where it is not installed
from aiokafka.errors import CorruptRecordException

MAX_DECODED_BYTES = 67_108_864
"""Of one batch, and of all batches that one poll decompresses. Kafka's own limit, 1 MiB by default, is of the
compressed batch; JSON rarely shrinks to a sixty-fourth."""

_RECORDS = ("default_records", "legacy_records", "_crecords.default_records", "_crecords.legacy_records")
"""Modules of aiokafka that decompress; the last two are compiled ones and may be missing."""
_XERIAL_HEAD_BYTES = 16
_XERIAL_SIZE = Struct(">i")
_TOO_SMALL = "failed to write whole buffer"
"""cramjam's text for an output buffer without room for all."""

Decode: TypeAlias = Callable[[Any], bytes]


class BatchTooLarge(Exception):
    def __init__(self) -> None:
        super().__init__(f"it has more than {MAX_DECODED_BYTES >> 20} MiB when decompressed")


class AllowanceSpent(Exception):
    """The poll has decompressed other batches already, and this one would exceed MAX_DECODED_BYTES."""


@dataclass(slots=True)
class _Allowance:
    used: int = 0


_poll: ContextVar[_Allowance | None] = ContextVar("poll", default=None)
"""None outside of a poll: then the bound is that of one batch."""


def begin_poll() -> None:
    """The allowance of one poll, in the context of this call."""
    _poll.set(_Allowance())


def bound_decompression() -> None:
    """Have aiokafka call the decoders of this file. It has no setting for that."""
    for name in _RECORDS:
        with suppress(ImportError):
            module = import_module(f"aiokafka.record.{name}")
            for codec, decode in _DECODERS.items():
                if hasattr(module, codec):
                    setattr(module, codec, decode)


def _bounded(decode: Callable[[Any, int], bytes]) -> Decode:
    """`decode` gets the most bytes that it may give, and raises BatchTooLarge."""

    def decode_within_allowance(payload: Any) -> bytes:
        allowance = _poll.get() or _Allowance()
        try:
            decoded = decode(payload, MAX_DECODED_BYTES - allowance.used)
        except BatchTooLarge:
            if allowance.used:
                raise AllowanceSpent from None
            raise
        allowance.used += len(decoded)
        return decoded

    return decode_within_allowance


def _gzip(payload: Any, most: int) -> bytes:
    """Its end states the size (RFC 1952 §2.3.1), though it may be a lie."""
    if int.from_bytes(payload[-4:], "little") > most:
        raise BatchTooLarge
    with gzip.GzipFile(fileobj=BytesIO(payload)) as file:
        decoded = file.read(most + 1)
    if len(decoded) > most:
        raise BatchTooLarge
    return decoded


def _snappy(payload: Any, most: int) -> bytes:
    """Raw, or in the blocks of xerial's library."""
    if not _detect_xerial_stream(payload):
        return _snappy_block(payload, most)
    blocks: list[bytes] = []
    at = _XERIAL_HEAD_BYTES
    while at < len(payload):
        head, at = payload[at : at + _XERIAL_SIZE.size], at + _XERIAL_SIZE.size
        size = _XERIAL_SIZE.unpack(head)[0] if len(head) == _XERIAL_SIZE.size else -1
        if not 0 <= size <= len(payload) - at:
            raise CorruptRecordException("a block of snappy has no valid size")
        blocks.append(_snappy_block(payload[at : at + size], most))
        most -= len(blocks[-1])
        at += size
    return b"".join(blocks)


def _snappy_block(payload: Any, most: int) -> bytes:
    """Its head states the size, which is allocated before anything is read."""
    if cramjam.snappy.decompress_raw_len(payload) > most:
        raise BatchTooLarge
    return bytes(cramjam.snappy.decompress_raw(payload))


def _lz4(payload: Any, most: int) -> bytes:
    return _into_buffer(cramjam.lz4.decompress_into, payload, most)


def _zstd(payload: Any, most: int) -> bytes:
    return _into_buffer(cramjam.zstd.decompress_into, payload, most)


def _into_buffer(decompress_into: Callable[[Any, Any], int], payload: Any, most: int) -> bytes:
    with mmap(-1, most + 1) as buffer:  # memory that is not written to is not there
        try:
            size = decompress_into(payload, buffer)
        except cramjam.DecompressionError as error:
            if _TOO_SMALL in str(error):
                raise BatchTooLarge from None
            raise
        if size > most:
            raise BatchTooLarge
        return buffer[:size]


_DECODERS: dict[str, Decode] = {
    "gzip_decode": _bounded(_gzip),
    "snappy_decode": _bounded(_snappy),
    "lz4_decode": _bounded(_lz4),
    "zstd_decode": _bounded(_zstd),
}

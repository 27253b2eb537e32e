"""Timestamps: UTC with milliseconds, everywhere. In JSON they are ISO 8601 with milliseconds and Z."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import overload
from zoneinfo import ZoneInfo

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)


def to_milliseconds(moment: datetime) -> datetime:
    """Without what is below a millisecond."""
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def now() -> datetime:
    """The wall clock."""
    return to_milliseconds(datetime.now(UTC))


def time_zone(name: str) -> ZoneInfo:
    """Raises ValueError for what is no IANA time zone."""
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise ValueError("an IANA time zone such as UTC or Asia/Ho_Chi_Minh") from None


def epoch_ms(moment: datetime) -> int:
    """Milliseconds since 1970, rounded up: a stored time is below `moment` exactly if it is below this."""
    return -((EPOCH - moment) // _MS)


def from_epoch_ms(ms: int) -> datetime:
    return EPOCH + timedelta(milliseconds=ms)


@overload
def format_timestamp(moment: datetime) -> str: ...
@overload
def format_timestamp(moment: None) -> None: ...
@overload
def format_timestamp(moment: datetime | None) -> str | None: ...
def format_timestamp(moment: datetime | None) -> str | None:
    return None if moment is None else _formatted(moment)


@lru_cache(maxsize=64)
def _formatted(moment: datetime) -> str:
    """Cached: the rows of one batch share their time, and formatting costs more than the rest of a row."""
    if moment.tzinfo is not UTC:
        moment = moment.astimezone(UTC)
    return moment.isoformat(timespec="milliseconds")[: -len("+00:00")] + "Z"

"""Numbers and stamps as the columns hold them."""

from __future__ import annotations

from datetime import datetime

MAX_BIGINT = 2**63 - 1


def bounded(number: int) -> int:
    """The nearest number that a bigint can hold; no id, revision or offset is at that bound."""
    return max(-MAX_BIGINT, min(number, MAX_BIGINT))


def to_ms(moment: datetime) -> datetime:
    """Stamps have milliseconds."""
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)

"""Ids of rows (CONTRACT §5): 41 bits of milliseconds since 2025-01-01T00:00Z, 10 of worker, 12 of sequence.

Pure and synchronous. Its maker holds a lease on the worker id."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from nx_signal.ports import Now

EPOCH = datetime(2025, 1, 1, tzinfo=UTC)
PREFERRED_WORKER = 9
WORKERS: tuple[int, ...] = (*range(PREFERRED_WORKER, 1024), *range(PREFERRED_WORKER))
"""The order in which an instance tries to lease a worker id."""

_MS = timedelta(milliseconds=1)
_WORKER_BITS = 10
_SEQUENCE_BITS = 12
_PER_MS = 1 << _SEQUENCE_BITS


class Snowflakes:
    """A generator of ascending ids. None repeats, also when the clock steps back or more than 4096 are
    taken within one millisecond (then it borrows from the next ones).

    `floor`: the greatest id in the store, read after the worker id was leased; all ids are above it,
    so a restart with a clock that was set back repeats none."""

    def __init__(self, worker_id: int, now: Now, floor: int = 0) -> None:
        if not 0 <= worker_id < 1 << _WORKER_BITS:
            raise ValueError("A worker id is a whole number from 0 to 1023.")
        self.worker_id = worker_id
        self._now = now
        # The floor's millisecond counts as used up, whichever worker made it.
        self._last_ms = floor >> (_WORKER_BITS + _SEQUENCE_BITS)
        self._sequence = _PER_MS - 1

    def next(self) -> int:
        now_ms = (self._now() - EPOCH) // _MS
        if now_ms > self._last_ms:
            self._last_ms, self._sequence = now_ms, 0
        elif self._sequence + 1 < _PER_MS:
            self._sequence += 1
        else:
            self._last_ms, self._sequence = self._last_ms + 1, 0
        return (
            self._last_ms << (_WORKER_BITS + _SEQUENCE_BITS)
            | self.worker_id << _SEQUENCE_BITS
            | self._sequence
        )


def first_id_at(moment: datetime) -> int:
    """Ids below this were made before `moment`; none is where that was before the first of all."""
    return max(0, (moment - EPOCH) // _MS) << (_WORKER_BITS + _SEQUENCE_BITS)


def timestamp_of(id: int) -> datetime:
    """When an id was made, to the millisecond (or a little later than that, where it was borrowed)."""
    return EPOCH + timedelta(milliseconds=id >> (_WORKER_BITS + _SEQUENCE_BITS))

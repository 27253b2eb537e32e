"""Removal of what operators alone read, dead letters and traces, beyond an age, a number or a total size, and
of expired tickets: in portions, between which others have their turn."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar

import structlog
import trio

from nx_signal.inbox.maintenance import again, paced
from nx_signal.ports import Now
from nx_signal.store import Corrections, DeadLetters, Tickets, Traces
from nx_signal.store.rows import MAX_INTEGER

log = structlog.get_logger()

T = TypeVar("T")

LETTERS_EVERY_S = 60.0
"""A source of records that all fail may add some GB until then."""
TRACES_EVERY_S = 600.0
MAX_LETTER_BYTES = 1024**3
"""Of all dead letters: each may have a megabyte."""
PRUNED_LETTERS = 50
PRUNED_TRACES = 1_000
TICKETS_EVERY_S = 60.0
PRUNED_TICKETS = 1_000


@dataclass(frozen=True, slots=True)
class Bounds:
    """As in Settings; 0 days keep everything up to the number."""

    dead_letter_days: int
    dead_letters: int
    trace_days: int
    traces: int


KEEP_ALL = Bounds(0, MAX_INTEGER, 0, MAX_INTEGER)


class Pruning:
    def __init__(
        self,
        dead_letters: DeadLetters,
        traces: Traces,
        corrections: Corrections,
        tickets: Tickets,
        now: Now,
        bounds: Bounds,
    ) -> None:
        self._dead_letters = dead_letters
        self._traces = traces
        self._corrections = corrections
        self._tickets = tickets
        self._now = now
        self._bounds = bounds

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled, which may be at any await."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(again, LETTERS_EVERY_S, self.prune_letters)
            nursery.start_soon(again, TRACES_EVERY_S, self.prune_traces)
            nursery.start_soon(again, TRACES_EVERY_S, self.prune_corrections)
            nursery.start_soon(again, TICKETS_EVERY_S, self.prune_tickets)
            task_status.started()

    async def prune_letters(self) -> None:
        bounds = self._bounds
        upto = await self._dead_letters.excess(
            self._before(bounds.dead_letter_days), bounds.dead_letters, MAX_LETTER_BYTES
        )
        if upto is not None and (
            removed := await _all(self._dead_letters.remove_up_to, upto, PRUNED_LETTERS)
        ):
            log.warning(
                "dead_letters_removed",
                removed=removed,
                why=f"Those beyond APP_ENV_DEAD_LETTER_DAYS ({bounds.dead_letter_days}), "
                f"APP_ENV_DEAD_LETTERS ({bounds.dead_letters}) or {MAX_LETTER_BYTES} bytes in total go, "
                "the oldest first: replay them in time, or raise these settings.",
            )

    async def prune_traces(self) -> None:
        bounds = self._bounds
        upto = await self._traces.excess(self._before(bounds.trace_days), bounds.traces)
        removed = await _all(self._traces.remove_up_to, upto, PRUNED_TRACES)
        if removed:
            log.info(
                "traces_removed",
                removed=removed,
                why=f"Those beyond APP_ENV_TRACE_DAYS ({bounds.trace_days}) or APP_ENV_TRACES "
                f"({bounds.traces}) go, the oldest first: explain then has no record of them.",
            )

    async def prune_corrections(self) -> None:
        """Bounded as the traces are."""
        bounds = self._bounds
        upto = await self._corrections.excess(self._before(bounds.trace_days), bounds.traces)
        removed = await _all(self._corrections.remove_up_to, upto, PRUNED_TRACES)
        if removed:
            log.info(
                "corrections_removed",
                removed=removed,
                why=f"Those beyond APP_ENV_TRACE_DAYS ({bounds.trace_days}) or APP_ENV_TRACES "
                f"({bounds.traces}) go, the oldest first: an activity that comes later is not corrected.",
            )

    async def prune_tickets(self) -> None:
        while await paced(self._tickets.remove_expired, PRUNED_TICKETS):
            pass

    def _before(self, days: int) -> datetime | None:
        return self._now() - timedelta(days=days) if days else None


async def _all(remove: Callable[[T, int], Awaitable[int]], upto: T | None, limit: int) -> int:
    removed = 0
    while upto is not None and (many := await paced(remove, upto, limit)):
        removed += many
    return removed

"""Records until they are dealt with durably: rows, dead letters and traces. What the store does not finish
while it takes other writes is tried in smaller parts, and a record that it never takes is set aside."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import TypeAlias, TypeVar, TypeVarTuple

import structlog
import trio

from nx_signal.activities.in_hand import InHand
from nx_signal.activities.outcome import ProcessedRecord, set_aside
from nx_signal.activities.processor import ActivityProcessor
from nx_signal.activities.progress import Progress
from nx_signal.errors import StatementBlocked, StatementFailed, StoreRejected, StoreUnavailable
from nx_signal.model import Position, Record, Trace
from nx_signal.store import DeadLetters
from nx_signal.supervise import Backoff
from nx_signal.telemetry.health import Health
from nx_signal.telemetry.metrics import Metrics

STORE_TRIES = 5
"""Of one record, without a row written in between, while the store takes other writes."""
SHRINK = 8
"""By this much its next statement has fewer rows: 100, 12, 1."""
KEPT_BYTES = 65_536
"""Of the value of a record that cannot be stored whole even as a dead letter."""
CONFLICTS_LOGGED_EVERY_S = 60.0
BLOCKED_SHOWN_S = 60.0
"""In /readyz after the last wait for a lock."""

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

Begun: TypeAlias = Callable[[], Awaitable[None]]

log = structlog.get_logger()


class Handling:
    """While the store is unavailable every call waits in place, and reports it to `health`."""

    def __init__(
        self,
        processor: ActivityProcessor,
        dead_letters: DeadLetters,
        in_hand: InHand,
        health: Health,
        metrics: Metrics,
    ) -> None:
        self._processor = processor
        self._dead_letters = dead_letters
        self.in_hand = in_hand
        self._health = health
        self._metrics = metrics
        self._conflicts = 0
        self._report_conflicts_at = -math.inf

    async def some(self, records: Sequence[Record], progress: dict[Position, Progress]) -> Sequence[Record]:
        """Those that were dealt with, of each partition the first ones: see ActivityProcessor.process. Raises
        StatementFailed."""
        return [each.record for each in await self.attempt(self._some, records, progress)]

    async def one(self, record: Record, progress: Progress, begun: Begun) -> None:
        """A record by itself, in ever smaller parts; set aside where the store never takes it. Raises
        StatementBlocked, which is no fault of the record: to be called again."""
        failures = 0
        while True:
            done = progress.done
            try:
                await self.attempt(self._one, record, progress, begun)
                return
            except StatementBlocked:
                progress.max_rows = max(1, progress.max_rows // SHRINK)
                raise
            except StatementFailed as error:
                failures = failures + 1 if progress.done == done else 1
                progress.max_rows = max(1, progress.max_rows // SHRINK)
                if failures >= STORE_TRIES:
                    tries = f"The store takes others, and did not finish this record in {failures} tries"
                    await self.set_aside(record, f"{tries}: {error}")
                    return

    async def set_aside(self, record: Record, reason: str) -> None:
        """As a dead letter, which is not looked at any more; of a value that cannot be stored, the first
        KEPT_BYTES. Raises StatementBlocked."""
        for value in (record.value, record.value[:KEPT_BYTES]):
            part = "" if value == record.value else f" Only the first {KEPT_BYTES} bytes of it are kept."
            aside = set_aside(replace(record, value=value), reason + part)
            try:
                await self.attempt(self._keep, [aside])
                return
            except StatementBlocked:
                raise
            except (StatementFailed, StoreRejected) as error:
                log.error("dead_letter_not_kept", position=str(record.position), why=str(error))
        await self.until_available(self._keep, [set_aside(replace(record, value=b""), reason)])

    async def until_available(self, call: Callable[[*Ts], Awaitable[T]], *arguments: *Ts) -> T:
        """The call's result, however long the store is away."""
        backoff = Backoff()
        while True:
            try:
                result = await call(*arguments)
            except StoreUnavailable as error:
                self._is_away(error)
                await backoff.pause()
            else:
                self._health.up("store")
                return result

    async def attempt(self, call: Callable[[*Ts], Awaitable[T]], *arguments: *Ts) -> T:
        """The same; raises StatementFailed where the store takes another write after it."""
        backoff = Backoff()
        while True:
            try:
                result = await call(*arguments)
            except StoreUnavailable as error:
                if isinstance(error, StatementFailed) and await self._takes_writes():
                    self._report_failed(error)
                    raise
                self._is_away(error)
                await backoff.pause()
            else:
                self._health.up("store")
                return result

    async def _takes_writes(self) -> bool:
        try:
            await self.in_hand.touch()
        except StoreUnavailable:
            return False
        return True

    def _report_failed(self, error: StatementFailed) -> None:
        self._metrics.store_retries.inc()
        if isinstance(error, StatementBlocked):
            self._health.report("store", str(error), BLOCKED_SHOWN_S)
        else:
            log.warning("statement_failed", why=str(error))

    def _is_away(self, error: StoreUnavailable) -> None:
        self._health.fail("store", str(error))
        self._metrics.store_retries.inc()

    async def _some(
        self, records: Sequence[Record], progress: dict[Position, Progress]
    ) -> Sequence[ProcessedRecord]:
        return await self._keep(await self._processor.process(records, progress))

    async def _one(self, record: Record, progress: Progress, begun: Begun) -> None:
        await self._keep([await self._processor.process_alone(record, progress, begun)])

    async def _keep(self, processed: Sequence[ProcessedRecord]) -> Sequence[ProcessedRecord]:
        """May be repeated: dead letters and traces stay as they are."""
        if not processed:
            return processed
        dead_letters = [each.dead_letter for each in processed if each.dead_letter is not None]
        if dead_letters:
            await self._dead_letters.add(dead_letters)
        traces = await self._processor.conclude([each.trace for each in processed])
        for trace in traces:
            self._metrics.activities.labels(trace.outcome).inc()
        self._report_conflicts([trace for trace in traces if trace.outcome == "conflict"])
        return processed

    def _report_conflicts(self, conflicts: Sequence[Trace]) -> None:
        """At most once a minute."""
        self._conflicts += len(conflicts)
        if conflicts and trio.current_time() >= self._report_conflicts_at:
            last = conflicts[-1]
            log.warning("conflicting_activities", many=self._conflicts, at=last.position, why=last.reason)
            self._conflicts, self._report_conflicts_at = 0, trio.current_time() + CONFLICTS_LOGGED_EVERY_S

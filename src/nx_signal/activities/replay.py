"""Replays of dead letters: the rows are those that a first success would have left."""

from __future__ import annotations

import trio

from nx_signal.activities.processor import ActivityProcessor
from nx_signal.activities.progress import Progress
from nx_signal.errors import MessageRejected
from nx_signal.model import Record, Trace
from nx_signal.store import DeadLetters
from nx_signal.telemetry.metrics import Metrics


class Replay:
    def __init__(self, processor: ActivityProcessor, dead_letters: DeadLetters, metrics: Metrics) -> None:
        self._processor = processor
        self._dead_letters = dead_letters
        self._metrics = metrics

    async def replay(self, id: int) -> Trace | None:
        """The trace of the dead letter's record, under its own eventId or original position; None where no
        dead letter has this id.

        The dead letter is removed once the rows are durable; until then all of this may be repeated. Raises
        MessageRejected when it fails again: the dead letter stays, with the new reason."""
        dead_letter = await self._dead_letters.get(id)
        if dead_letter is None:
            return None
        record = Record(dead_letter.position, dead_letter.key, dead_letter.value, dead_letter.headers)
        processed = await self._processor.process([record], {}) or [
            await self._processor.process_alone(record, Progress(), trio.lowlevel.checkpoint)
        ]
        (trace,) = await self._processor.conclude([processed[0].trace])
        self._metrics.activities.labels(trace.outcome).inc()
        if trace.outcome == "dead_letter":
            await self._dead_letters.set_error(id, trace.reason or "")
            raise MessageRejected(trace.reason or "")
        if trace.outcome == "unknown_type":  # it would be skipped, and lost
            error = f"eventType {trace.type} is not known here."
            await self._dead_letters.set_error(id, error)
            raise MessageRejected(error)
        await self._dead_letters.remove(id)
        return trace

"""Dead letters, handled again: as their first success would have been, once."""

from __future__ import annotations

from nx_signal.activities.handling import Handling
from nx_signal.errors import MessageRejected
from nx_signal.model import Record, Trace
from nx_signal.ports import Database
from nx_signal.telemetry.metrics import Metrics


class Replay:
    def __init__(self, handling: Handling, database: Database, metrics: Metrics) -> None:
        self._handling = handling
        self._database = database
        self._metrics = metrics

    async def replay(self, id: int) -> Trace | None:
        """What became of the letter's record, under its own eventId or original position; None where there
        is no such letter. The letter is removed once the rows are durable; until then all of this may be
        repeated. Raises MessageRejected when it fails again: the letter stays, and says the new reason."""
        letters = self._database.dead_letters
        letter = await letters.get(id)
        if letter is None:
            return None
        record = Record(letter.position, letter.key, letter.value, letter.headers)
        (handled,) = await self._handling.handle([record], set())
        trace = handled.trace
        self._metrics.activities.labels(trace.outcome).inc()
        await self._database.traces.add([trace])
        if trace.outcome == "dead_letter":
            await letters.set_error(id, trace.reason or "")
            raise MessageRejected(trace.reason or "")
        if trace.outcome == "unknown_type":  # it would be skipped, and gone
            error = f"eventType {trace.type} is not known here."
            await letters.set_error(id, error)
            raise MessageRejected(error)
        await letters.remove(id)
        return trace

"""What became of each activity, in PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from nx_signal.adapters._values import legible, settled, storable
from nx_signal.adapters.postgres.session import Connection, Session
from nx_signal.adapters.postgres.values import bounded, to_ms
from nx_signal.model import Trace
from nx_signal.ports import Now
from nx_signal.sql import queries

_SQL = queries("postgres")


class PostgresTraces:
    """ports.Traces."""

    def __init__(self, session: Session, now: Now) -> None:
        self._session = session
        self._now = now

    async def add(self, traces: Sequence[Trace]) -> None:
        if traces:
            await self._session.call(_aio_add, settled(traces), to_ms(self._now()))

    async def get(self, activity_id: str) -> Trace | None:
        return await self._session.call(_aio_get, activity_id) if storable(activity_id) else None

    async def prune(self, before: datetime, limit: int = 10_000) -> int:
        return await self._session.call(_aio_prune, before, limit)


async def _aio_add(connection: Connection, traces: Sequence[Trace], stamp: datetime) -> None:
    await connection.execute(
        _SQL["add_traces"],
        [trace.activity_id for trace in traces],
        [trace.position for trace in traces],
        [trace.type for trace in traces],
        [trace.scope for trace in traces],
        [trace.rule for trace in traces],
        [trace.recipients for trace in traces],
        [trace.outcome for trace in traces],
        [None if trace.reason is None else legible(trace.reason) for trace in traces],
        stamp,
    )


async def _aio_get(connection: Connection, activity_id: str) -> Trace | None:
    row = await connection.fetchrow(_SQL["trace"], activity_id)
    return None if row is None else Trace(**dict(row))


async def _aio_prune(connection: Connection, before: datetime, limit: int) -> int:
    pruned: int = await connection.fetchval(_SQL["prune_traces"], before, bounded(limit))
    return pruned

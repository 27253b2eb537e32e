"""What became of each activity, in SQLite."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from datetime import datetime

from nx_signal.adapters._values import legible, settled, storable
from nx_signal.adapters.sqlite.file import SQL, SqliteFile, clamped, from_ms, to_ms
from nx_signal.model import Trace


class SqliteTraces:
    """ports.Traces."""

    def __init__(self, file: SqliteFile) -> None:
        self._file = file

    async def add(self, traces: Sequence[Trace]) -> None:
        if not traces:
            return
        rows = json.dumps(
            [
                (
                    trace.activity_id,
                    trace.position,
                    trace.type,
                    trace.scope,
                    trace.rule,
                    trace.recipients,
                    trace.outcome,
                    None if trace.reason is None else legible(trace.reason),
                )
                for trace in settled(traces)
            ]
        )

        def transaction(connection: sqlite3.Connection) -> None:
            connection.execute(SQL["add_traces"], {"traces": rows, "handled_at": self._file.now_ms()})

        await self._file.write(transaction)

    async def get(self, activity_id: str) -> Trace | None:
        if not storable(activity_id):
            return None

        def transaction(connection: sqlite3.Connection) -> Trace | None:
            row = connection.execute(SQL["trace"], {"activity_id": activity_id}).fetchone()
            return None if row is None else Trace(**(dict(row) | {"handled_at": from_ms(row["handled_at"])}))

        return await self._file.read(transaction)

    async def prune(self, before: datetime, limit: int = 10_000) -> int:
        values = {"before": to_ms(before), "limit": clamped(limit)}
        return await self._file.write(
            lambda connection: connection.execute(SQL["prune_traces"], values).rowcount
        )

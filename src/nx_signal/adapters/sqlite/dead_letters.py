"""Records that could not be handled, in SQLite. Keys, errors and header names may be hostile texts."""

from __future__ import annotations

import json
import sqlite3
from base64 import b64decode, b64encode
from collections.abc import Sequence

from nx_signal.adapters._values import legible
from nx_signal.adapters.sqlite.file import MAX_INTEGER, SQL, Row, SqliteFile, clamped, from_ms, to_ms
from nx_signal.model import DeadLetter, Position


class SqliteDeadLetters:
    def __init__(self, file: SqliteFile) -> None:
        self._file = file

    async def add(self, letters: Sequence[DeadLetter]) -> None:
        def transaction(connection: sqlite3.Connection) -> None:
            now_ms = self._file.now_ms()
            connection.executemany(
                SQL["add_dead_letter"],
                [
                    {
                        "id": self._file.next_id(connection),
                        "topic": letter.position.topic,
                        "partition": letter.position.partition,
                        "offset": letter.position.offset,
                        "key": None if letter.key is None else letter.key.encode("utf-8", "surrogatepass"),
                        "value": letter.value,
                        "headers": json.dumps({k: b64encode(v).decode() for k, v in letter.headers.items()}),
                        "error": legible(letter.error),
                        "created_at": now_ms if letter.created_at is None else to_ms(letter.created_at),
                    }
                    for letter in letters
                ],
            )

        await self._file.write(transaction)

    async def page(self, limit: int, before_id: int | None) -> Sequence[DeadLetter]:
        values = {
            "limit": clamped(limit),
            # nothing has the greatest integer as its id
            "before_id": MAX_INTEGER if before_id is None else clamped(before_id),
        }
        return await self._file.read(
            lambda connection: [_letter(row) for row in connection.execute(SQL["dead_letters"], values)]
        )

    async def get(self, id: int) -> DeadLetter | None:
        def transaction(connection: sqlite3.Connection) -> DeadLetter | None:
            row = connection.execute(SQL["dead_letter"], {"id": clamped(id)}).fetchone()
            return _letter(row) if row else None

        return await self._file.read(transaction)

    async def set_error(self, id: int, error: str) -> bool:
        values = {"id": clamped(id), "error": legible(error)}
        return await self._file.write(
            lambda connection: connection.execute(SQL["set_dead_letter_error"], values).rowcount > 0
        )

    async def remove(self, id: int) -> bool:
        return await self._file.write(
            lambda connection: connection.execute(SQL["remove_dead_letter"], {"id": clamped(id)}).rowcount > 0
        )


def _letter(row: Row) -> DeadLetter:
    headers = json.loads(row["headers"])
    return DeadLetter(
        id=row["id"],
        position=Position(row["topic"], row["partition"], row["offset"]),
        key=None if row["key"] is None else row["key"].decode("utf-8", "surrogatepass"),
        value=row["value"],
        headers={name: b64decode(value) for name, value in headers.items()},
        error=row["error"],
        created_at=from_ms(row["created_at"]),
    )

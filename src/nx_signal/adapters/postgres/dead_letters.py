"""The records that could not be handled. Keys, errors and header names may be hostile texts."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence

import asyncpg

from nx_signal.adapters._values import legible
from nx_signal.adapters.postgres.faults import IdTaken
from nx_signal.adapters.postgres.lease import WorkerLease
from nx_signal.adapters.postgres.session import Connection, Session
from nx_signal.adapters.postgres.values import MAX_BIGINT, bounded, to_ms
from nx_signal.model import DeadLetter, Position
from nx_signal.ports import Now
from nx_signal.sql import queries

_SQL = queries("postgres")


class PostgresDeadLetters:
    """ports.DeadLetters."""

    def __init__(self, session: Session, lease: WorkerLease, now: Now) -> None:
        self._session = session
        self._lease = lease
        self._now = now

    async def add(self, letters: Sequence[DeadLetter]) -> None:
        if not letters:
            return
        try:
            await self._session.call(self._aio_add, letters)
        except IdTaken:
            self._lease.lose()
            await self._session.call(self._aio_add, letters)

    async def _aio_add(self, connection: Connection, letters: Sequence[DeadLetter]) -> None:
        await self._lease._aio_hold()
        stamp = to_ms(self._now())
        await connection.execute(
            _SQL["add_letters"],
            self._lease.take(len(letters)),
            [letter.position.topic for letter in letters],
            [letter.position.partition for letter in letters],
            [letter.position.offset for letter in letters],
            [None if letter.key is None else _key_bytes(letter.key) for letter in letters],
            [letter.value for letter in letters],
            [_headers(letter.headers) for letter in letters],
            [legible(letter.error) for letter in letters],
            [stamp if letter.created_at is None else to_ms(letter.created_at) for letter in letters],
        )

    async def page(self, limit: int, before_id: int | None) -> Sequence[DeadLetter]:
        return await self._session.call(_aio_page, limit, MAX_BIGINT if before_id is None else before_id)

    async def get(self, id: int) -> DeadLetter | None:
        return await self._session.call(_aio_get, id)

    async def set_error(self, id: int, error: str) -> bool:
        return await self._session.call(_aio_set_error, id, legible(error))

    async def remove(self, id: int) -> bool:
        return await self._session.call(_aio_remove, id)


async def _aio_page(connection: Connection, limit: int, before_id: int) -> list[DeadLetter]:
    rows = await connection.fetch(_SQL["page_letters"], bounded(before_id), limit)
    return [_letter(row) for row in rows]


async def _aio_get(connection: Connection, id: int) -> DeadLetter | None:
    row = await connection.fetchrow(_SQL["get_letter"], bounded(id))
    return None if row is None else _letter(row)


async def _aio_set_error(connection: Connection, id: int, error: str) -> bool:
    return await connection.fetchval(_SQL["set_letter_error"], bounded(id), error) is not None


async def _aio_remove(connection: Connection, id: int) -> bool:
    return await connection.fetchval(_SQL["remove_letter"], bounded(id)) is not None


def _letter(row: asyncpg.Record) -> DeadLetter:
    id, topic, partition, offset, key, value, headers, error, created_at = row
    return DeadLetter(
        id=id,
        position=Position(topic, partition, offset),
        key=None if key is None else key.decode("utf-8", "surrogatepass"),
        value=value,
        headers={name: b64decode(value) for name, value in json.loads(headers).items()},
        error=error,
        created_at=created_at,
    )


def _key_bytes(key: str) -> bytes:
    return key.encode("utf-8", "surrogatepass")


def _headers(headers: Mapping[str, bytes]) -> str:
    return json.dumps({name: b64encode(value).decode() for name, value in headers.items()})

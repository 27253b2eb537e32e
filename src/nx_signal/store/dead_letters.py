"""Records that could not be handled. Keys, errors and header names may be hostile texts: `key` and the
names in `headers` are kept exactly (UTF-8 with surrogates, and JSON escapes), `error` as far as a text can
hold it."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Sequence
from datetime import datetime
from hashlib import blake2b

from nx_signal.model import DeadLetter, Position
from nx_signal.model.text import escaped
from nx_signal.model.timestamps import to_milliseconds
from nx_signal.store.driver import Driver, Row, Tx
from nx_signal.store.maintenance import LOCK_NAMESPACE
from nx_signal.store.rows import MAX_INTEGER
from nx_signal.store.snowflake import first_id_at


class DeadLetters:
    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    async def add(self, letters: Sequence[DeadLetter]) -> None:
        """Idempotent by position and value: the first error stays. Another value at the same position, of a
        topic that was made anew, is kept under the topic's name with a digest of the value."""
        if letters:
            await self._driver.write(_add, letters, takes_ids=True)

    async def page(self, limit: int, before_id: int | None) -> Sequence[DeadLetter]:
        """Newest first."""
        return await self._driver.read_one(_page, limit, MAX_INTEGER if before_id is None else before_id)

    async def get(self, id: int) -> DeadLetter | None:
        return await self._driver.read_one(_get, id)

    async def set_error(self, id: int, error: str) -> bool:
        """It failed again, for this reason. Whether there was one."""
        return await self._driver.write(_set_error, id, escaped(error))

    async def remove(self, id: int) -> bool:
        """Whether there was one."""
        return await self._driver.write(_remove, id)

    async def excess(self, before: datetime | None, most: int, most_bytes: int) -> int | None:
        """The newest letter that is to go with all older ones, so that those that stay were added since
        `before`, are `most`, and take `most_bytes`; None where all may stay."""
        return await self._driver.read(_excess, before, most, most_bytes)

    async def remove_up_to(self, id: int, limit: int) -> int:
        """Remove up to `limit` of the letters up to this one, the oldest first; how many. 0 as well while
        another instance is at it."""
        return await self._driver.write(_remove_up_to, id, limit)


async def _add(tx: Tx, letters: Sequence[DeadLetter]) -> None:
    now, ids = tx.now(), tx.ids(len(letters))
    await tx.many(
        "add_letter",
        [
            {
                "id": id,
                "topic": letter.position.topic + _member(letter.position),
                "other_topic": f"{letter.position.topic}@{blake2b(letter.value, digest_size=8).hexdigest()}"
                + _member(letter.position),
                "partition": letter.position.partition,
                "offset": letter.position.offset,
                "key": None if letter.key is None else letter.key.encode("utf-8", "surrogatepass"),
                "value": letter.value,
                "headers": json.dumps({k: b64encode(v).decode() for k, v in letter.headers.items()}),
                "error": escaped(letter.error),
                "created_at": now if letter.created_at is None else to_milliseconds(letter.created_at),
            }
            for id, letter in zip(ids, letters, strict=True)
        ],
    )


async def _page(tx: Tx, limit: int, before_id: int) -> list[DeadLetter]:
    return [_letter(row) for row in await tx.all("letters", limit=limit, before_id=before_id)]


async def _get(tx: Tx, id: int) -> DeadLetter | None:
    row = await tx.one("letter", id=id)
    return None if row is None else _letter(row)


async def _set_error(tx: Tx, id: int, error: str) -> bool:
    return await tx.run("set_letter_error", id=id, error=error) > 0


async def _remove(tx: Tx, id: int) -> bool:
    return await tx.run("remove_letter", id=id) > 0


async def _excess(tx: Tx, before: datetime | None, most: int, most_bytes: int) -> int | None:
    too_many = await tx.one("letter_beyond", most=most)
    too_large = await tx.one("letter_beyond_bytes", most=most, most_bytes=most_bytes)
    found = [row["id"] for row in (too_many, too_large) if row is not None]
    if (
        before is not None
        and (oldest := await tx.one("oldest_letter"))
        and oldest["id"] < first_id_at(before)
    ):
        found.append(first_id_at(before) - 1)
    return max(found, default=None)


async def _remove_up_to(tx: Tx, id: int, limit: int) -> int:
    alone = await tx.one("expire_alone", namespace=LOCK_NAMESPACE)
    if alone is None or not alone["alone"]:
        return 0
    return await tx.run("remove_letters", id=id, limit=limit)


def _letter(row: Row) -> DeadLetter:
    return DeadLetter(
        id=row["id"],
        position=_position(row["topic"], row["partition"], row["offset"]),
        key=None if row["key"] is None else row["key"].decode("utf-8", "surrogatepass"),
        value=row["value"],
        headers={name: b64decode(value) for name, value in json.loads(row["headers"]).items()},
        error=row["error"],
        created_at=row["created_at"],
    )


_MEMBER = "#"
"""After a topic, whose name has none, and before the index of a member of a batch: each is a letter of its
own."""


def _member(position: Position) -> str:
    return "" if position.member is None else f"{_MEMBER}{position.member}"


def _position(topic: str, partition: int, offset: int) -> Position:
    name, mark, member = topic.rpartition(_MEMBER)
    return Position(name, partition, offset, int(member)) if mark else Position(topic, partition, offset)

"""A big table for the inbox benchmark, written straight into the tables: consistent rows, heads and log.

Every tenth row is the big user's, the others' take turns, as real ones are interleaved. The older half of
each inbox was read by one read-all, its last revision."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import asyncpg

from nx_signal.model.timestamps import epoch_ms
from nx_signal.store.snowflake import EPOCH, PREFERRED_WORKER, Snowflakes, first_id_at

USERS = 1_000
BIG = "u0"
BIG_EVERY = 10
TYPES = ("PAYMENT_SUCCESS", "ORDER_COMPLETED", "ORDER_CREATED", "INQUIRY_SUBMITTED", "PAYMENT_FAILED")
CONTENT = "Payment of **1,250,000 ₫** received for order 42 at the counter, from Mai."
HTML = "<p>Payment of <strong>1,250,000 ₫</strong> received for order 42 at the counter, from Mai.</p>"
DATA = json.dumps({"payment": {"subject": "Order 42", "amount": 1_250_000, "currency": "VND"}})
APART = timedelta(seconds=10)
PORTION = 20_000

ROW = [
    "id",
    "recipient_id",
    "rev",
    "changed_rev",
    "activity_id",
    "type",
    "organizer_id",
    "merchant_id",
    "subject",
    "locale",
    "content",
    "content_html",
    "data",
    "is_read",
    "read_at",
    "created_at",
    "modified_at",
]
HEAD = ["recipient_id", "rev", "total", "unread"]
CHANGE = ["recipient_id", "rev", "kind", "detail", "unread", "total"]

Tables = Iterator[tuple[str, list[str], Iterator[tuple[Any, ...]]]]


def users() -> list[str]:
    return [BIG, *(f"u{n}" for n in range(1, USERS))]


def owner(n: int) -> tuple[str, int]:
    """The recipient of the n-th row, and its revision."""
    if n % BIG_EVERY == 0:
        return BIG, n // BIG_EVERY + 1
    turn = n - n // BIG_EVERY - 1
    return f"u{1 + turn % (USERS - 1)}", turn // (USERS - 1) + 1


def type_of(n: int) -> str:
    return TYPES[n // BIG_EVERY % len(TYPES)]


def id_of(n: int) -> str:
    """The n-th row's, as `tables` gives it."""
    return str(first_id_at(EPOCH + APART * (n + 1)) | PREFERRED_WORKER << 12)


def tables(rows: int) -> Tables:
    """(table, columns, rows) of each."""
    totals: dict[str, int] = dict.fromkeys(users(), 0)
    for n in range(rows):
        who, rev = owner(n)
        totals[who] = rev
    of_type: Counter[tuple[str, str]] = Counter()
    unread_of_type: Counter[tuple[str, str]] = Counter()
    for n in range(rows):
        who, rev = owner(n)
        of_type[who, type_of(n)] += 1
        unread_of_type[who, type_of(n)] += rev > totals[who] // 2
    read_at = EPOCH + APART * (rows + 1)
    clock = EPOCH
    ids = Snowflakes(PREFERRED_WORKER, lambda: clock)

    def notifications() -> Iterator[tuple[Any, ...]]:
        nonlocal clock
        for n in range(rows):
            who, rev = owner(n)
            clock += APART
            read = rev <= totals[who] // 2
            yield (
                ids.next(),
                who,
                rev,
                totals[who] + 1 if read else rev,
                f"activity-{n}",
                type_of(n),
                f"o{n % 7}",
                f"m{n % 70}",
                f"order/{rev // 4}",
                "en",
                CONTENT,
                HTML,
                DATA,
                read,
                read_at if read else None,
                clock,
                read_at if read else clock,
            )

    filled = [(who, total) for who, total in totals.items() if total]
    detail = {"ids": None, "type": None, "subject": None, "origin": None}
    yield "activity_notification", ROW, notifications()
    yield "recipient_head", HEAD, ((who, n + 1, n, n - n // 2) for who, n in filled)
    yield (
        "recipient_type",
        ["recipient_id", "type", "total", "unread"],
        ((*key, many, unread_of_type[key]) for key, many in of_type.items()),
    )
    yield (
        "recipient_change",
        CHANGE,
        (
            (who, n + 1, "read", json.dumps(detail | {"upToRev": n // 2, "readAt": None}), n - n // 2, n)
            for who, n in filled
        ),
    )


def fill_postgres(url: str, rows: int) -> None:
    """Into an empty, migrated database."""

    async def fill() -> None:
        connection = await asyncpg.connect(url)
        try:
            for table, columns, records in tables(rows):
                while portion := list(islice(records, PORTION)):
                    await connection.copy_records_to_table(table, records=portion, columns=columns)
            await connection.execute("VACUUM ANALYZE")
        finally:
            await connection.close()

    asyncio.run(fill())


def fill_sqlite(path: Path, rows: int) -> None:
    """Into an empty, migrated file."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("PRAGMA cache_size = -200000")
        connection.execute("BEGIN")
        for table, columns, records in tables(rows):
            statement = f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"  # noqa: S608
            connection.executemany(statement, (_plain(record) for record in records))
        connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _plain(record: Sequence[Any]) -> list[Any]:
    """Times in milliseconds, as the embedded store keeps them."""
    return [epoch_ms(value) if isinstance(value, datetime) else value for value in record]

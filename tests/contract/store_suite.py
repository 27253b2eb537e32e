"""What the tests of the stores share: a clock to set, and data to write."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any, TypeAlias
from unittest.mock import ANY
from uuid import uuid4

from nx_signal.model import Change, Created, DeadLetter, Draft, Notification, Position
from nx_signal.store import Database, InboxStore

_serial = count(1)

OpenDatabase: TypeAlias = Callable[[], AbstractAsyncContextManager[Database]]
Sql: TypeAlias = Callable[[str], None]
"""Runs a statement past the store, as no call of it does."""


SOME: Any = ANY
"""A `history`: whichever it is."""


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.time = datetime(2026, 3, 1, 12, 0, 0, 250_000, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.time

    def tick(self, ms: int = 1) -> datetime:
        self.time += timedelta(milliseconds=ms)
        return self.time


def unique(prefix: str) -> str:
    """An id that no other test uses: the tests of a module share one database server."""
    return f"{prefix}-{uuid4()}"


def a_draft(recipient_id: str, **changes: Any) -> Draft:
    values: dict[str, Any] = {
        "recipient_id": recipient_id,
        "activity_id": f"activity-{next(_serial)}",
        "type": "PAYMENT_SUCCESS",
        "organizer_id": "o1",
        "merchant_id": "m1",
        "subject": "order/1",
        "locale": "en",
        "content": "Payment of **10** received",
        "content_html": "<p>Payment of <strong>10</strong> received</p>",
        "action_url": "/payments/1",
        "data": {"payment": {"amount": 10, "currency": "VND"}},
    }
    return Draft(**(values | changes))


async def written(inbox: InboxStore, recipient_id: str, n: int = 1, **changes: Any) -> list[Notification]:
    """`n` new rows, oldest first."""
    made = await inbox.insert([a_draft(recipient_id, **changes) for _ in range(n)])
    return [row_of(change) for change in made]


def row_of(change: Change) -> Notification:
    assert isinstance(change, Created)
    return change.notification


def a_letter(offset: int, topic: str, **changes: Any) -> DeadLetter:
    values: dict[str, Any] = {
        "id": 0,
        "position": Position(topic, 3, offset),
        "key": "key",
        "value": b"not json",
        "headers": {"ce_id": b"\x00\xff"},
        "error": "The message is not JSON.",
    }
    return DeadLetter(**(values | changes))

"""A running pipeline on memory adapters, for tests: batches go in, the effects are inspected."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import trio
from trio.testing import wait_all_tasks_blocked

from nx_signal.activities.cloud_events import NO_TYPES
from nx_signal.activities.compose import compose_activities
from nx_signal.activities.content import Renderer
from nx_signal.activities.explain import Explain
from nx_signal.activities.limits import NOTIFICATION_BYTES
from nx_signal.activities.pipeline import Pipeline
from nx_signal.activities.registry import Registry
from nx_signal.adapters.sqlite.memory import MemoryDatabase
from nx_signal.delivery.sessions import LiveSessions
from nx_signal.model import (
    Activity,
    Change,
    DeadLetter,
    InboxFilter,
    Member,
    Organizer,
    Position,
    Record,
    Roster,
    Rule,
)
from nx_signal.ports import Batch
from nx_signal.telemetry.health import Health
from nx_signal.telemetry.metrics import Metrics

REGISTRY = Registry.shipped()
RENDERER = Renderer(REGISTRY, "UTC")
ROSTER = Roster(
    organizers=[Organizer("o1", "vi", ("m1", "m2")), Organizer("o2", None, ("x1",))],
    members=[
        Member("owner", "o1", None, "owner", "en"),
        Member("ann", "o1", "m1", "staff", "en"),
        Member("binh", "o1", "m1", "staff", None),
        Member("binh", "o1", "m2", "staff", None),
        Member("xavier", "o2", "x1", "staff", None),
    ],
    grants=[],
)


def now() -> datetime:
    return datetime(2026, 1, 1, tzinfo=UTC)


def message(**changes: Any) -> dict[str, Any]:
    return {
        "eventType": "PAYMENT_SUCCESS",
        "recipientScope": "org",
        "actorId": "actor",
        "actor": {"id": "actor", "name": "Mai", "type": "USER"},
        "organizerId": "o1",
        "data": {"payment": {"subject": "Order 42", "amount": 1250000, "currency": "VND"}},
        "occurredAt": "2026-01-01T10:00:00Z",
        **changes,
    }


def record(value: Any, offset: int = 0, partition: int = 0, topic: str = "t") -> Record:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return Record(Position(topic, partition, offset), None, raw)


class Line:
    """One running pipeline: batches go in, the effects are inspected."""

    def __init__(
        self,
        database: MemoryDatabase,
        owner: str = "p1",
        notification_bytes: int = NOTIFICATION_BYTES,
        types: Mapping[str, str] = NO_TYPES,
    ) -> None:
        self.database = database
        self.metrics = Metrics()
        self.health = Health(("store",), self.metrics)
        self.acked: list[tuple[int, int]] = []
        self.announced: list[Change] = []
        self.pushed: list[tuple[str, str | None, Rule]] = []
        self.send, self.receive = trio.open_memory_channel[Batch](2)
        self.processor = compose_activities(
            registry=REGISTRY,
            renderer=RENDERER,
            database=database,
            announce=self.announced.extend,
            metrics=self.metrics,
            now=now,
            push_to_members=self.push_to_members,
            notification_bytes=notification_bytes,
            types=types,
        ).processor
        self.pipeline = Pipeline(self.processor, database, owner, self.health, self.metrics)

    async def push_to_members(self, activity: Activity, rule: Rule) -> None:
        await trio.lowlevel.checkpoint()
        self.pushed.append((activity.organizer_id, activity.merchant_id, rule))

    async def give(self, *records: Record, origin: str = "") -> None:
        last = records[-1].position
        await self.send.send(Batch(records, lambda: self.acked.append((last.partition, last.offset)), origin))

    async def process(self, *values: Any) -> None:
        await self.give(*(record(value, n) for n, value in enumerate(values)))
        await wait_all_tasks_blocked()

    async def inbox(self, user: str) -> Sequence[Any]:
        return (await self.database.inbox.page(user, InboxFilter(), 100, None, 0)).rows

    async def recipients(self) -> set[str]:
        users = ("owner", "ann", "binh", "xavier", "actor", "zoe")
        return {user for user in users if await self.inbox(user)}

    async def dead_letters(self) -> Sequence[DeadLetter]:
        return await self.database.dead_letters.page(100, None)

    def count(self, outcome: str) -> float:
        value: float = self.metrics.activities.labels(outcome)._value.get()
        return value


@asynccontextmanager
async def running(
    database: MemoryDatabase | None = None,
    owner: str = "p1",
    notification_bytes: int = NOTIFICATION_BYTES,
    types: Mapping[str, str] = NO_TYPES,
) -> AsyncIterator[Line]:
    """Of a process named `owner`, which is killed at the end; without a database on one of its own."""
    if database is None:
        database = MemoryDatabase(now)
        await database.directory.load(ROSTER)
    line = Line(database, owner, notification_bytes, types)
    async with trio.open_nursery() as nursery:
        await nursery.start(line.pipeline.run, line.receive)
        yield line
        nursery.cancel_scope.cancel()


async def _nobody(user_ids: Any) -> LiveSessions:
    await trio.lowlevel.checkpoint()
    return LiveSessions((), ())


def explain_of(line: Line) -> Explain:
    database = line.database
    return Explain(database.inbox, database.traces, database.corrections, database.directory, _nobody)

"""Load while a fault lasts, and its history: what was produced, the rows, what each client received.

Each fault has an organizer and users of its own; each of its users has a client of each transport on
every instance."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import trio
from aiokafka import AIOKafkaProducer

from faults.stage import Stage
from services import psql
from serving import PATIENCE_S, Deployment, EventReader, PollReader, Reader

RATE_PER_S = 100
BEFORE_S = 1.5
AFTER_S = 1.0
"""The load goes on for this long before and after the outage."""

SWEEP_S = 10.0
"""The default: the longest that a lost announcement stays unnoticed."""
RECOVERED_WITHIN_S = SWEEP_S + 10.0
"""A sweep, and the longest pauses between two attempts to reach a service; measured times are printed."""

LEFT_OPEN = """
    SELECT count(*) FROM pg_stat_activity
    WHERE application_name = 'nx-signal' AND xact_start < now() - interval '10 s'
"""
"""Transactions without an end."""


def roster(names: Sequence[str]) -> str:
    """For each fault an organizer with four members, two of them in its merchant."""
    organizers = [{"id": f"o-{name}", "locale": "vi", "merchants": [f"m-{name}"]} for name in names]
    members = [
        {"userId": user, "organizerId": f"o-{name}", "merchantId": merchant, "role": "staff", "locale": "en"}
        for name in names
        for user, merchant in zip(users_of(name), (f"m-{name}", f"m-{name}", None, None), strict=True)
    ]
    return json.dumps({"organizers": organizers, "members": members})


def users_of(name: str) -> list[str]:
    return [f"{name}-{n}" for n in range(4)]


@dataclass
class Load:
    """Activities produced at a steady rate, and the recipients of each. `produced_s[n]` is the moment at
    which Kafka had the n-th."""

    name: str
    expected: set[tuple[str, str]] = field(default_factory=set)
    produced_s: list[float] = field(default_factory=list)
    done: trio.Event = field(default_factory=trio.Event)
    _over: bool = False

    def message(self, n: int) -> bytes:
        users, name = users_of(self.name), self.name
        cases: list[tuple[dict[str, object], Sequence[str]]] = [
            ({"recipientScope": "org"}, users),
            ({"recipientScope": "merchant", "merchantId": f"m-{name}"}, users[:2]),
            ({"recipientScope": "users", "recipientIds": [users[0], users[3]]}, [users[0], users[3]]),
        ]
        scope, recipients = cases[n % len(cases)]
        self.expected |= {(f"{name}-{n}", user) for user in recipients}
        activity = {
            "eventType": "PAYMENT_SUCCESS",
            "eventId": f"{name}-{n}",
            "actorId": "actor",
            "actor": {"id": "actor", "name": "Mai", "type": "USER"},
            "organizerId": f"o-{name}",
            "data": {"payment": {"subject": f"{name}-{n}", "amount": 1000 + n, "currency": "VND"}},
            "occurredAt": "2026-01-01T10:00:00Z",
            **scope,
        }
        return json.dumps(activity).encode()

    def end(self) -> None:
        self._over = True

    async def run(self, deployment: Deployment) -> None:
        await trio.to_thread.run_sync(partial(asyncio.run, self._produce(deployment)))
        self.done.set()

    async def _produce(self, deployment: Deployment) -> None:
        """An ordinary producer, on asyncio and in a thread of its own."""
        async with AIOKafkaProducer(
            bootstrap_servers=deployment.servers, enable_idempotence=False
        ) as producer:
            began = time.monotonic()
            while not self._over:
                n = len(self.produced_s)
                await producer.send_and_wait(deployment.topic, self.message(n), key=b"k%d" % n)
                self.produced_s.append(time.monotonic())
                await asyncio.sleep(max(0.0, began + (n + 1) / RATE_PER_S - time.monotonic()))


Fault = Callable[[Stage, Load], None]
"""Returns once the service is back."""


async def check_under_load(
    stage: Stage,
    name: str,
    fault: Fault,
    within_s: float = RECOVERED_WITHIN_S,
) -> str:
    """Every activity has one row per recipient, each client received every revision once and in order and was
    not disconnected, and counts equal the rows. A line of figures."""
    load, deployment = Load(name), stage.deployment
    readers = [
        kind(user, stage.token(user), instance)
        for user in users_of(name)
        for instance in stage.instances
        for kind in (Reader, EventReader, PollReader)
    ]
    async with trio.open_nursery() as nursery:
        for reader in readers:
            nursery.start_soon(reader.run)
        for reader in readers:
            await reader.connected.wait()
        nursery.start_soon(load.run, deployment)
        try:
            await trio.sleep(BEFORE_S)
            await trio.to_thread.run_sync(fault, stage, load)
            back_s = time.monotonic()
            await trio.sleep(AFTER_S)
        finally:
            load.end()
        await everything_arrived(load, readers)
        nursery.cancel_scope.cancel()
    rows = await trio.to_thread.run_sync(rows_of, stage.database_url, name)
    missing = sorted(load.expected.difference(rows))
    assert not missing, f"{len(missing)} of {len(load.expected)} rows are missing: {missing[:5]}"
    assert len(rows) == len(set(rows)) == len(load.expected)
    counts = Counter(user for _, user in load.expected)
    for reader in readers:
        mine = {activity for activity, user in load.expected if user == reader.user}
        assert reader.revs == list(range(1, len(mine) + 1)), f"{reader} received {runs_of(reader.revs)}"
        assert set(reader.activities) == mine
        assert reader.connections == 1, "a client was disconnected"
    heads = await trio.to_thread.run_sync(heads_of, stage.database_url, name)
    assert heads == {user: (count, count, count) for user, count in counts.items()}
    await trio.to_thread.run_sync(deployment.run, "audit")
    for instance in stage.instances:
        await trio.to_thread.run_sync(instance.wait_ready)
    assert await trio.to_thread.run_sync(psql, stage.database_url, LEFT_OPEN) == "0"
    recovered_s = recovery_s(load, readers, back_s)
    assert recovered_s < within_s
    return (
        f"{name}: {len(load.produced_s)} activities, {len(rows)} rows, {len(readers)} clients; "
        f"recovered {recovered_s:.1f} s after the return"
    )


def runs_of(revs: Sequence[int]) -> str:
    """`1-7, 9-12`: as they arrived."""
    runs: list[list[int]] = []
    for rev in revs:
        if runs and rev == runs[-1][1] + 1:
            runs[-1][1] = rev
        else:
            runs.append([rev, rev])
    return ", ".join(f"{first}-{last}" for first, last in runs)


async def everything_arrived(load: Load, readers: list[Reader]) -> None:
    """Waits until each reader has as many changes as it should; the caller compares which."""
    await load.done.wait()
    counts = Counter(user for _, user in load.expected)
    with trio.move_on_after(PATIENCE_S):  # of all together
        for reader in readers:
            await reader.wait_for(counts[reader.user])


def recovery_s(load: Load, readers: list[Reader], back_s: float) -> float:
    """From the return until the last client had all that was produced before it."""
    before = {f"{load.name}-{n}" for n, produced_s in enumerate(load.produced_s) if produced_s < back_s}
    arrivals = (
        arrived_s
        for reader in readers
        for activity, arrived_s in zip(reader.activities, reader.arrived_s, strict=True)
        if activity in before
    )
    return max(0.0, max(arrivals) - back_s)


def rows_of(url: str, name: str) -> list[tuple[str, str]]:
    """(activity, recipient) of every row of this test."""
    found = psql(
        url,
        "SELECT activity_id || '|' || recipient_id FROM activity_notification "  # noqa: S608
        f"WHERE organizer_id = 'o-{name}'",
    )
    return [(activity, user) for activity, _, user in (line.partition("|") for line in found.splitlines())]


def heads_of(url: str, name: str) -> dict[str, tuple[int, int, int]]:
    """user → (rev, unread, total)"""
    found = psql(
        url,
        "SELECT recipient_id, rev, unread, total FROM recipient_head "  # noqa: S608
        f"WHERE recipient_id LIKE '{name}-_'",
    )
    lines = (line.split("|") for line in found.splitlines())
    return {user: (int(rev), int(unread), int(total)) for user, rev, unread, total in lines}

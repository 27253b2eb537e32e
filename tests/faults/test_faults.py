"""What happens to the services, under load, is no concern of a client: none of its changes is lost,
doubled or out of order, and its connection holds.

Two instances share PostgreSQL and Redis (both through a proxy) and Kafka; each user has a client on both.
For each fault one line tells how long after the service's return the last client had all that was sent
until then. Each test has an organizer and users of its own."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
import trio
from aiokafka import AIOKafkaProducer
from proxy import Proxy
from stage import Stage

from services import Service, psql
from serving import PATIENCE_S, Deployment, Reader

RATE_PER_S = 100
BEFORE_S = 1.5
AFTER_S = 1.0
"""The load goes on for this long before and after the service was away."""

SWEEP_S = 10.0
"""The default: the longest that a lost announcement stays unnoticed."""
HEALED_WITHIN_S = SWEEP_S + 10.0
"""A sweep, and the longest pauses between two attempts to reach a service; measured times are printed."""
NOTICED = ("redis-stopped", "redis-frozen-long", "redis-cut")
"""The relay's loss is noticed: healing does not wait for a sweep."""


@pytest.fixture(scope="module")
def members(stage: Stage) -> None:
    stage.deployment.run("members", "load", "-", input=json.dumps(roster()))


def roster() -> dict[str, Any]:
    """For each fault an organizer with four members, two of them in its merchant."""
    organizers = [{"id": f"o-{name}", "locale": "vi", "merchants": [f"m-{name}"]} for name in FAULTS]
    members = [
        {"userId": user, "organizerId": f"o-{name}", "merchantId": merchant, "role": "staff", "locale": "en"}
        for name in FAULTS
        for user, merchant in zip(users_of(name), (f"m-{name}", f"m-{name}", None, None), strict=True)
    ]
    return {"organizers": organizers, "members": members}


def users_of(name: str) -> list[str]:
    return [f"{name}-{n}" for n in range(4)]


@dataclass
class Load:
    """Activities produced at a steady rate, and who must have which of them. `produced_s[n]` is the
    moment at which Kafka had the n-th."""

    name: str
    expected: set[tuple[str, str]] = field(default_factory=set)
    produced_s: list[float] = field(default_factory=list)
    done: trio.Event = field(default_factory=trio.Event)
    _over: bool = False

    def message(self, n: int) -> bytes:
        users, name = users_of(self.name), self.name
        scope, recipients = [
            ({"recipientScope": "org"}, users),
            ({"recipientScope": "merchant", "merchantId": f"m-{name}"}, users[:2]),
            ({"recipientScope": "users", "recipientIds": [users[0], users[3]]}, [users[0], users[3]]),
        ][n % 3]
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


# --- the faults: each returns once the service is back ---

Fault = Callable[[Stage, Load], None]


def away(
    service: Callable[[Stage], Service], end: Callable[[Any], None], for_s: float, *, silence: bool = False
) -> Fault:
    """With `silence` the load ends before the service returns: no later change tells of a lost one."""

    def fault(stage: Stage, load: Load) -> None:
        end(service(stage))
        time.sleep(for_s)  # the outage itself
        if silence:
            load.end()
        service(stage).start()

    return fault


def frozen(service: Callable[[Stage], Service], for_s: float, *, silence: bool = False) -> Fault:
    def fault(stage: Stage, load: Load) -> None:
        service(stage).pause()
        time.sleep(for_s)  # the outage itself
        if silence:
            load.end()
        service(stage).resume()

    return fault


def cut(proxy: Callable[[Stage], Proxy], times: int) -> Fault:
    def fault(stage: Stage, load: Load) -> None:
        for _ in range(times):
            time.sleep(0.3)  # some traffic on the connections that are cut
            with_connections(proxy(stage)).cut()

    return fault


def with_connections(proxy: Proxy) -> Proxy:
    """Once somebody has come back to it."""
    deadline = time.monotonic() + PATIENCE_S
    while not proxy.connections:
        assert time.monotonic() < deadline, "nobody connects"
        time.sleep(0.05)  # between two looks at what other threads do
    return proxy


FAULTS: dict[str, Fault] = {
    "redis-stopped": away(lambda stage: stage.redis, Service.stop, 3, silence=True),
    "redis-frozen": frozen(lambda stage: stage.redis, 4),
    # longer than its silence goes unnoticed
    "redis-frozen-long": frozen(lambda stage: stage.redis, 13, silence=True),
    "redis-cut": cut(lambda stage: stage.to_redis, 4),
    "postgres-stopped": away(lambda stage: stage.postgres, Service.stop, 3),
    "postgres-killed": away(lambda stage: stage.postgres, Service.kill, 1),
    "postgres-frozen": frozen(lambda stage: stage.postgres, 4),
    "postgres-cut": cut(lambda stage: stage.to_postgres, 4),
    "kafka-frozen": frozen(lambda stage: stage.kafka, 4),
}


@pytest.mark.parametrize("name", FAULTS)
async def test_a_fault_under_load_loses_doubles_and_reorders_nothing(
    stage: Stage, members: None, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    load, deployment = Load(name), stage.deployment
    readers = [
        Reader(user, stage.token(user), instance) for user in users_of(name) for instance in stage.instances
    ]
    async with trio.open_nursery() as nursery:
        for reader in readers:
            nursery.start_soon(reader.run)
        for reader in readers:
            await reader.connected.wait()
        nursery.start_soon(load.run, deployment)
        try:
            await trio.sleep(BEFORE_S)
            await trio.to_thread.run_sync(FAULTS[name], stage, load)
            back_s = time.monotonic()
            await trio.sleep(AFTER_S)
        finally:
            load.end()
        await everything_arrived(load, readers)
        nursery.cancel_scope.cancel()
    rows = await trio.to_thread.run_sync(rows_of, stage.postgres.url, name)
    assert len(rows) == len(set(rows)) == len(load.expected)
    assert set(rows) == load.expected
    for reader in readers:
        mine = {activity for activity, user in load.expected if user == reader.user}
        assert reader.revs == list(range(1, len(mine) + 1)), reader.user
        assert set(reader.activities) == mine
        assert reader.connections == 1, "a client was disconnected"
    healed_s = healing_s(load, readers, back_s)
    with capsys.disabled():
        print(
            f"\n{name}: {len(load.produced_s)} activities, {len(rows)} rows, {len(readers)} clients; "
            f"healed {healed_s:.1f} s after the return",
            end=" ",
        )
    assert healed_s < (SWEEP_S if name in NOTICED else HEALED_WITHIN_S)


async def everything_arrived(load: Load, readers: list[Reader]) -> None:
    """Waits until each reader has as many changes as it should; the caller looks at which."""
    await load.done.wait()
    counts = Counter(user for _, user in load.expected)
    with trio.move_on_after(PATIENCE_S):  # of all together
        for reader in readers:
            await reader.wait_for(counts[reader.user])


def healing_s(load: Load, readers: list[Reader], back_s: float) -> float:
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

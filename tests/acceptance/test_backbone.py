"""The whole path on real services: Kafka in, PostgreSQL rows, Redis between two processes, sealed to clients.

Two `nx-signal serve` processes share a database, a relay, a consumer group and an issuer. Clients receive
what CONTRACT §1 promises: their own revisions, each once, in order, whatever happens to a process."""

from __future__ import annotations

import json
import random
import signal
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from services import Kafka, create_topic, fresh_database, psql
from serving import PATIENCE_S, USERS, Reader, activity, deployed


@pytest.fixture
def database_url(postgres_server: str) -> str:
    """A fresh database for each test."""
    return fresh_database(postgres_server)


async def test_a_killed_instance_loses_doubles_and_reorders_nothing(
    tmp_path: Path, database_url: str, redis_url: str, kafka_broker: Kafka
) -> None:
    messages, expected = [], set()
    for n in range(1_000):
        message, users = activity(n)
        messages.append(json.dumps(message).encode())
        expected |= {(f"e{n}", user) for user in users}
    random.Random(1).shuffle(messages)
    messages += random.Random(2).sample(messages, 50)  # a producer's own retries
    messages.insert(300, b"not json")
    messages.insert(700, json.dumps({"eventType": "COFFEE_SPILLED"}).encode())
    with deployed(tmp_path, database_url, redis_url, kafka_broker.servers, count=2) as deployment:
        victim, other = deployment.instances
        readers = [
            Reader(user, deployment.token(user), instance) for user in USERS for instance in (victim, other)
        ]
        async with trio.open_nursery() as nursery:
            for reader in readers:
                nursery.start_soon(reader.run)
            for reader in readers:
                await reader.connected.wait()
            nursery.start_soon(deployment.produce, messages, 0.02)
            with trio.fail_after(PATIENCE_S):
                while len(await trio.to_thread.run_sync(deployment.rows)) < len(expected) // 3:
                    await trio.sleep(0.02)
            victim.signal(signal.SIGKILL)
            await trio.sleep(1)  # the outage itself: the other instance carries on meanwhile
            victim.start()
            await deployment.wait_rows(expected)
            for reader in readers:
                mine = {a for a, user in expected if user == reader.user}
                await reader.wait_for(len(mine))
                assert reader.revs == list(range(1, len(mine) + 1)), reader.user
                assert set(reader.activities) == {f"Order {a[1:]}" for a in mine}
            dead_letters = psql(database_url, "SELECT convert_from(value, 'UTF8') FROM dead_letter")
            assert dead_letters == "not json"
            nursery.cancel_scope.cancel()
        assert victim.signal(signal.SIGTERM) == 0 and other.signal(signal.SIGTERM) == 0


async def test_a_stop_under_load_exits_0_within_its_budget_and_loses_nothing(
    tmp_path: Path, database_url: str, redis_url: str, kafka_broker: Kafka
) -> None:
    messages, expected = [], set()
    for n in range(600):
        message, users = activity(n)
        messages.append(json.dumps(message).encode())
        expected |= {(f"e{n}", user) for user in users}
    with deployed(tmp_path, database_url, redis_url, kafka_broker.servers, count=2) as deployment:
        leaving, staying = deployment.instances
        readers = [Reader(user, deployment.token(user), leaving) for user in USERS]
        async with trio.open_nursery() as nursery:
            for reader in readers:
                nursery.start_soon(reader.run)
            for reader in readers:
                await reader.connected.wait()
            nursery.start_soon(deployment.produce, messages, 0.02)
            with trio.fail_after(PATIENCE_S):
                while len(await trio.to_thread.run_sync(deployment.rows)) < len(expected) // 3:
                    await trio.sleep(0.02)
            for reader in readers:
                reader.instance = staying
            began = trio.current_time()
            assert await trio.to_thread.run_sync(leaving.signal, signal.SIGTERM) == 0
            assert trio.current_time() - began < 10
            await deployment.wait_rows(expected)
            for reader in readers:
                mine = {a for a, user in expected if user == reader.user}
                await reader.wait_for(len(mine))
                assert reader.revs == list(range(1, len(mine) + 1)), reader.user
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("away", ["postgres", "redis", "kafka"])
async def test_a_part_that_is_unavailable_at_start_is_waited_for(
    tmp_path: Path, own_postgres: Any, own_redis: Any, own_kafka: Any, away: str
) -> None:
    part = {"postgres": own_postgres, "redis": own_redis, "kafka": own_kafka}[away]
    name = {"postgres": "store", "redis": "relay", "kafka": "kafka"}[away]
    with deployed(tmp_path, own_postgres.url, own_redis.url, own_kafka.servers, count=1) as deployment:
        (instance,) = deployment.instances
        assert instance.signal(signal.SIGTERM) == 0
        await trio.to_thread.run_sync(part.stop)
        instance.start()
        with trio.fail_after(PATIENCE_S):
            while True:
                try:
                    answer = await trio.to_thread.run_sync(partial(httpx.get, f"{instance.url}/readyz"))
                except httpx.TransportError:
                    await trio.sleep(0.05)
                    continue
                assert answer.status_code == 503
                if answer.json()["down"].get(name) not in (None, "starting"):
                    break
                await trio.sleep(0.05)
        await trio.to_thread.run_sync(part.start)
        if away == "kafka":  # this broker keeps nothing: the topic has to be made again
            await trio.to_thread.run_sync(create_topic, own_kafka.servers, 4)
        await trio.to_thread.run_sync(instance.wait_ready)

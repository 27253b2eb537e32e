"""Two instances on three nodes of Apache Kafka, under load: whatever happens to a member of the group or to a
broker, each activity has its one row, in the order in which it was sent to its partition."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial

import pytest
import trio
from aiokafka import AIOKafkaProducer

from kafka_admin import KafkaAdmin
from kafka_cluster import KafkaCluster, KafkaNode
from services import Postgres, Redis, ServiceMissing, psql
from serving import PATIENCE_S, Deployment, Instance, deployed

pytestmark = pytest.mark.full

RATE_PER_S = 100
USERS = 8
BEFORE_S, AFTER_S = 1.5, 2.0
"""The load goes on for this long before and after the fault."""
SESSION_S = 1.0
"""Of a member, as serving.deployed sets it."""


@dataclass
class Stage:
    postgres: Postgres
    cluster: KafkaCluster
    deployment: Deployment


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with ExitStack() as stack:
        try:
            cluster = stack.enter_context(KafkaCluster())
        except ServiceMissing as why:
            pytest.skip(str(why))
        postgres = stack.enter_context(Postgres())
        redis = stack.enter_context(Redis())
        data_dir = tmp_path_factory.mktemp("data")
        deployment = stack.enter_context(
            deployed(data_dir, postgres.url, redis.url, cluster.servers, count=2)
        )
        yield Stage(postgres, cluster, deployment)


# --- the faults: each returns once it has passed ---


def member_joins_and_leaves(stage: Stage) -> None:
    another = Instance(stage.deployment.environment)
    another.start()
    another.wait_ready()
    time.sleep(1)  # its share of the load
    assert another.signal(signal.SIGTERM) == 0


def member_is_killed(stage: Stage) -> None:
    instance = stage.deployment.instances[0]
    instance.signal(signal.SIGKILL)
    time.sleep(2 * SESSION_S)  # the other takes over
    instance.start()
    instance.wait_ready()


def member_is_frozen(stage: Stage) -> None:
    """It commits late, as it acks what it had in hand."""
    process = stage.deployment.instances[0].process
    assert process is not None
    process.send_signal(signal.SIGSTOP)
    time.sleep(3 * SESSION_S)  # the other takes over
    process.send_signal(signal.SIGCONT)


def both_members_are_frozen_in_turn(stage: Stage) -> None:
    for instance in stage.deployment.instances:
        assert instance.process is not None
        instance.process.send_signal(signal.SIGSTOP)
        time.sleep(2 * SESSION_S)  # the other takes over
        instance.process.send_signal(signal.SIGCONT)
        time.sleep(SESSION_S / 2)  # its late commit, while the other is still a member


def leader(end: Callable[[KafkaNode], None]) -> Callable[[Stage], None]:
    def fault(stage: Stage) -> None:
        node = stage.cluster.leader(stage.deployment.topic)
        end(node)
        time.sleep(4)  # another leads
        node.resume()
        node.start()

    return fault


def every_broker_restarts(stage: Stage) -> None:
    """One after the other, as in an upgrade."""
    for node in stage.cluster.nodes:
        node.kill()
        node.start()


def all_brokers_restart_at_once(stage: Stage) -> None:
    stage.cluster.each(KafkaNode.kill)
    stage.cluster.each(KafkaNode.start)


FAULTS: dict[str, Callable[[Stage], None]] = {
    "a-member-joins-and-leaves": member_joins_and_leaves,
    "a-member-is-killed": member_is_killed,
    "a-member-is-frozen": member_is_frozen,
    "both-members-are-frozen-in-turn": both_members_are_frozen_in_turn,
    "the-leader-is-killed": leader(KafkaNode.kill),
    "the-leader-is-frozen": leader(KafkaNode.pause),
    "every-broker-restarts": every_broker_restarts,
    "all-brokers-restart-at-once": all_brokers_restart_at_once,
}


@dataclass
class Load:
    """Activities at a steady rate, each to one user, whose id is its key: `sent[user]` in order."""

    name: str
    sent: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    ends: dict[int, int] = field(default_factory=dict)
    """of each partition, the offset after the last one"""
    over: bool = False

    @property
    def count(self) -> int:
        return sum(map(len, self.sent.values()))

    async def run(self, deployment: Deployment) -> None:
        await trio.to_thread.run_sync(partial(asyncio.run, self._produce(deployment)))

    async def _produce(self, deployment: Deployment) -> None:
        async with AIOKafkaProducer(
            bootstrap_servers=deployment.servers.split(","), enable_idempotence=True
        ) as producer:
            n = 0
            while not self.over:
                user = f"{self.name}-{n % USERS}"
                event_id = f"{self.name}-{n}"
                done = await producer.send_and_wait(
                    deployment.topic, activity(event_id, user), key=user.encode()
                )
                self.sent[user].append(event_id)
                self.ends[done.partition] = done.offset + 1
                n += 1
                await asyncio.sleep(1 / RATE_PER_S)


def activity(event_id: str, user: str) -> bytes:
    message = {
        "eventType": "PAYMENT_SUCCESS",
        "eventId": event_id,
        "recipientScope": "users",
        "recipientIds": [user],
        "actorId": "actor",
        "organizerId": "o1",
        "data": {"payment": {"amount": 1}},
        "occurredAt": "2026-01-01T10:00:00Z",
    }
    return json.dumps(message).encode()


@pytest.mark.parametrize("name", FAULTS)
async def test_a_fault_of_the_group_or_the_brokers_loses_doubles_and_reorders_nothing(
    stage: Stage, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    load = Load(name)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(load.run, stage.deployment)
        try:
            await trio.sleep(BEFORE_S)
            await trio.to_thread.run_sync(FAULTS[name], stage)
            await trio.sleep(AFTER_S)
        finally:
            load.over = True
    began = trio.current_time()
    rows = await trio.to_thread.run_sync(wait_for_rows, stage, load)
    took_s = trio.current_time() - began
    with capsys.disabled():
        print(
            f"\n{name}: {sum(map(len, load.sent.values()))} activities; the rows {took_s:.1f} s later",
            end=" ",
        )
    for user, sent in load.sent.items():
        assert [activity_id for _, activity_id in rows[user]] == sent
        assert [rev for rev, _ in rows[user]] == list(range(1, len(sent) + 1))
    await wait_committed(stage, load.ends)


def wait_for_rows(stage: Stage, load: Load) -> dict[str, list[tuple[int, str]]]:
    """(revision, activity) of each user, in order of revisions, once there are enough."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        rows: dict[str, list[tuple[int, str]]] = defaultdict(list)
        found = psql(
            stage.postgres.url,
            "SELECT recipient_id, rev, activity_id FROM activity_notification "  # noqa: S608
            f"WHERE recipient_id LIKE '{load.name}-%' ORDER BY recipient_id, rev",
        )
        for line in found.splitlines():
            user, rev, activity_id = line.split("|")
            rows[user].append((int(rev), activity_id))
        if sum(map(len, rows.values())) >= load.count or time.monotonic() > deadline:
            return rows
        time.sleep(0.1)


async def wait_committed(stage: Stage, ends: dict[int, int]) -> None:
    """Commits go on: the group is at the end of each partition."""
    admin = KafkaAdmin(stage.cluster.nodes[0])
    group, topic = stage.deployment.environment["APP_ENV_KAFKA_GROUP_ID"], stage.deployment.topic
    with trio.fail_after(PATIENCE_S):
        for partition, end in ends.items():
            while await admin.committed(group, topic, partition) != end:
                await trio.sleep(0.1)

"""Faults of the services, under load, do not affect a client: none of its changes is lost, doubled or out of
order, and its connection stays open.

Two instances share PostgreSQL and Redis (both through a proxy) and Kafka; each user has a client on both.
For each fault one line prints how long after the service's return the last client had all that was sent
until then."""

from __future__ import annotations

import pytest

from faults import postgres_outages as postgres
from faults.load import RECOVERED_WITHIN_S, SWEEP_S, Fault, check_under_load, roster
from faults.outages import cut, frozen, service_stopped, stopped
from faults.stage import Stage
from services import Service

NOTICED = ("redis-stopped", "redis-frozen-long", "redis-cut")
"""The relay's loss is noticed: recovery does not wait for a sweep."""


FAULTS: dict[str, Fault] = {
    "redis-stopped": stopped(lambda stage: stage.redis, Service.stop, 3, silence=True),
    "redis-frozen": frozen(lambda stage: stage.redis, 4),
    # longer than the relay's silence timeout
    "redis-frozen-long": frozen(lambda stage: stage.redis, 13, silence=True),
    "redis-cut": cut(lambda stage: stage.to_redis, 4),
    "postgres-stopped": stopped(lambda stage: stage.postgres, Service.stop, 3),
    "postgres-killed": stopped(lambda stage: stage.postgres, Service.kill, 1),
    "postgres-frozen": frozen(lambda stage: stage.postgres, 4),
    "postgres-cut": cut(lambda stage: stage.to_postgres, 4),
    "postgres-frozen-long": frozen(lambda stage: stage.postgres, 20),
    "postgres-restarted-at-once": postgres.restarted_at_once,
    "postgres-backend-killed": postgres.backend_killed,
    "postgres-read-only": postgres.read_only,
    "postgres-database-read-only": postgres.database_read_only,
    "postgres-disk-full": postgres.disk_full,
    "postgres-connections-forgotten": postgres.forgotten,
    "postgres-without-connections": postgres.without_connections,
    "kafka-frozen": frozen(lambda stage: stage.kafka, 4),
    # longer than the bounds of a handshake, of Redis' silence and of Kafka's session
    "service-stopped": service_stopped(15),
}


# Each server stopped, killed or frozen once; similar faults take part in the full run.
QUICK = {"redis-stopped", "redis-cut", "postgres-killed", "postgres-frozen", "kafka-frozen"} | {
    "postgres-without-connections"
}


@pytest.fixture(scope="module")
def members(stage: Stage) -> None:
    stage.deployment.run("members", "load", "-", input=roster(list(FAULTS)))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.full) for name in FAULTS]
)
async def test_a_fault_under_load_loses_doubles_and_reorders_nothing(
    stage: Stage, members: None, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    within_s = SWEEP_S if name in NOTICED else RECOVERED_WITHIN_S
    line = await check_under_load(stage, name, FAULTS[name], within_s)
    with capsys.disabled():
        print(f"\n{line}", end=" ")

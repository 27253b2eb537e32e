"""A record that kills each instance that handles it: the partition passes from one to the next."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import trio

from nx_signal.activities.in_hand import SET_ASIDE
from plugin_kit import install_deadly
from services import psql
from serving import PATIENCE_S, deployed


@pytest.mark.full
async def test_the_third_instance_that_takes_a_deadly_record_over_sets_it_aside(
    tmp_path: Path, postgres_url: str, redis_url: str, kafka_servers: str
) -> None:
    def order(event: str, type: str = "ORDER_COMPLETED") -> bytes:
        users = {"recipientScope": "users", "recipientIds": ["ann"], "organizerId": "o1", "actorId": "a"}
        fields = {"eventType": type, "eventId": event, "data": {}, "occurredAt": "2026-01-01T10:00:00Z"}
        return json.dumps(users | fields).encode()

    site = install_deadly(tmp_path / "site")
    with deployed(tmp_path / "data", postgres_url, redis_url, kafka_servers, 2) as deployment:
        for instance in deployment.instances:
            instance.environment["PYTHONPATH"] = os.pathsep.join([site, os.environ.get("PYTHONPATH", "")])
            assert instance.process
            instance.process.terminate()
            instance.process.wait(PATIENCE_S)
            instance.start()
        for instance in deployment.instances:
            await trio.to_thread.run_sync(instance.wait_ready)
        await deployment.produce([order("before"), order("deadly", "DEADLY"), order("after")])
        for instance in deployment.instances:
            assert instance.process
            assert await trio.to_thread.run_sync(instance.process.wait, PATIENCE_S) == -9
        deployment.instances[0].start()
        await deployment.wait_rows({("before", "ann"), ("after", "ann")})
        with trio.fail_after(PATIENCE_S):
            while psql(postgres_url, "SELECT error FROM dead_letter").strip() != SET_ASIDE:
                await trio.sleep(0.1)

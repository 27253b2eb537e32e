"""A whole instance on Apache Kafka where the topic or the offsets change behind its back, and where producers
send what they really send."""

from __future__ import annotations

import json
import os
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from kafka_admin import KafkaAdmin, produce
from services import ApacheKafka
from serving import COMMAND, PATIENCE_S, Instance

pytestmark = pytest.mark.full


@pytest.fixture
def instance(tmp_path: Path, apache_kafka: ApacheKafka) -> Iterator[Instance]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("APP_ENV_")}
    environment |= {
        "APP_ENV_DATA_DIR": str(tmp_path),
        "APP_ENV_KAFKA_BOOTSTRAP_SERVERS": apache_kafka.servers,
        "APP_ENV_KAFKA_TOPIC": apache_kafka.create_topic(1),
        "APP_ENV_KAFKA_GROUP_ID": f"group-{uuid.uuid4().hex[:8]}",
        "APP_ENV_KAFKA_SESSION_TIMEOUT_MS": "1000",
        "APP_ENV_LAME_DUCK_S": "0",
    }
    found = Instance(environment)
    found.start()
    found.wait_ready()
    yield found
    if found.process and found.process.poll() is None:
        found.process.kill()
        found.process.wait()


def payment(amount: int, **changes: Any) -> dict[str, Any]:
    return {
        "eventType": "PAYMENT_SUCCESS",
        "recipientScope": "users",
        "recipientIds": ["ann"],
        "actorId": "ann",
        "organizerId": "o1",
        "data": {"payment": {"amount": amount}},
        "occurredAt": "2026-01-01T10:00:00Z",
        **changes,
    }


class Shop:
    """Producers and an operator, with the REST of the instance."""

    def __init__(self, instance: Instance, kafka: ApacheKafka) -> None:
        self.instance, self.kafka = instance, kafka
        self.topic = instance.environment["APP_ENV_KAFKA_TOPIC"]
        self.admin = KafkaAdmin(kafka)

    async def send(self, *messages: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        named = [(name, value.encode()) for name, value in (headers or {}).items()]
        values = [{"value": json.dumps(message).encode(), "headers": named} for message in messages]
        await produce(self.kafka, self.topic, values)

    async def get(self, path: str, *permissions: str) -> Any:
        options = ["--user", "ann"]
        for permission in permissions:
            options += ["--permission", permission]
        data_dir = self.instance.environment["APP_ENV_DATA_DIR"]
        command = [*COMMAND, "token", "--data-dir", data_dir, *options]
        token = (await trio.run_process(command, capture_stdout=True)).stdout.decode().strip()
        async with httpx.AsyncClient(headers={"Authorization": f"Bearer {token}"}) as client:
            return (await client.get(self.instance.url + path)).json()

    async def amounts(self, many: int) -> list[int]:
        """Of ann's notifications, oldest first, once there are so many."""
        with trio.fail_after(PATIENCE_S):
            while True:
                page = await self.get("/v1/api/signal/notifications?limit=100")
                if page["total"] >= many:
                    return [each["data"]["payment"]["amount"] for each in reversed(page["data"])]
                await trio.sleep(0.1)

    async def restart(self) -> None:
        self.instance.start()
        await trio.to_thread.run_sync(self.instance.wait_ready)

    def stop(self) -> None:
        assert self.instance.signal(signal.SIGTERM) == 0


@pytest.fixture
def shop(instance: Instance, apache_kafka: ApacheKafka) -> Shop:
    return Shop(instance, apache_kafka)


async def test_records_that_retention_removed_unread_are_counted_and_the_kept_ones_delivered(
    shop: Shop,
) -> None:
    await shop.send(payment(1), payment(2))
    assert await shop.amounts(2) == [1, 2]
    shop.stop()
    await shop.send(*map(payment, range(3, 8)))
    await shop.admin.delete_records(shop.topic, before=5)
    await shop.restart()
    assert await shop.amounts(4) == [1, 2, 6, 7]
    ready = await shop.get("/readyz", "Health.find")
    async with httpx.AsyncClient() as client:
        metrics = (await client.get(f"{shop.instance.url}/metrics")).text
    assert ready["status"] == "ready"
    assert "3 records were removed by its retention unread" in ready["degraded"]["kafka"]
    assert "signal_lost_records_total 3.0" in metrics
    assert 'signal_source_gaps_total{reason="retention"} 1.0' in metrics


@pytest.mark.parametrize("running", [True, False])
async def test_a_topic_made_anew_loses_no_record_though_its_positions_were_used(
    shop: Shop, running: bool
) -> None:
    await shop.send(payment(1), payment(2))
    await shop.amounts(2)
    if not running:
        shop.stop()
    await shop.admin.delete_topic(shop.topic)
    await shop.admin.create_topic(shop.topic)
    await shop.send(payment(11), payment(12), payment(13))
    if not running:
        await shop.restart()
    assert sorted(await shop.amounts(5)) == [1, 2, 11, 12, 13]


async def test_one_id_of_two_sources_is_two_notifications_and_each_is_explained(shop: Shop) -> None:
    await shop.send(payment(1), headers={"ce_id": "42", "ce_source": "/orders"})
    await shop.send(payment(2), headers={"ce_id": "42", "ce_source": "/payments"})
    await shop.send(payment(1), headers={"ce_id": "42", "ce_source": "/orders"})
    await shop.send(payment(3, eventId="42", eventSource="/orders"))
    await shop.send(payment(4))
    assert await shop.amounts(3) == [1, 2, 4]
    path = "/v1/api/signal/activities/42/explain"
    orders, payments, unclear = [
        await shop.get(path + query, "Activity.explain")
        for query in ("?source=/orders", "?source=/payments", "")
    ]
    assert (orders["rows"], payments["rows"], unclear["status"]) == (1, 1, 400)
    assert "other content came at" in orders["trace"]["reason"] and payments["trace"]["reason"] is None


async def test_corrections_in_another_partition_count_whether_they_come_before_their_activity_or_after(
    shop: Shop,
) -> None:
    async def correct(action: str, event_id: str, amount: int | None = None) -> None:
        data = {} if amount is None else {"data": {"payment": {"amount": amount}}}
        value = json.dumps({"action": action, "eventId": event_id, **data}).encode()
        await produce(shop.kafka, shop.topic, [{"value": value, "partition": 1}])

    async def until(amounts: list[int]) -> None:
        with trio.fail_after(PATIENCE_S):
            while await shop.amounts(0) != amounts:
                await trio.sleep(0.1)

    async def until_kept(event_id: str) -> None:
        with trio.fail_after(PATIENCE_S):
            path = f"/v1/api/signal/activities/{event_id}/explain"
            while not (await shop.get(path, "Activity.explain")).get("corrections"):
                await trio.sleep(0.1)

    await shop.admin.add_partitions(shop.topic, 2)
    await correct("update", "e1", 10)
    await correct("retract", "e2")
    await until_kept("e2")
    send = [payment(n, eventId=f"e{n}") for n in (1, 2, 3)]
    await produce(
        shop.kafka, shop.topic, [{"value": json.dumps(each).encode(), "partition": 0} for each in send]
    )
    await until([10, 3])
    await correct("update", "e3", 30)
    await until([10, 30])
    await correct("retract", "e1")
    await until([30])
    await correct("update", "e1", 11)
    await until_kept("e1")
    page = await shop.get("/v1/api/signal/notifications?limit=100")
    assert [each["data"]["payment"]["amount"] for each in page["data"]] == [30]
    shop.stop()

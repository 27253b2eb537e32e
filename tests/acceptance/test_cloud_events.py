"""CloudEvents in every mode, from Kafka and over HTTP, through a whole instance to the inbox and explain."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from kafka_admin import produce
from services import ApacheKafka, Tansu
from serving import COMMAND, PATIENCE_S, Instance, command

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
PERMISSIONS = ("Activity.publish", "Activity.explain", "DeadLetter.find", "DeadLetter.replay")
ROSTER = {
    "organizers": [{"id": "o1", "locale": "en", "merchants": ["m1"]}],
    "members": [
        {"userId": user, "organizerId": "o1", "merchantId": "m1", "role": "staff", "locale": "en"}
        for user in ("ann", "binh")
    ],
}


def event(id: str, amount: int, **changes: Any) -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "id": id,
        "source": "/payments",
        "type": "com.acme.payment.cleared",
        "time": "2026-01-01T10:00:00Z",
        "recipientscope": "merchant",
        "organizerid": "o1",
        "merchantid": "m1",
        "actorid": "binh",
        "data": {"payment": {"amount": amount}},
        **changes,
    }


def binary(event: dict[str, Any], prefix: str) -> tuple[dict[str, str], bytes]:
    headers = {f"{prefix}{name}": str(value) for name, value in event.items() if name != "data"}
    return headers | {"content-type": "application/json"}, json.dumps(event["data"]).encode()


class Deployment:
    def __init__(self, instance: Instance, kafka: Tansu | ApacheKafka) -> None:
        self.instance, self.kafka = instance, kafka
        self.topic = instance.environment["APP_ENV_KAFKA_TOPIC"]

    async def produce(self, *records: tuple[dict[str, str], bytes]) -> None:
        await produce(
            self.kafka,
            self.topic,
            [
                {"value": value, "headers": [(name, text.encode()) for name, text in headers.items()]}
                for headers, value in records
            ],
        )

    async def call(self, method: str, path: str, user: str = "ann", **request: Any) -> Any:
        options = ["--user", user, *(word for each in PERMISSIONS for word in ("--permission", each))]
        data_dir = self.instance.environment["APP_ENV_DATA_DIR"]
        made = await trio.run_process(
            [*COMMAND, "token", "--data-dir", data_dir, *options], capture_stdout=True
        )
        headers = request.pop("headers", {}) | {"Authorization": f"Bearer {made.stdout.decode().strip()}"}
        async with httpx.AsyncClient(headers=headers) as client:
            answer = await client.request(method, f"{self.instance.url}/v1/api/signal{path}", **request)
        assert answer.status_code < 300, answer.text
        return answer.json()

    async def amounts(self, many: int, user: str = "ann") -> list[int]:
        """Of the user's notifications, ascending, once there are so many."""
        with trio.fail_after(PATIENCE_S):
            while True:
                page = await self.call("GET", "/notifications?limit=100", user)
                if page["total"] >= many:
                    return sorted(each["data"]["payment"]["amount"] for each in page["data"])
                await trio.sleep(0.1)  # between two looks at another process


@pytest.fixture
def deployment(tmp_path: Path, kafka_broker: Tansu | ApacheKafka) -> Iterator[Deployment]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("APP_ENV_")}
    environment |= {
        "APP_ENV_DATA_DIR": str(tmp_path),
        "APP_ENV_KAFKA_BOOTSTRAP_SERVERS": kafka_broker.servers,
        "APP_ENV_KAFKA_TOPIC": kafka_broker.create_topic(1),
        "APP_ENV_KAFKA_GROUP_ID": f"group-{uuid.uuid4().hex[:8]}",
        "APP_ENV_KAFKA_FALLBACK_MODE": "earliest",
        "APP_ENV_CLOUDEVENT_TYPES": "com.acme.payment.cleared=PAYMENT_SUCCESS",
        "APP_ENV_LAME_DUCK_S": "0",
    }
    instance = Instance(environment)
    command(environment, "members", "load", "-", input=json.dumps(ROSTER))
    instance.start()
    instance.wait_ready()
    yield Deployment(instance, kafka_broker)
    if instance.process and instance.process.poll() is None:
        instance.process.kill()
        instance.process.wait()


async def test_events_in_every_mode_from_kafka_and_over_http_are_notifications_once(
    deployment: Deployment,
) -> None:
    structured = {"content-type": "application/cloudevents+json; charset=UTF-8"}
    batch = {"content-type": "application/cloudevents-batch+json"}
    headers, payload = binary(event("1", 1), "ce_")
    broken = event("5", 5, specversion="0.3")
    await deployment.produce(
        (headers | {"traceparent": PARENT, "tracestate": "a=1"}, payload),
        (structured, json.dumps(event("2", 2)).encode()),
        ({}, json.dumps(event("3", 3)).encode()),
        (batch, json.dumps([event("4", 4), broken, event("6", 6, excludeactor=True)]).encode()),
        (batch, b"no list"),
    )
    assert await deployment.amounts(5) == [1, 2, 3, 4, 6]
    assert await deployment.amounts(4, "binh") == [1, 2, 3, 4], "the actor is excluded from the sixth"

    over_http, body = binary(event("7", 7), "ce-")
    await deployment.call("POST", "/activities", headers=over_http, content=body)
    await deployment.call("POST", "/activities", headers=structured, content=json.dumps(event("8", 8)))
    await deployment.call(
        "POST", "/activities", headers=batch, content=json.dumps([event("9", 9), event("1", 1)])
    )
    assert await deployment.amounts(8) == [1, 2, 3, 4, 6, 7, 8, 9]

    explained = await deployment.call("GET", "/activities/1/explain?recipientId=ann")
    assert (explained["activityId"], explained["rows"]) == ('["1","/payments"]', 2)
    assert (explained["trace"]["traceparent"], explained["trace"]["tracestate"]) == (PARENT, "a=1")
    actor = await deployment.call("GET", "/activities/6/explain?recipientId=binh")
    assert "it is the actor" in actor["deliveries"][0]["why"]
    letters = (await deployment.call("GET", "/dead-letters"))["data"]
    assert {each["position"]: each["error"] for each in letters} == {
        f"{deployment.topic}/0/3#1": "specversion: this is CloudEvents 0.3; send 1.0.",
        f"{deployment.topic}/0/4": "message: a batch of CloudEvents is a list of at most 1000 events.",
    }


async def test_the_command_publishes_a_file_of_events(deployment: Deployment, tmp_path: Path) -> None:
    file = tmp_path / "events.json"
    file.write_text(json.dumps([event("1", 1), event("2", 2)]))
    server = deployment.instance.url
    sent = command(deployment.instance.environment, "publish", str(file), "--url", server)
    assert sent.split() == ["accepted", "2", "1", "2"]
    file.write_text(json.dumps(event("3", 3)))
    assert command(deployment.instance.environment, "publish", str(file)).split() == ["accepted", "1", "3"]
    assert await deployment.amounts(3) == [1, 2, 3]

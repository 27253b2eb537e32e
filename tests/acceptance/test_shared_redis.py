"""Two deployments on one Redis server: nothing of one reaches the clients of the other but what sister
services send to both. And what an operator learns while Redis is away."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from nx_signal.client.stream import Frame, Stream, open_stream
from nx_signal.delivery.topics import ACTIVITY
from nx_signal.model.wire import CREATED
from services import Redis, fresh_database
from serving import PATIENCE_S, ROSTER, Instance, command

CLIENTS = "/v1/api/signal/socket/websocket/clients"
ROOM = "signal/merchant/m1"


@dataclass
class Site:
    """A deployment: its own store, and instances of it on the common Redis."""

    environment: dict[str, str]
    instances: list[Instance] = field(default_factory=list)
    operator_token: str = ""

    def run(self, *arguments: str, input: str = "") -> str:
        return command(self.environment, *arguments, input=input)

    def start(self) -> Instance:
        instance = Instance(self.environment)
        self.instances.append(instance)
        instance.start()
        instance.wait_ready()
        return instance

    async def call(self, method: str, path: str, body: Any = None, instance: int = 0) -> httpx.Response:
        if not self.operator_token:
            options = ["--user", "op", "--role", "signal-operator"]
            self.operator_token = await trio.to_thread.run_sync(self.run, "token", *options)
        headers = {"Authorization": f"Bearer {self.operator_token}"}
        async with httpx.AsyncClient(base_url=self.instances[instance].url, timeout=30) as rest:
            return await rest.request(method, path, json=body, headers=headers)

    async def publish(self, type: str, subject: str, actor: str = "customer") -> None:
        data = {"payment": {"subject": subject, "amount": 1}, "inquiry": {"subject": subject}}
        message = {
            "eventType": type,
            "recipientScope": "merchant",
            "organizerId": "o1",
            "merchantId": "m1",
            "actorId": actor,
            "data": data,
            "occurredAt": "2026-01-01T10:00:00Z",
            "eventId": subject,
        }
        assert (await self.call("POST", "/v1/api/signal/activities", message)).status_code == 202

    @asynccontextmanager
    async def stream(self, user: str, instance: int = 0) -> AsyncIterator[Stream]:
        token = await trio.to_thread.run_sync(self.run, "token", "--user", user)
        async with open_stream(self.instances[instance].stream_url, token) as stream:
            yield stream


@contextmanager
def site(data_dir: Path, redis_url: str, settings: Mapping[str, str]) -> Iterator[Site]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("APP_ENV_")}
    environment |= {
        "APP_ENV_DATA_DIR": str(data_dir),
        "APP_ENV_REDIS_URL": redis_url,
        "APP_ENV_SWEEP_S": "600",  # what arrives was announced
        "APP_ENV_LOG_LEVEL": "warning",
        "APP_ENV_LAME_DUCK_S": "0",
        **settings,
    }
    made = Site(environment)
    if "APP_ENV_DATABASE_URL" in environment:
        made.run("migrate")
    made.run("members", "load", "-", input=json.dumps(ROSTER))
    try:
        yield made
    finally:
        for instance in made.instances:
            if instance.process and instance.process.poll() is None:
                instance.process.kill()
                instance.process.wait()


@pytest.fixture(params=["sqlite", "postgres"])
def two_sites(
    request: pytest.FixtureRequest, tmp_path: Path, own_redis: Redis
) -> Iterator[tuple[Site, Site]]:
    """Both with the same users; two instances of the first, one of the second."""
    settings: list[dict[str, str]] = [{}, {}]
    if request.param == "postgres":
        server = request.getfixturevalue("postgres_server")
        settings = [{"APP_ENV_DATABASE_URL": fresh_database(server)} for _ in range(2)]
    # Another database's number separates nothing.
    urls = [own_redis.url, own_redis.url.replace("/0", "/1")]
    with (
        site(tmp_path / "production", urls[0], settings[0]) as production,
        site(tmp_path / "staging", urls[1], settings[1]) as staging,
    ):
        for deployment in (production, production, staging):
            deployment.start()
        yield production, staging


async def next_of(stream: Stream, *events: str) -> Frame:
    with trio.fail_after(PATIENCE_S):
        while True:
            frame = await stream.receive()
            if frame.event in events:
                return frame


async def test_two_deployments_on_one_redis_mix_no_inbox_no_activity_and_no_operator_s_answer(
    two_sites: tuple[Site, Site],
) -> None:
    production, staging = two_sites
    async with production.stream("ann", 1) as ours, staging.stream("ann") as theirs:
        for stream in (ours, theirs):
            await stream.send("join", {"rooms": [ROOM]})
        await staging.publish("PAYMENT_SUCCESS", "staging 1")
        await staging.publish("INQUIRY_SUBMITTED", "staging 2", actor="visitor")
        for _ in range(2):
            await next_of(theirs, CREATED)
        await production.publish("PAYMENT_SUCCESS", "production 1")
        await production.publish("INQUIRY_SUBMITTED", "production 2", actor="visitor")
        # Of production's instance 0, at a client of its instance 1: announced, and nothing of staging's.
        frames = [await next_of(ours, CREATED, ACTIVITY) for _ in range(3)]
        assert [frame.data["rev"] for frame in frames if frame.event == CREATED] == [1, 2]
        assert [frame.event for frame in frames].count(ACTIVITY) == 1
        assert "staging" not in json.dumps([frame.data for frame in frames])

        page = (await production.call("GET", CLIENTS)).json()
        assert ([client["id"] for client in page["data"]], page["unanswered"]) == ([ours.client_id], [])
        status = (await production.call("GET", f"{CLIENTS}/status")).json()
        assert (status["instances"], status["unanswered"]) == (2, [])
        # What goes to the channels of sister services is shared, which each states.
        for deployment in two_sites:
            answer = await deployment.call("GET", "/readyz")
            assert answer.status_code == 200
            assert "APP_ENV_REDIS_PREFIX" in answer.json()["degraded"]["relay"]


async def test_with_a_prefix_nothing_at_all_is_shared(tmp_path: Path, own_redis: Redis) -> None:
    with (
        site(tmp_path / "a", own_redis.url, {}) as production,
        site(tmp_path / "b", own_redis.url, {"APP_ENV_REDIS_PREFIX": "staging:"}) as staging,
    ):
        production.start()
        staging.start()
        async with production.stream("ann") as ours, staging.stream("ann") as theirs:
            await staging.call("POST", f"{CLIENTS}/broadcast", {"topic": "t", "data": "staging"})
            await production.call("POST", f"{CLIENTS}/broadcast", {"topic": "t", "data": "production"})
            assert (await next_of(theirs, "t")).data == "staging"
            assert (await next_of(ours, "t")).data == "production"
        for deployment in (production, staging):
            assert (await deployment.call("GET", "/readyz")).json()["degraded"] == {}


async def test_with_redis_away_what_could_not_be_asked_is_named_and_not_known_is_an_answer(
    tmp_path: Path, own_redis: Redis
) -> None:
    with site(tmp_path, own_redis.url, {}) as deployment:
        deployment.start()
        deployment.start()
        async with deployment.stream("ann", 1) as far:
            await deployment.publish("PAYMENT_SUCCESS", "one")
            await next_of(far, CREATED)
            other = (await deployment.call("GET", f"{CLIENTS}/status", instance=1)).json()["serverId"]
            explain = "/v1/api/signal/activities/one/explain?recipientId=ann"
            explained = (await deployment.call("GET", explain)).json()
            assert (explained["deliveries"][0]["delivery"], explained["unanswered"]) == ("delivered", [])
            await trio.to_thread.run_sync(own_redis.stop)
            with trio.fail_after(PATIENCE_S):
                while (await deployment.call("GET", CLIENTS)).json()["unanswered"] != ["*", other]:
                    pass
            explained = (await deployment.call("GET", explain)).json()
            assert explained["deliveries"][0]["delivery"] == "not_known"
            assert explained["unanswered"] == ["*", other]
            assert (await deployment.call("GET", f"{CLIENTS}/{far.client_id}")).status_code == 503
            assert (await deployment.call("POST", f"{CLIENTS}/{far.client_id}/disconnect")).status_code == 503
            sent = await deployment.call("POST", f"{CLIENTS}/broadcast", {"topic": "t"})
            assert (sent.status_code, sent.json()) == (202, {"accepted": True, "unreached": ["*", other]})

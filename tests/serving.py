"""`nx-signal serve` as processes on the real services, and clients that come back, for whole-system tests.

What is produced is known beforehand: `activity(n)` has the recipients of each, `Reader` what arrived."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import trio
from aiokafka import AIOKafkaProducer

from nx_signal.client.events import open_events
from nx_signal.client.rest import RestUnavailable, open_rest
from nx_signal.client.stream import HandshakeRefused, StreamClosed, StreamUnavailable, open_stream
from nx_signal.websocket.channel import VERSION
from services import GUARD, create_topic, free_port, psql

PATIENCE_S = 60.0
COMMAND = [sys.executable, "-m", "nx_signal"]
LOG = {"created", "read", "deleted", "updated"}

ROSTER = {
    "organizers": [
        {"id": "o1", "locale": "vi", "merchants": ["m1", "m2"]},
        {"id": "o2", "locale": None, "merchants": ["x1"]},
    ],
    "members": [
        {"userId": "owner", "organizerId": "o1", "merchantId": None, "role": "owner", "locale": "en"},
        {"userId": "ann", "organizerId": "o1", "merchantId": "m1", "role": "staff", "locale": "en"},
        {"userId": "binh", "organizerId": "o1", "merchantId": "m1", "role": "staff", "locale": None},
        {"userId": "binh", "organizerId": "o1", "merchantId": "m2", "role": "staff", "locale": None},
        {"userId": "chi", "organizerId": "o1", "merchantId": "m2", "role": "staff", "locale": "vi"},
        {"userId": "xavier", "organizerId": "o2", "merchantId": "x1", "role": "staff", "locale": None},
    ],
}
AUDIENCES = {
    "o1": {"owner", "ann", "binh", "chi"},
    "o2": {"xavier"},
    "m1": {"ann", "binh"},
    "m2": {"binh", "chi"},
}
USERS = ("owner", "ann", "binh", "chi", "xavier", "actor")


def activity(n: int) -> tuple[dict[str, Any], set[str]]:
    """The n-th activity and its recipients."""
    cases: list[tuple[dict[str, object], set[str]]] = [
        ({"recipientScope": "org", "organizerId": "o1"}, AUDIENCES["o1"]),
        ({"recipientScope": "merchant", "organizerId": "o1", "merchantId": "m1"}, AUDIENCES["m1"]),
        ({"recipientScope": "merchant", "organizerId": "o1", "merchantId": "m2"}, AUDIENCES["m2"]),
        ({"recipientScope": "merchant", "organizerId": "o2", "merchantId": "m1"}, {"actor"}),
        (
            {"recipientScope": "users", "organizerId": "o1", "recipientIds": ["ann", "xavier"]},
            {"ann", "xavier"},
        ),
        ({"recipientScope": "org", "organizerId": "o2"}, AUDIENCES["o2"]),
        ({"recipientScope": "org", "organizerId": "empty"}, {"actor"}),
    ]
    scope, expected = cases[n % len(cases)]
    message = {
        "eventType": "PAYMENT_SUCCESS",
        "eventId": f"e{n}",
        "actorId": "actor",
        "actor": {"id": "actor", "name": "Mai", "type": "USER"},
        "data": {"payment": {"subject": f"Order {n}", "amount": 1000 + n, "currency": "VND"}},
        "occurredAt": "2026-01-01T10:00:00Z",
        **scope,
    }
    return message, expected


@dataclass
class Instance:
    """One `nx-signal serve` process that can be killed and started again on the same port."""

    environment: dict[str, str]
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None
    before: Sequence[str] = ()
    """put before the command"""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def stream_url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/stream"

    def start(self) -> None:
        command = [*self.before, *COMMAND, "serve", "--port", str(self.port)]
        self.process = subprocess.Popen(command, env=self.environment)
        GUARD.send("watch", self.process.pid)

    def wait_ready(self, url: str | None = None) -> None:
        """`url` instead of its own /readyz."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            assert self.process and self.process.poll() is None, "serve ended"
            try:
                answer = httpx.get(url or f"{self.url}/readyz", timeout=5)
                if answer.status_code == 200:
                    return
                why = answer.text
            except httpx.TransportError as error:
                why = str(error)
            assert time.monotonic() < deadline, why
            time.sleep(0.05)

    def signal(self, number: signal.Signals) -> int:
        assert self.process
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_S)


def events_status(instance: Instance, ticket: str) -> int:
    """Of `/events` with a ticket; its first event is there where that is 200."""
    with httpx.stream(
        "GET", f"{instance.url}/events", params={"ticket": ticket}, timeout=PATIENCE_S
    ) as answer:
        if answer.status_code == 200:
            assert "event: connected" in answer.iter_lines()
        return answer.status_code


def command(environment: Mapping[str, str], *arguments: str, input: str = "") -> str:
    """What `nx-signal` prints; it has to succeed."""
    done = subprocess.run(
        [*COMMAND, *arguments],
        check=False,
        env=environment,
        input=input,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@dataclass
class Deployment:
    environment: dict[str, str]
    topic: str
    servers: str
    database_url: str
    instances: Sequence[Instance]

    def run(self, *arguments: str, input: str = "") -> str:
        return command(self.environment, *arguments, input=input)

    def token(self, user: str) -> str:
        return self.run("token", "--user", user)

    def rows(self) -> set[tuple[str, str]]:
        """(activity, recipient) of every row; the table's own constraint forbids doubles."""
        found = psql(
            self.database_url, "SELECT activity_id || '|' || recipient_id FROM activity_notification"
        )
        return {(a, r) for a, _, r in (line.partition("|") for line in found.splitlines())}

    async def wait_rows(self, expected: set[tuple[str, str]]) -> None:
        with trio.move_on_after(PATIENCE_S):
            while not expected <= await trio.to_thread.run_sync(self.rows):
                await trio.sleep(0.1)
        assert await trio.to_thread.run_sync(self.rows) == expected

    async def produce(self, messages: Sequence[bytes], pause_s: float = 0.0) -> None:
        await trio.to_thread.run_sync(partial(asyncio.run, self._produce(messages, pause_s)))

    async def _produce(self, messages: Sequence[bytes], pause_s: float) -> None:
        """An ordinary producer, on asyncio and in a thread of its own."""
        async with AIOKafkaProducer(bootstrap_servers=self.servers, enable_idempotence=False) as producer:
            for n, message in enumerate(messages):
                await producer.send_and_wait(self.topic, message, key=b"k%d" % n)
                if pause_s and n % 10 == 0:
                    await asyncio.sleep(pause_s)


@contextmanager
def deployed(
    data_dir: Path, postgres_url: str, redis_url: str, kafka_servers: str, count: int, **settings: str
) -> Iterator[Deployment]:
    topic = create_topic(kafka_servers, 4, replicas=len(kafka_servers.split(",")))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("APP_ENV_")}
    environment |= {
        "APP_ENV_DATA_DIR": str(data_dir),
        "APP_ENV_DATABASE_URL": postgres_url,
        "APP_ENV_REDIS_URL": redis_url,
        "APP_ENV_KAFKA_BOOTSTRAP_SERVERS": kafka_servers,
        "APP_ENV_KAFKA_TOPIC": topic,
        "APP_ENV_KAFKA_GROUP_ID": f"group-{uuid.uuid4().hex[:8]}",
        "APP_ENV_KAFKA_SESSION_TIMEOUT_MS": "1000",
        "APP_ENV_LAME_DUCK_S": "0",
        "APP_ENV_LOG_LEVEL": "warning",
        **settings,
    }
    instances = [Instance(environment) for _ in range(count)]
    deployment = Deployment(environment, topic, kafka_servers, postgres_url, instances)
    deployment.run("migrate")
    deployment.run("members", "load", "-", input=json.dumps(ROSTER))
    try:
        for instance in instances:
            instance.start()
        for instance in instances:
            instance.wait_ready()
        yield deployment
    finally:
        for instance in instances:
            if instance.process and instance.process.poll() is None:
                instance.process.kill()
                instance.process.wait()


class Reader:
    """A client that comes back: `revs` are those of the log's frames, in the order they arrived, and
    `arrived_s` the moments (time.monotonic). `version` of the cryptography: a release before has 1 alone."""

    def __init__(self, user: str, token: str, instance: Instance, version: int = VERSION) -> None:
        self.user = user
        self.token = token
        self.instance = instance
        self.version = version
        self.revs: list[int] = []
        self.activities: list[str] = []
        self.arrived_s: list[float] = []
        self.connections = 0
        self.resets = 0
        self.connected = trio.Event()

    def __str__(self) -> str:
        resets = f", with {self.resets} resets," if self.resets else ""
        return f"{type(self).__name__} of {self.user} at {self.instance.port}{resets}"

    async def run(self) -> None:
        while True:
            try:
                resume = self.revs[-1] if self.revs else 0
                url = self.instance.stream_url
                async with open_stream(url, self.token, resume=resume, version=self.version) as stream:
                    self.connections += 1
                    self.connected.set()
                    while True:
                        frame = await stream.receive()
                        self.take(frame.event, frame.data)
            except (StreamClosed, StreamUnavailable, HandshakeRefused):
                await trio.sleep(0.1)

    def take(self, event: str, data: Any) -> None:
        if event.rpartition("/")[2] in LOG:
            self.revs.append(data["rev"])
            self.arrived_s.append(time.monotonic())
        if event.endswith("/created"):
            self.activities.append(data["data"]["payment"]["subject"])
        if event.endswith("/state"):
            self.resets += data["reset"]

    async def wait_for(self, count: int) -> None:
        with trio.move_on_after(PATIENCE_S):
            while len(self.revs) < count:
                await trio.sleep(0.05)


class EventReader(Reader):
    """The same by Server-Sent Events."""

    async def run(self) -> None:
        place = "0"
        while True:
            try:
                async with open_events(self.instance.url, self.token, last_event_id=place) as events:
                    self.connections += 1
                    self.connected.set()
                    while True:
                        event = await events.receive()
                        place = event.id or place
                        self.take(event.event, event.data)
            except RestUnavailable:
                await trio.sleep(0.1)


class PollReader(Reader):
    """The same by long polling, which has no connection to lose."""

    async def run(self) -> None:
        rev, history = 0, None
        self.connections = 1
        self.connected.set()
        async with open_rest(self.instance.url, self.token) as rest:
            while True:
                try:
                    answer = await rest.changes(rev, history)
                except RestUnavailable:
                    await trio.sleep(0.1)
                    continue
                for change in answer.changes:
                    self.take(change.event, change.data)
                self.resets += answer.reset
                rev, history = answer.rev, answer.history

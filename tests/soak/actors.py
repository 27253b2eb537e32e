"""Those who use the deployment: producers, users with clients, and readers of the inbox over REST."""

from __future__ import annotations

import asyncio
import json
import random
import threading
import time
from collections.abc import Sequence
from functools import partial
from typing import Any, TypeAlias

import trio
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from nx_signal.client.rest import Rest, RestRefused, RestUnavailable, open_rest
from nx_signal.client.stream import HandshakeRefused, StreamClosed, StreamUnavailable, open_stream
from serving import AUDIENCES, Instance
from soak.history import Activities, Marks, Received

KAFKA_PER_S = 40
REST_PER_S = 4
MARKS_PER_S = 2
RETRY_S = 0.2
REST_TIMEOUT_S = 5.0

Scope: TypeAlias = tuple[dict[str, object], frozenset[str]]
"""of an activity, and its recipients"""
SCOPES: Sequence[Scope] = [
    ({"recipientScope": "org", "organizerId": "o1"}, frozenset(AUDIENCES["o1"])),
    ({"recipientScope": "merchant", "organizerId": "o1", "merchantId": "m1"}, frozenset(AUDIENCES["m1"])),
    ({"recipientScope": "merchant", "organizerId": "o1", "merchantId": "m2"}, frozenset(AUDIENCES["m2"])),
    (
        {"recipientScope": "users", "organizerId": "o1", "recipientIds": ["ann", "xavier"]},
        frozenset({"ann", "xavier"}),
    ),
    ({"recipientScope": "org", "organizerId": "o2"}, frozenset(AUDIENCES["o2"])),
]
TO_ONE: Scope = (
    {"recipientScope": "users", "organizerId": "o1", "recipientIds": ["ann"]},
    frozenset({"ann"}),
)
REPEATED = 20
"""Every so many activities one is sent twice, as producers do that had no answer."""


class Producers:
    """Send activities over Kafka and over REST while `on`."""

    def __init__(
        self, topic: str, servers: str, instances: Sequence[Instance], token: str, bursts: list[int]
    ) -> None:
        self.on = False
        self._bursts = bursts
        self.activities = Activities()
        self._topic = topic
        self._servers = servers
        self._instances = instances
        self._token = token
        self._sent = 0
        self._in_flight = 0
        self._stopped = threading.Event()

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._run_kafka)
            nursery.start_soon(self._run_rest)

    async def pause(self) -> None:
        """Returns once nothing is on its way."""
        self.on = False
        while self._in_flight:
            await trio.sleep(0.02)

    def _next(self, scope: Scope | None = None) -> tuple[str, dict[str, Any]]:
        n, self._sent = self._sent, self._sent + 1
        audience, recipients = scope or SCOPES[n % len(SCOPES)]
        event = f"soak-{n}"
        self.activities.recipients[event] = recipients
        payment = {"subject": f"Order {n}", "amount": 1000 + n, "currency": "VND"}
        return event, {
            "eventType": "PAYMENT_SUCCESS",
            "eventId": event,
            "actorId": "actor",
            "actor": {"id": "actor", "name": "Mai", "type": "USER"},
            "data": {"payment": payment},
            "occurredAt": "2026-01-01T10:00:00Z",
            **audience,
        }

    async def _run_rest(self) -> None:
        while True:
            await trio.sleep(1 / REST_PER_S)
            if not self.on:
                continue
            self._in_flight += 1
            event, message = self._next()
            try:
                url = random.choice(self._instances).url
                async with open_rest(url, self._token, timeout_s=REST_TIMEOUT_S) as rest:
                    await rest.publish([message])
                self.activities.acknowledged.add(event)
            except (RestUnavailable, RestRefused):
                pass  # with no answer, or refused: it may have been taken or not
            finally:
                self._in_flight -= 1

    async def _run_kafka(self) -> None:
        """In a thread: an ordinary producer on asyncio. Cancelled by `_stopped`."""
        try:
            await trio.to_thread.run_sync(partial(asyncio.run, self._produce()), abandon_on_cancel=True)
        finally:
            self._stopped.set()

    async def _produce(self) -> None:
        async with AIOKafkaProducer(
            bootstrap_servers=self._servers, acks="all", request_timeout_ms=30_000
        ) as producer:
            began, sent = time.monotonic(), 0
            while not self._stopped.is_set():
                sent += 1
                await asyncio.sleep(max(0.0, began + sent / KAFKA_PER_S - time.monotonic()))
                while self._bursts:
                    size = range(self._bursts.pop())
                    await asyncio.gather(*(self._send(producer, TO_ONE, 1) for _ in size))
                if self.on:
                    await self._send(producer, None, 2 if sent % REPEATED == 0 else 1)

    async def _send(self, producer: AIOKafkaProducer, scope: Scope | None, times: int) -> None:
        self._in_flight += 1
        event, message = self._next(scope)
        try:
            for _ in range(times):
                value, key = json.dumps(message).encode(), event.encode()
                await producer.send_and_wait(self._topic, value, key=key)
            self.activities.acknowledged.add(event)
        except KafkaError:
            pass  # it may have been taken or not
        finally:
            self._in_flight -= 1


class Client:
    """One device: comes back whenever its connection ends, with the revision that it holds."""

    def __init__(self, user: str, token: str, instance: Instance, name: str) -> None:
        self.received = Received(name, user)
        self.connections = 0
        self._token = token
        self._instance = instance

    async def run(self) -> None:
        while True:
            try:
                rev, history = self.received.counts.rev, self.received.history
                async with open_stream(
                    self._instance.stream_url, self._token, resume=rev, history=history
                ) as stream:
                    self.connections += 1
                    while True:
                        frame = await stream.receive()
                        topic, _, kind = frame.event.rpartition("/")
                        if topic == "observation/signal/notification":
                            self.received.take(kind, frame.data)
            except (StreamClosed, StreamUnavailable, HandshakeRefused):
                await trio.sleep(RETRY_S)


class Marker:
    """One user over REST: marks as read, marks all, deletes, at any instance."""

    def __init__(self, user: str, token: str, instances: Sequence[Instance], seed: int) -> None:
        self.user = user
        self.on = False
        self.marks = Marks()
        self._busy = False
        self._token = token
        self._instances = instances
        self._random = random.Random(f"{user}-{seed}")

    async def run(self) -> None:
        while True:
            await trio.sleep(1 / MARKS_PER_S)
            if self.on:
                self._busy = True
                try:
                    url = self._random.choice(self._instances).url
                    async with open_rest(url, self._token, timeout_s=REST_TIMEOUT_S) as rest:
                        await self._act(rest)
                except (RestUnavailable, RestRefused):
                    pass  # what was asked for may have been done or not
                finally:
                    self._busy = False

    async def pause(self) -> None:
        self.on = False
        while self._busy:
            await trio.sleep(0.02)

    async def _act(self, rest: Rest) -> None:
        page = await rest.list(limit=10, isRead="false")
        if not page.data:
            return
        chosen, marks = self._random.choice(page.data), self.marks
        match self._random.choices(("read", "all", "delete"), (6, 1, 3))[0]:
            case "read":
                marks.read_asked.add(chosen.id)
                await rest.mark_read(chosen.id)
                marks.read.add(chosen.id)
            case "all":
                marks.all_asked = max(marks.all_asked, chosen.rev)
                if (await rest.mark_all_read(up_to_rev=chosen.rev)).updated:
                    marks.all_read = max(marks.all_read, chosen.rev)
            case "delete":
                marks.delete_asked.add(chosen.id)
                await rest.delete(chosen.id)
                marks.deleted.add(chosen.id)

"""Tickets between two processes that share PostgreSQL and Redis: valid on both, and used once by either."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeAlias

import trio

from nx_signal.client.rest import open_rest
from nx_signal.client.stream import HandshakeRefused, open_stream
from services import Kafka, fresh_database
from serving import PATIENCE_S, Instance, activity, deployed, events_status

TICKETS = 20
Use: TypeAlias = Callable[[Instance, str], Awaitable[str]]


async def on_the_stream(instance: Instance, ticket: str) -> str:
    try:
        async with open_stream(instance.stream_url, ticket, scheme="Ticket"):
            return "connected"
    except HandshakeRefused as refusal:
        return f"{refusal.code}"


async def on_the_events(instance: Instance, ticket: str) -> str:
    status = await trio.to_thread.run_sync(events_status, instance, ticket)
    return "connected" if status == 200 else f"{status}"


USES: dict[str, tuple[Use, str]] = {"stream": (on_the_stream, "4003"), "events": (on_the_events, "401")}


async def test_a_ticket_is_valid_on_every_instance_and_begins_one_session(
    tmp_path: Path, postgres_server: str, redis_url: str, kafka_broker: Kafka
) -> None:
    url = fresh_database(postgres_server)
    with deployed(tmp_path, url, redis_url, kafka_broker.servers, count=2) as deployment:
        one, two = deployment.instances
        token = deployment.token("ann")
        async with open_rest(one.url, token) as rest:
            other = (await rest.ticket("stream")).ticket
            async with open_stream(two.stream_url, other, scheme="Ticket") as stream:
                message, _ = activity(1)
                await deployment.produce([json.dumps(message).encode()])
                with trio.fail_after(PATIENCE_S):
                    assert (await stream.receive()).data["rev"] == 1
            for n in range(TICKETS):
                purpose = ("stream", "events")[n % 2]
                use, refused = USES[purpose]
                ticket, outcomes = (await rest.ticket(purpose)).ticket, list[str]()

                async def add_outcome(use: Use, instance: Instance, ticket: str, to: list[str]) -> None:
                    to.append(await use(instance, ticket))

                async with trio.open_nursery() as nursery:
                    for instance in (one, two, one, two):
                        nursery.start_soon(add_outcome, use, instance, ticket, outcomes)
                assert sorted(outcomes) == [*[refused] * 3, "connected"]

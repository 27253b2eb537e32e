"""Tickets between two processes that share PostgreSQL and Redis: valid on both, and used once by either."""

from __future__ import annotations

import json
from pathlib import Path

import trio

from nx_signal.client.rest import open_rest
from nx_signal.client.stream import HandshakeRefused, open_stream
from services import Kafka, fresh_database
from serving import PATIENCE_S, Instance, activity, deployed

TICKETS = 20


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
            for _ in range(TICKETS):
                ticket, outcomes = (await rest.ticket("stream")).ticket, list[str]()

                async def use(instance: Instance, ticket: str, outcomes: list[str]) -> None:
                    try:
                        async with open_stream(instance.stream_url, ticket, scheme="Ticket"):
                            outcomes.append("connected")
                    except HandshakeRefused as refusal:
                        outcomes.append(f"{refusal.code} {refusal.message}")

                async with trio.open_nursery() as nursery:
                    for instance in (one, two, one, two):
                        nursery.start_soon(use, instance, ticket, outcomes)
                assert sorted(outcomes) == ["4003 Authentication failed"] * 3 + ["connected"]

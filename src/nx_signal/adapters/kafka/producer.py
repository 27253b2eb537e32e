"""Producing activities to Kafka, for `nx-signal publish`. The service itself produces nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TypeAlias

from nx_signal.adapters.asyncio_bridge import DriverCancelled, close_within, open_asyncio_bridge
from nx_signal.adapters.kafka.producer_driver import CONNECT_TIMEOUT_S, KafkaProducer
from nx_signal.adapters.kafka.security import PLAINTEXT, KafkaSecurity
from nx_signal.errors import SourceUnavailable

CLIENT_ID = "nx-signal-publish"
CLOSE_TIMEOUT_S = 5.0
MAX_REQUEST_BYTES = 1_048_576
"""Kafka's own default limit of a message."""

Produce: TypeAlias = Callable[[Sequence[tuple[str, bytes]]], Awaitable[None]]
"""(key, value) each; returns once all replicas in sync have all of them. One crossing for all."""


@asynccontextmanager
async def open_producer(
    servers: str, topic: str, security: KafkaSecurity = PLAINTEXT
) -> AsyncIterator[Produce]:
    """Raises SourceUnavailable when the brokers cannot be reached, and SettingsError when they refuse this
    client (inside groups of its nurseries). `produce` raises SourceUnavailable when they do not confirm in
    time, with some messages of that batch perhaps stored; StoreRejected for a message that they refuse."""
    producer = KafkaProducer(
        servers,
        topic,
        {
            "bootstrap_servers": [server.strip() for server in servers.split(",")],
            "client_id": CLIENT_ID,
            "acks": "all",
            "max_request_size": MAX_REQUEST_BYTES,
            "request_timeout_ms": int(CONNECT_TIMEOUT_S * 1000),
            **security.options(),
        },
    )
    async with open_asyncio_bridge() as bridge:

        async def produce(messages: Sequence[tuple[str, bytes]]) -> None:
            try:
                await bridge.call(producer.aio_send, messages)
            except DriverCancelled as error:
                raise SourceUnavailable(f"Kafka at {servers} did not store the messages: {error}") from None

        try:
            try:
                await bridge.call(producer.aio_start)
            except DriverCancelled as error:
                raise SourceUnavailable(f"Kafka at {servers} cannot be reached: {error}") from None
            yield produce
        finally:
            await close_within(CLOSE_TIMEOUT_S, bridge, producer.aio_stop)

"""Producing activities to Kafka, for `nx-signal publish`. The service itself produces nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TypeAlias

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaConnectionError, KafkaError, MessageSizeTooLargeError

from nx_signal.adapters._aio import DriverCancelled, close_within, open_border
from nx_signal.adapters.kafka_security import PLAINTEXT, KafkaSecurity, aio_refusal, refusal
from nx_signal.errors import SourceUnavailable, StoreRejected

CLIENT_ID = "nx-signal-publish"
CONNECT_TIMEOUT_S = 15.0
BATCH_TIMEOUT_S = 30.0
CLOSE_TIMEOUT_S = 5.0
MAX_REQUEST_BYTES = 1_048_576
"""Kafka's own default limit of a message."""

Produce: TypeAlias = Callable[[Sequence[tuple[str, bytes]]], Awaitable[None]]
"""(key, value) each; returns once all replicas in sync have all of them. One crossing for all."""


@asynccontextmanager
async def open_producer(
    servers: str, topic: str, security: KafkaSecurity = PLAINTEXT
) -> AsyncIterator[Produce]:
    """Raises SourceUnavailable when the brokers cannot be reached, and SettingsError when they do not let
    us in (inside groups of its nurseries); `produce` raises SourceUnavailable when they do not confirm in
    time: some of that batch may have been taken. It raises StoreRejected for a message that they refuse
    for good."""
    options = {
        "bootstrap_servers": [server.strip() for server in servers.split(",")],
        "client_id": CLIENT_ID,
        "acks": "all",
        "max_request_size": MAX_REQUEST_BYTES,
        "request_timeout_ms": int(CONNECT_TIMEOUT_S * 1000),
        **security.options(),
    }
    async with open_border() as border:
        producer: AIOKafkaProducer | None = None

        async def _aio_start() -> None:
            nonlocal producer
            producer = AIOKafkaProducer(**options)
            try:
                await asyncio.wait_for(producer.start(), CONNECT_TIMEOUT_S)
            except KafkaConnectionError as error:
                raise (await aio_refusal(options) or error) from None

        async def _aio_send(messages: Sequence[tuple[str, bytes]]) -> None:
            assert producer is not None  # noqa: S101 - started below
            async with asyncio.timeout(BATCH_TIMEOUT_S):
                sent = [await producer.send(topic, value, key=key.encode()) for key, value in messages]
                await asyncio.gather(*sent)

        async def _aio_stop() -> None:
            if producer is not None:
                await producer.stop()

        async def produce(messages: Sequence[tuple[str, bytes]]) -> None:
            try:
                await border.call(_aio_send, messages)
            except MessageSizeTooLargeError as error:
                raise StoreRejected(f"Kafka refuses a message: {error}") from None
            except (KafkaError, OSError, TimeoutError, DriverCancelled) as error:
                raise SourceUnavailable(
                    f"Kafka at {servers} did not take the messages: {_why(error)}"
                ) from None

        try:
            try:
                await border.call(_aio_start)
            except (KafkaError, OSError, TimeoutError, DriverCancelled) as error:
                unreachable = SourceUnavailable(f"Kafka at {servers} cannot be reached: {_why(error)}")
                raise refusal(error, servers) or unreachable from None
            yield produce
        finally:
            await close_within(CLOSE_TIMEOUT_S, border, _aio_stop)


def _why(error: Exception) -> str:
    if isinstance(error, KafkaConnectionError):
        return "no broker answers there."
    if isinstance(error, TimeoutError):
        return "no answer in time."
    return str(error) or type(error).__name__

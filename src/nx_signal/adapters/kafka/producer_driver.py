"""aiokafka's producer, on asyncio's side of the bridge."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaConnectionError, KafkaError

from nx_signal.adapters.kafka.diagnosis import aio_diagnosis
from nx_signal.adapters.kafka.errors import DRIVER_ERRORS, producer_error, reason, refusal
from nx_signal.errors import SourceUnavailable

CONNECT_TIMEOUT_S = 15.0
SEND_TIMEOUT_S = 30.0


class KafkaProducer:
    """`options` are aiokafka's."""

    def __init__(self, servers: str, topic: str, options: Mapping[str, Any]) -> None:
        self._servers = servers
        self._topic = topic
        self._options = options
        self._producer: Any = None

    async def aio_start(self) -> None:
        try:
            self._producer = AIOKafkaProducer(**self._options)
            try:
                await asyncio.wait_for(self._producer.start(), CONNECT_TIMEOUT_S)
            except KafkaConnectionError as error:
                raise (await aio_diagnosis(self._options) or error) from None
        except (KafkaError, OSError, TimeoutError) as error:
            unreachable = SourceUnavailable(f"Kafka at {self._servers} cannot be reached: {reason(error)}")
            raise refusal(error, self._servers) or unreachable from None

    async def aio_send(self, messages: Sequence[tuple[str, bytes]]) -> None:
        """(key, value) each. Raises StoreRejected for a message that is too large."""
        try:
            async with asyncio.timeout(SEND_TIMEOUT_S):
                pending = [
                    await self._producer.send(self._topic, value, key=key.encode()) for key, value in messages
                ]
                await asyncio.gather(*pending)
        except DRIVER_ERRORS as error:
            raise producer_error(error, self._servers, self._topic) from None

    async def aio_stop(self) -> None:
        if self._producer is not None:
            await self._producer.stop()

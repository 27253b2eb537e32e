"""Why brokers do not take this client: aiokafka only logs it, and raises that it cannot connect. Of asyncio's
side."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from typing import Any

from aiokafka.conn import collect_hosts, create_conn
from aiokafka.errors import KafkaError

from nx_signal.adapters.kafka.errors import refusal, wrong_protocol
from nx_signal.adapters.kafka.protocol import LOOKS, MAX_LOOK_BYTES, TLS_ALERT

REFUSAL_TIMEOUT_S = 3.0


async def aio_diagnosis(options: Mapping[str, Any]) -> Exception | None:
    """What one of the brokers shows: a refusal first, else the last error. `options` are aiokafka's."""
    protocol: str = options["security_protocol"]
    security = {key: options[key] for key in options if key.startswith(("security_", "sasl_", "ssl_"))}
    found: Exception | None = None
    for host, port, _ in collect_hosts(options["bootstrap_servers"], randomize=False):
        try:
            async with asyncio.timeout(REFUSAL_TIMEOUT_S):
                seen = await _aio_look(host, port, None)
                if seen == "TLS" and protocol == "SSL":
                    seen = f"TLS, {await _aio_look(host, port, options['ssl_context'])}"
                if wrong := wrong_protocol(f"{host}:{port}", protocol, seen):
                    return wrong
                if protocol != "PLAINTEXT":
                    connection = await create_conn(host, port, **security)
                    await connection.close()
        except (KafkaError, OSError, TimeoutError) as error:
            if refusal(error, host) is not None:
                return error
            found = error
    return found


async def _aio_look(host: str, port: int, tls: ssl.SSLContext | None) -> str:
    """What a port speaks: Kafka, "Kafka with users", "TLS", "another protocol", or nothing."""
    reader, writer = await asyncio.open_connection(host, port, ssl=tls)
    try:
        for request in LOOKS:
            writer.write(request)
            head = await reader.read(4)
            size = int.from_bytes(head, "big")
            if not head:
                return "nothing" if request is LOOKS[0] else "Kafka with users"
            if size > MAX_LOOK_BYTES:
                return "TLS" if head.startswith(TLS_ALERT) else "another protocol"
            await reader.readexactly(size)
    except (ConnectionError, asyncio.IncompleteReadError):
        return "nothing"
    finally:
        writer.close()
    return "Kafka"

"""The producer of the pipeline benchmark: activities to Kafka, at a rate or as fast as they go.

Reads orders from stdin and answers on stdout, one JSON a line:

    {"phase": p, "rate": r, "count": n}    n activities, r a second; r null: without a pause"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from datetime import UTC, datetime

import msgspec
from aiokafka import AIOKafkaProducer

IN_FLIGHT = 2_000
"""Sent and not yet confirmed, when there is no rate to keep."""


def activity(phase: str, number: int, merchants: int) -> tuple[bytes, bytes]:
    """(key, message): a payment, to the members of one merchant. `producedNs` is the last thing made."""
    merchant = f"m{number % merchants}"
    message = {
        "eventId": f"{phase}-{number}",
        "eventType": "PAYMENT_SUCCESS",
        "recipientScope": "merchant",
        "actorId": "customer-1",
        "actor": {"id": "customer-1", "name": "Nguyễn Văn An", "type": "customer"},
        "organizerId": "o1",
        "merchantId": merchant,
        "subject": f"order-{number}",
        "occurredAt": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "data": {
            "payment": {"subject": "Cà phê sữa đá", "amount": 1_250_000, "currency": "VND"},
            "bench": {"phase": phase, "producedNs": time.time_ns()},
        },
    }
    return merchant.encode(), msgspec.json.encode(message)


async def produce(
    producer: AIOKafkaProducer, topic: str, merchants: int, phase: str, rate: float | None, count: int
) -> dict[str, float]:
    """What the phase took, until the broker has confirmed everything."""
    began_s, worst_s = time.perf_counter(), 0.0
    confirmations: set[asyncio.Future[object]] = set()
    for number in range(count):
        if rate is not None:
            ahead_s = began_s + number / rate - time.perf_counter()
            if ahead_s > 0:
                await asyncio.sleep(ahead_s)
            worst_s = max(worst_s, -ahead_s)
        elif len(confirmations) >= IN_FLIGHT:
            await asyncio.wait(confirmations, return_when=asyncio.FIRST_COMPLETED)
        key, message = activity(phase, number, merchants)
        confirmation = await producer.send(topic, message, key=key)
        confirmations.add(confirmation)
        confirmation.add_done_callback(confirmations.discard)
    if confirmations:
        await asyncio.gather(*confirmations)
    return {"took_s": time.perf_counter() - began_s, "late_ms": worst_s * 1000}


async def serve(options: argparse.Namespace) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=options.servers, acks="all")
    await producer.start()
    try:
        print(json.dumps({"ready": True}), flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            order = json.loads(line)
            took = await produce(
                producer, options.topic, options.merchants, order["phase"], order["rate"], order["count"]
            )
            print(json.dumps(took), flush=True)
    finally:
        await producer.stop()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--servers", required=True)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--merchants", type=int, required=True)
    asyncio.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()

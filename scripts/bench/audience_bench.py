"""What an activity with a large audience costs, and what it does to the others.

Starts PostgreSQL, Valkey and a broker of the Kafka protocol from wheels, and one `nx-signal serve`. Small
activities come at a fixed rate, in three partitions of the topic and in the journal; after a quiet phase one
for a whole organization comes in the fourth. Latency is from the produce call to the time of the rows."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
from aiokafka import AIOKafkaProducer

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "tests"))
from services import Postgres, Redis, Tansu, fresh_database, psql  # noqa: E402 - the tests', from the folder above
from serving import Deployment, deployed  # noqa: E402

LONGEST_S = 300.0
MEMBERS = """
INSERT INTO policy_definition (variant, subject_type, subject_id, target_type, target_id, domain)
SELECT 'group', 'User', 'user' || lpad(n::text, 7, '0'), 'Role', 'staff', 'Organizer_large'
FROM generate_series(1, {}) AS n
"""
ROWS = """
SELECT activity_id || ' ' || min(extract(epoch FROM created_at)) FROM activity_notification
WHERE activity_id LIKE 'small-%' GROUP BY activity_id
"""


def activity(event: str, **scope: Any) -> bytes:
    fields = {
        "eventType": "ORDER_COMPLETED",
        "eventId": event,
        "actorId": "actor",
        "organizerId": "o1",
        "data": {"order": {"number": event}},
        "occurredAt": "2026-01-01T10:00:00Z",
    }
    return json.dumps(fields | scope).encode()


class Sender:
    """Small activities, at a rate, until `stop` is set; `sent` has the moment of each."""

    def __init__(self, rate: float) -> None:
        self.pause_s = 1 / rate
        self.sent: dict[str, float] = {}
        self.stop = asyncio.Event()

    async def run(self, prefix: str, send: Any) -> None:
        n, due = 0, time.monotonic()
        while not self.stop.is_set():
            event = f"small-{prefix}-{n}"
            self.sent[event] = time.time()
            await send(n, activity(event, recipientScope="users", recipientIds=[f"{prefix}{n % 50}"]))
            n, due = n + 1, due + self.pause_s
            await asyncio.sleep(max(0.0, due - time.monotonic()))


async def measure(deployment: Deployment, options: argparse.Namespace) -> None:
    (instance,) = deployment.instances
    assert instance.process
    status = Path(f"/proc/{instance.process.pid}/status")
    token = deployment.run("token", "--user", "op", "--permission", "Activity.publish")
    headers = {"Authorization": f"Bearer {token}"}
    kafka, journal = Sender(options.rate), Sender(options.rate / 5)
    async with (
        AIOKafkaProducer(bootstrap_servers=deployment.servers) as producer,
        httpx.AsyncClient() as client,
    ):

        async def produce(n: int, value: bytes) -> None:
            await producer.send_and_wait(deployment.topic, value, partition=1 + n % 3)

        async def post(n: int, value: bytes) -> None:
            url = f"{instance.url}/v1/api/signal/activities"
            (await client.post(url, content=value, headers=headers)).raise_for_status()

        senders = [asyncio.create_task(kafka.run("k", produce)), asyncio.create_task(journal.run("j", post))]
        await asyncio.sleep(options.quiet_s)
        idle, began = memory(status, "VmRSS"), time.time()
        value = activity("large", recipientScope="org", organizerId="large")
        await producer.send_and_wait(deployment.topic, value, partition=0)
        while not psql(
            deployment.database_url, "SELECT 1 FROM activity_trace WHERE activity_id = 'large'"
        ).strip():
            assert time.time() - began < LONGEST_S, "the large activity is not through"
            await asyncio.sleep(0.2)
        ended = time.time()
        for sender in (kafka, journal):
            sender.stop.set()
        await asyncio.gather(*senders)
    written: dict[str, str] = {}
    while len(written) < len(kafka.sent) + len(journal.sent):
        assert time.time() - ended < LONGEST_S, "not all the others are through"
        written = dict(line.split() for line in psql(deployment.database_url, ROWS).splitlines() if line)
    many = psql(
        deployment.database_url, "SELECT count(*) FROM activity_notification WHERE activity_id = 'large'"
    )
    most = memory(status, "VmHWM")
    print(f"{many.strip()} rows in {ended - began:.1f} s; memory {idle:.0f} MB before, at most {most:.0f}")
    for name, sender in (("other partitions", kafka), ("the journal", journal)):
        for phase, since, until in (
            ("quiet", began - options.quiet_s + 2, began),
            ("beside it", began, ended),
        ):
            taken = sorted(
                (float(written[event]) - at) * 1_000
                for event, at in sender.sent.items()
                if since <= at < until
            )
            p50, p99 = (taken[int(len(taken) * share)] for share in (0.5, 0.99))
            print(f"{name:18} {phase:10} {len(taken):6} activities, p50 {p50:6.1f} ms, p99 {p99:6.1f} ms")


def memory(status: Path, name: str) -> float:
    """Megabytes."""
    (line,) = (line for line in status.read_text().splitlines() if line.startswith(name + ":"))
    return int(line.split()[1]) / 1_024


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="audience", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--members", type=int, default=100_000)
    parser.add_argument(
        "--rate", type=float, default=100.0, help="activities a second in Kafka; a fifth in the journal"
    )
    parser.add_argument("--quiet-s", type=float, default=15.0)
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        postgres = stack.enter_context(Postgres())
        redis = stack.enter_context(Redis())
        kafka = stack.enter_context(Tansu())
        url = fresh_database(postgres.url)
        deployment = stack.enter_context(deployed(folder, url, redis.url, kafka.servers, 1))
        psql(
            url,
            MEMBERS.format(options.members),
        )
        psql(url, "ANALYZE")
        asyncio.run(measure(deployment, options))


if __name__ == "__main__":
    main()

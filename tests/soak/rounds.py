"""Mixed load on real parts with random faults, and after each a check of everything that was done. See
scripts/soak."""

from __future__ import annotations

import argparse
import logging
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import trio

from faults.proxy import Proxy
from nx_signal.identity.issuer import open_issuer
from services import ApacheKafka, Postgres, Redis, ServiceMissing, Tansu, psql
from serving import PATIENCE_S, USERS, deployed
from soak.actors import Client, Marker, Producers
from soak.disturbances import DISTURBANCES, Stage
from soak.history import Counts, Row, check_client, check_marks, check_rows

TOKEN_S = 86_400
BEFORE_S = 2.0
AFTER_S = 2.0
"""The load goes on for this long before and after a fault."""
MAX_RSS_MB = 400
"""Of an instance: several times what it needs, so that a leak ends the run."""
RESUME_LIMIT = "10000"
"""More than any client misses here, so that a reset is always a fault."""


@contextmanager
def staged(data_dir: Path) -> Iterator[Stage]:
    """Two instances on real parts: PostgreSQL, Redis, and Apache Kafka where there is Java, else Tansu."""
    with ExitStack() as stack:
        postgres, redis = stack.enter_context(Postgres()), stack.enter_context(Redis())
        try:
            kafka: ApacheKafka | Tansu = stack.enter_context(ApacheKafka())
        except ServiceMissing as missing:
            print(f"Tansu instead of Apache Kafka: {missing}", flush=True)
            kafka = stack.enter_context(Tansu())
        to_postgres = stack.enter_context(Proxy("127.0.0.1", postgres.port))
        to_redis = stack.enter_context(Proxy("127.0.0.1", redis.port))
        urls = (
            f"postgresql://signal@127.0.0.1:{to_postgres.port}/postgres",
            f"redis://127.0.0.1:{to_redis.port}/0",
        )
        settings = {"APP_ENV_RESUME_LIMIT": RESUME_LIMIT, "APP_ENV_LOG_LEVEL": "error"}
        deployment = stack.enter_context(deployed(data_dir, *urls, kafka.servers, count=2, **settings))
        yield Stage(postgres, redis, kafka, to_postgres, to_redis, deployment)


@dataclass
class Load:
    """Everyone who uses the deployment."""

    producers: Producers
    clients: Sequence[Client]
    markers: Sequence[Marker]

    @property
    def acting(self) -> Sequence[Producers | Marker]:
        return (self.producers, *self.markers)

    def begin(self) -> None:
        for each in self.acting:
            each.on = True

    async def pause(self) -> None:
        for each in self.acting:
            await each.pause()


def load_on(stage: Stage, data_dir: Path, seed: int) -> Load:
    issuer, now = open_issuer(data_dir), datetime.now(UTC)
    tokens = {user: issuer.sign(user, TOKEN_S, (), (), now) for user in USERS}
    publisher = issuer.sign("orders", TOKEN_S, ("Activity.publish",), (), now)
    deployment = stage.deployment
    return Load(
        Producers(deployment.topic, deployment.servers, stage.instances, publisher, stage.bursts),
        [
            Client(user, tokens[user], instance, f"{user} on instance {n}")
            for user in USERS
            for n, instance in enumerate(stage.instances)
        ],
        [Marker(user, tokens[user], stage.instances, seed) for user in USERS],
    )


async def soak(stage: Stage, load: Load, minutes: float, seed: int) -> list[str]:
    """Violations, of the first check that has any; each round prints a line."""
    choose, began = random.Random(seed), time.monotonic()
    violations: list[str] = []
    async with trio.open_nursery() as nursery:
        for actor in load.acting:
            nursery.start_soon(actor.run)
        for client in load.clients:
            nursery.start_soon(client.run)
        while not violations and time.monotonic() - began < minutes * 60:
            load.begin()
            await trio.sleep(BEFORE_S)
            fault = await trio.to_thread.run_sync(choose.choice(DISTURBANCES), stage, choose)
            await trio.sleep(AFTER_S)
            await load.pause()
            back_s = time.monotonic()
            violations = await check(stage, load)
            print(line(stage, load, fault, time.monotonic() - back_s, time.monotonic() - began), flush=True)
        nursery.cancel_scope.cancel()
    return violations


async def check(stage: Stage, load: Load) -> list[str]:
    """Wait until every client has what it should, at most PATIENCE_S; then compare everything."""
    with trio.move_on_after(PATIENCE_S):
        while not await trio.to_thread.run_sync(level, stage, load):
            await trio.sleep(0.2)
    rows = await trio.to_thread.run_sync(rows_of, stage)
    heads = await trio.to_thread.run_sync(heads_of, stage)
    marks = {marker.user: marker.marks for marker in load.markers}
    violations = check_rows(load.producers.activities, rows) + check_marks(marks, rows)
    for client in load.clients:
        user = client.received.user
        violations += check_client(client.received, rows, marks[user], heads.get(user, Counts(0, 0, 0)))
    violations += await trio.to_thread.run_sync(dead_letters_of, stage)
    for instance in stage.instances:
        if instance.process and instance.process.poll() is not None:
            violations.append(f"An instance ended by itself with status {instance.process.returncode}.")
        elif rss_mb(instance.process.pid if instance.process else 0) > MAX_RSS_MB:
            violations.append(f"An instance uses more than {MAX_RSS_MB} MB.")
    if not violations:  # it fails by itself where a count differs from its rows
        await trio.to_thread.run_sync(stage.deployment.run, "audit")
    return violations


def level(stage: Stage, load: Load) -> bool:
    """Whether every acknowledged activity is at all its recipients' clients, and these at their heads."""
    heads, activities = heads_of(stage), load.producers.activities
    for client in load.clients:
        received = client.received
        missing = activities.acknowledged - received.created.keys()
        if any(received.user in activities.recipients[activity] for activity in missing):
            return False
        if received.counts.rev != heads.get(received.user, Counts(0, 0, 0)).rev:
            return False
    return True


def rows_of(stage: Stage) -> list[Row]:
    found = psql(
        stage.postgres.url,
        "SELECT activity_id, recipient_id, id, rev, is_read, deleted_at IS NOT NULL FROM inbox_row",
    )
    return [
        Row(activity, user, id, int(rev), is_read == "t", deleted == "t")
        for activity, user, id, rev, is_read, deleted in (line.split("|") for line in found.splitlines())
    ]


def heads_of(stage: Stage) -> dict[str, Counts]:
    found = psql(stage.postgres.url, "SELECT recipient_id, rev, unread, total FROM recipient_head")
    split = (line.split("|") for line in found.splitlines())
    return {user: Counts(int(rev), int(unread), int(total)) for user, rev, unread, total in split}


def dead_letters_of(stage: Stage) -> list[str]:
    """Every activity that is sent here can be processed."""
    found = psql(stage.postgres.url, 'SELECT topic, partition, "offset", error FROM dead_letter LIMIT 20')
    return [f"There is a dead letter: {line}" for line in found.splitlines()]


def rss_mb(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    (size,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(size) // 1024


def line(stage: Stage, load: Load, fault: str, settled_s: float, at_s: float) -> str:
    activities = load.producers.activities
    frames = sum(client.received.counts.rev for client in load.clients)
    marks = [marker.marks for marker in load.markers]
    processes = [instance.process.pid for instance in stage.instances if instance.process]
    memory = " ".join(f"{rss_mb(pid)} MB" for pid in processes if Path(f"/proc/{pid}").exists())
    return (
        f"{at_s:6.0f} s  {fault:<40} level after {settled_s:4.1f} s; {len(activities)} activities "
        f"({len(activities.acknowledged)} acknowledged), {frames} frames, "
        f"{sum(len(each.read) for each in marks)} read, {sum(len(each.deleted) for each in marks)} deleted; "
        f"{sum(client.connections for client in load.clients)} connections; {memory}"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="scripts/soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0, help="How long (default: 5).")
    parser.add_argument("--seed", type=int, help="Of the faults' order (default: a random one).")
    options = parser.parse_args(arguments)
    seed = random.SystemRandom().randrange(10**6) if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # the producer's, while a broker is away
    with tempfile.TemporaryDirectory(prefix="signal-soak-") as directory, staged(Path(directory)) as stage:
        violations = trio.run(soak, stage, load_on(stage, Path(directory), seed), options.minutes, seed)
    for violation in violations:
        print(violation)
    print(f"{len(violations)} violations, seed {seed}" if violations else "No violation.")
    return int(bool(violations))


if __name__ == "__main__":
    sys.exit(main())

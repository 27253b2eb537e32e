"""What is done to a deployment under load. Each returns once the service is back, what it did in words."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from faults.proxy import Proxy
from services import ApacheKafka, Postgres, Redis, Service, Tansu, psql
from serving import Deployment, Instance


@dataclass
class Stage:
    postgres: Postgres
    redis: Redis
    kafka: ApacheKafka | Tansu
    to_postgres: Proxy
    to_redis: Proxy
    deployment: Deployment
    bursts: list[int] = field(default_factory=list)
    """how many activities to send at once to one user"""

    @property
    def instances(self) -> Sequence[Instance]:
        return self.deployment.instances


Disturbance = Callable[[Stage, random.Random], str]


def nothing(stage: Stage, choose: random.Random) -> str:
    time.sleep(3)
    return "nothing"


def _outage(service: Service, end: Callable[[], None], begin: Callable[[], None], for_s: float) -> str:
    end()
    time.sleep(for_s)  # the outage itself
    begin()
    return f"{service.name} {end.__name__} for {for_s:.1f} s"


def burst(stage: Stage, choose: random.Random) -> str:
    count = choose.choice((500, 2_000))
    stage.bursts.append(count)
    time.sleep(3)
    return f"a burst of {count} to one user"


def postgres_read_only(stage: Stage, choose: random.Random) -> str:
    for_s = choose.uniform(1, 6)
    for setting in ("on", "off"):
        psql(stage.postgres.url, f"ALTER SYSTEM SET default_transaction_read_only = {setting}")
        psql(stage.postgres.url, "SELECT pg_reload_conf()")
        time.sleep(for_s if setting == "on" else 0)
    return f"postgres read-only for {for_s:.1f} s"


def postgres(stage: Stage, choose: random.Random) -> str:
    return _any_outage(stage.postgres, choose)


def redis(stage: Stage, choose: random.Random) -> str:
    return _any_outage(stage.redis, choose)


def kafka(stage: Stage, choose: random.Random) -> str:
    if isinstance(stage.kafka, Tansu):  # it keeps its log in memory
        return _outage(stage.kafka, stage.kafka.pause, stage.kafka.resume, choose.uniform(1, 12))
    return _any_outage(stage.kafka, choose)


def _any_outage(service: Service, choose: random.Random) -> str:
    end, begin = choose.choice(
        [
            (service.stop, service.start),
            (service.kill, service.start),
            (service.pause, service.resume),
        ]
    )
    return _outage(service, end, begin, choose.uniform(1, 12))


def connections(stage: Stage, choose: random.Random) -> str:
    """Those to PostgreSQL and Redis, several times."""
    for _ in range(5):
        time.sleep(choose.uniform(0.2, 1))
        choose.choice((stage.to_postgres, stage.to_redis)).cut()
    return "connections cut 5 times"


def instance_killed(stage: Stage, choose: random.Random) -> str:
    return _restart(stage, choose, signal.SIGKILL)


def instance_restarted(stage: Stage, choose: random.Random) -> str:
    return _restart(stage, choose, signal.SIGTERM)


def _restart(stage: Stage, choose: random.Random, number: signal.Signals) -> str:
    instance, for_s = choose.choice(stage.instances), choose.uniform(0, 6)
    instance.signal(number)
    time.sleep(for_s)  # it is away
    instance.start()
    instance.wait_ready()
    return f"an instance ended by {number.name} for {for_s:.1f} s"


def instance_frozen(stage: Stage, choose: random.Random) -> str:
    """Longer than its session with Kafka: the other one takes its partitions over."""
    instance, for_s = choose.choice(stage.instances), choose.uniform(1, 15)
    assert instance.process
    instance.process.send_signal(signal.SIGSTOP)
    time.sleep(for_s)  # frozen
    instance.process.send_signal(signal.SIGCONT)
    return f"an instance frozen for {for_s:.1f} s"


DISTURBANCES: Sequence[Disturbance] = (
    nothing,
    burst,
    postgres,
    postgres_read_only,
    redis,
    kafka,
    connections,
    instance_killed,
    instance_restarted,
    instance_frozen,
)

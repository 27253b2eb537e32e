"""What the tests of this folder break: two instances on services of their own, proxies in between."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from faults.proxy import Proxy
from nx_signal.identity.issuer import open_issuer
from services import Postgres, Redis, Tansu
from serving import Deployment, Instance, deployed
from standby import Standby

TOKEN_S = 600
CONNECTIONS = 50
"""Enough for two instances, and soon held by others."""


@dataclass
class Stage:
    postgres: Postgres
    standby: Standby | None
    redis: Redis
    kafka: Tansu
    to_postgres: Proxy
    to_redis: Proxy
    deployment: Deployment
    token: Callable[[str], str]

    @property
    def database_url(self) -> str:
        """of the server itself, not of the proxy in front; with a standby, of that one"""
        return (self.standby or self.postgres).url

    @property
    def instances(self) -> list[Instance]:
        return list(self.deployment.instances)


@contextmanager
def staged(data_dir: Path, *, with_standby: bool = False) -> Iterator[Stage]:
    """Both instances serve. PostgreSQL and Redis are behind proxies; Kafka names its own address."""
    with ExitStack() as stack:
        postgres = Postgres()
        postgres.max_connections = CONNECTIONS
        stack.enter_context(postgres)
        standby = stack.enter_context(Standby(postgres)) if with_standby else None
        redis = stack.enter_context(Redis())
        kafka = stack.enter_context(Tansu())
        to_postgres = stack.enter_context(Proxy("127.0.0.1", postgres.port))
        to_redis = stack.enter_context(Proxy("127.0.0.1", redis.port))
        hosts = f"127.0.0.1:{to_postgres.port}" + (f",{standby.address}" if standby else "")
        urls = (
            f"postgresql://signal@{hosts}/postgres",
            f"redis://127.0.0.1:{to_redis.port}/0",
        )
        deployment = stack.enter_context(deployed(data_dir, *urls, kafka.servers, count=2))
        issuer = open_issuer(data_dir)

        def token(user: str) -> str:
            """Signed here: a process for each would take a second."""
            return issuer.sign(user, TOKEN_S, (), (), datetime.now(UTC))

        yield Stage(postgres, standby, redis, kafka, to_postgres, to_redis, deployment, token)

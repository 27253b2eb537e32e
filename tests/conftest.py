"""Services for the tests, each started when the first test requests it; nothing here runs by itself.

`postgres_url`, `redis_url`, `kafka_servers` share one server each for the whole run. The tests that
stop, kill or freeze a server request `own_postgres`, `own_redis` or `own_kafka`: one of their own.
TEST_POSTGRES_URL, TEST_REDIS_URL and TEST_KAFKA_SERVERS name running servers to use instead."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import structlog
from hypothesis import settings

from services import (
    ApacheKafka,
    Postgres,
    Redis,
    ServiceMissing,
    Tansu,
    create_topic,
    fresh_database,
)
from standby import Standby

# No deadline: the machine's load is not a property of the code. In CI every run tries the same examples.
EXAMPLES = 30
"""Of a property that states no number: fewer than the default, as the unit tests are run often."""
settings.register_profile("local", deadline=None, max_examples=EXAMPLES)
settings.register_profile(
    "ci", deadline=None, max_examples=EXAMPLES, derandomize=True, database=None, print_blob=True
)
settings.load_profile("ci" if os.environ.get("CI") else "local")


@pytest.fixture(autouse=True)
def default_logs() -> Iterator[None]:
    """The log configuration of a test, or of a command run in one, ends with the test."""
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The URL of a PostgreSQL server's maintenance database."""
    if url := os.environ.get("TEST_POSTGRES_URL"):
        yield url
        return
    with Postgres() as server:
        yield server.url


@pytest.fixture(scope="module")
def postgres_url(postgres_server: str) -> str:
    """A fresh empty database for each test module."""
    return fresh_database(postgres_server)


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    if url := os.environ.get("TEST_REDIS_URL"):
        yield url
        return
    with Redis() as server:
        yield server.url


@pytest.fixture(scope="session")
def kafka_servers() -> Iterator[str]:
    if servers := os.environ.get("TEST_KAFKA_SERVERS"):
        yield servers
        return
    with Tansu() as broker:
        yield broker.servers


@pytest.fixture
def kafka_topic(request: pytest.FixtureRequest, kafka_servers: str) -> str:
    """A fresh topic of 4 partitions, or of N: `parametrize("kafka_topic", [N], indirect=True)`."""
    return create_topic(kafka_servers, getattr(request, "param", 4))


@pytest.fixture(scope="session")
def apache_kafka() -> Iterator[ApacheKafka]:
    broker = ApacheKafka()
    try:
        try:
            broker.start()
        except ServiceMissing as why:
            pytest.skip(str(why))
        yield broker
    finally:
        broker.close()


@pytest.fixture(scope="session")
def tansu_kafka() -> Iterator[Tansu]:
    with Tansu() as broker:
        yield broker


@pytest.fixture(scope="session", params=["tansu", pytest.param("apache", marks=pytest.mark.full)])
def kafka_broker(request: pytest.FixtureRequest) -> Tansu | ApacheKafka:
    """Each broker in turn: `.servers`, and `.create_topic(partitions)`."""
    broker: Tansu | ApacheKafka = request.getfixturevalue(f"{request.param}_kafka")
    return broker


@pytest.fixture
def own_postgres() -> Iterator[Postgres]:
    with Postgres() as server:
        yield server


@pytest.fixture
def standby(own_postgres: Postgres) -> Iterator[Standby]:
    """of `own_postgres`"""
    with Standby(own_postgres) as server:
        yield server


@pytest.fixture
def own_redis() -> Iterator[Redis]:
    with Redis() as server:
        yield server


@pytest.fixture
def own_kafka() -> Iterator[Tansu]:
    with Tansu() as broker:
        yield broker

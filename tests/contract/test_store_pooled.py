"""The contract of the stores once more, on PostgreSQL behind PgBouncer in transaction mode."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from contract.store_suite import Clock, OpenDatabase
from contract.test_store import *  # noqa: F403
from contract.test_store_dead_letters import *  # noqa: F403
from contract.test_store_directory import *  # noqa: F403
from contract.test_store_in_hand import *  # noqa: F403
from contract.test_store_traces import *  # noqa: F403
from debian import NoDebian
from nx_signal.adapters.postgres.store import open_postgres
from pgbouncer import PgBouncer


@pytest.fixture(scope="module")
def pooled_url(postgres_url: str) -> Iterator[str]:
    try:
        bouncer = PgBouncer(postgres_url, "transaction")
    except NoDebian as why:
        pytest.skip(str(why))
    with bouncer:
        yield bouncer.url()


@pytest.fixture(params=["postgres"])
def open_database(pooled_url: str, clock: Clock) -> OpenDatabase:
    return lambda: open_postgres(pooled_url, clock, pool_size=4)

"""A standby of a PostgreSQL server of the tests."""

from __future__ import annotations

import time
from pathlib import Path

from services import Postgres, psql

OVER_WITHIN_S = 30.0
WRITING = "SELECT count(*) FROM pg_stat_activity WHERE backend_xid IS NOT NULL"


class Standby(Postgres):
    """Streams from `primary` until it is promoted."""

    name = "standby"

    def __init__(self, primary: Postgres) -> None:
        super().__init__()
        self._primary = primary

    def _initialize(self) -> list[str | Path]:
        source = f"--dbname=host=127.0.0.1 port={self._primary.port} user=signal"
        options = ("-D", "data", "-R", "-X", "stream", "-c", "fast", "--no-sync")
        return [self._bin / "pg_basebackup", source, *options]

    def promote(self) -> None:
        psql(self.url, "SELECT pg_promote(true, 30)")


def make_read_only(server: Postgres) -> None:
    """Returns once the transactions that write already are over."""
    psql(server.url, "ALTER SYSTEM SET default_transaction_read_only = on")
    psql(server.url, "SELECT pg_reload_conf()")
    deadline = time.monotonic() + OVER_WITHIN_S
    while psql(server.url, WRITING) != "0":
        assert time.monotonic() < deadline, "a transaction goes on writing"
        time.sleep(0.05)  # between two looks at what other sessions do


def make_synchronous(primary: Postgres) -> None:
    """From now on a commit is acknowledged once the standby has it: nothing is lost with the primary."""
    psql(primary.url, "ALTER SYSTEM SET synchronous_standby_names = '*'")
    psql(primary.url, "SELECT pg_reload_conf()")

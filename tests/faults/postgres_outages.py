"""What else happens to a PostgreSQL server. Each returns once it is back."""

from __future__ import annotations

import asyncio
import os
import signal
import time

import asyncpg

from faults.load import Load
from faults.stage import Stage
from services import psql
from serving import PATIENCE_S

OUTAGE_S = 3.0
WRITABLE = "?options=-c%20default_transaction_read_only%3Doff"
MINE = "FROM pg_stat_activity WHERE application_name = 'nx-signal'"


def restarted_at_once(stage: Stage, load: Load) -> None:
    """ "Immediate": as after a crash, the server recovers from its log."""
    stage.postgres.stop_signal = signal.SIGQUIT
    stage.postgres.stop()
    stage.postgres.stop_signal = signal.SIGINT
    stage.postgres.start()


def backend_killed(stage: Stage, load: Load) -> None:
    """As by the kernel when memory runs out: the server ends every other connection and recovers."""
    os.kill(int(psql(stage.postgres.url, f"SELECT pid {MINE} LIMIT 1")), signal.SIGKILL)
    deadline = time.monotonic() + PATIENCE_S
    while not stage.postgres.answers():
        assert time.monotonic() < deadline, "it did not recover"
        time.sleep(0.05)  # the server restarts itself


def read_only(stage: Stage, load: Load) -> None:
    """Also for the connections that are open."""
    for change in ("SET default_transaction_read_only = on", "RESET default_transaction_read_only"):
        psql(stage.postgres.url, f"ALTER SYSTEM {change}")
        psql(stage.postgres.url, "SELECT pg_reload_conf()")
        if change.startswith("SET"):
            time.sleep(OUTAGE_S)  # the outage itself


def database_read_only(stage: Stage, load: Load) -> None:
    """For new connections; those of before end."""
    url = stage.postgres.url + WRITABLE
    psql(url, "ALTER DATABASE postgres SET default_transaction_read_only = on")
    psql(url, f"SELECT pg_terminate_backend(pid) {MINE}")
    time.sleep(OUTAGE_S)  # the outage itself
    psql(url, "ALTER DATABASE postgres RESET default_transaction_read_only")


DISK_FULL = """
CREATE FUNCTION disk_full() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE 'could not extend file: No space left on device' USING ERRCODE = '53100'; END $$;
CREATE TRIGGER disk_full BEFORE INSERT ON activity_notification EXECUTE FUNCTION disk_full();
"""


def disk_full(stage: Stage, load: Load) -> None:
    """The error alone: a file system of a few MB needs root."""
    psql(stage.postgres.url, DISK_FULL)
    time.sleep(OUTAGE_S)  # the outage itself
    psql(stage.postgres.url, "DROP FUNCTION disk_full CASCADE")


def forgotten(stage: Stage, load: Load) -> None:
    """A router forgets every connection: none is reset, and new ones work."""
    stage.to_postgres.stall()


def without_connections(stage: Stage, load: Load) -> None:
    """Others hold each connection that the server has, and take what is freed."""
    asyncio.run(_occupy(stage))


async def _occupy(stage: Stage) -> None:
    held: list[asyncpg.Connection] = []
    until_s, cut = 0.0, False
    try:
        while not cut or time.monotonic() < until_s:
            try:
                held.append(await asyncpg.connect(stage.postgres.url))
            except asyncpg.TooManyConnectionsError:
                if not cut:
                    await asyncio.to_thread(stage.to_postgres.cut)
                    until_s, cut = time.monotonic() + OUTAGE_S, True
                await asyncio.sleep(0.02)  # others free one now and then
    finally:
        for connection in held:
            connection.terminate()

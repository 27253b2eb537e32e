"""Which errors of PostgreSQL are a statement's own: only these may set a record aside."""

from __future__ import annotations

import pytest
from asyncpg import exceptions as pg

from nx_signal.adapters.postgres.connect import LOCK_S, STATEMENT_S
from nx_signal.adapters.postgres.errors import translated
from nx_signal.errors import StatementBlocked, StatementFailed, StoreUnavailable


@pytest.mark.parametrize(
    ("error", "own"),
    [
        (pg.QueryCanceledError("canceling statement due to statement timeout"), True),
        (TimeoutError(), True),
        (pg.OutOfMemoryError("out of memory"), True),
        (pg.ConnectionDoesNotExistError("connection was closed in the middle of operation"), True),
        (pg.InternalServerError("invalid memory alloc request size"), True),
        (pg.DiskFullError("could not extend file"), False),
        (pg.TooManyConnectionsError("sorry, too many clients already"), False),
        (pg.AdminShutdownError("terminating connection due to administrator command"), False),
        (pg.CannotConnectNowError("the database system is starting up"), False),
        (pg.DeadlockDetectedError("deadlock detected"), False),
        (pg.ReadOnlySQLTransactionError("cannot execute INSERT in a read-only transaction"), False),
        (ConnectionRefusedError(), False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
def test_a_statement_that_is_not_finished_is_told_from_a_server_that_is_away(
    error: Exception, own: bool
) -> None:
    found = translated(error, "db:5432")
    assert isinstance(found, StoreUnavailable)
    assert isinstance(found, StatementFailed) is own


def test_a_wait_for_a_lock_is_no_fault_of_the_statement() -> None:
    found = translated(pg.LockNotAvailableError("canceling statement due to lock timeout"), "db:5432")
    assert isinstance(found, StatementBlocked)


def test_a_wait_for_a_lock_ends_before_the_statement_s_time_does() -> None:
    assert LOCK_S < STATEMENT_S

"""What SQLite raises, as the errors that the ports name."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from nx_signal.errors import Fatal, SchemaOutdated, StoreRejected, StoreUnavailable


@contextmanager
def translated(place: str) -> Iterator[None]:
    try:
        yield
    except (OverflowError, UnicodeEncodeError) as error:
        raise StoreRejected(f"The database cannot hold a value: {error}.") from error
    except sqlite3.Error as error:
        raise _translated(error, place) from error
    except OSError as error:
        raise StoreUnavailable(f"The directory of {place} cannot be used: {error}.") from error


def _translated(error: sqlite3.Error, place: str) -> Exception:
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK) & 0xFF  # the primary result code
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return Fatal(f"The file {place} is damaged or not a database: {error}. Restore a backup of it.")
    if isinstance(error, sqlite3.DataError | sqlite3.IntegrityError | sqlite3.InterfaceError):
        return StoreRejected(f"The database refuses a value: {error}.")
    if isinstance(error, sqlite3.OperationalError):
        if str(error).startswith("no such"):
            return SchemaOutdated(f"The database {place} lacks a part of its schema: {error}.")
        if code == sqlite3.SQLITE_ERROR:
            return error  # the statement itself is wrong: repeating it cannot help
        return StoreUnavailable(f"The database {place} cannot be used now: {error}.")
    return error

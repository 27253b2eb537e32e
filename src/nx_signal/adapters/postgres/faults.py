"""What the driver raises, as the errors that the ports name."""

from __future__ import annotations

from urllib.parse import urlsplit

import asyncpg

from nx_signal.errors import SchemaOutdated, SettingsError, SignalError, StoreRejected, StoreUnavailable

URL_SETTING = "APP_ENV_DATABASE_URL"


class IdTaken(StoreUnavailable):
    """Another instance gave out the same id: our lease of the worker id was lost unnoticed."""


_WRONG_SETTINGS = (
    asyncpg.InvalidAuthorizationSpecificationError,  # also a wrong password
    asyncpg.InvalidCatalogNameError,  # no such database
    asyncpg.InsufficientPrivilegeError,
    asyncpg.ClientConfigurationError,
)
_WRONG_SCHEMA = (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError)
_BAD_DATA = (
    asyncpg.exceptions.DataError,  # a character, number or text that the server cannot hold
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.exceptions.ProgramLimitExceededError,  # too long for an index, nested too deep
)
_GONE = (
    OSError,  # with TimeoutError, and DriverCancelled of the border
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
    asyncpg.exceptions.OperatorInterventionError,  # shutting down, starting up, a statement timed out
    asyncpg.exceptions.InsufficientResourcesError,  # too many connections, disk full
    asyncpg.exceptions.TransactionRollbackError,  # never by design; repeating is safe
    asyncpg.exceptions.ObjectNotInPrerequisiteStateError,
    asyncpg.exceptions.InvalidTransactionStateError,  # a standby that is read-only, an idle timeout
    asyncpg.exceptions.PostgresSystemError,
    asyncpg.exceptions.InvalidCachedStatementError,  # the schema was migrated just now
)


def place_of(url: str) -> str:
    """Host and database for messages; never a user, a password or a query."""
    parts = urlsplit(url)
    _, at, host = parts.netloc.rpartition("@")
    if not at and "@" in url:  # a "/" or "?" in the password: there is no telling what is what
        return f"the server of {URL_SETTING}"
    return host + parts.path


def translated(error: Exception, place: str) -> SignalError | None:
    """None for what nobody planned for: let it pass."""
    if isinstance(error, _WRONG_SETTINGS):
        words = "" if isinstance(error, asyncpg.ClientConfigurationError) else f" ({_words(error)})"
        return SettingsError(
            f"PostgreSQL at {place} refuses us{words}. Check user, password, database and rights "
            f"in {URL_SETTING} or --database-url."
        )
    if isinstance(error, _WRONG_SCHEMA):
        return outdated(place, _words(error))
    if isinstance(error, asyncpg.UniqueViolationError):
        kind = IdTaken if str(error.constraint_name).endswith("_pkey") else StoreUnavailable
        return kind(f"Another writer was quicker at {place} ({_words(error)}). Repeating is safe.")
    if isinstance(error, _BAD_DATA):
        return StoreRejected(f"PostgreSQL cannot hold this data: {_words(error)}.")
    if isinstance(error, asyncpg.InterfaceError) and isinstance(error, ValueError):
        # The driver's own DataError. Its text shows the values; they do not belong into messages.
        return StoreRejected(
            "PostgreSQL cannot hold this data: a text that is no UTF-8, or a number too large."
        )
    if isinstance(error, _GONE):
        return StoreUnavailable(f"PostgreSQL at {place} cannot be used now ({_words(error)}).")
    return None


def outdated(place: str, why: str) -> SchemaOutdated:
    return SchemaOutdated(
        f"The database {place} does not have the schema of this release ({why}): "
        "run `nx-signal migrate --database-url …` first."
    )


def _words(error: Exception) -> str:
    """One line without the details, in which the server shows values."""
    first = (
        str(error.args[0]).splitlines()[0] if error.args and isinstance(error.args[0], str) else str(error)
    )
    return first.rstrip(".") or type(error).__name__

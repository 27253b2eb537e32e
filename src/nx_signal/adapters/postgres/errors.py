"""What the driver raises, as the errors that the ports name: by the list in nx_signal/errors.py."""

from __future__ import annotations

import socket
import ssl

import asyncpg
from asyncpg import exceptions as pg

from nx_signal.adapters.postgres.address import URL_SETTING
from nx_signal.errors import (
    Fatal,
    SchemaOutdated,
    SettingsError,
    SignalError,
    StatementBlocked,
    StatementFailed,
    StoreReadOnly,
    StoreRejected,
    StoreUnavailable,
    Unsupported,
)


class IdTaken(StoreUnavailable):
    """Another instance gave out the same id: our lease of the worker id was lost unnoticed."""


class NoConnectionLeft(StoreUnavailable):
    """The server, or the limit of the role or the database, gives no further connection now."""


_REFUSED = (
    pg.InvalidAuthorizationSpecificationError,  # 28: also a wrong password
    pg.InvalidCatalogNameError,  # 3D000: no such database
    pg.DatabaseDroppedError,
    pg.InsufficientPrivilegeError,  # 42501
)
_WRONG_SCHEMA = (
    pg.UndefinedTableError,
    pg.UndefinedColumnError,
    pg.UndefinedFunctionError,  # an operator, for a column of another type
    pg.DatatypeMismatchError,
    pg.CannotCoerceError,
)
_BAD_DATA = (
    pg.DataError,  # 22: a character, number or text that the server cannot hold
    pg.IntegrityConstraintViolationError,  # 23
    pg.ProgramLimitExceededError,  # 54: too long for an index, nested too deep
    pg.WithCheckOptionViolationError,
    pg.PLPGSQLError,  # P0: raised by a trigger of others
)
_NO_SESSION = (
    pg.InvalidSQLStatementNameError,  # a prepared statement of another session
    pg.DuplicatePreparedStatementError,
)
_DAMAGED = (pg.DataCorruptedError, pg.IndexCorruptedError, pg.ConfigFileError)
_PASSES = (
    OSError,  # with TimeoutError, and DriverCancelled of the bridge
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    pg.PostgresConnectionError,  # 08
    pg.OperatorInterventionError,  # 57: shutting down, starting up, a statement timed out
    pg.InsufficientResourcesError,  # 53: too many connections, disk full
    pg.TransactionRollbackError,  # 40: never by design; repeating is safe
    pg.ObjectNotInPrerequisiteStateError,  # 55
    pg.InvalidTransactionStateError,  # 25: read-only, an idle timeout
    pg.PostgresSystemError,  # 58
    pg.InternalServerError,  # XX000
    pg.InvalidCachedStatementError,  # the schema was migrated just now
)
_UNFINISHED = (
    TimeoutError,
    pg.QueryCanceledError,  # 57014: its time was over
    pg.OutOfMemoryError,  # 53200
    pg.ConnectionDoesNotExistError,  # it ended in the middle of the statement
    pg.InternalServerError,  # XX000
)
_SWITCHED = (
    StoreReadOnly,
    pg.ReadOnlySQLTransactionError,
    pg.AdminShutdownError,
    pg.CrashShutdownError,
    pg.CannotConnectNowError,
)

_POOLER_REFUSES = (
    "unsupported startup parameter",
    "no such database",
    "no such user",
    "bouncer config error",
    "authentication failed",
    "SSL required",
    "tenant or user not found",
)
"""PgBouncer and its like have few codes: 08P01 (or XX000) is a wrong setting as well as what passes."""


def is_switched(error: Exception) -> bool:
    """Whether the server is no longer the one to write to: none of its connections is of use."""
    return isinstance(error, _SWITCHED)


def refused(error: Exception, place: str, host: str) -> SignalError | None:
    """As `translated`, for what is raised while a connection is made: there it is the connection, and not
    data, that is refused."""
    if isinstance(error, SignalError):
        return error
    words = _words(error)
    match error:
        case ssl.SSLCertVerificationError():
            return SettingsError(
                f"PostgreSQL at {place} shows a certificate that is not trusted ({error.verify_message}): "
                f"check sslrootcert and the host's name in {URL_SETTING}."
            )
        case ssl.SSLEOFError() | ssl.SSLZeroReturnError():
            return StoreUnavailable(f"PostgreSQL at {place} ended the TLS handshake.")
        case ssl.SSLError():
            return SettingsError(
                f"TLS with PostgreSQL at {place} fails ({error.reason or words}): check sslmode, "
                f"sslnegotiation and the port in {URL_SETTING}."
            )
        case PermissionError():
            return SettingsError(
                f"The socket of PostgreSQL at {place} may not be opened by this user: allow it."
            )
        case socket.gaierror():
            return StoreUnavailable(f"The name {host} is not resolved ({error.strerror or words}).")
        case ConnectionError() if "rejected SSL upgrade" in words:
            return SettingsError(
                f"PostgreSQL at {place} does not offer TLS, or is no PostgreSQL: check host and port, or "
                f"sslmode, in {URL_SETTING}."
            )
        case TimeoutError():
            return StoreUnavailable(f"PostgreSQL at {place} does not answer.")
        case AttributeError() | ValueError() if "version" in words:  # asyncpg's own, at the first answer
            return Unsupported(
                f"What listens at {place} names no version of PostgreSQL: check host and port in "
                f"{URL_SETTING}, and have a proxy in front pass the parameter server_version on."
            )
        case pg.PostgresError() if any(text.lower() in words.lower() for text in _POOLER_REFUSES):
            return _wrong_setting(place, words)
        case pg.DataError() | pg.SyntaxOrAccessError() if not isinstance(
            error, pg.InsufficientPrivilegeError
        ):
            return SettingsError(
                f"PostgreSQL at {place} refuses a parameter of {URL_SETTING} ({words}): correct or remove it."
            )
        case asyncpg.InterfaceError() if "authentication" in words or "SASL" in words:
            return Unsupported(
                f"PostgreSQL at {place} requires a way to sign in that is not supported ({words}): use "
                "scram-sha-256, md5 or a certificate."
            )
    return translated(error, place)


def translated(error: Exception, place: str) -> SignalError | None:
    """None for an error that is not foreseen, or is one of these already: let it pass."""
    if isinstance(error, SignalError):
        return None
    words = _words(error)
    if isinstance(error, asyncpg.ClientConfigurationError):
        return _wrong_setting(place, "")
    if "statement pooling mode" in words:  # it comes with the end of the connection, which else passes
        return Unsupported(
            f"The pooler at {place} is in statement mode, which has no transactions: set its pool_mode to "
            "transaction or session."
        )
    if isinstance(error, _REFUSED):
        return _wrong_setting(place, words)
    if isinstance(error, _WRONG_SCHEMA):
        return SchemaOutdated(
            f"The database {place} does not have the schema of this release ({words}): "
            "run `nx-signal migrate --database-url …` first. Should that not help, another program's "
            "table is in its place: set APP_ENV_DATABASE_SCHEMA."
        )
    if isinstance(error, pg.InvalidSchemaNameError):
        return SettingsError(
            f"The schema of APP_ENV_DATABASE_SCHEMA may not be used at {place}: grant USAGE and CREATE on it."
        )
    if isinstance(error, pg.UniqueViolationError):
        kind = IdTaken if str(error.constraint_name).endswith("_pkey") else StoreUnavailable
        return kind(f"Another writer was quicker at {place} ({words}). Repeating is safe.")
    if isinstance(error, _BAD_DATA):
        return StoreRejected(f"PostgreSQL cannot hold this data: {words}.")
    if isinstance(error, asyncpg.InterfaceError) and isinstance(error, ValueError):
        # The driver's own DataError. Its text shows the values; they do not belong into messages.
        return StoreRejected(
            "PostgreSQL cannot hold this data: a text that is not UTF-8, or a number too large."
        )
    if isinstance(error, _NO_SESSION):
        return Unsupported(
            f"A pooler at {place} gives each transaction another session ({words}): add pgbouncer=true to "
            f"{URL_SETTING}."
        )
    if isinstance(error, _DAMAGED):
        return Fatal(f"The database {place} is damaged ({words}): restore a backup of it.")
    if isinstance(error, pg.ReadOnlySQLTransactionError):
        return StoreReadOnly(f"PostgreSQL at {place} accepts no writes now ({words}).")
    if isinstance(error, pg.TooManyConnectionsError):
        return NoConnectionLeft(f"PostgreSQL at {place} gives no further connection now ({words}).")
    if isinstance(error, pg.LockNotAvailableError):
        return StatementBlocked(
            f"PostgreSQL at {place} did not give a lock in time ({words}): look in pg_locks for the program "
            "that holds it, and end its transaction."
        )
    if isinstance(error, _UNFINISHED):
        return StatementFailed(f"PostgreSQL at {place} did not finish a statement ({words}).")
    if isinstance(error, _PASSES):
        return StoreUnavailable(f"PostgreSQL at {place} cannot be used now ({words}).")
    return None


def _wrong_setting(place: str, words: str) -> SettingsError:
    return SettingsError(
        f"PostgreSQL at {place} refuses the connection{f' ({words})' if words else ''}. Check user, "
        f"password, database and rights in {URL_SETTING} or --database-url."
    )


def _words(error: Exception) -> str:
    """One line without the details, in which the server shows values."""
    first = (
        str(error.args[0]).splitlines()[0] if error.args and isinstance(error.args[0], str) else str(error)
    )
    return first.rstrip(".") or type(error).__name__

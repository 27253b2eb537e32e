"""Every error that crosses a boundary between parts. Its text is a sentence that states what to do.

The hierarchy carries the supervision policy (docs/architecture.md): `Unavailable` is waited for, `Fatal`
stops the process with its sentence, everything unknown stops it too. Each adapter translates what its client
library raises by this list, which is the same for every part.

SettingsError: a wrong user, password or address; a name that the server does not have; a missing right; TLS
that is required, not offered or not trusted; another protocol than expected.
Unsupported: the other side cannot do what this release needs: a version, an encoding, a codec, a parameter.
SchemaOutdated: the schema is older or newer than this release.
Unavailable: a name that is not resolved; a connection refused, lost or timed out; starting up, shutting down,
read-only, too many connections, disk full, a deadlock.
StatementFailed, one of these: a statement that was not finished while the database answers otherwise.
StatementBlocked, one of those: it waited too long for a lock.
StoreRejected: a value that cannot be held.
"""

from __future__ import annotations


class SignalError(Exception):
    """The root of the errors that Signal raises on purpose."""


class Fatal(SignalError):
    """Waiting does not help: the process stops with the sentence and exit status `exit_status`."""

    exit_status = 1


class SettingsError(Fatal):
    """A flag, an `APP_ENV_*` value or a credential is wrong."""

    exit_status = 2


class SchemaOutdated(Fatal):
    """The database has an older (or newer) schema than this release works with."""


class Unsupported(Fatal):
    """The other side works, and cannot do what this release needs."""


class Unavailable(SignalError):
    """A part that this process depends on cannot be reached now; try again after a pause."""


class StoreUnavailable(Unavailable):
    """The database cannot be reached, or the connection was lost during the call. The caller cannot tell
    whether nothing or all of the call was written: every write is safe to repeat."""


class StatementFailed(StoreUnavailable):
    """The database took a statement and did not finish it: it timed out, ran out of memory, or the connection
    ended meanwhile. Where the database takes others, this one may never pass: the caller tries its parts."""


class StatementBlocked(StatementFailed):
    """A statement waited too long for a lock of another program: it passes once that is given back."""


class StoreReadOnly(StoreUnavailable):
    """The database accepts no writes now: a standby, or a primary that was demoted."""


class RelayLost(Unavailable):
    """The pub/sub connection is lost: messages may have been missed since its last successful check."""


class SourceUnavailable(Unavailable):
    """The source of activities cannot be reached now. Nothing is lost: it resumes at its last commit."""


class IssuerUnavailable(Unavailable):
    """The token issuer's keys cannot be fetched and none are cached."""


class Stopping(Unavailable):
    """This instance is about to end: another one serves."""


class RateExceeded(SignalError):
    """These are more than a user, or an address, may send in this time."""


class SessionsFull(RateExceeded):
    """The user has as many sessions on this instance as one may have."""


class StoreRejected(SignalError):
    """The database refuses the data (a value it cannot hold). Nothing was written.

    Repeating it would fail again: the caller isolates the offending item and sets it aside."""


class HistoryLost(SignalError):
    """The inbox no longer has the change that the caller names: the store went back. Nothing was written."""


class MessageRejected(SignalError):
    """An activity message is malformed; the text names the field and the error."""


class TokenRejected(SignalError):
    """A token does not prove who its bearer is. The text never holds the token."""


def is_out_of_memory(error: BaseException) -> bool:
    """Also where a thread's stack does not fit, or the limit of threads is reached."""
    no_thread = isinstance(error, RuntimeError) and str(error) == "can't start new thread"
    return no_thread or isinstance(error, MemoryError)

"""Every error that crosses a boundary between parts. Each reads as a sentence that says what to do.

The hierarchy carries the supervision policy (docs/architecture.md): `Unavailable` is waited for, `Fatal`
stops the process with its sentence, everything unknown stops it too.
"""

from __future__ import annotations


class SignalError(Exception):
    """The root of the errors that Signal raises on purpose."""


class Fatal(SignalError):
    """Waiting cannot mend this: the process stops with the sentence and exit status `exit_status`."""

    exit_status = 1


class SettingsError(Fatal):
    """A flag, an `APP_ENV_*` value or a credential is wrong."""

    exit_status = 2


class SchemaOutdated(Fatal):
    """The database has an older (or newer) schema than this release works with."""


class Unavailable(SignalError):
    """A part that this process depends on cannot be reached now; try again after a pause."""


class StoreUnavailable(Unavailable):
    """The database cannot be reached, or went away in the middle. Nothing of the call was written,
    or all of it was and the caller cannot know: every write is safe to repeat."""


class RelayLost(Unavailable):
    """The pub/sub connection is gone: messages may have been missed since it was last known good."""


class SourceUnavailable(Unavailable):
    """The source of activities cannot be reached now. Nothing is lost: it resumes at its last commit."""


class IssuerUnavailable(Unavailable):
    """The token issuer's keys cannot be fetched and none are cached."""


class StoreRejected(SignalError):
    """The database refuses this very data (a value it cannot hold). Nothing was written.

    Repeating it would fail again: the caller isolates the offending item and sets it aside."""


class MessageRejected(SignalError):
    """An activity message is malformed; the text says what is wrong with it and names the field."""


class TokenRejected(SignalError):
    """A token does not prove who its bearer is. The text never holds the token."""

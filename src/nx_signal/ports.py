"""The contracts between the parts, over the model alone. The comment on a port is the contract; one
suite in tests/contract runs against every adapter of a port.

Common to all: every method may raise the `Unavailable` of its kind; everything that awaits may be
cancelled at any await, and then holds no connection, lock or transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, TypeAlias

import trio

from nx_signal.model import (
    Activity,
    ActivityRow,
    Audience,
    Audit,
    Backlog,
    Change,
    Created,
    DeadLetter,
    Deleted,
    Dispatch,
    Draft,
    Head,
    InboxFilter,
    InboxPage,
    Memberships,
    Notification,
    Position,
    Record,
    Roster,
    Trace,
)

Now: TypeAlias = Callable[[], datetime]
"""The wall clock, for stamps only: timezone-aware UTC, milliseconds. Durations use trio.current_time()."""


# --- the store -----------------------------------------------------------------------------------


class InboxStore(Protocol):
    """The truth: one log per recipient. Each change takes the recipient's next `rev` in the
    transaction that makes the change; revisions of a recipient have no gap and never go back.

    Concurrent callers (also of other processes) are serialized per recipient by locking its head
    first, always in ascending recipient order."""

    async def insert(self, drafts: Sequence[Draft]) -> Sequence[Created]:
        """Write the drafts in one transaction, a constant number of statements whatever their number.

        A draft whose (activity_id, recipient_id) exists already, in the store or earlier in `drafts`,
        is skipped silently. Returns one `Created` for each row really inserted, in the order of
        `drafts`; a recipient's revisions ascend in that order. At most 1,000 drafts a call.
        Raises StoreRejected when a value cannot be stored: then nothing was written."""

    async def heads(self, recipient_ids: Sequence[str]) -> Mapping[str, Head]:
        """One query. An entry for every id asked, Head(id, 0, 0, 0) for an inbox never written."""

    async def backlogs(self, cursors: Mapping[str, int], limit: int) -> Mapping[str, Backlog]:
        """For each recipient → rev: the head and up to `limit` changes with a revision above `rev`.

        One snapshot, a constant number of queries for all recipients together. A `rev` at or above
        the head's gives an empty `changes`. Where what follows `rev` is no longer kept, `changes` starts
        where the kept log does, so above `rev` + 1: whoever stands at `rev` has to start anew. A `rev`
        below the head's never gives an empty `changes` (with a limit above 0)."""

    async def page(
        self, recipient_id: str, where: InboxFilter, limit: int, before_rev: int | None, skip: int
    ) -> InboxPage:
        """Rows not deleted that match, newest first, below `before_rev` where given."""

    async def count(self, recipient_id: str, where: InboxFilter) -> tuple[int, Head]:
        """How many match, and the head of the same snapshot."""

    async def get(self, recipient_id: str, id: int) -> Notification | None:
        """None for an id that is unknown, deleted or another recipient's: no difference."""

    async def mark_read(
        self, recipient_id: str, id: int, origin: str | None
    ) -> tuple[Notification, Change | None] | None:
        """None as for `get`. The change is None when it was read already: the first read_at stays."""

    async def mark_all_read(
        self,
        recipient_id: str,
        up_to_rev: int | None,
        type: str | None,
        subject: str | None,
        origin: str | None,
    ) -> tuple[int, Head, datetime, Change | None]:
        """Mark the unread rows with rev ≤ up_to_rev (the head's rev where None or larger) and of the
        given type and subject: (how many, the head after, the time, the change). One revision for
        all of them; no change and no revision where nothing was unread.

        On return all of them are read, for every reader. Of many, the rows themselves may be written
        later (Upkeep.settle): no statement touches more than a bounded number of rows, and no writer
        waits for more than one such statement."""

    async def delete(self, recipient_id: str, id: int) -> Change | None:
        """Soft. None as for `get`."""

    async def rows_of(
        self, activity_id: str, recipient_id: str | None, limit: int
    ) -> tuple[Sequence[ActivityRow], int]:
        """For operators: the rows of an activity, of this recipient or the first `limit` of all by
        recipient, and how many there are of all. Deleted rows count."""


class Upkeep(Protocol):
    """What the inboxes need beside their calls, in short transactions: nobody waits for more than one
    portion. Several instances may do it at once; one that ends midway leaves all answers right."""

    async def settle(self, limit: int) -> bool:
        """Write up to `limit` rows of a read-all that is recorded and not yet in all its rows. Changes
        no answer. False when there is none."""

    async def expire(self, before: datetime, limit: int) -> tuple[int, Deleted | None]:
        """Remove up to `limit` rows made before this, for good, and the part of the log up to the first
        kept row: of the one inbox that has the oldest. (how many, the change)

        To its reader that is a deletion: those not deleted yet become one `Deleted` with the next
        revision, so that counts equal the rows. A row's age is that of its id. 0 when nothing is that
        old, or another instance is at it. A removed row's activity would make a new one if delivered
        once more."""

    async def audit(self, after: str, max_inboxes: int, max_rows: int, largest: int | None = None) -> Audit:
        """Compare the inboxes with a recipient above `after`, ascending, with their rows and log: counts
        equal COUNT, revisions have no gap and no double. So many that they have about `max_rows` rows
        and changes, at least one, at most `max_inboxes`. One with more than `largest` is passed over
        (then perhaps none is compared). One snapshot."""


class Directory(Protocol):
    """Who belongs where, who may do what, who reads which language (CONTRACT §5)."""

    async def audiences(self, keys: Sequence[Audience]) -> Mapping[Audience, Sequence[str]]:
        """One query for all keys. Members of the organization or of one of its merchants (scope
        `org`), or of that merchant where it is under that organizer (scope `merchant`): each user
        once, ascending. An entry for every key, empty where there is nobody."""

    async def locales(self, readers: Sequence[tuple[str, str]]) -> Mapping[tuple[str, str], str]:
        """One query for all (user_id, organizer_id): the user's locale, else the organizer's; no
        entry where neither is known. No organizer is called "": with it, the user's own alone."""

    async def memberships(self, user_ids: Sequence[str]) -> Mapping[str, Memberships]:
        """One query for all users. An entry for every id asked, of nothing for a stranger."""

    async def permissions(self, user_id: str, roles: Sequence[str]) -> frozenset[str]:
        """Codes granted to the user directly, through the user's roles, or through `roles`."""

    async def load(self, roster: Roster) -> None:
        """Add or update; idempotent. Nothing that is absent from the roster is removed."""


class DeadLetters(Protocol):
    async def add(self, letters: Sequence[DeadLetter]) -> None:
        """Idempotent by position: the first error stays."""

    async def page(self, limit: int, before_id: int | None) -> Sequence[DeadLetter]:
        """Newest first."""

    async def get(self, id: int) -> DeadLetter | None: ...

    async def set_error(self, id: int, error: str) -> bool:
        """It failed again, for this reason. Whether there was one."""

    async def remove(self, id: int) -> bool:
        """Whether there was one."""


class Traces(Protocol):
    """What became of each activity, for operators. Nothing is decided by it."""

    async def add(self, traces: Sequence[Trace]) -> None:
        """One statement. The first trace of an activity stays, unless it is of a fruitless outcome
        (model.FRUITLESS): then the next one takes its place. Takes every text in `reason`."""

    async def get(self, activity_id: str) -> Trace | None: ...

    async def prune(self, before: datetime, limit: int = 10_000) -> int:
        """Remove up to `limit` traces handled before this; how many."""


class Database(Protocol):
    """One database with its five faces. Opened by its adapter's async context manager, which does
    no I/O on entry: the first call connects."""

    @property
    def inbox(self) -> InboxStore: ...
    @property
    def upkeep(self) -> Upkeep: ...
    @property
    def directory(self) -> Directory: ...
    @property
    def dead_letters(self) -> DeadLetters: ...
    @property
    def traces(self) -> Traces: ...

    async def check(self) -> None:
        """Reachable, and of the schema that this release needs?

        Raises StoreUnavailable, SchemaOutdated (naming `nx-signal migrate`), or SettingsError for
        credentials and database names that are refused. The embedded store migrates itself here."""

    async def migrate(self) -> Sequence[str]:
        """Bring the schema up to this release; the names of the steps taken, none when up to date.
        Versioned, one transaction a step, safe to run twice at once."""


# --- where activities come from ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Batch:
    """Records of one partition, offsets ascending. `ack()` once all of them are dealt with durably:
    synchronous, never raises, harmless when the partition was meanwhile taken away."""

    records: tuple[Record, ...]
    ack: Callable[[], None]

    @property
    def partition(self) -> tuple[str, int]:
        position = self.records[0].position
        return (position.topic, position.partition)


class Source(Protocol):
    """Where activities come from, at least once, in order within a partition."""

    @property
    def name(self) -> str:
        """as /readyz and the logs call it"""

    async def run(self, batches: trio.MemorySendChannel[Batch], task_status: trio.TaskStatus[None]) -> None:
        """Send batches until cancelled; `started()` once it is connected and reading.

        Waits while the channel is full (and stays a member of its group meanwhile). Commits what was
        acked, also on the way out, within a deadline. Raises SourceUnavailable to be run again;
        SettingsError when waiting cannot help. Closes neither the channel nor anything it was given."""


class Journal(Source, Protocol):
    """The embedded source: a durable log on this machine, appended to by POST /activities."""

    async def append(self, messages: Sequence[tuple[str, bytes]]) -> None:
        """(event id, message) each; on return they survive a crash of process and machine."""


# --- between the instances -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Received:
    """Messages of other servers, in the order they came; own ones are left out already."""

    messages: tuple[Dispatch, ...]


@dataclass(frozen=True, slots=True)
class Listening:
    """From now on messages on these channels arrive. Whatever was sent on them before may be lost:
    sessions that depend on them compare their rev with the store."""

    channels: frozenset[str]


RelayEvent: TypeAlias = Received | Listening


class Relay(Protocol):
    """One instance's place in the pub/sub of CONTRACT §2. A hint, at most once: the store heals."""

    def listen(self, channels: Iterable[str]) -> None:
        """Want these exact channels (`ws:user:u1`, …) from now on; returns at once, also while the
        relay is away: it subscribes when it is back. `Listening` confirms."""

    def unlisten(self, channels: Iterable[str]) -> None: ...

    async def run(
        self,
        outbound: trio.MemoryReceiveChannel[tuple[Dispatch, ...]],
        inbound: trio.MemorySendChannel[RelayEvent],
        task_status: trio.TaskStatus[None],
    ) -> None:
        """Publish what comes on `outbound`, one pipeline a batch, and report on `inbound`, until
        cancelled; `started()` once connected and everything wanted is subscribed. Raises RelayLost
        to be run again (then `Listening` is reported anew for everything wanted)."""


# --- identity ------------------------------------------------------------------------------------


class KeySource(Protocol):
    """Where token-verifying keys come from: a JWKS URL, or the embedded issuer."""

    async def jwks(self) -> Mapping[str, object]:
        """The JWK Set (RFC 7517 §5) as decoded JSON. Raises IssuerUnavailable."""


__all__ = [
    "Activity",
    "Batch",
    "Database",
    "DeadLetters",
    "Directory",
    "InboxStore",
    "Journal",
    "KeySource",
    "Listening",
    "Now",
    "Position",
    "Received",
    "Relay",
    "RelayEvent",
    "Source",
    "Traces",
    "Upkeep",
]

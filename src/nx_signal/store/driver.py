"""What a database gives, and all that is written again for another one: a Driver, its SQL, its Tx."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol, TypeAlias, TypeVar, TypeVarTuple

from nx_signal.model import Draft
from nx_signal.ports import Now
from nx_signal.store.sql import DialectName

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

Row: TypeAlias = Mapping[str, Any]
"""By name. A column of a given name has one type everywhere: times are aware datetimes, flags are bool (or,
where a query computes them, 0 and 1), JSON is text."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """What the SQL that listing.py composes differs in. `unset` and `like` are formats of `{column}` and
    `{value}`; `pattern` rewrites a LIKE pattern in which case counts and nothing escapes; `moment` is a time
    in JSON."""

    name: DialectName
    unset: str
    like: str
    pattern: Callable[[str], str]
    moment: Callable[[datetime], int | str]


@dataclass(frozen=True, slots=True)
class Inserted:
    """A draft that was written: its index among the drafts, and the row's numbers. `before`: the head's
    history before the first of its recipient's; `replaces`: the rows that left the inbox with it."""

    index: int
    id: int
    rev: int
    unread: int
    total: int
    unseen: int
    before: str
    replaces: tuple[int, ...] = ()


NO_IDS = "A script that takes ids has to be played with takes_ids=True."


class Tx(Protocol):
    """One transaction of one connection. Arguments are texts, integers (beyond 64 bits the nearest that the
    database holds), flags, times, lists of those, and dicts, which become JSON.

    It suspends nowhere but in its own methods, so a script over it may be played anywhere."""

    dialect: Dialect

    def now(self) -> datetime:
        """The wall clock, in milliseconds."""

    def ids(self, count: int) -> list[int]:
        """New row ids, ascending. RuntimeError in a script that is played without `takes_ids`."""

    async def run(self, name: str, /, **arguments: Any) -> int:
        """Run a named query; how many rows it changed."""

    async def one(self, name: str, /, **arguments: Any) -> Row | None: ...

    async def all(self, name: str, /, **arguments: Any) -> Sequence[Row]: ...

    async def many(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Run a named query once for each mapping of arguments."""

    async def select(self, sql: str, arguments: Mapping[str, Any]) -> Sequence[Row]:
        """A composed SELECT (listing.py)."""

    async def insert(
        self, drafts: Sequence[Draft], data: Sequence[str]
    ) -> tuple[datetime, Sequence[Inserted]]:
        """Lock or create the heads, then write the drafts whose (activity_id, recipient_id) is new, with the
        next revisions, heads and counts by type. `data` is each draft's data as JSON.

        Gives their created_at, and one Inserted for each, in their order. A dialect's own: bulk inserts
        differ the most."""

    async def write_rows(
        self, drafts: Sequence[Draft], data: Sequence[str], created_at: datetime, rows: Sequence[Inserted]
    ) -> None:
        """Write a row for each draft, with the numbers that `rows` has at its place, and nothing else."""

    async def script(self, sql: str) -> None:
        """Several statements without arguments, of a step of the schema."""

    async def look(self) -> None:
        """Raises SchemaOutdated where a named query does not fit the tables; a file that is this service's
        alone has no others."""


class Driver(Protocol):
    """One database. Every method may raise StoreUnavailable, StoreRejected, SchemaOutdated or SettingsError,
    and may be cancelled at any await: then no connection, lock or transaction is left."""

    dialect: Dialect
    place: str
    """for messages; without a secret"""
    migrates_itself: bool
    now: Now

    async def write(
        self, script: Callable[[Tx, *Ts], Awaitable[T]], *arguments: *Ts, takes_ids: bool = False
    ) -> T:
        """Play `script(tx, *arguments)` in one transaction: all of it, durably, or nothing."""

    async def write_one(self, script: Callable[[Tx, *Ts], Awaitable[T]], *arguments: *Ts) -> T:
        """Play a script of a single statement, which is a transaction by itself. It outlives this process; a
        crash of the machine may undo the last ones."""

    async def read(self, script: Callable[[Tx, *Ts], Awaitable[T]], *arguments: *Ts) -> T:
        """Play a script that only reads: it sees one snapshot."""

    async def read_one(self, script: Callable[[Tx, *Ts], Awaitable[T]], *arguments: *Ts) -> T:
        """Play a script of a single SELECT, which is a snapshot by itself."""

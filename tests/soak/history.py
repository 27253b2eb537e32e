"""What was done to a deployment, and what must follow from it: activity → row → frame → mark.

No I/O. A thing is *acknowledged* once its caller has the answer; one without an answer may have been done
or not. Each check returns sentences, one for each violation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

MAX_VIOLATIONS = 20
"""Of one check; the first ones are the most useful."""


class Row(NamedTuple):
    """As the store has it; `id` as on the wire."""

    activity: str
    recipient: str
    id: str
    rev: int
    is_read: bool
    deleted: bool


class Counts(NamedTuple):
    rev: int
    unread: int
    total: int


@dataclass
class Marks:
    """What one user did with one inbox, each asked for before it was acknowledged."""

    read_asked: set[str] = field(default_factory=set)
    read: set[str] = field(default_factory=set)
    all_asked: int = 0
    all_read: int = 0
    """the highest revision up to which everything was marked"""
    delete_asked: set[str] = field(default_factory=set)
    deleted: set[str] = field(default_factory=set)


@dataclass
class Activities:
    """Those sent, and their recipients."""

    recipients: dict[str, frozenset[str]] = field(default_factory=dict)
    acknowledged: set[str] = field(default_factory=set)

    def __len__(self) -> int:
        return len(self.recipients)


@dataclass
class Received:
    """What one client received. `revs` follow each other for as long as it has lost nothing."""

    name: str
    user: str
    counts: Counts = Counts(0, 0, 0)
    history: str | None = None
    created: Counter[str] = field(default_factory=Counter)
    """how often each activity"""
    read: set[str] = field(default_factory=set)
    all_read: int = 0
    deleted: set[str] = field(default_factory=set)
    violations: list[str] = field(default_factory=list)

    def take(self, kind: str, data: Mapping[str, Any]) -> None:
        """One frame of the inbox's log, or a `state`."""
        if kind == "state":
            if data["reset"]:
                self.violations.append(f"{self.name} was reset at revision {self.counts.rev}.")
                self.counts = self.counts._replace(rev=data["rev"])
            return
        if data["rev"] != self.counts.rev + 1:
            self.violations.append(
                f"{self.name} has revision {data['rev']} ({kind}) after {self.counts.rev}."
            )
        self.counts = self.counts._replace(rev=data["rev"], unread=data["unread"])
        self.history = data["history"]
        if kind == "created":
            self.created[data["activityId"]] += 1
        elif kind == "read":
            self.read.update(data.get("ids", ()))
            self.all_read = max(self.all_read, data.get("upToRev", 0))
        elif kind == "deleted":
            self.deleted.update(data["ids"])


def check_rows(activities: Activities, rows: Sequence[Row]) -> list[str]:
    """Each acknowledged activity has exactly one row for each recipient; another one all or none of them."""
    return _first(_rows(activities, rows))


def _rows(activities: Activities, rows: Sequence[Row]) -> Iterator[str]:
    found: dict[str, Counter[str]] = {}
    for row in rows:
        found.setdefault(row.activity, Counter())[row.recipient] += 1
    for activity, recipients in activities.recipients.items():
        has = found.pop(activity, Counter())
        if not has and activity not in activities.acknowledged:
            continue
        for user in recipients - has.keys():
            yield f"{activity} has no row for {user}."
        for user, count in has.items():
            if user not in recipients:
                yield f"{activity} has a row for {user}, who is not a recipient."
            elif count > 1:
                yield f"{activity} has {count} rows for {user}."
    for activity in found:
        yield f"{activity} has rows and was never sent."


def check_marks(marks: Mapping[str, Marks], rows: Iterable[Row]) -> list[str]:
    """What was acknowledged as read or deleted is; nothing is without a request for it."""
    return _first(_marks(marks, rows))


def _marks(marks: Mapping[str, Marks], rows: Iterable[Row]) -> Iterator[str]:
    for row in rows:
        mine = marks.get(row.recipient, Marks())
        name = f"{row.activity} of {row.recipient}"
        if (row.id in mine.read or (row.rev <= mine.all_read and not row.deleted)) and not row.is_read:
            yield f"{name} was marked as read, and is not."
        if row.is_read and row.id not in mine.read_asked and row.rev > mine.all_asked:
            yield f"{name} is read without a request for it."
        if row.id in mine.deleted and not row.deleted:
            yield f"{name} was deleted, and is not."
        if row.deleted and row.id not in mine.delete_asked:
            yield f"{name} is deleted without a request for it."


def check_client(client: Received, rows: Iterable[Row], marks: Marks, head: Counts) -> list[str]:
    """The client has each row and each mark exactly once, and the counts of the store."""
    return _first(_client(client, rows, marks, head))


def _client(client: Received, rows: Iterable[Row], marks: Marks, head: Counts) -> Iterator[str]:
    yield from client.violations
    mine = {row.activity: row for row in rows if row.recipient == client.user}
    for activity in mine.keys() - client.created.keys():
        yield f"{client.name} has no frame for {activity}."
    for activity, count in client.created.items():
        if activity not in mine:
            yield f"{client.name} has a frame for {activity}, which is not in the inbox."
        elif count > 1:
            yield f"{client.name} has {count} frames for {activity}."
    for row in mine.values():
        # An earlier request without an answer may have marked it, together with others.
        if row.id in marks.read and row.id not in client.read and row.rev > client.all_read:
            yield f"{client.name} has no frame that marks {row.activity} as read."
    for id in marks.deleted - client.deleted:
        yield f"{client.name} has no frame that deletes {id}."
    if client.all_read < marks.all_read:
        yield f"{client.name} has no frame that marks all up to {marks.all_read} as read."
    if (client.counts.rev, client.counts.unread) != (head.rev, head.unread):
        yield (
            f"{client.name} stands at revision {client.counts.rev} with {client.counts.unread} unread, "
            f"the store at {head.rev} with {head.unread}."
        )


def _first(violations: Iterator[str]) -> list[str]:
    return [violation for violation, _ in zip(violations, range(MAX_VIOLATIONS), strict=False)]

"""What a client makes of the log, by the words of the contract alone, is what the lists show: whatever
readers, producers and the maintenance do at once, on two instances."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import get_args

import msgspec
import pytest
import trio

from contract.store_suite import Clock, OpenDatabase, a_draft, unique
from nx_signal.model import (
    Action,
    Change,
    Correction,
    Created,
    Deleted,
    InboxFilter,
    Mark,
    Read,
    Updated,
)
from nx_signal.store import Content, Database, read_all
from nx_signal.store.marks import MarkAll, MarkOfAll

TYPES = ("A", "B")
KEYS = ("k", "l", None)
SUBJECTS = ("s", "t")
MARKS: tuple[Mark, ...] = get_args(Mark)
MARKS_OF_ALL: tuple[MarkOfAll, ...] = get_args(MarkOfAll)
ACTIVITIES = 12
SEEDS = 3


@pytest.fixture(autouse=True)
def small_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read_all, "PORTION", 3)


@dataclass
class Held:
    """A notification as a client holds it."""

    rev: int
    type: str
    subject: str | None
    content: str
    is_read: bool = False
    is_seen: bool = False
    archived: bool = False


@dataclass
class Client:
    """Knows nothing but the frames (CONTRACT §1)."""

    rev: int = 0
    history: str = ""
    held: dict[int, Held] = field(default_factory=dict)

    def take(self, change: Change) -> None:
        assert (change.rev, change.after) == (self.rev + 1, self.history)
        self.rev, self.history = change.rev, change.history
        match change:
            case Created(notification=made):
                for id in change.replaces:
                    del self.held[id]
                self.held[made.id] = Held(made.rev, made.type, made.subject, made.content)
            case Deleted():
                for id in change.ids:
                    del self.held[id]
            case Read():
                for row in self.covered(change.ids, change.up_to_rev, archived=False):
                    if change.type in (None, row.type) and change.subject in (None, row.subject):
                        row.is_read = row.is_seen = True
            case Updated():
                archived = None if change.seen else change.archived is False
                for row in self.covered(change.ids, change.up_to_rev, archived=archived):
                    if row.is_read or not change.only_read:
                        self.update(row, change)
        inbox = [row for row in self.held.values() if not row.archived]
        counts = (sum(not row.is_read for row in inbox), len(inbox), sum(not row.is_seen for row in inbox))
        assert (change.unread, change.total, change.unseen) == counts, change

    def covered(
        self, ids: Iterable[int] | None, up_to_rev: int | None, *, archived: bool | None
    ) -> list[Held]:
        if ids is not None:
            return [self.held[id] for id in ids]
        assert up_to_rev is not None
        rows = [row for row in self.held.values() if row.rev <= up_to_rev]
        return [row for row in rows if archived in (None, row.archived)]

    @staticmethod
    def update(row: Held, change: Updated) -> None:
        if change.is_read is not None:
            row.is_read = change.is_read
        if change.seen:
            row.is_seen = True
        if change.archived is not None:
            row.archived = change.archived
        if change.content is not None:
            row.content = change.content


async def listed(database: Database, user: str) -> dict[int, Held]:
    found = {}
    for archived in (False, True):
        page = await database.inbox.page(user, InboxFilter.of(archived=archived), 10_000, None, 0)
        for row in page.rows:
            found[row.id] = Held(
                row.rev, row.type, row.subject, row.content, row.is_read, row.is_seen, row.archived
            )
    return found


@dataclass
class Stage:
    """One instance, whose calls are drawn at random."""

    database: Database
    users: list[str]
    prefix: str
    random: random.Random
    clock: Clock
    changes: dict[tuple[str, int], Change]

    async def run(self, calls: int) -> None:
        doing = (
            *(self.insert, self.insert, self.mark_ids, self.mark_ids, self.mark_all, self.read_all),
            *(self.seen, self.correct, self.expire, self.apply),
        )
        for _ in range(calls):
            self.clock.tick()
            await self.random.choice(doing)()

    def note(self, changes: Iterable[Change | None]) -> None:
        for change in changes:
            if change is not None:
                assert (change.recipient_id, change.rev) not in self.changes
                self.changes[change.recipient_id, change.rev] = change

    async def insert(self) -> None:
        drafts = []
        for _ in range(self.random.randrange(1, 6)):
            key = self.random.choice(KEYS)
            draft = a_draft(
                self.random.choice(self.users),
                type=self.random.choice(TYPES),
                subject=self.random.choice(SUBJECTS),
                collapse_key=key,
                occurred_at=key and self.clock() + timedelta(milliseconds=self.random.randrange(50)),
            )
            if self.random.random() < 0.4:  # the others are never corrected
                activity_id = f"{self.prefix}-{self.random.randrange(ACTIVITIES)}"
                draft = msgspec.structs.replace(draft, activity_id=activity_id)
            if self.random.random() < 0.1:
                expires_at = self.clock() + timedelta(milliseconds=self.random.randrange(1, 200))
                draft = msgspec.structs.replace(draft, expires_at=expires_at)
            drafts.append(draft)
        self.note(await self.database.inbox.insert(drafts))

    async def mark_ids(self) -> None:
        user = self.random.choice(self.users)
        ids = list(await listed(self.database, user))
        ids = self.random.sample(ids, min(len(ids), self.random.randrange(5)))
        self.note([(await self.database.inbox.mark_ids(user, ids, self.random.choice(MARKS), None)).change])

    def up_to(self) -> int | None:
        return self.random.choice((None, self.random.randrange(60)))

    async def mark_all(self) -> None:
        rest: MarkAll | None = MarkAll(
            self.random.choice(self.users),
            self.random.choice(MARKS_OF_ALL),
            self.up_to(),
            None,
            only_read=self.random.random() < 0.5,
        )
        while rest is not None:
            portion = await self.database.inbox.mark_portion(rest)
            self.note([portion.change])
            rest = portion.rest

    async def read_all(self) -> None:
        user, type, subject = self.random.choice(self.users), None, None
        if self.random.random() < 0.3:
            type, subject = self.random.choice((None, *TYPES)), self.random.choice((None, *SUBJECTS))
        *_, change = await self.database.inbox.mark_all_read(user, self.up_to(), type, subject, None)
        self.note([change])

    async def seen(self) -> None:
        *_, change = await self.database.inbox.mark_all_seen(
            self.random.choice(self.users), self.up_to(), None
        )
        self.note([change])

    async def correct(self) -> None:
        n, id = self.random.randrange(10**9), f"{self.prefix}-{self.random.randrange(ACTIVITIES)}"
        action: Action = "retract" if self.random.random() < 0.15 else "update"
        given = Correction(id, action, {"n": n}, None, f"t/0/{n}", "d")
        own, standing = await self.database.corrections.add(given)
        if own == standing:
            rows = await self.database.corrections.rows(id, "", 100)
            contents = [Content(str(n), str(n), None)] * len(rows)
            self.note(await self.database.corrections.apply(own, rows, contents) or ())

    async def expire(self) -> None:
        _, changes = await self.database.maintenance.remove_expired(self.random.randrange(1, 5))
        self.note(changes)

    async def apply(self) -> None:
        await self.database.maintenance.apply_read_all(self.random.randrange(1, 4))


@pytest.mark.parametrize("seed", range(SEEDS))
async def test_a_client_that_takes_each_change_holds_what_the_lists_show(
    open_database: OpenDatabase, database: Database, clock: Clock, seed: int
) -> None:
    users, prefix = [unique("user") for _ in range(2)], unique("activity")
    changes: dict[tuple[str, int], Change] = {}
    async with open_database() as opened:
        second = database if database.driver.place == "memory" else opened
        async with trio.open_nursery() as nursery:
            for n, one in enumerate((database, database, second)):
                stage = Stage(one, users, prefix, random.Random(f"{seed}-{n}"), clock, changes)
                nursery.start_soon(stage.run, 120)
    for user in users:
        found = (await database.inbox.changes_since({user: 0}, 100_000))[user]
        client = Client()
        for replayed in found.changes:
            client.take(replayed)
        assert (client.rev, client.history) == (found.head.rev, found.head.history)
        live = Client()
        for rev in range(1, found.head.rev + 1):
            live.take(changes[user, rev])
        assert live.held == client.held == await listed(database, user)
    audit = await database.maintenance.audit("", 1_000_000, 10**9)
    assert [drift for drift in audit.drifts if drift.recipient_id in users] == []

"""Any interleaving of calls on any store agrees with a model of a dozen lines."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contract.store_suite import Clock, OpenDatabase, a_draft, row_of, unique
from nx_signal.model import (
    Change,
    ChangesSince,
    Created,
    Deleted,
    InboxFilter,
    InboxSummary,
    Notification,
    Read,
)
from nx_signal.store import Database, read_all
from nx_signal.store.snowflake import timestamp_of

TYPES = ("A", "B")
SUBJECTS = ("s", "t", None)
HOUR_MS = 3_600_000
UNSEEN = ("deleted", "activity")
"""What a row of the model has and no notification does."""

pick = st.integers(0, 30)
step = st.one_of(
    st.tuples(
        st.just("insert"),
        st.lists(
            st.tuples(
                st.integers(0, 2), st.integers(0, 12), st.sampled_from(TYPES), st.sampled_from(SUBJECTS)
            ),
            max_size=5,
        ),
    ),
    st.tuples(st.just("mark_read"), st.integers(0, 2), pick),
    st.tuples(st.just("delete"), st.integers(0, 2), pick),
    st.tuples(
        st.just("mark_all_read"),
        st.integers(0, 2),
        st.none() | pick,
        st.sampled_from((None, *TYPES)),
        st.sampled_from((None, "s", "t")),
    ),
    st.tuples(st.just("settle"), st.integers(1, 3)),
    st.tuples(st.just("expire"), st.integers(0, 15), st.integers(1, 4)),
)


@dataclass
class Model:
    """One inbox as the ports describe it: the rows that are kept, and the log of changes."""

    user: str
    kept_after: int = 0
    rows: dict[int, dict[str, Any]] = field(default_factory=dict)
    log: list[tuple[Any, ...]] = field(default_factory=list)
    history: str = ""

    def live(self, **equal: Any) -> list[dict[str, Any]]:
        rows = [row for row in self.rows.values() if not row["deleted"]]
        return [row for row in rows if all(row[k] == v for k, v in equal.items() if v is not None)]

    def head(self) -> InboxSummary:
        live, unread = self.live(), self.live(is_read=False)
        return InboxSummary(self.user, len(self.log), len(live), len(unread), self.history)

    def write(self, kind: type[Change], detail: Any) -> None:
        self.log.append(())  # so that the head is of this revision
        head = self.head()
        self.log[-1] = (kind, head.rev, head.unread, head.total, detail)

    def confirm(self, change: Change | None) -> None:
        """It is the one that was written last, and follows the one before."""
        assert change is not None
        assert told(change) == self.log[-1]
        assert change.after == self.history != change.history
        self.history = change.history


def told(change: Change) -> tuple[Any, ...]:
    """A change in the model's words."""
    detail: Any
    if isinstance(change, Created):
        row = change.notification
        detail = row.id
        assert (row.rev, row.changed_rev, row.is_read, row.read_at) == (change.rev, change.rev, False, None)
    elif isinstance(change, Deleted):
        detail = change.ids
    else:
        assert isinstance(change, Read)
        detail = (change.ids, change.up_to_rev, change.type, change.subject, change.read_at, change.origin)
    return (type(change), change.rev, change.unread, change.total, detail)


class Run:
    def __init__(self, database: Database, clock: Clock) -> None:
        self.database = database
        self.inbox = database.inbox
        self.clock = clock
        self.models = [Model(unique("user")) for _ in range(3)]
        self.users = [model.user for model in self.models]
        self.activities: set[tuple[int, int]] = set()

    async def insert(self, wanted: list[tuple[int, int, str, str | None]]) -> None:
        drafts = [
            a_draft(self.models[who].user, activity_id=f"activity-{activity}", type=type, subject=subject)
            for who, activity, type, subject in wanted
        ]
        changes = list(await self.inbox.insert(drafts))
        for who, activity, type, subject in wanted:
            if (who, activity) in self.activities:
                continue
            self.activities.add((who, activity))
            model, change = self.models[who], changes.pop(0)
            row = row_of(change)
            model.rows[row.id] = {
                "activity": (who, activity),
                "rev": len(model.log) + 1,
                "changed_rev": len(model.log) + 1,
                "type": type,
                "subject": subject,
                "is_read": False,
                "read_at": None,
                "deleted": False,
            }
            model.write(Created, row.id)
            model.confirm(change)
        assert changes == []

    async def mark_read(self, who: int, n: int) -> None:
        model = self.models[who]
        id = self._nth_id(n)
        row = model.rows.get(id)
        result = await self.inbox.mark_read(model.user, id, "origin")
        if row is None or row["deleted"]:
            assert result is None
            return
        assert result is not None
        if row["is_read"]:
            assert result[1] is None
        else:
            now = self.clock()
            row.update(is_read=True, read_at=now, changed_rev=len(model.log) + 1)
            model.write(Read, ((id,), None, None, None, now, "origin"))
            model.confirm(result[1])
        assert agrees(result[0], row)

    async def delete(self, who: int, n: int) -> None:
        model = self.models[who]
        id = self._nth_id(n)
        row = model.rows.get(id)
        change = await self.inbox.delete(model.user, id)
        if row is None or row["deleted"]:
            assert change is None
            return
        row["deleted"] = True
        model.write(Deleted, (id,))
        model.confirm(change)

    async def mark_all_read(self, who: int, up_to: int | None, type: str | None, subject: str | None) -> None:
        model = self.models[who]
        bound = len(model.log) if up_to is None else min(up_to, len(model.log))
        unread = [r for r in model.live(is_read=False, type=type, subject=subject) if r["rev"] <= bound]
        updated, head, time, change = await self.inbox.mark_all_read(model.user, up_to, type, subject, None)
        for row in unread:
            row.update(is_read=True, read_at=self.clock(), changed_rev=len(model.log) + 1)
        if unread:
            model.write(Read, (None, bound, type, subject, self.clock(), None))
            model.confirm(change)
        else:
            assert change is None
        assert (updated, head, time) == (len(unread), model.head(), self.clock())

    async def settle(self, limit: int) -> None:
        """A portion of what read-alls left to be written; nobody sees a difference."""
        await self.database.maintenance.apply_read_all(limit)

    async def expire(self, age_ms: int, limit: int) -> None:
        before = self.clock() - timedelta(milliseconds=age_ms)
        old = [(id, model) for model in self.models for id in model.rows if timestamp_of(id) < before]
        many, change = await self.database.maintenance.expire(before, limit)
        if not old:
            assert (many, change) == (0, None)
            return
        _, model = min(old, key=lambda one: one[0])
        gone = [id for id, of in old if of is model][:limit]
        live = [id for id in gone if not model.rows[id]["deleted"]]
        for id in gone:
            self.activities.remove(model.rows.pop(id)["activity"])
        if live:
            model.write(Deleted, tuple(live))
            model.confirm(change)
        else:
            assert change is None
        assert many == len(gone)
        model.kept_after = min([row["rev"] for row in model.rows.values()], default=len(model.log)) - 1

    async def look(self) -> None:
        """Every way of reading agrees with the model."""
        audit = await self.database.maintenance.audit("", 1_000_000, 1_000_000)
        assert [drift for drift in audit.drifts if drift.recipient_id in self.users] == []
        heads = await self.inbox.summaries([model.user for model in self.models])
        assert heads == {model.user: model.head() for model in self.models}
        longest = max(len(model.log) for model in self.models)
        for rev in range(longest + 1):
            changes_since = await self.inbox.changes_since({model.user: rev for model in self.models}, 4)
            for model in self.models:
                backlog: ChangesSince = changes_since[model.user]
                assert backlog.head == model.head()
                since = max(rev, model.kept_after)
                assert [told(change) for change in backlog.changes] == model.log[since : since + 4]
        for model in self.models:
            for is_read in (None, False, True):
                for type in (None, "A"):
                    for subject in (None, "s"):
                        expected = model.live(is_read=is_read, type=type, subject=subject)
                        where = InboxFilter.of(is_read=is_read, type=type, subject=subject)
                        page = await self.inbox.page(model.user, where, 1000, None, 0)
                        assert (page.matching, page.head) == (len(expected), model.head())
                        for row, wanted in zip(page.rows, reversed(expected), strict=True):
                            assert agrees(row, wanted)

    def _nth_id(self, n: int) -> int:
        """Anybody's: a call for one user may name another's row, or none at all."""
        ids = [id for model in self.models for id in model.rows]
        return ids[n % len(ids)] if ids else n


def agrees(row: Notification, wanted: dict[str, Any]) -> bool:
    return all(getattr(row, name) == value for name, value in wanted.items() if name not in UNSEEN)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(step, max_size=25))
def test_any_sequence_of_calls_agrees_with_the_model(
    open_database: OpenDatabase, clock: Clock, monkeypatch: pytest.MonkeyPatch, steps: list[tuple[Any, ...]]
) -> None:
    monkeypatch.setattr(read_all, "PORTION", 2)  # so that most read-alls are left to be settled

    async def main() -> None:
        async with open_database() as database:
            await database.migrate()
            clock.tick(HOUR_MS)
            while (await database.maintenance.expire(clock(), 1_000))[0]:
                pass  # what earlier examples left would be expired in this one
            clock.tick(HOUR_MS)
            run = Run(database, clock)
            for name, *arguments in steps:
                clock.tick()
                await getattr(run, name)(*arguments)
            await run.look()

    trio.run(main)

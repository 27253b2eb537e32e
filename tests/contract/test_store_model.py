"""Any interleaving of calls on any store agrees with a model of a dozen lines."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contract.store_suite import Clock, OpenDatabase, a_draft, row_of, unique
from nx_signal.model import (
    Change,
    ChangesSince,
    Correction,
    Created,
    Deleted,
    InboxFilter,
    InboxSummary,
    Mark,
    Notification,
    Read,
    Updated,
)
from nx_signal.store import Content, Database, read_all
from nx_signal.store.marks import MarkAll, MarkOfAll
from nx_signal.store.snowflake import timestamp_of

TYPES = ("A", "B")
SUBJECTS = ("s", "t", None)
HOUR_MS = 3_600_000
MARKS: tuple[Mark, ...] = ("read", "unread", "seen", "archive", "unarchive", "delete")
WITHOUT_FIELD = ("deleted", "activity", "occurred_at")
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
    st.tuples(st.just("mark"), st.integers(0, 2), pick, st.sampled_from(MARKS)),
    st.tuples(st.just("mark_ids"), st.integers(0, 2), st.lists(pick, max_size=6), st.sampled_from(MARKS)),
    st.tuples(st.just("mark_all_seen"), st.integers(0, 2), st.none() | pick),
    st.tuples(
        st.just("mark_all"),
        st.integers(0, 2),
        st.sampled_from(("unread", "archive", "unarchive")),
        st.none() | pick,
        st.booleans(),
    ),
    st.tuples(
        st.just("correct"), st.integers(0, 12), st.sampled_from(("1", "2", "2", None)), st.integers(0, 3)
    ),
    st.tuples(
        st.just("insert_kept"),
        st.lists(
            st.tuples(
                st.integers(0, 2),
                st.integers(0, 25),
                st.sampled_from(TYPES),
                st.sampled_from(("k", "k", "l", None)),
                st.integers(0, 9),
                st.none() | st.integers(0, 9),
            ),
            max_size=5,
        ),
    ),
    st.tuples(st.just("remove_expired"), st.integers(1, 4)),
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
    seen_rev: int = 0

    def live(self, archived: bool = False, **equal: Any) -> list[dict[str, Any]]:
        rows = [row for row in self.rows.values() if not row["deleted"]]
        rows = [row for row in rows if (row["archived_at"] is not None) == archived]
        return [row for row in rows if all(row[k] == v for k, v in equal.items() if v is not None)]

    def newest(self, key: str) -> datetime | None:
        """When it happened; deleted ones count."""
        return max(
            (row["occurred_at"] for row in self.rows.values() if row["collapse_key"] == key), default=None
        )

    def head(self) -> InboxSummary:
        live, unread, unseen = self.live(), self.live(is_read=False), self.live(is_seen=False)
        counts = (len(live), len(unread), self.history, len(unseen))
        return InboxSummary(self.user, len(self.log), *counts, self.seen_rev)

    def write(self, kind: type[Change], detail: Any) -> None:
        self.log.append(())  # so that the head is of this revision
        head = self.head()
        self.log[-1] = (kind, head.rev, head.unread, head.total, head.unseen, detail)

    def mark(self, rows: list[dict[str, Any]], mark: Mark, now: datetime) -> list[dict[str, Any]]:
        """Those that changed."""
        changed = []
        for row in rows:
            new: dict[str, Any] = {}
            match mark:
                case "read" if not row["is_read"]:
                    new = {"is_read": True, "read_at": now, "is_seen": True}
                case "unread" if row["is_read"]:
                    new = {"is_read": False, "read_at": None}
                case "seen" if not row["is_seen"]:
                    new = {"is_seen": True}
                case "archive" if row["archived_at"] is None:
                    new = {"archived_at": now}
                case "unarchive" if row["archived_at"] is not None:
                    new = {"archived_at": None}
                case "delete":
                    new = {"deleted": True}
            if new:
                row.update(new, changed_rev=len(self.log) + 1)
                changed.append(row)
        return changed

    def confirm(self, change: Change | None) -> None:
        """It is the one that was written last, and follows the one before."""
        assert change is not None
        assert stated(change) == self.log[-1]
        assert change.after == self.history != change.history
        self.history = change.history


def stated(change: Change) -> tuple[Any, ...]:
    """A change in the model's words."""
    detail: Any
    if isinstance(change, Created):
        row = change.notification
        detail = (row.id, change.replaces)
        assert (row.rev, row.changed_rev, row.is_read, row.read_at) == (change.rev, change.rev, False, None)
    elif isinstance(change, Deleted):
        detail = change.ids
    elif isinstance(change, Updated):
        what = (change.only_read, change.is_read, change.seen, change.archived)
        detail = (change.ids, change.up_to_rev, what, change.at, change.origin, change.content)
    else:
        assert isinstance(change, Read)
        detail = (change.ids, change.up_to_rev, change.type, change.subject, change.read_at, change.origin)
    return (type(change), change.rev, change.unread, change.total, change.unseen, detail)


class Run:
    def __init__(self, database: Database, clock: Clock) -> None:
        self.database = database
        self.inbox = database.inbox
        self.clock = clock
        self.models = [Model(unique("user")) for _ in range(3)]
        self.users = [model.user for model in self.models]
        self.activities: set[tuple[int, int]] = set()
        self.prefix = unique("activity")
        self.corrections: dict[int, list[tuple[bool, datetime, int]]] = {}

    async def insert(self, wanted: list[tuple[int, int, str, str | None]]) -> None:
        drafts = [
            a_draft(
                self.models[who].user, activity_id=f"{self.prefix}-{activity}", type=type, subject=subject
            )
            for who, activity, type, subject in wanted
        ]
        changes = list(await self.inbox.insert(drafts))
        for who, activity, type, subject in wanted:
            if (who, activity) in self.activities:
                continue
            self._written(who, activity, changes.pop(0), type, subject)
        assert changes == []

    async def insert_kept(self, wanted: list[tuple[int, int, str, str | None, int, int | None]]) -> None:
        """With a collapse key, or an expiry, or both, or neither."""
        drafts = []
        for who, activity, type, key, minute, expires_ms in wanted:
            expires_at = None if expires_ms is None else self.clock() + timedelta(milliseconds=expires_ms)
            occurred_at = None if key is None else self.clock() + timedelta(minutes=minute)
            drafts.append(
                a_draft(
                    self.models[who].user,
                    activity_id=f"{self.prefix}-{activity}",
                    type=type,
                    collapse_key=key,
                    occurred_at=occurred_at,
                    expires_at=expires_at,
                )
            )
        changes = list(await self.inbox.insert(drafts))
        once = {
            (who, activity): draft
            for (who, activity, *_), draft in reversed([*zip(wanted, drafts, strict=True)])
        }
        for who, activity in dict.fromkeys((who, activity) for who, activity, *_ in wanted):
            if (who, activity) in self.activities:
                continue
            draft, model = once[who, activity], self.models[who]
            replaced = []
            if draft.collapse_key is not None and draft.occurred_at is not None:
                newest = model.newest(draft.collapse_key)
                if newest is not None and draft.occurred_at < newest:
                    continue
                replaced = [
                    id for id, row in model.rows.items() if row in model.live(collapse_key=draft.collapse_key)
                ]
            for id in replaced:
                model.rows[id]["deleted"] = True
            self._written(
                who,
                activity,
                changes.pop(0),
                draft.type,
                draft.subject,
                tuple(replaced),
                collapse_key=draft.collapse_key,
                occurred_at=draft.occurred_at,
                expires_at=draft.expires_at,
            )
        assert changes == []

    def _written(
        self,
        who: int,
        activity: int,
        change: Change,
        type: str,
        subject: str | None,
        replaces: tuple[int, ...] = (),
        **kept: Any,
    ) -> None:
        self.activities.add((who, activity))
        model, row = self.models[who], row_of(change)
        model.rows[row.id] = {
            "activity": (who, activity),
            "rev": len(model.log) + 1,
            "changed_rev": len(model.log) + 1,
            "type": type,
            "subject": subject,
            "is_read": False,
            "read_at": None,
            "is_seen": False,
            "archived_at": None,
            "deleted": False,
            "content": row.content,
            **({"collapse_key": None, "occurred_at": None, "expires_at": None} | kept),
        }
        model.write(Created, (row.id, replaces))
        model.confirm(change)

    async def remove_expired(self, limit: int) -> None:
        due = sorted(
            (row["expires_at"], id, n)
            for n, model in enumerate(self.models)
            for id, row in model.rows.items()
            if row["expires_at"] is not None and row["expires_at"] <= self.clock() and not row["deleted"]
        )[:limit]
        many, changes = await self.database.maintenance.remove_expired(limit)
        assert many == len(due)
        by_user = {change.recipient_id: change for change in changes}
        for n, model in enumerate(self.models):
            ids = sorted(id for _, id, of in due if of == n)
            for id in ids:
                model.rows[id]["deleted"] = True
            if ids:
                model.write(Deleted, tuple(ids))
                model.confirm(by_user.pop(model.user))
        assert by_user == {}

    async def mark_read(self, who: int, n: int) -> None:
        model = self.models[who]
        id = self._nth_id(n)
        row = model.rows.get(id)
        result = await self.inbox.mark(model.user, id, "read", "origin")
        if row is None or row["deleted"]:
            assert result is None
            return
        assert result is not None
        if row["is_read"]:
            assert result[1] is None
        else:
            now = self.clock()
            row.update(is_read=True, read_at=now, is_seen=True, changed_rev=len(model.log) + 1)
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
            row.update(is_read=True, read_at=self.clock(), is_seen=True, changed_rev=len(model.log) + 1)
        if unread:
            model.write(Read, (None, bound, type, subject, self.clock(), None))
            model.confirm(change)
        else:
            assert change is None
        assert (updated, head, time) == (len(unread), model.head(), self.clock())

    async def mark(self, who: int, n: int, mark: Mark) -> None:
        model = self.models[who]
        id = self._nth_id(n)
        row = model.rows.get(id)
        result = await self.inbox.mark(model.user, id, mark, "origin")
        if row is None or row["deleted"]:
            assert result is None
            return
        assert result is not None
        if model.mark([row], mark, self.clock()):
            model.write(*logged(mark, (id,), None, None, self.clock()))
            model.confirm(result[1])
        else:
            assert result[1] is None
        assert agrees(result[0], row)

    async def mark_ids(self, who: int, ns: list[int], mark: Mark) -> None:
        model = self.models[who]
        ids = list(dict.fromkeys(self._nth_id(n) for n in ns))
        known = [id for id in ids if id in model.rows and not model.rows[id]["deleted"]]
        result = await self.inbox.mark_ids(model.user, [*ids, *ids], mark, "origin")
        changed = model.mark([model.rows[id] for id in known], mark, self.clock())
        if changed:
            named = tuple(id for id in known if model.rows[id] in changed)
            model.write(*logged(mark, named, None, None, self.clock()))
            model.confirm(result.change)
        else:
            assert result.change is None
        assert (result.updated, result.head) == (len(changed), model.head())
        assert result.unknown == tuple(id for id in ids if id not in known)

    async def mark_all_seen(self, who: int, up_to: int | None) -> None:
        model = self.models[who]
        before = model.head()
        bound = before.rev if up_to is None else min(up_to, before.rev)
        updated, head, change = await self.inbox.mark_all_seen(model.user, up_to, "origin")
        reached = [row for row in model.rows.values() if not row["deleted"] and row["rev"] <= bound]
        becoming = [row for row in reached if not row["is_seen"]]
        for row in becoming:
            row["is_seen"] = True
        model.seen_rev = max(model.seen_rev, bound)
        if becoming:
            model.write(Updated, (None, bound, (None, None, True, None), self.clock(), "origin", None))
            model.confirm(change)
        else:
            assert change is None
        assert (updated, head) == (before.unseen - model.head().unseen, model.head())

    async def mark_all(self, who: int, mark: MarkOfAll, up_to: int | None, only_read: bool) -> None:
        model = self.models[who]
        bound = len(model.log) if up_to is None else min(up_to, len(model.log))
        rest: MarkAll | None = MarkAll(model.user, mark, up_to, "origin", only_read=only_read)
        while rest is not None:
            portion = await self.inbox.mark_portion(rest)
            rows = model.live(
                archived=mark == "unarchive", is_read=True if only_read or mark == "unread" else None
            )
            rows = sorted((row for row in rows if row["rev"] <= bound), key=lambda row: row["rev"])
            more = len(rows) > read_all.PORTION
            rows = rows[: read_all.PORTION]
            last = rows[-1]["rev"] if more else bound
            if model.mark(rows, mark, self.clock()):
                model.write(*logged(mark, None, last, only_read or None, self.clock()))
                model.confirm(portion.change)
            else:
                assert portion.change is None
            assert (portion.updated, portion.head) == (len(rows), model.head())
            rest = portion.rest
            assert (rest is not None) == more

    async def correct(self, activity: int, text: str | None, ago_ms: int) -> None:
        """Without a text a retraction. What stands is the retraction, else the newest, else the last."""
        kept, corrections = self.corrections.setdefault(activity, []), self.database.corrections
        kept.append((text is None, self.clock() - timedelta(milliseconds=ago_ms), len(kept)))
        given = Correction(
            f"{self.prefix}-{activity}",
            "retract" if text is None else "update",
            {"text": text},
            kept[-1][1],
            f"t/0/{len(kept)}",
            "digest",
        )
        own, standing = await corrections.add(given)
        assert (own == standing) == (max(kept) == kept[-1])
        rows = await corrections.rows(given.activity_id, "", 100)
        reached = {
            model.user: (model, id)
            for who, model in enumerate(self.models)
            for id, row in model.rows.items()
            if row["activity"] == (who, activity) and not row["deleted"]
        }
        assert [row.recipient_id for row in rows] == sorted(reached)
        if own != standing:
            return
        content = Content(text or "", text or "", None)
        for change in await corrections.apply(own, rows, [content] * len(rows)) or ():
            model, id = reached.pop(change.recipient_id)
            row = model.rows[id]
            assert row["content"] != text
            if text is None:
                row["deleted"] = True
                model.write(Deleted, (id,))
            else:
                row.update(content=text, changed_rev=len(model.log) + 1)
                model.write(Updated, ((id,), None, (None,) * 4, self.clock(), None, text))
            model.confirm(change)
        assert all(model.rows[id]["content"] == text for model, id in reached.values())

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
                assert [stated(change) for change in backlog.changes] == model.log[since : since + 4]
        for model in self.models:
            for is_read in (None, False, True):
                for type in (None, "A"):
                    for subject, archived in ((None, None), ("s", None), (None, True), ("s", True)):
                        equal = {"is_read": is_read, "type": type, "subject": subject}
                        expected = model.live(bool(archived), **equal)
                        expected.sort(key=lambda row: row["rev"])
                        where = InboxFilter.of(archived=archived, **equal)
                        page = await self.inbox.page(model.user, where, 1000, None, 0)
                        assert (page.matching, page.head) == (len(expected), model.head())
                        for row, wanted in zip(page.rows, reversed(expected), strict=True):
                            assert agrees(row, wanted)

    def _nth_id(self, n: int) -> int:
        """Anybody's: a call for one user may name another's row, or none at all."""
        ids = [id for model in self.models for id in model.rows]
        return ids[n % len(ids)] if ids else n


def logged(
    mark: Mark, ids: tuple[int, ...] | None, up_to: int | None, only_read: bool | None, now: datetime
) -> tuple[type[Change], Any]:
    if mark == "delete":
        return Deleted, ids
    if mark == "read":
        return Read, (ids, None, None, None, now, "origin")
    what = {
        "unread": (only_read, False, None, None),
        "seen": (only_read, None, True, None),
        "archive": (only_read, None, None, True),
        "unarchive": (only_read, None, None, False),
    }[mark]
    return Updated, (ids, up_to, what, now, "origin", None)


def agrees(row: Notification, wanted: dict[str, Any]) -> bool:
    return all(getattr(row, name) == value for name, value in wanted.items() if name not in WITHOUT_FIELD)


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
